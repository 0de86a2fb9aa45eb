// Package registry is the store: organizations, catalogs, agreements, clients and
// their secrets, the records of issued tokens, signing keys, the feed of changes and
// the audit trail.
//
// It speaks database/sql and one SQL text; what differs between engines lives in
// sqlite.go alone. Every mutation is one transaction that ends with one line of the
// feed (what replicas follow) and one line of the audit trail (who did what). Issuing
// is the exception: the token's row is its own record.
//
// What it must never do: speak HTTP, keep a client secret (its digest is kept), write a
// private key that is not wrapped, or tell a caller that something is stored before it
// is durable. An error that is the store's own fault wraps ErrUnavailable.
//
// Start reading at Open, then mutate (mutate.go), then IssueToken (issue.go).
package registry
