package registry

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"math/bits"
	"slices"
	"strings"
)

// tally counts the rows of a table and sums them up. The sum of the rows' SHA-256, modulo
// 2^256, does not depend on their order: engines sort text differently.
type tally struct {
	columns []string
	rows    int64
	total   [4]uint64
	hash    hash.Hash
}

func newTally(columns []string) *tally { return &tally{columns: columns, hash: sha256.New()} }

func (t *tally) sum() string {
	var raw [32]byte
	for i, word := range t.total {
		binary.BigEndian.PutUint64(raw[24-8*i:], word)
	}
	return hex.EncodeToString(raw[:])
}

// add takes a row as pages gives it. Each value has its type and length before it, so that
// no two rows are written alike.
func (t *tally) add(row []any) error {
	t.hash.Reset()
	var number [9]byte
	for i, v := range row {
		switch v := v.(type) {
		case nil:
			t.hash.Write([]byte{'n'})
		case int64:
			number[0] = 'i'
			binary.BigEndian.PutUint64(number[1:], uint64(v))
			t.hash.Write(number[:])
		case string:
			number[0] = 's'
			binary.BigEndian.PutUint64(number[1:], uint64(len(v)))
			t.hash.Write(number[:])
			t.hash.Write([]byte(v))
		default:
			return fmt.Errorf("column %s is stored as %T", t.columns[i], v)
		}
	}
	var sum [32]byte
	t.hash.Sum(sum[:0])
	var carry uint64
	for i := range t.total {
		t.total[i], carry = bits.Add64(t.total[i], binary.BigEndian.Uint64(sum[24-8*i:]), carry)
	}
	t.rows++
	return nil
}

// pageSize is how many rows are in memory at once. Times the columns of the widest table it
// stays below what a statement may have parameters (SQLite: 32766, PostgreSQL: 65535).
const pageSize = 500

// columnsOf returns the columns of a table. In a store of an older version these are fewer
// than here; what is missing has its default, as in the rows that an older postern writes.
func columnsOf(ctx context.Context, q querier, t storedTable) ([]string, error) {
	rows, err := q.QueryContext(ctx, `SELECT * FROM `+t.name+` LIMIT 0`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err == nil {
		err = rows.Err()
	}
	return columns, err
}

// pages calls use with all rows of a table, in pages in the order of the primary key. Text is
// a string, a number an int64. The rows are reused.
func pages(ctx context.Context, q querier, t storedTable, columns []string, use func(rows [][]any) error) error {
	var key []int // the places of its columns
	for name := range strings.SplitSeq(t.key, ", ") {
		i := slices.Index(columns, name)
		if i < 0 {
			return fmt.Errorf("there is no column %s", name)
		}
		key = append(key, i)
	}
	page := make([][]any, pageSize)
	fields := make([]any, len(columns))
	for i := range page {
		page[i] = make([]any, len(columns))
	}
	query := `SELECT ` + strings.Join(columns, ", ") + ` FROM ` + t.name
	order := fmt.Sprintf(` ORDER BY %s LIMIT %d`, t.key, pageSize)
	var after []any
	for {
		where := ""
		if after != nil {
			where = ` WHERE (` + t.key + `) > ` + places(1, len(key))
		}
		n := 0
		err := each(ctx, q, func(rows *sql.Rows) error {
			for i := range fields {
				fields[i] = &page[n][i]
			}
			if err := rows.Scan(fields...); err != nil {
				return err
			}
			for i, v := range page[n] {
				if raw, ok := v.([]byte); ok {
					page[n][i] = string(raw)
				}
			}
			n++
			return nil
		}, query+where+order, after...)
		if err != nil {
			return err
		}
		if n > 0 {
			if err := use(page[:n]); err != nil {
				return err
			}
			after = nil
			for _, i := range key {
				after = append(after, page[n-1][i])
			}
		}
		if n < pageSize {
			return nil
		}
	}
}
