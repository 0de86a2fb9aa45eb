// Command legacy stands in for an API that nobody may reach but through postern: it listens on loopback alone, trusts
// who talks to it, and answers with the head of the request that it got.
package main

import (
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"time"
)

func main() {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		head, err := httputil.DumpRequest(r, false)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(head)
	})
	// The head of the answer at once, and its end when postern has long been told to end.
	mux.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush()
		time.Sleep(8 * time.Second)
		_, _ = io.WriteString(w, "all of it")
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:3000", mux))
}
