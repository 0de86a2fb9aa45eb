package registry

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
)

// planner compares a declaration with a store. survey reads and compares all but secrets;
// finish, which reads nothing, compares those, and makes the plan.
type planner struct {
	r   *Registry
	q   querier
	now Time
	o   ApplyOptions

	faults     []error
	removals   []*Step
	steps      []*Step
	unchanged  int
	undeclared int

	organizations map[string]string // by id: the place that declares it
	clientIDs     map[string]string // likewise, of clients that are declared with theirs: it is one's in all organizations
	owners        []owner
	terms         []declaredTerms
	renamed       map[string]string // external ids of catalogs, by those of before; "": removed
	clients       []*clientPlan
}

// owner is an organization of the declaration and the id that it has or will have.
type owner struct {
	declared DeclaredOrganization
	id       string
	made     bool
}

// fault notes a refusal about the thing at place. Another error ends the planning.
func (p *planner) fault(place string, err error) error {
	refused, ok := errors.AsType[*refusal](err)
	if ok {
		p.faults = append(p.faults, &DeclarationFault{Place: place, Problem: refused.text, kind: refused.kind})
		return nil
	}
	return err
}

func (p *planner) finish() (Plan, error) {
	for _, c := range p.clients {
		if err := p.fault(c.declared.Place, p.planSecrets(c)); err != nil {
			return Plan{}, err
		}
		p.add(c.step)
	}
	if len(p.faults) > 0 {
		return Plan{}, errors.Join(p.faults...)
	}
	plan := Plan{Unchanged: p.unchanged, Undeclared: p.undeclared}
	for _, s := range slices.Concat(p.removals, p.steps) {
		plan.Steps = append(plan.Steps, *s)
	}
	return plan, nil
}

// add takes a step whose fields are compared.
func (p *planner) add(s *Step) {
	if len(s.write) > 0 {
		p.steps = append(p.steps, s)
	} else {
		p.unchanged++
	}
}

// remove plans the removal of something that is there.
func (p *planner) remove(kind Kind, id, name string) {
	s := &Step{Action: "remove", Kind: kind, ID: id, Name: name}
	s.do("remove", "", setTime(kind, "removed_at", id, p.now))
	p.removals = append(p.removals, s)
}

// setTime sets a time of an organization, an agreement, a catalog or a client.
func setTime(kind Kind, column, id string, at Time) func(context.Context, execer) error {
	return func(ctx context.Context, x execer) error {
		return set(ctx, x, `UPDATE `+string(kind)+` SET `+column+` = $1 WHERE id = $2`, at, id)
	}
}

// undeclare is about something of a declared organization that the declaration has not.
func (p *planner) undeclare(kind Kind, id, name string) {
	if p.o.Prune {
		p.remove(kind, id, name)
	} else {
		p.undeclared++
	}
}

// disable plans that the thing of s is disabled, or not.
func (p *planner) disable(s *Step, was Time, declared bool) {
	if was != 0 == declared {
		return
	}
	s.field("disabled", strconv.FormatBool(was != 0), strconv.FormatBool(declared))
	if declared {
		s.do("disable", "", setTime(s.Kind, "disabled_at", s.ID, p.now))
	} else {
		s.do("enable", "", setTime(s.Kind, "disabled_at", s.ID, 0))
	}
}

// survey reads what the declaration is about, and compares.
func (p *planner) survey(ctx context.Context, d Declaration) error {
	p.organizations, p.clientIDs, p.renamed = map[string]string{}, map[string]string{}, map[string]string{}
	live, err := findOrganizations(ctx, p.q, `o.removed_at IS NULL`)
	if err != nil {
		return err
	}
	byName := map[string][]string{}
	byID := map[string]Organization{}
	for _, o := range live {
		byName[o.Name] = append(byName[o.Name], o.ID)
		byID[o.ID] = o
	}
	names := map[string]string{} // where those are declared that are not there
	renames := renames{}
	for _, o := range d.Organizations {
		renames.note(o.ID, o.Name, o.Place, o.Removed)
	}
	for _, o := range d.Organizations {
		err := renames.refuse(o.ID, o.Name, byName[o.Name], o.Removed)
		if err == nil {
			err = p.organization(ctx, o, byName, byID, names)
		}
		if err := p.fault(o.Place, err); err != nil {
			return err
		}
	}
	for _, o := range p.owners {
		agreements, err := p.planAgreements(ctx, o)
		if err != nil {
			return err
		}
		if err := p.planClients(ctx, o, agreements); err != nil {
			return err
		}
	}
	return p.planCatalogs(ctx, d)
}

// renames are the names that things will have which are declared with their ids.
type renames map[string]struct{ id, place string }

