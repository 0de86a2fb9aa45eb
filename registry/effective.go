package registry

// Source says where a field of effective terms comes from.
type Source struct {
	From string `json:"source"` // FromAgreement, FromOrganization or FromDefault
	ID   string `json:"id,omitempty"`
}

// What Source.From can be.
const (
	FromAgreement    = "agreement"
	FromOrganization = "organization"
	FromDefault      = "default" // nobody set it
)

// Sources says of each field of Terms where it comes from.
type Sources struct {
	Products, Catalogs                                                                    Source
	RequestRate, RequestBurst, Concurrent, QuotaDay, QuotaMonth, TokenLifetime, IssueRate Source
}

// Effective returns the terms that hold for the client, and where each comes from: its
// agreement's where that sets a field, else its organization's, else the default, which is
// unset. A client whose agreement was removed is allowed nothing: what its organization
// licenses besides is not meant for it. Whether the agreement is in force at a moment is
// another question (Agreement.InForce).
func (g Grant) Effective() (t Terms, from Sources) {
	agreement := Source{FromAgreement, g.Client.AgreementID}
	if g.Client.AgreementID != "" && (g.Agreement == nil || g.Agreement.RemovedAt != 0) {
		return nothing(), everywhere(agreement)
	}
	t, from = g.Organization.Terms, everywhere(Source{FromOrganization, g.Organization.ID})
	if g.Agreement != nil {
		t.overlay(&from, g.Agreement.Terms, agreement)
	}
	for i, l := range t.limits() {
		if l.State == Unset {
			*from.limits()[i] = Source{From: FromDefault}
		}
	}
	for i, s := range t.sets() {
		if s.State == Unset {
			*from.sets()[i] = Source{From: FromDefault}
		}
	}
	return t, from
}

// Covered reports whether effective terms hold for the client at now: it is linked to no
// agreement, or to one that is in force, or that would refuse it and is in shadow.
func (g Grant) Covered(now Time) bool {
	if g.Client.AgreementID == "" {
		return true
	}
	return g.Agreement != nil && g.Agreement.RemovedAt == 0 && (g.Agreement.InForce(now) || g.Agreement.Enforce == Shadow)
}

// Refused says in a few words why nothing of the client is let through at now; "" when
// something is. What an agreement in shadow refuses is let through.
func (g Grant) Refused(now Time) string {
	switch {
	case g.Client.RemovedAt != 0:
		return "the client was removed"
	case g.Client.DisabledAt != 0:
		return "the client is disabled"
	case g.Organization.RemovedAt != 0:
		return "the organization was removed"
	case g.Organization.DisabledAt != 0:
		return "the organization is disabled"
	case g.Covered(now):
		return ""
	case g.Agreement == nil || g.Agreement.RemovedAt != 0:
		return "the agreement was removed"
	case now < g.Agreement.StartsAt:
		return "the agreement is not in force yet"
	}
	return "the agreement has ended"
}

// overlay takes over what top sets.
func (t *Terms) overlay(from *Sources, top Terms, source Source) {
	for i, s := range top.sets() {
		if s.State != Unset {
			*t.sets()[i], *from.sets()[i] = *s, source
		}
	}
	for i, l := range top.limits() {
		if l.State != Unset {
			*t.limits()[i], *from.limits()[i] = *l, source
		}
	}
}

// nothing are terms that allow nothing.
func nothing() (t Terms) {
	for _, s := range t.sets() {
		s.State = Value
	}
	for _, l := range t.limits() {
		l.State = Value
	}
	return t
}

func everywhere(s Source) (from Sources) {
	for _, f := range append(from.sets(), from.limits()...) {
		*f = s
	}
	return from
}

// sets and limits are in the order of those of Terms.
func (s *Sources) sets() []*Source { return []*Source{&s.Products, &s.Catalogs} }

func (s *Sources) limits() []*Source {
	return []*Source{&s.RequestRate, &s.RequestBurst, &s.Concurrent, &s.QuotaDay, &s.QuotaMonth, &s.TokenLifetime, &s.IssueRate}
}

// Field is one field of terms with where it comes from, for people to read.
type Field struct {
	Name   string // as in JSON
	Value  any    // a Set or a Limit
	Source Source
}

// Fields lists effective terms in the order of Terms.
func Fields(t Terms, from Sources) []Field {
	fields := make([]Field, 0, len(setNames())+len(limitNames()))
	for i, name := range setNames() {
		fields = append(fields, Field{name, *t.sets()[i], *from.sets()[i]})
	}
	for i, name := range limitNames() {
		fields = append(fields, Field{name, *t.limits()[i], *from.limits()[i]})
	}
	return fields
}
