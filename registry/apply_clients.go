package registry

import (
	"context"
	"database/sql"
	"slices"
	"strings"
)

// clientPlan is a declared client, the one that is there, and the step between them.
type clientPlan struct {
	declared DeclaredClient
	now      Client // its zero value when it is to be made
	want     Client
	found    bool
	step     *Step
}

// clientKey is what a client is found by without its identifier.
type clientKey struct{ application, environment string }

// clientIndex is the clients of one organization.
type clientIndex struct {
	byID   map[string]Client
	byKey  map[clientKey][]string
	taken  map[string]string    // identifiers of clients that are somewhere else or were removed
	places map[string]string    // by identifier: where it is declared
	made   map[clientKey]string // where those without an identifier are declared
	final  map[clientKey][]string
	first  int // of the planner's clients that is of this organization
}

// planClients finds and compares the clients of an organization, all but their secrets.
func (p *planner) planClients(ctx context.Context, o owner, links *agreements) error {
	var live []Client
	if !o.made {
		var err error
		if live, err = findClients(ctx, p.q, p.now, `c.removed_at IS NULL AND c.organization_id = $2`, o.id); err != nil {
			return err
		}
	}
	x := &clientIndex{byID: map[string]Client{}, byKey: map[clientKey][]string{}, places: map[string]string{}, made: map[clientKey]string{}, final: map[clientKey][]string{}, first: len(p.clients)}
	for _, c := range live {
		x.byID[c.ID] = c
	}
	var unknown []string
	for _, d := range o.declared.Clients {
		// What is declared by its identifier is not found by its application.
		if first := p.clientIDs[d.ID]; d.ID != "" && first == "" {
			p.clientIDs[d.ID], x.places[d.ID] = d.Place, d.Place
			if _, ok := x.byID[d.ID]; !ok {
				unknown = append(unknown, d.ID)
			}
		} else if d.ID != "" {
			if err := p.fault(d.Place, conflict("it is declared twice, first at %s", first)); err != nil {
				return err
			}
		}
	}
	var err error
	if x.taken, err = otherClients(ctx, p.q, unknown); err != nil {
		return err
	}
	for _, c := range live {
		if at := (clientKey{c.Application, c.Environment}); x.places[c.ID] == "" {
			x.byKey[at] = append(x.byKey[at], c.ID)
		}
	}
	for _, d := range o.declared.Clients {
		if d.ID != "" && x.places[d.ID] != d.Place {
			continue // declared twice
		}
		if err := p.fault(d.Place, p.client(o, d, x, links)); err != nil {
			return err
		}
	}
	for _, c := range live {
		if x.places[c.ID] != "" {
			continue
		}
		p.undeclare(KindClient, c.ID, clientName(o, c))
		if at := (clientKey{c.Application, c.Environment}); !p.o.Prune {
			x.final[at] = append(x.final[at], c.ID)
		}
	}
	return p.duplicates(o, x)
}

func clientName(o owner, c Client) string {
	return strings.Join([]string{o.declared.Name, c.Application, c.Environment}, " / ")
}

// otherClients says of identifiers that no live client of the organization has why none can
// be made with them; "" for those that were removed.
func otherClients(ctx context.Context, q querier, ids []string) (map[string]string, error) {
	taken := map[string]string{}
	for len(ids) > 0 {
		n := min(importIDs, len(ids))
		var args []any
		for _, id := range ids[:n] {
			if checkClientID(id) == nil {
				args = append(args, id)
			}
		}
		ids = ids[n:]
		if len(args) == 0 {
			continue
		}
		err := each(ctx, q, func(rows *sql.Rows) error {
			var id string
			var removed Time
			err := rows.Scan(&id, &removed)
			taken[id] = "client_id: another organization's client has it"
			if removed != 0 {
				taken[id] = ""
			}
			return err
		}, `SELECT id, removed_at FROM client WHERE id IN `+places(1, len(args)), args...)
		if err != nil {
			return nil, err
		}
	}
	return taken, nil
}