func (r renames) note(id, name, place string, removed bool) {
	if id != "" && !removed {
		r[name] = struct{ id, place string }{id, place}
	}
}

// refuse is about what is declared by its name alone, which same have: with two of that name
// the declaration could not be applied again.
func (r renames) refuse(id, name string, same []string, removed bool) error {
	other, ok := r[name]
	if !ok || id != "" || removed || slices.Contains(same, other.id) {
		return nil
	}
	return conflict("what is declared at %s will have this name too: give one of them another name, or this one its id", other.place)
}

// organization finds and compares an organization.
func (p *planner) organization(ctx context.Context, o DeclaredOrganization, byName map[string][]string, byID map[string]Organization, made map[string]string) error {
	err := errors.Join(p.fault(o.Place, checkName("name", o.Name)), p.fault(o.Place, checkTerms(o.Terms)))
	if err != nil {
		return err
	}
	id := o.ID
	if same := byName[o.Name]; id == "" && len(same) > 1 {
		return conflict("%d organizations have this name: say which with its id: %s", len(same), strings.Join(same, ", "))
	} else if id == "" && len(same) == 1 {
		id = same[0]
	}
	now, found := byID[id]
	switch {
	case found:
	case id != "":
		gone, err := findOrganization(ctx, p.q, id)
		if err == nil && gone.RemovedAt != 0 && !o.Removed {
			err = conflict("the organization was removed: leave out its id to make another one")
		}
		if err == nil {
			p.unchanged++
		}
		return err
	case made[o.Name] != "":
		return conflict("it is declared twice, first at %s", made[o.Name])
	case o.Removed:
		made[o.Name] = o.Place
		p.unchanged++
		return nil
	}
	s := &Step{Action: "change", Kind: KindOrganization, ID: id, Name: o.Name}
	if found {
		if first := p.organizations[id]; first != "" {
			return conflict("it is declared twice, first at %s", first)
		}
		if o.Removed {
			p.organizations[id] = o.Place
			p.remove(KindOrganization, id, now.Name)
			return nil
		}
	} else {
		made[o.Name] = o.Place
		if id, err = p.r.newID(); err != nil {
			return err
		}
		s.Action, s.ID, s.made = "create", id, true
	}
	p.organizations[id] = o.Place
	p.owners = append(p.owners, owner{o, id, !found})
	if found {
		s.field("name", now.Name, o.Name)
	}
	s.terms(now.Terms, o.Terms)
	p.terms = append(p.terms, declaredTerms{o.Place, id, now.Terms, o.Terms})
	want := Organization{ID: id, Name: o.Name, Terms: o.Terms, CreatedAt: p.now}
	switch {
	case !found:
		s.do("create", o.Name, func(ctx context.Context, x execer) error { return insertOrganization(ctx, x, want) })
	case s.Fields != nil:
		s.do("change", s.fields(), func(ctx context.Context, x execer) error {
			if err := set(ctx, x, `UPDATE organization SET name = $1 WHERE id = $2`, want.Name, want.ID); err != nil {
				return err
			}
			return saveTerms(ctx, x, want.ID, want.Terms)
		})
	}
	p.disable(s, now.DisabledAt, o.Disabled)
	p.add(s)
	return nil
}

// fields names what s changes, for the audit trail.
func (s *Step) fields() string {
	names := make([]string, 0, len(s.Fields))
	for _, f := range s.Fields {
		names = append(names, f.Field)
	}
	return strings.Join(names, " ")
}

// terms notes how terms differ.
func (s *Step) terms(before, after Terms) {
	s.field("terms.products", before.Products.text(), after.Products.text())
	s.field("terms.catalogs", before.Catalogs.text(), after.Catalogs.text())
	was, is := before.limits(), after.limits()
	for i, name := range limitNames() {
		s.field("terms."+name, was[i].text(name == "token_lifetime"), is[i].text(name == "token_lifetime"))
	}
}

// text is a limit for people; "" is unset.
func (l Limit) text(seconds bool) string {
	switch {
	case l.State == Unset:
		return ""
	case l.State == Unlimited:
		return "unlimited"
	case seconds:
		return (time.Duration(l.Value) * time.Second).String()
	}
	return strconv.FormatInt(l.Value, 10)
}

// text is a set for people, in one order whatever order it was written in; "" is unset.
func (s Set) text() string {
	switch {
	case s.State == Unset:
		return ""
	case s.State == Unlimited:
		return "unlimited"
	case len(s.Values) == 0:
		return "none"
	}
	return strings.Join(slices.Compact(slices.Sorted(slices.Values(s.Values))), " ")
}

// timeText is t for people; "" is never.
func timeText(t Time) string {
	if t == 0 {
		return ""
	}
	return t.Time().Format(time.RFC3339Nano)
}
