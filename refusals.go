package main

import (
	"net/http"

	"postern/answer"
	"postern/proxy"
	"postern/registry"
)

// refusal is one that is remembered, for machines.
type refusal struct {
	Time      registry.Time `json:"time"`
	RequestID string        `json:"request_id"`
	ClientID  string        `json:"client_id"`
	Status    int           `json:"status"`
	Reason    answer.Reason `json:"reason"`
	Message   string        `json:"message"`
	Method    string        `json:"method"`
	Path      string        `json:"path"`
	Route     string        `json:"route"`    // empty on routes of postern itself
	Shadowed  bool          `json:"shadowed"` // it was forwarded all the same
}

// refusalsAnswer is the admin door's.
type refusalsAnswer struct {
	OK       bool      `json:"ok"`
	Since    int64     `json:"since"` // when this process began: it knows of nothing before
	Refusals []refusal `json:"refusals"`
}

// refused answers with the last refusals of a client, or with those of a request. The newest
// comes first.
func (a *admin) refused(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	client, id := query.Get("client"), query.Get("request_id")
	if (client == "") == (id == "") {
		writeJSON(w, http.StatusBadRequest, struct {
			OK      bool     `json:"ok"`
			Reasons []string `json:"reasons"`
		}{false, []string{"say whose: /refusals?client=ID or /refusals?request_id=ID"}})
		return
	}
	var all []proxy.Refused
	if client != "" {
		all = a.p.refusals.Client(client)
	} else {
		all = a.p.refusals.Request(id)
	}
	told := refusalsAnswer{OK: true, Since: a.started.UnixMilli(), Refusals: []refusal{}}
	for _, one := range all {
		told.Refusals = append(told.Refusals, refusal{
			Time: registry.At(one.Time), RequestID: one.RequestID, ClientID: one.ClientID, Status: one.Status, Reason: one.Reason,
			Message: one.Message, Method: one.Method, Path: one.Path, Route: one.Route, Shadowed: one.Shadowed,
		})
	}
	writeJSON(w, http.StatusOK, told)
}
