package registry

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
)

// channel is what changes are announced on. A notification has no content: it only says
// that it is worth looking.
const channel = "postern_change"

const (
	firstRelisten = 100 * time.Millisecond // doubled after each connection that fails
	lastRelisten  = 2 * time.Second
	// listenProbe is how often a connection that says nothing is asked whether it is there.
	listenProbe = 15 * time.Second
	// listenLife is how long one connection is listened on: after a change of name or a
	// failover it moves.
	listenLife = 30 * time.Minute
)

// listener waits for notifications on a connection of its own, and makes another one when
// it breaks. What it misses meanwhile, and all where a pooler swallows the LISTEN, is found
// by those who look without news. Close it to end its goroutine.
type listener struct {
	config  *pgx.ConnConfig
	timeout time.Duration // of what is asked on the connection
	log     *slog.Logger
	news    chan struct{} // room for one: there is news, whoever brought it
	stop    context.CancelFunc
	done    chan struct{}
}

// listen begins to listen. It does not wait until that works.
func (d *postgresDatabase) listen(log *slog.Logger) *listener {
	ctx, stop := context.WithCancel(context.Background())
	l := &listener{config: d.dsn.Copy(), timeout: d.timeout, log: log, news: make(chan struct{}, 1), stop: stop, done: make(chan struct{})}
	go l.run(ctx)
	return l
}

// close ends listening, whatever the server does: at most after a second.
func (l *listener) close() {
	l.stop()
	<-l.done
}

func (l *listener) tell() {
	select {
	case l.news <- struct{}{}:
	default:
	}
}

// run listens on one connection after the other until ctx ends.
func (l *listener) run(ctx context.Context) {
	defer close(l.done)
	failing := false
	for delay := firstRelisten; ; delay = min(2*delay, lastRelisten) {
		began := time.Now()
		err := l.follow(ctx, func() {
			if failing {
				l.log.Info("changes are announced again")
			}
			failing = false
		})
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			l.log.Warn("changes are not announced; looking for them regularly", "error", err)
			failing = true
		}
		if time.Since(began) > lastRelisten {
			delay = firstRelisten
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
	}
}

// follow listens on one connection until it breaks or is old.
func (l *listener) follow(ctx context.Context, listening func()) error {
	connecting, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(connecting, l.config)
	if err != nil {
		return err
	}
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ending) // it is not used any more, closed or not
	}()
	if err := l.ask(ctx, conn, "LISTEN "+channel); err != nil {
		return err
	}
	listening()
	l.tell() // what was committed before this connection listened
	for end := time.Now().Add(listenLife); time.Now().Before(end); {
		waiting, cancel := context.WithTimeout(ctx, listenProbe)
		_, err := conn.WaitForNotification(waiting)
		cancel()
		switch {
		case err == nil:
			l.tell()
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, context.DeadlineExceeded):
			if err := l.ask(ctx, conn, "SELECT 1"); err != nil {
				return err
			}
		default:
			return err
		}
	}
	return nil
}

// ask runs a statement of ours by the extended protocol.
func (l *listener) ask(ctx context.Context, conn *pgx.Conn, statement string) error {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	return conn.PgConn().ExecParams(ctx, statement, nil, nil, nil, nil).Read().Err
}

// announce is part of the transaction: who listens hears of it when it is committed, and
// once however often it is announced.
func (d *postgresDatabase) announce(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `SELECT pg_notify($1, '')`, channel)
	return err
}