// client finds and compares one.
func (p *planner) client(o owner, d DeclaredClient, x *clientIndex, links *agreements) (err error) {
	want := Client{ID: d.ID, OrganizationID: o.id, Application: d.Application, CreatedAt: p.now}
	if want.Environment, err = checkEnvironment(d.Environment); err != nil {
		return err
	}
	if err := checkName("application", d.Application); err != nil {
		return err
	}
	at := clientKey{want.Application, want.Environment}
	if same := x.byKey[at]; d.ID == "" && len(same) > 1 {
		return conflict("%d clients are this application's in %s: say which with its client_id: %s", len(same), at.environment, strings.Join(same, ", "))
	} else if d.ID == "" && len(same) == 1 {
		want.ID = same[0]
		if first := x.places[want.ID]; first != "" {
			return conflict("it is declared twice, first at %s", first)
		}
		x.places[want.ID] = d.Place
	}
	now, found := x.byID[want.ID]
	switch why, taken := x.taken[want.ID]; {
	case found && d.Removed:
		p.remove(KindClient, now.ID, clientName(o, now))
		return nil
	case d.Removed && (!taken || why == ""):
		p.unchanged++
		return x.claim(at, d)
	case taken && why == "":
		return conflict("client_id: a client that was removed has it, and it is not used again")
	case taken:
		return conflict("%s", why)
	}
	if want.AgreementID, err = links.find(d.Agreement); err != nil {
		return err
	}
	s := &Step{Action: "change", Kind: KindClient, ID: want.ID, Name: clientName(o, want)}
	if !found {
		if err := p.newClient(s, &want, d, x); err != nil {
			return err
		}
	}
	x.final[at] = append(x.final[at], want.ID)
	if found {
		s.field("application", now.Application, want.Application)
		s.field("environment", now.Environment, want.Environment)
	}
	if now.AgreementID != want.AgreementID {
		s.Fields = append(s.Fields, FieldChange{"agreement", links.name(now.AgreementID), links.name(want.AgreementID)})
	}
	switch {
	case !found:
		s.do("create", want.Application+" "+want.Environment, func(ctx context.Context, x execer) error { return insertClient(ctx, x, want) })
	case s.Fields != nil:
		s.do("change", s.fields(), func(ctx context.Context, x execer) error { return updateClient(ctx, x, want) })
	}
	p.disable(s, now.DisabledAt, d.Disabled)
	p.clients = append(p.clients, &clientPlan{d, now, want, found, s})
	return nil
}

// newClient is about a client that is to be made.
func (p *planner) newClient(s *Step, want *Client, d DeclaredClient, x *clientIndex) (err error) {
	s.Action = "create"
	if d.ID != "" {
		return checkClientID(d.ID)
	}
	if err := x.claim(clientKey{want.Application, want.Environment}, d); err != nil {
		return err
	}
	if want.ID, err = p.r.newID(); err != nil {
		return err
	}
	s.ID, s.made = want.ID, true
	x.places[want.ID] = d.Place
	return nil
}

// claim notes that d, which is not there, is declared without an identifier.
func (x *clientIndex) claim(at clientKey, d DeclaredClient) error {
	if first := x.made[at]; first != "" && d.ID == "" {
		return conflict("it is declared twice, first at %s", first)
	}
	if d.ID == "" {
		x.made[at] = d.Place
	}
	return nil
}

// find is the id of the agreement that a client names by its name or its id.
func (a *agreements) find(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	switch ids := a.ids[name]; len(ids) {
	case 0:
		return "", &refusal{ErrNotFound, "agreement: the organization will have no such agreement: declare it"}
	case 1:
		return ids[0], nil
	default:
		return "", conflict("agreement: the organization has %d agreements of this name: say which with its id: %s", len(ids), strings.Join(ids, ", "))
	}
}

// duplicates refuses what would make several clients of one application and environment, if
// not all of them are declared with their identifiers.
func (p *planner) duplicates(o owner, x *clientIndex) error {
	explicit := map[string]bool{}
	for _, d := range o.declared.Clients {
		explicit[d.ID] = true
	}
	for _, c := range p.clients[x.first:] {
		at := clientKey{c.want.Application, c.want.Environment}
		ids := x.final[at]
		arrives := !c.found || at != clientKey{c.now.Application, c.now.Environment}
		if !arrives || len(ids) < 2 || !slices.ContainsFunc(ids, func(id string) bool { return !explicit[id] }) {
			continue
		}
		slices.Sort(ids)
		err := conflict("several clients would be this application's in %s: declare each with its client_id (there are %s)", at.environment, strings.Join(x.there(ids), ", "))
		if err := p.fault(c.declared.Place, err); err != nil {
			return err
		}
		delete(x.final, at)
	}
	return nil
}

