package registry

import (
	"cmp"
	"context"
	"strings"
)

// agreements are those that an organization will have.
type agreements struct {
	ids   map[string][]string // by name and by id
	names map[string]string   // by id, of those that it has now too
}

// planAgreements finds and compares the agreements of an organization.
func (p *planner) planAgreements(ctx context.Context, o owner) (*agreements, error) {
	var live []Agreement
	if !o.made {
		var err error
		if live, err = findAgreements(ctx, p.q, `a.removed_at IS NULL AND a.organization_id = $1`, o.id); err != nil {
			return nil, err
		}
	}
	byName, byID := map[string][]string{}, map[string]Agreement{}
	for _, g := range live {
		byName[g.Name] = append(byName[g.Name], g.ID)
		byID[g.ID] = g
	}
	places := map[string]string{}
	there := &agreements{map[string][]string{}, map[string]string{}}
	renames := renames{}
	for _, g := range o.declared.Agreements {
		renames.note(g.ID, g.Name, g.Place, g.Removed)
	}
	for _, g := range o.declared.Agreements {
		err := renames.refuse(g.ID, g.Name, byName[g.Name], g.Removed)
		if err == nil {
			err = p.agreement(ctx, o, g, byName, byID, places, there)
		}
		if err := p.fault(g.Place, err); err != nil {
			return nil, err
		}
	}
	for _, g := range live {
		there.names[g.ID] = cmp.Or(there.names[g.ID], g.Name)
		if places[g.ID] == "" {
			p.undeclare(KindAgreement, g.ID, o.declared.Name+" / "+g.Name)
			if !p.o.Prune {
				there.add(g)
			}
		}
	}
	return there, nil
}

func (a *agreements) add(g Agreement) {
	a.ids[g.Name] = append(a.ids[g.Name], g.ID)
	a.names[g.ID] = g.Name
	if g.Name != g.ID {
		a.ids[g.ID] = append(a.ids[g.ID], g.ID)
	}
}

// name is what people call an agreement: its id when it is none of the organization's.
func (a *agreements) name(id string) string { return cmp.Or(a.names[id], id) }

// agreement finds and compares one.
func (p *planner) agreement(ctx context.Context, o owner, d DeclaredAgreement, byName map[string][]string, byID map[string]Agreement, places map[string]string, there *agreements) error {
	want := Agreement{ID: d.ID, OrganizationID: o.id, Name: d.Name, StartsAt: d.StartsAt, EndsAt: d.EndsAt, Terms: d.Terms, Enforce: cmp.Or(d.Enforce, Enforce), CreatedAt: p.now}
	if err := want.check(); err != nil {
		return err
	}
	key := "\x00" + d.Name // of one that is made, which has no id yet
	if same := byName[d.Name]; d.ID == "" && len(same) > 1 {
		return conflict("%d agreements of the organization have this name: say which with its id: %s", len(same), strings.Join(same, ", "))
	} else if d.ID == "" && len(same) == 1 {
		want.ID = same[0]
	}
	now, found := byID[want.ID]
	if !found && want.ID != "" {
		gone, err := findAgreement(ctx, p.q, want.ID)
		switch {
		case err != nil:
			return err
		case gone.OrganizationID != o.id:
			return conflict("the agreement is another organization's")
		case !d.Removed:
			return conflict("the agreement was removed: leave out its id to make another one")
		}
	}
	if want.ID != "" {
		key = want.ID
	}
	if first := places[key]; first != "" {
		return conflict("it is declared twice, first at %s", first)
	}
	places[key] = d.Place
	switch {
	case d.Removed && found:
		p.remove(KindAgreement, want.ID, o.declared.Name+" / "+now.Name)
		return nil
	case d.Removed:
		p.unchanged++
		return nil
	}
	s := &Step{Action: "change", Kind: KindAgreement, ID: want.ID, Name: o.declared.Name + " / " + d.Name}
	if !found {
		var err error
		if want.ID, err = p.r.newID(); err != nil {
			return err
		}
		s.Action, s.ID, s.made = "create", want.ID, true
	}
	there.add(want)
	if found {
		s.field("name", now.Name, want.Name)
		s.field("enforce", string(now.Enforce), string(want.Enforce))
	} else if want.Enforce != Enforce {
		s.field("enforce", "", string(want.Enforce))
	}
	s.field("starts_at", timeText(now.StartsAt), timeText(want.StartsAt))
	s.field("ends_at", timeText(now.EndsAt), timeText(want.EndsAt))
	s.terms(now.Terms, want.Terms)
	p.terms = append(p.terms, declaredTerms{d.Place, want.ID, now.Terms, want.Terms})
	switch {
	case !found:
		s.do("create", want.Name, func(ctx context.Context, x execer) error { return insertAgreement(ctx, x, want) })
	case s.Fields != nil:
		s.do("change", s.fields(), func(ctx context.Context, x execer) error { return updateAgreement(ctx, x, want) })
	}
	p.add(s)
	return nil
}
