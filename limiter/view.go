package limiter

import (
	"fmt"
	"time"
)

// view is what this replica knows of one account in Redis.
type view struct {
	of                  *account
	demand, issueDemand int64 // smoothed
	asked               int64 // when something was asked last
	learned             int64 // 0: never
	window              int32 // of known's requests
	yesterday           int64 // what others spent, as it was read last; they may tell more of it
	unsettled           bool
	known               map[string]*known
}

// known is what was heard of another replica last.
type known struct {
	requests, issued int64
	at               int64 // when it said so
	busy             bool  // something was asked of it then: if it was silent since, it could not be heard
}

// state is what one replica says of one account.
type state struct {
	number              uint64
	at                  int64 // milliseconds of its own clock
	requests            int64 // of the day
	issued              int64 // access tokens, of the day
	demand, issueDemand int64
	running             int64
}

func (s *state) String() string {
	return fmt.Sprintf("%d %d %d %d %d %d %d", s.number, s.at, s.requests, s.issued, s.demand, s.issueDemand, s.running)
}

func parseState(text string) (s state, ok bool) {
	n, err := fmt.Sscanf(text, "%d %d %d %d %d %d %d", &s.number, &s.at, &s.requests, &s.issued, &s.demand, &s.issueDemand, &s.running)
	return s, err == nil && n == 7 && min(s.requests, s.issued, s.demand, s.issueDemand, s.running) >= 0
}

// outcome is what all other replicas together say of an account.
type outcome struct {
	requests            int64         // of the day
	news, issueNews     int64         // since the last answer
	beyond              time.Duration // so long ago they may have spent it, before the last report
	demand, issueDemand int64
	running             int64
	first               bool // nobody's demand is greater
}
