-- oldest is the version of the tables that a program must know to work with these. A
-- migration that programs of before can live with, as all should be, leaves it as it is.

-- +goose Up

ALTER TABLE counter ADD COLUMN oldest BIGINT NOT NULL DEFAULT 0;
