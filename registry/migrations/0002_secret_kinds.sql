-- Client secrets that another program made can be imported. kind says how one is recognized:
-- by digest (sha256), or by hash, a slow one (bcrypt: its text; argon2id: a PHC string), and
-- digest is empty. imported is 1 when the secret may not have the form of ours.

-- +goose Up

ALTER TABLE client_secret ADD COLUMN kind TEXT NOT NULL DEFAULT 'sha256';
ALTER TABLE client_secret ADD COLUMN hash TEXT NOT NULL DEFAULT '';
ALTER TABLE client_secret ADD COLUMN imported BIGINT NOT NULL DEFAULT 0;
