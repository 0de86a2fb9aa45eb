package registry

import (
	"context"
	"slices"
)

// declaredTerms are the terms that a declaration gives an organization or an agreement.
type declaredTerms struct {
	place, id     string
	before, after Terms
}

// planGrants looks at the catalogs that terms grant once it is known which there will be: a
// declaration grants what is there then, and what is removed or gets another external id is
// removed from, or renamed in, the terms that are not declared.
func (p *planner) planGrants(ctx context.Context, there map[string]string) error {
	settled := map[string]bool{}
	for _, t := range p.terms {
		settled[t.id] = true
		if t.after.Catalogs.State != Value {
			continue
		}
		had := map[string]bool{}
		for _, name := range t.before.Catalogs.Values {
			had[name] = true
		}
		for _, name := range t.after.Catalogs.Values {
			to, renamed := p.renamed[name]
			var err error
			switch {
			case renamed && to == "":
				err = invalid("catalogs: catalog %s is removed", name)
			case renamed:
				err = invalid("catalogs: catalog %s has the external id %s then", name, to)
			case there[name] == "" && !had[name]:
				err = invalid("catalogs: there is no catalog %s: declare it, here or before", name)
			}
			if err := p.fault(t.place, err); err != nil {
				return err
			}
		}
	}
	if len(p.renamed) == 0 {
		return nil
	}
	found, err := findGrantors(ctx, p.q, p.renamed)
	if err != nil {
		return err
	}
	for _, g := range found {
		if settled[g.id] || slices.ContainsFunc(p.removals, func(s *Step) bool { return s.ID == g.id }) {
			continue
		}
		s := &Step{Action: "change", Kind: g.kind, ID: g.id, Name: g.name}
		s.field("terms.catalogs", g.before.text(), g.after.text())
		s.do("change", s.fields(), g.save)
		p.add(s)
	}
	return nil
}
