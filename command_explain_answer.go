package main

import (
	"fmt"
	"strings"

	"postern/answer"
)

// outcome is the answer that the client gets, or where the request goes.
func (u *explaining) outcome() explained {
	f := &u.found
	x := explained{
		Method: f.Method, Host: f.Host, Path: f.Path, query: f.Query, Steps: u.steps, Limits: standings(u.limits),
		Fields: map[string]string{}, Upstream: []string{}, names: f.Identity,
	}
	if f.Route != nil {
		x.Route = f.Route.Name
	}
	if u.grant != nil {
		x.ClientID, x.OrganizationID = u.grant.Client.ID, u.grant.Client.OrganizationID
	}
	switch {
	case f.Step != "":
		x.Refused, x.Status, x.Code, x.Message = true, f.Refusal.Status, f.Refusal.Reason, message(f.Refusal)
		if x.Status == 0 {
			x.Status = f.Refusal.Reason.Status()
		}
	case f.Own || f.Preflight:
		x.Own = true
	default:
		x.Code, x.ForwardedPath, x.Upstream = answer.OK, f.Forwarded, f.Endpoints
		for i, endpoint := range x.Upstream {
			if endpoint == nowhere {
				x.Upstream[i] = "the upstream that serve is told"
			}
		}
		for i, one := range x.names {
			switch {
			case one[1] == "":
				x.names[i][1] = "(a signed assertion)"
			case u.presumed != nil && one[0] == u.settings.Headers.Token:
				x.names[i][1] = "(its token's id)"
			}
			x.Fields[one[0]] = x.names[i][1]
		}
	}
	return x
}

// explained is the whole answer.
type explained struct {
	Refused bool          `json:"refused"`
	Own     bool          `json:"own"`    // postern answers it itself
	Status  int           `json:"status"` // of a refusal; 0 otherwise: the upstream's or postern's own is not known
	Code    answer.Reason `json:"code"`
	Message string        `json:"message"`

	Method         string            `json:"method"`
	Host           string            `json:"host"`
	Path           string            `json:"path"`
	Route          string            `json:"route"`
	ClientID       string            `json:"client_id"`
	OrganizationID string            `json:"organization_id"`
	Steps          []finding         `json:"steps"`
	Limits         []standing        `json:"limits"`
	Upstream       []string          `json:"upstream"`
	ForwardedPath  string            `json:"forwarded_path"`
	Fields         map[string]string `json:"fields"` // that tell the upstream who is asking

	query bool
	names [][2]string // Fields in their order
}

// answer prints it.
func (x explained) answer(e *environment, asJSON bool) error {
	if asJSON {
		return e.json(x)
	}
	mark := ""
	if x.query {
		mark = "?…"
	}
	rows := []row{{"request", fmt.Sprintf("%s %s%s%s", x.Method, x.Host, x.Path, mark)}}
	for _, f := range x.Steps {
		rows = append(rows, row{f.Name, f.Result + ": " + f.Detail})
	}
	switch {
	case x.Refused:
		rows = append(rows, row{"answer", fmt.Sprintf("%d %s: %s", x.Status, x.Code, x.Message)})
	case x.Own:
		rows = append(rows, row{"answer", "postern's own"})
	default:
		rows = append(rows, row{"answer", "forwarded to " + strings.Join(x.Upstream, " or ") + ", path " + x.ForwardedPath})
		for _, one := range x.names {
			rows = append(rows, row{"field " + one[0], one[1]})
		}
	}
	return e.table(nil, rows)
}