// there are those of ids that exist already.
func (x *clientIndex) there(ids []string) (found []string) {
	for _, id := range ids {
		if _, ok := x.byID[id]; ok {
			found = append(found, id)
		}
	}
	return found
}

// planSecrets compares the secrets of a client with those that are declared.
func (p *planner) planSecrets(c *clientPlan) error {
	if len(c.declared.Secrets) == 0 {
		if len(c.now.Secrets) == 0 {
			return invalid("the client has no secret: declare its secret_file or secret_sha256, or make the client with postern client create, which shows a secret; the declaration needs none then")
		}
		return nil
	}
	kept := map[string]bool{}
	var added []DeclaredSecret
	for i, d := range c.declared.Secrets {
		for _, other := range c.declared.Secrets[:i] {
			if d == other {
				return conflict("the same secret is declared twice")
			}
		}
		s, ok := p.findSecret(c.now.Secrets, d)
		if !ok {
			added = append(added, d)
			continue
		}
		if kept[s.ID] {
			return conflict("the same secret is declared twice")
		}
		kept[s.ID] = true
		if s.ExpiresAt != 0 {
			c.step.field("secret", "ends "+timeText(s.ExpiresAt), "does not end")
			c.step.do("rotate", "a secret does not end", func(ctx context.Context, x execer) error { return endSecret(ctx, x, s.ID, 0) })
		}
	}
	still := p.endSecrets(c, kept, len(added) > 0)
	if len(added) > 0 && len(c.declared.Secrets)+still > maxSecrets {
		return conflict("the client would have more than two live secrets: declare those that it has, or end what is not declared at once with --overlap 0")
	}
	created := p.now
	for _, s := range c.now.Secrets {
		created = max(created, s.CreatedAt+1) // so that the newest is the newest within a millisecond too
	}
	for i, d := range added {
		if err := p.addSecret(c.step, d, created+Time(i)); err != nil {
			return err
		}
	}
	return nil
}

// endSecrets ends the live secrets that are not declared, and returns how many of them
// still go on for a while.
func (p *planner) endSecrets(c *clientPlan, kept map[string]bool, replaced bool) (still int) {
	ends := p.now.later(p.o.Overlap)
	for _, s := range c.now.Secrets {
		switch {
		case kept[s.ID]:
			continue
		case s.ExpiresAt != 0 && s.ExpiresAt <= ends:
		case !replaced && !p.o.Prune:
			if s.ExpiresAt == 0 {
				p.undeclared++
			}
		default:
			c.step.field("secret", "made "+timeText(s.CreatedAt), "ends "+timeText(ends))
			c.step.do("rotate", "overlap "+p.o.Overlap.String(), func(ctx context.Context, x execer) error { return endSecret(ctx, x, s.ID, ends) })
			if p.o.Overlap == 0 {
				continue
			}
		}
		still++
	}
	return still
}

// findSecret is the live secret that d declares.
func (p *planner) findSecret(live []ClientSecret, d DeclaredSecret) (ClientSecret, bool) {
	for _, s := range live {
		switch {
		case s.Kind == SHA256 && d.Digest == s.Digest,
			s.Weak() && d.Text != "" && p.o.Weak.Matches(s, d.Text):
			return s, true
		}
	}
	return ClientSecret{}, false
}

// addSecret plans a secret of a client.
func (p *planner) addSecret(step *Step, d DeclaredSecret, created Time) (err error) {
	s := ClientSecret{Kind: d.Kind, Imported: !d.WellFormed, CreatedAt: created}
	if d.Kind == SHA256 {
		s.Digest = d.Digest
	} else if s.Hash, err = p.o.Weak.Hash(d.Text); err != nil {
		return err
	}
	if s.ID, err = p.r.newID(); err != nil {
		return err
	}
	step.field("secret", "", "added, "+string(d.Kind))
	action := "rotate"
	if step.Action == "create" {
		action = "import"
	}
	step.do(action, "a secret, kept as "+string(d.Kind), func(ctx context.Context, x execer) error {
		return insertSecret(ctx, x, step.ID, s)
	})
	return nil
}
