package main

import (
	"errors"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strings"
)

// mountLocal adds what the admin door does for this machine alone: what runs, what was
// refused, reloading, the end, and profiles.
func (a *admin) mountLocal(mux *http.ServeMux) {
	f := func(pattern string, h http.HandlerFunc) { mux.Handle(pattern, local(h)) }
	f("GET /config", a.config)
	f("GET /refusals", a.refused)
	f("POST /reload", a.reload)
	f("POST /quit", a.quit)
	f("GET /debug/pprof/", pprof.Index)
	f("GET /debug/pprof/cmdline", pprof.Cmdline)
	f("GET /debug/pprof/profile", pprof.Profile)
	f("GET /debug/pprof/symbol", pprof.Symbol)
	f("GET /debug/pprof/trace", pprof.Trace)
}

// local refuses with 403 what does not come from this machine itself, from a program and
// not from a web page that somebody on it looks at: a page of another site could send a
// POST, or read the answers under a name that it points to 127.0.0.1. What a proxy on this
// machine forwards comes from elsewhere too.
func local(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		why := ""
		switch {
		case !loopback(r.RemoteAddr):
			why = "only this machine itself may ask for this"
		case r.Header["X-Forwarded-For"] != nil || r.Header["Forwarded"] != nil || r.Header["Via"] != nil:
			why = "this is not for requests that a proxy forwards"
		case r.Header["Origin"] != nil || r.Header["Sec-Fetch-Site"] != nil || !loopback(r.Host):
			why = "this is not for web pages: ask for it by a loopback address"
		}
		if why != "" {
			writeJSON(w, http.StatusForbidden, struct {
				OK      bool     `json:"ok"`
				Reasons []string `json:"reasons"`
			}{false, []string{why}})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// loopback reports whether address, with or without a port, is this machine as it names
// itself.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(address, "["), "]")
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// config answers with what is in force.
func (a *admin) config(w http.ResponseWriter, _ *http.Request) {
	running := runningConfig{Settings: []runningSetting{}}
	for _, l := range a.p.reloader.config().Flat() {
		running.Settings = append(running.Settings, runningSetting(l))
	}
	writeJSON(w, http.StatusOK, running)
}

// reload answers 200 with how the files differ from what ran before, or 422 with what is
// wrong with them.
func (a *admin) reload(w http.ResponseWriter, _ *http.Request) {
	changes, err := a.p.reloader.reload("POST /reload")
	if errors.Is(err, errDraining) {
		a.answer(w, []string{err.Error()})
		return
	}
	if err != nil {
		writeJSON(w, http.StatusUnprocessableEntity, struct {
			OK     bool           `json:"ok"`
			Faults []checkedFault `json:"faults"`
		}{false, checkedFaults("", faults(err))})
		return
	}
	writeJSON(w, http.StatusOK, struct {
		OK      bool            `json:"ok"`
		Changes []checkedChange `json:"changes"`
	}{true, checkedChanges(changes)})
}

// quit begins the drain, as SIGTERM does.
func (a *admin) quit(w http.ResponseWriter, _ *http.Request) {
	a.p.log.Info("asked to end", "by", "POST /quit")
	a.p.quit()
	writeJSON(w, http.StatusAccepted, struct {
		OK bool `json:"ok"`
	}{true})
}
