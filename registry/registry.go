package registry

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"postern/secret"
)

// Options of a registry. DSN is required; the rest has defaults.
type Options struct {
	// DSN names the store: "sqlite:PATH". The file is created, its directory is not.
	DSN secret.Secret
	// MasterKey is 32 raw bytes that wrap the data key that wraps the signing keys; "": the
	// data key is kept unwrapped, with a warning.
	MasterKey secret.Secret
	Now       func() time.Time // time.Now
	Random    io.Reader        // crypto/rand.Reader; must be safe for concurrent use
	Log       *slog.Logger     // discarded when nil
}

// Registry is one open store. It is safe for concurrent use, and several processes may
// have the same store open. Close it to stop its goroutine.
type Registry struct{}

// Feed follows the changes of a store. One goroutine uses it; Close it before the registry.
type Feed struct{}

// OrganizationChange says what to change; nil leaves a field as it is.
type OrganizationChange struct {
	Name  *string
	Terms *Terms
}

// NewClient is what CreateClient needs.
type NewClient struct {
	OrganizationID string
	AgreementID    string // "": none
	Application    string
	Environment    string // as Environment takes it
	AllowDuplicate bool   // several clients for one application and environment
}

// ClientChange says what to change; nil leaves a field as it is, an empty AgreementID unlinks.
type ClientChange struct {
	Application *string
	Environment *string
	AgreementID *string
}

// NewAgreement is what CreateAgreement needs.
type NewAgreement struct {
	OrganizationID string
	Name           string
	StartsAt       Time
	EndsAt         Time // zero: open
	Terms          Terms
}

// AgreementChange says what to change; nil leaves a field as it is.
type AgreementChange struct {
	Name     *string
	StartsAt *Time
	EndsAt   *Time
	Terms    *Terms
}

// NewCatalog is what CreateCatalog needs.
type NewCatalog struct {
	ExternalID     string
	OrganizationID string // the owner; "" when Public
	Public         bool
	Name           string
}

// TokenFilter says which tokens to list.
type TokenFilter struct {
	ClientID       string // "": of any client
	OrganizationID string // "": of any organization
	All            bool   // expired and revoked ones too
	Limit          int    // 0: 100
}

// NewID makes a UUIDv7 (RFC 9562 §5.7) of now's millisecond and 74 bits of random.
func NewID(now time.Time, random io.Reader) (uuid.UUID, error) { panic("not yet") }

