-- What clients used, by UTC hour. Rows are added up by every replica, and pruned. Nothing
-- refers to client here: one row of a client that a restored store does not know would keep
-- a whole batch out.

-- +goose Up

-- bytes_in and bytes_out are of content; tokens are issued and refreshed ones.
CREATE TABLE usage (
    client_id TEXT   NOT NULL,
    hour      BIGINT NOT NULL,
    requests  BIGINT NOT NULL,
    tokens    BIGINT NOT NULL,
    bytes_in  BIGINT NOT NULL,
    bytes_out BIGINT NOT NULL,
    PRIMARY KEY (client_id, hour)
);
CREATE INDEX usage_hour ON usage (hour);

-- Refused requests, by reason.
CREATE TABLE usage_refusal (
    client_id TEXT   NOT NULL,
    hour      BIGINT NOT NULL,
    reason    TEXT   NOT NULL,
    requests  BIGINT NOT NULL,
    PRIMARY KEY (client_id, hour, reason)
);
CREATE INDEX usage_refusal_hour ON usage_refusal (hour);

-- The last batch of each process that writes, changed in the batch's own transaction: who
-- does not know whether a batch was committed learns it here, and counts nothing twice.
CREATE TABLE usage_writer (
    id    TEXT PRIMARY KEY,
    batch BIGINT NOT NULL,
    at    BIGINT NOT NULL
);
CREATE INDEX usage_writer_at ON usage_writer (at);
