-- An agreement in shadow refuses nothing: what it would refuse is counted. Programs of before
-- know no such agreement, and enforce each.

-- +goose Up

ALTER TABLE agreement ADD COLUMN enforce TEXT NOT NULL DEFAULT 'enforce' CHECK (enforce IN ('enforce', 'shadow'));
