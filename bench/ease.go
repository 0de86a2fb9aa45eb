package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// ease is what clients see that ask at a rate of their own, far below what postern can
// do. Each answer is timed from when its request was due, so that a pause is felt by all
// requests that fell into it.
type ease struct {
	Requests int     `json:"requests"`
	Errors   int     `json:"errors"`
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms"`
}

// easyClients share the rate, each on a kept connection.
const easyClients = 16

// atEase asks url for limit, or until that is closed.
func atEase(ctx context.Context, url, token string, rate int, limit time.Duration, until <-chan struct{}) (ease, error) {
	ctx, cancel := context.WithTimeout(ctx, limit+time.Minute)
	defer cancel()
	host, path, _ := strings.Cut(strings.TrimPrefix(url, "http://"), "/")
	text := "GET /" + path + " HTTP/1.1\r\nHost: " + host + "\r\nAuthorization: Bearer " + token + "\r\n\r\n"
	var (
		mu    sync.Mutex
		all   []time.Duration
		e     ease
		first error
		group sync.WaitGroup
	)
	start := time.Now()
	period := time.Second * easyClients / time.Duration(rate)
	for i := range easyClients {
		group.Go(func() {
			var own []time.Duration
			failed := 0
			var c *easyClient
			for due := start.Add(period * time.Duration(i) / easyClients); due.Sub(start) < limit && ctx.Err() == nil; due = due.Add(period) {
				select {
				case <-until:
					due = start.Add(limit)
					continue
				case <-time.After(time.Until(due)):
				}
				var err error
				if c == nil {
					c, err = dialEasy(host)
				}
				if err == nil {
					err = c.ask(text)
				}
				if err != nil {
					failed++
					c = nil
					mu.Lock()
					first = err
					mu.Unlock()
					continue
				}
				own = append(own, time.Since(due))
			}
			mu.Lock()
			defer mu.Unlock()
			all, e.Errors = append(all, own...), e.Errors+failed
		})
	}
	group.Wait()
	e.Requests = len(all)
	if len(all) == 0 {
		return e, fmt.Errorf("no client at ease was answered: %w", first)
	}
	slices.Sort(all)
	at := func(p int) float64 { return float64(all[min(len(all)-1, len(all)*p/100)].Microseconds()) / 1000 }
	e.P50, e.P99 = at(50), at(99)
	return e, nil
}

type easyClient struct {
	net.Conn
	r *bufio.Reader
}

func dialEasy(host string) (*easyClient, error) {
	c, err := net.DialTimeout("tcp", host, 5*time.Second)
	if err != nil {
		return nil, err
	}
	return &easyClient{c, bufio.NewReader(c)}, nil
}

func (c *easyClient) ask(text string) error {
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	answer, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %d", answer.StatusCode)
	}
	return nil
}
