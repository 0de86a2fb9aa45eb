-- One text for every engine: TEXT for names, ids and digests, BIGINT for counts and for
-- times in Unix milliseconds, NULL for never. Nothing here is deleted when it is removed
-- (removed_at says so), except tokens and dead secrets, which are pruned.

-- +goose Up

-- One row. seq numbers the lines of change, events those of event; epoch is random, so
-- that whoever follows the feed notices another store under the same name.
CREATE TABLE counter (
    id     BIGINT PRIMARY KEY CHECK (id = 1),
    seq    BIGINT NOT NULL,
    events BIGINT NOT NULL,
    epoch  TEXT   NOT NULL
);

CREATE TABLE organization (
    id                TEXT PRIMARY KEY,
    name              TEXT   NOT NULL,
    tokens_valid_from BIGINT,
    created_at        BIGINT NOT NULL,
    disabled_at       BIGINT,
    removed_at        BIGINT
);

CREATE TABLE agreement (
    id              TEXT PRIMARY KEY,
    organization_id TEXT   NOT NULL REFERENCES organization (id),
    name            TEXT   NOT NULL,
    starts_at       BIGINT,
    ends_at         BIGINT,
    created_at      BIGINT NOT NULL,
    removed_at      BIGINT
);
CREATE INDEX agreement_organization ON agreement (organization_id);

-- The terms of one organization or agreement. NULL inherits, -1 is unlimited; a set is a
-- JSON array of names, or * for unlimited.
CREATE TABLE terms (
    owner_id       TEXT PRIMARY KEY,
    products       TEXT,
    catalogs       TEXT,
    request_rate   BIGINT,
    request_burst  BIGINT,
    concurrent     BIGINT,
    quota_day      BIGINT,
    quota_month    BIGINT,
    token_lifetime BIGINT,
    issue_rate     BIGINT
);

CREATE TABLE catalog (
    id              TEXT PRIMARY KEY,
    external_id     TEXT   NOT NULL,
    organization_id TEXT REFERENCES organization (id),
    visibility      TEXT   NOT NULL CHECK (visibility IN ('public', 'private')),
    name            TEXT   NOT NULL,
    created_at      BIGINT NOT NULL,
    removed_at      BIGINT,
    CHECK (visibility = 'public' OR organization_id IS NOT NULL)
);
CREATE UNIQUE INDEX catalog_external ON catalog (external_id) WHERE removed_at IS NULL;

CREATE TABLE client (
    id                TEXT PRIMARY KEY,
    organization_id   TEXT   NOT NULL REFERENCES organization (id),
    agreement_id      TEXT REFERENCES agreement (id),
    application       TEXT   NOT NULL,
    environment       TEXT   NOT NULL,
    tokens_valid_from BIGINT,
    created_at        BIGINT NOT NULL,
    disabled_at       BIGINT,
    removed_at        BIGINT
);
CREATE INDEX client_application ON client (organization_id, application, environment);

-- digest is the SHA-256 of the client secret in hexadecimal. The secret is kept nowhere.
CREATE TABLE client_secret (
    id           TEXT PRIMARY KEY,
    client_id    TEXT   NOT NULL REFERENCES client (id),
    digest       TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT,
    last_used_at BIGINT
);
CREATE INDEX client_secret_client ON client_secret (client_id);
CREATE INDEX client_secret_expiry ON client_secret (expires_at) WHERE expires_at IS NOT NULL;

-- Every index here is paid for at each issue.
CREATE TABLE token (
    id              TEXT PRIMARY KEY,
    subject_type    TEXT   NOT NULL,
    subject_id      TEXT   NOT NULL REFERENCES client (id),
    organization_id TEXT   NOT NULL REFERENCES organization (id),
    issuer_type     TEXT,
    issuer_id       TEXT,
    scope           TEXT   NOT NULL,
    key_id          TEXT   NOT NULL,
    issued_at       BIGINT NOT NULL,
    expires_at      BIGINT NOT NULL,
    refreshed_at    BIGINT,
    revoked_at      BIGINT,
    removed_at      BIGINT
);
CREATE INDEX token_subject ON token (subject_id, id);
CREATE INDEX token_organization ON token (organization_id, id);
CREATE INDEX token_expiry ON token (expires_at);
CREATE INDEX token_revoked ON token (expires_at) WHERE revoked_at IS NOT NULL;

-- material wraps the private keys. wrapping is 'master' when the master key wraps it, and
-- 'none' when it lies here as it is, because no master key was configured.
CREATE TABLE data_key (
    id         TEXT PRIMARY KEY,
    wrapping   TEXT   NOT NULL CHECK (wrapping IN ('master', 'none')),
    material   TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);

-- private is PKCS #8, wrapped by the data key with the id as associated data; empty once
-- nothing can need it any more.
CREATE TABLE signing_key (
    id             TEXT PRIMARY KEY,
    algorithm      TEXT   NOT NULL,
    data_key_id    TEXT   NOT NULL REFERENCES data_key (id),
    private        TEXT   NOT NULL,
    created_at     BIGINT NOT NULL,
    signs_from     BIGINT NOT NULL,
    verifies_until BIGINT,
    removed_at     BIGINT
);

-- The feed: what replicas follow. Pruned from the front only, so that numbers have no gap.
CREATE TABLE change (
    seq  BIGINT PRIMARY KEY,
    kind TEXT   NOT NULL,
    id   TEXT   NOT NULL,
    at   BIGINT NOT NULL
);

-- The audit trail: appended to, never changed.
CREATE TABLE event (
    seq           BIGINT PRIMARY KEY,
    at            BIGINT NOT NULL,
    actor_kind    TEXT   NOT NULL,
    actor_id      TEXT   NOT NULL,
    actor_address TEXT   NOT NULL,
    action        TEXT   NOT NULL,
    kind          TEXT   NOT NULL,
    id            TEXT   NOT NULL,
    detail        TEXT   NOT NULL
);
