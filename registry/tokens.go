package registry

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"
)

// grace is how long after the last expiry of a token its record and its revocation are
// kept: for clocks that differ.
const grace = time.Minute

// TokenFilter says which tokens to list.
type TokenFilter struct {
	ClientID       string // "": of any client
	OrganizationID string // "": of any organization
	All            bool   // expired and revoked ones too
	Limit          int    // 0: 100
}

const tokenColumns = `token.id, token.removed_at, token.refreshed_at, token.revoked_at, token.subject_type, token.subject_id, token.issued_at, token.expires_at,
	COALESCE(token.issuer_type, ''), COALESCE(token.issuer_id, ''), token.organization_id, token.scope, token.key_id`

// selectTokens reads tokens; what comes after it may join and filter. No alias: RETURNING knows
// only the name of the table.
const selectTokens = `SELECT ` + tokenColumns + ` FROM token `

// findTokens runs a query that answers with tokenColumns.
func findTokens(ctx context.Context, q querier, query string, args ...any) (found []Token, err error) {
	err = each(ctx, q, func(rows *sql.Rows) error {
		var t Token
		err := rows.Scan(&t.ID, &t.RemovedAt, &t.RefreshedAt, &t.RevokedAt, &t.SubjectType, &t.SubjectID, &t.IssuedAt, &t.ExpiresAt,
			&t.IssuerType, &t.IssuerID, &t.OrganizationID, &t.Scope, &t.KeyID)
		found = append(found, t)
		return err
	}, query, args...)
	return found, err
}

func findToken(ctx context.Context, q querier, id string) (Token, error) {
	if !storable(id) {
		return Token{}, notFound(KindToken)
	}
	found, err := findTokens(ctx, q, selectTokens+`WHERE token.id = $1`, id)
	return one(found, KindToken, err)
}

// Token returns the record of one token that is not pruned yet, or ErrNotFound.
func (r *Registry) Token(ctx context.Context, id string) (t Token, err error) {
	defer r.observe(opRead, r.options.Now(), &err)
	t, err = findToken(ctx, r.engine.read, id)
	return t, r.fault("read token", err)
}

// Tokens lists the records of tokens, newest first. Without f.All, those that expired or
// were revoked, alone or with all tokens of their client or organization, are left out.
func (r *Registry) Tokens(ctx context.Context, f TokenFilter) (found []Token, err error) {
	defer r.observe(opRead, r.options.Now(), &err)
	if !storable(f.ClientID) || !storable(f.OrganizationID) {
		return nil, nil
	}
	var args []any
	arg := func(v any) string {
		args = append(args, v)
		return fmt.Sprintf("$%d", len(args))
	}
	join, conditions := "", []string{}
	if f.ClientID != "" {
		conditions = append(conditions, "token.subject_id = "+arg(f.ClientID))
	}
	if f.OrganizationID != "" {
		conditions = append(conditions, "token.organization_id = "+arg(f.OrganizationID))
	}
	if !f.All {
		join = `JOIN client c ON c.id = token.subject_id JOIN organization o ON o.id = token.organization_id `
		conditions = append(conditions, "token.expires_at > "+arg(int64(r.now())), "token.revoked_at IS NULL",
			"token.issued_at > COALESCE(c.tokens_valid_from, 0)", "token.issued_at > COALESCE(o.tokens_valid_from, 0)")
	}
	where := ""
	if len(conditions) > 0 {
		where = "WHERE " + strings.Join(conditions, " AND ")
	}
	if f.Limit <= 0 {
		f.Limit = defaultLimit
	}
	// Ids are UUIDv7: their order is the order of issue.
	found, err = findTokens(ctx, r.engine.read, selectTokens+join+where+` ORDER BY token.id DESC LIMIT `+arg(f.Limit), args...)
	return found, r.fault("read tokens", err)
}

// RevokeToken revokes every JWT of one record and returns the record. A second call changes
// nothing. ErrNotFound when there is no such record (any more).
func (r *Registry) RevokeToken(ctx context.Context, a Actor, id string) (t Token, err error) {
	err = r.mutate(ctx, "revoke token", a, func(tx *tx) (*deed, error) {
		if t, err = findToken(ctx, tx, id); err != nil || t.RevokedAt != 0 {
			return nil, err
		}
		t.RevokedAt = tx.now
		return &deed{"revoke", KindToken, id, ""}, tx.set(ctx, `UPDATE token SET revoked_at = $1 WHERE id = $2`, tx.now, id)
	})
	return t, err
}

// RefreshToken extends the record of a token of subjectID to expires, never shortens it, and
// returns the record once that is durable. ErrNotFound when there is no such record (any
// more), and when it may not be refreshed: revoked, removed, another subject's, or minted by a
// user. One statement decides and writes: a token that was revoked before is never refreshed.
func (r *Registry) RefreshToken(ctx context.Context, id, subjectID string, now, expires Time) (t Token, err error) {
	defer r.observe(opRefresh, r.options.Now(), &err)
	t, err = r.refresh(ctx, id, subjectID, now, expires)
	return t, r.fault("refresh token", err)
}

func (r *Registry) refresh(ctx context.Context, id, subjectID string, now, expires Time) (Token, error) {
	if now <= 0 || expires <= now {
		return Token{}, invalid("expires: a token expires after it is refreshed")
	}
	if !storable(id) || !storable(subjectID) {
		return Token{}, notFound(KindToken)
	}
	ctx, cancel := r.engine.write.bound(ctx)
	defer cancel()
	tx, err := r.engine.begin(ctx)
	if err != nil {
		return Token{}, err
	}
	defer tx.Rollback() // after a commit there is nothing to roll back
	found, err := findTokens(ctx, tx, `UPDATE token SET refreshed_at = $1, expires_at = CASE WHEN token.expires_at > $2 THEN token.expires_at ELSE $2 END
		WHERE token.id = $3 AND token.subject_id = $4 AND token.subject_type = 'Client' AND token.revoked_at IS NULL AND token.removed_at IS NULL AND token.issuer_type IS NULL
		RETURNING `+tokenColumns, int64(now), int64(expires), id, subjectID)
	t, err := one(found, KindToken, err)
	if err != nil {
		return Token{}, err
	}
	return t, tx.Commit()
}

// Revocations returns those of all tokens of which some JWT may still be in use: each is kept
// until a minute after the last expiry.
func (r *Registry) Revocations(ctx context.Context) (found []Revocation, err error) {
	defer r.observe(opRevocations, r.options.Now(), &err)
	err = each(ctx, r.engine.read, func(rows *sql.Rows) error {
		var v Revocation
		err := rows.Scan(&v.TokenID, &v.Until)
		v.Until = v.Until.later(grace)
		found = append(found, v)
		return err
	}, `SELECT id, expires_at FROM token WHERE revoked_at IS NOT NULL AND expires_at > $1`, int64(r.now().later(-grace)))
	return found, r.fault("read revocations", err)
}

// Revocation returns that of one token, or ErrNotFound when it is not revoked.
func (r *Registry) Revocation(ctx context.Context, tokenID string) (v Revocation, err error) {
	defer r.observe(opRevocation, r.options.Now(), &err)
	t, err := findToken(ctx, r.engine.read, tokenID)
	if err == nil && t.RevokedAt == 0 {
		err = &refusal{ErrNotFound, "the token is not revoked"}
	}
	if err != nil {
		return v, r.fault("read revocation", err)
	}
	return Revocation{TokenID: t.ID, Until: t.ExpiresAt.later(grace)}, nil
}