func Open(ctx context.Context, o Options) (*Registry, error)                  { panic("not yet") }
func (r *Registry) Close() error                                              { panic("not yet") }
func (r *Registry) Collectors() []prometheus.Collector                        { panic("not yet") }
func (r *Registry) Feed(ctx context.Context) (*Feed, error)                   { panic("not yet") }
func (f *Feed) Poll(ctx context.Context) ([]Change, bool, error)              { panic("not yet") }
func (f *Feed) Close() error                                                  { panic("not yet") }
func (r *Registry) Grant(ctx context.Context, clientID string) (Grant, error) { panic("not yet") }
func (r *Registry) Keys(ctx context.Context) ([]Key, error)                   { panic("not yet") }
func (r *Registry) Revocations(ctx context.Context) ([]Revocation, error)     { panic("not yet") }
func (r *Registry) Revocation(ctx context.Context, tokenID string) (Revocation, error) {
	panic("not yet")
}
func (r *Registry) IssueToken(ctx context.Context, t Token, secretID string) error { panic("not yet") }
func (r *Registry) Prune(ctx context.Context, now Time) (int, error)               { panic("not yet") }
func (r *Registry) CreateOrganization(ctx context.Context, a Actor, name string, t Terms) (Organization, error) {
	panic("not yet")
}
func (r *Registry) Organization(ctx context.Context, id string) (Organization, error) {
	panic("not yet")
}
func (r *Registry) Organizations(ctx context.Context) ([]Organization, error) { panic("not yet") }
func (r *Registry) ChangeOrganization(ctx context.Context, a Actor, id string, c OrganizationChange) (Organization, error) {
	panic("not yet")
}
func (r *Registry) DisableOrganization(ctx context.Context, a Actor, id string) error {
	panic("not yet")
}
func (r *Registry) EnableOrganization(ctx context.Context, a Actor, id string) error {
	panic("not yet")
}
func (r *Registry) RemoveOrganization(ctx context.Context, a Actor, id string) error {
	panic("not yet")
}
func (r *Registry) CreateClient(ctx context.Context, a Actor, n NewClient) (Client, secret.Secret, error) {
	panic("not yet")
}
func (r *Registry) Client(ctx context.Context, id string) (Client, error) { panic("not yet") }
func (r *Registry) Clients(ctx context.Context, organizationID string) ([]Client, error) {
	panic("not yet")
}
func (r *Registry) ChangeClient(ctx context.Context, a Actor, id string, c ClientChange) (Client, error) {
	panic("not yet")
}
func (r *Registry) DisableClient(ctx context.Context, a Actor, id string) error { panic("not yet") }
func (r *Registry) EnableClient(ctx context.Context, a Actor, id string) error  { panic("not yet") }
func (r *Registry) RemoveClient(ctx context.Context, a Actor, id string) error  { panic("not yet") }
func (r *Registry) RotateClientSecret(ctx context.Context, a Actor, id string, overlap time.Duration) (secret.Secret, error) {
	panic("not yet")
}
func (r *Registry) Token(ctx context.Context, id string) (Token, error)        { panic("not yet") }
func (r *Registry) Tokens(ctx context.Context, f TokenFilter) ([]Token, error) { panic("not yet") }
func (r *Registry) RevokeToken(ctx context.Context, a Actor, id string) (Token, error) {
	panic("not yet")
}
func (r *Registry) RevokeClientTokens(ctx context.Context, a Actor, id string) error {
	panic("not yet")
}
func (r *Registry) RevokeOrganizationTokens(ctx context.Context, a Actor, id string) error {
	panic("not yet")
}
func (r *Registry) EnsureKey(ctx context.Context, a Actor, algorithm string, publish, keep time.Duration, generate func() (Key, error)) (bool, error) {
	panic("not yet")
}
func (r *Registry) RotateKey(ctx context.Context, a Actor, k Key, publish, keep time.Duration) (Key, error) {
	panic("not yet")
}
func (r *Registry) Key(ctx context.Context, id string) (Key, error) { panic("not yet") }
func (r *Registry) KeyHistory(ctx context.Context) ([]Key, error)   { panic("not yet") }
func (r *Registry) RemoveKey(ctx context.Context, a Actor, id string, replacement *Key) error {
	panic("not yet")
}
func (r *Registry) CreateAgreement(ctx context.Context, a Actor, n NewAgreement) (Agreement, error) {
	panic("not yet")
}
func (r *Registry) Agreement(ctx context.Context, id string) (Agreement, error) { panic("not yet") }
func (r *Registry) Agreements(ctx context.Context, organizationID string) ([]Agreement, error) {
	panic("not yet")
}
func (r *Registry) ChangeAgreement(ctx context.Context, a Actor, id string, c AgreementChange) (Agreement, error) {
	panic("not yet")
}
func (r *Registry) RemoveAgreement(ctx context.Context, a Actor, id string) error { panic("not yet") }
func (r *Registry) CreateCatalog(ctx context.Context, a Actor, n NewCatalog) (Catalog, error) {
	panic("not yet")
}
func (r *Registry) Catalog(ctx context.Context, id string) (Catalog, error) { panic("not yet") }
func (r *Registry) Catalogs(ctx context.Context, organizationID string) ([]Catalog, error) {
	panic("not yet")
}
func (r *Registry) RemoveCatalog(ctx context.Context, a Actor, id string) error { panic("not yet") }
func (r *Registry) Events(ctx context.Context, limit int) ([]Event, error)      { panic("not yet") }
