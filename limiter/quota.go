package limiter

import "time"

// calendar is a UTC day and the month around it: the windows of quotas.
type calendar struct {
	day, month            int32 // days since 1970, months since the year 0
	begins, ends, turnsAt int64 // Unix seconds: of the day, and when the next month begins
}

func calendarOf(now time.Time) *calendar {
	y, m, d := now.UTC().Date()
	day := func(y int, m time.Month, d int) int64 { return time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() }
	c := &calendar{month: int32(y*12 + int(m)), begins: day(y, m, d), ends: day(y, m, d+1), turnsAt: day(y, m+1, 1)}
	c.day = int32(c.begins / 86400)
	return c
}

// monthOf is the month that a day is in.
func monthOf(day int32) int32 { return calendarOf(time.Unix(int64(day)*86400, 0)).month }

// spent is what is known about one account and one window.
type spent struct {
	window int32
	own    int64 // by this process
	base   int64 // by all others, and before
	mark   int64 // own when base was heard of last
	told   int64 // own as the other replicas can know it
}

func (s *spent) total() int64 { return s.base + s.own }

// quota counts the newest window and the one before: around the boundary requests come
// that took their time before it, and a clock may be set back.
type quota struct{ newest, before spent }

// in is the count of the window.
func (q *quota) in(window int32) *spent {
	switch {
	case window == q.newest.window:
	case window > q.newest.window:
		q.before, q.newest = q.newest, spent{window: window}
	case window == q.before.window:
		return &q.before
	default:
		// A clock that is set back further finds no count. It goes on from the newest, so
		// that setting it back and forth grants nothing.
		q.before = spent{window: window, base: q.newest.total()}
		return &q.before
	}
	return &q.newest
}

// peek is in without making a window: nil when there is none.
func (q *quota) peek(window int32) *spent {
	switch window {
	case q.newest.window:
		return &q.newest
	case q.before.window:
		return &q.before
	}
	return nil
}

// learn takes in that all others spent base, and says how much of it is news.
func (s *spent) learn(base int64) int64 {
	s.mark = s.own
	news := max(0, base-s.base)
	s.base += news
	return news
}
