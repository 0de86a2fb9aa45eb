package directory

import (
	"sync/atomic"

	"github.com/google/uuid"

	"postern/registry"
)

// Client is the live state of one client: everything that decides about its
// requests. Its facts are never changed after it was made, it is only marked dead when a
// change or an eviction replaced it. Safe for concurrent use.
type Client struct {
	facts
	// Account is the limiter's, who finds here what it resolved for this state of the client.
	Account atomic.Value
	// Usage is likewise for what counts usage.
	Usage atomic.Value
	dead  atomic.Bool
}

// facts are what the store says about a client; two states with the same facts are one.
type facts struct {
	ID             string
	OrganizationID string
	Application    string
	Environment    string
	AgreementID    string
	Terms          registry.Terms // the effective ones (registry.Grant.Effective)
	Secrets        []registry.ClientSecret
	// OrganizationTerms are the organization's own: they bind all its clients together.
	OrganizationTerms registry.Terms

	refused   bool // it or its organization is disabled or removed
	validFrom registry.Time
	agreement *registry.Agreement
}

func newClient(g registry.Grant) *Client {
	terms, _ := g.Effective()
	terms.Catalogs = sorted(terms.Catalogs)
	return &Client{facts: facts{
		ID:             g.Client.ID,
		OrganizationID: g.Client.OrganizationID,
		Application:    g.Client.Application,
		Environment:    g.Client.Environment,
		AgreementID:    g.Client.AgreementID,
		Terms:          terms,
		Secrets:        g.Client.Secrets,
		refused: g.Client.DisabledAt != 0 || g.Client.RemovedAt != 0 ||
			g.Organization.DisabledAt != 0 || g.Organization.RemovedAt != 0,
		validFrom:         max(g.Client.TokensValidFrom, g.Organization.TokensValidFrom),
		agreement:         g.Agreement,
		OrganizationTerms: g.Organization.Terms,
	}}
}

// Dead reports whether another state has replaced this one: whoever kept the
// pointer must ask the directory again.
func (c *Client) Dead() bool { return c.dead.Load() }

// Refused reports whether the client or its organization is disabled or removed.
func (c *Client) Refused() bool { return c.refused }

// Accepts reports whether a token whose record was issued at issued still speaks for the client.
func (c *Client) Accepts(issued registry.Time) bool { return !c.refused && issued > c.validFrom }

// ValidFrom is the moment up to which all tokens of the client are revoked.
func (c *Client) ValidFrom() registry.Time { return c.validFrom }

// InForce reports whether the client's agreement covers now. A client linked to none
// has nothing that could lapse; one whose agreement was removed is not covered.
func (c *Client) InForce(now registry.Time) bool {
	return c.AgreementID == "" || c.agreement != nil && c.agreement.InForce(now)
}

// Shadow reports whether the client's agreement refuses nothing: what its terms and dates
// do not allow is let through, and counted. A removed one refuses.
func (c *Client) Shadow() bool {
	return c.agreement != nil && c.agreement.RemovedAt == 0 && c.agreement.Enforce == registry.Shadow
}

// ShadowTerms are the terms that an agreement in shadow sets: what they do not allow is let
// through. What it does not set is its organization's to decide, and not in shadow. Without
// one in shadow nothing is set.
func (c *Client) ShadowTerms() registry.Terms {
	if !c.Shadow() {
		return registry.Terms{}
	}
	return c.agreement.Terms
}

// EndsAt is when the client's agreement ends; zero when it does not.
func (c *Client) EndsAt() registry.Time {
	if c.agreement == nil {
		return 0
	}
	return c.agreement.EndsAt
}

// Principal is whom a verified token speaks for. It is valid for the request that
// it was verified for.
type Principal struct {
	Client  *Client
	Token   uuid.UUID // jti
	Scope   string    // space-separated
	Expires int64     // seconds
	Memo    *Memo     // of what was signed about this token; nil: nothing is remembered
}
