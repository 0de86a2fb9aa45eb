package limiter

import (
	"strconv"
	"time"

	"postern/answer"
)

// Grant is the answer to one request, or to one access token. It is a value: whoever was
// granted a request keeps it until that is over. The zero value limits nothing.
type Grant struct {
	on      *binding // nil: nothing is limited, and nothing runs
	running bool     // Release has something to do
	issuing bool
	refused bool
	any     bool   // a limit applies
	policy  policy // that refused, else the tightest
	left    int64
	resets  int64 // nanoseconds until there is more; of a refusal: how long to wait
}

// Release says that the request is over: needed once after Take when the request was let
// through, harmless otherwise.
// A copy of g must not be released too.
func (g *Grant) Release() {
	if !g.running {
		return
	}
	g.running = false
	client := g.on.client
	o := client.home
	o.mu.Lock()
	client.running--
	o.running--
	o.mu.Unlock()
}

// Policy is the name of the limit that refused, else of the tightest one; "" when none applies.
func (g *Grant) Policy() string {
	if !g.any {
		return ""
	}
	return names[g.policy]
}

// Shared reports whether that limit is the organization's own, which all its clients have
// in common.
func (g *Grant) Shared() bool { return g.any && g.policy >= organizations }

// Refusal is the answer to a request that was not granted. RetryAfter is in whole seconds,
// at least one.
func (g *Grant) Refusal() answer.Refusal {
	return answer.Refusal{Reason: g.policy.reason(), RetryAfter: time.Duration(seconds(g.resets)) * time.Second}
}

// seconds rounds up, to one at least and to what a field can say.
func seconds(ns int64) int64 {
	return max(1, (ns-1)/int64(time.Second)+1)
}

// AppendPolicy appends the value of RateLimit-Policy to dst; nothing when no limit applies.
func (g *Grant) AppendPolicy(dst []byte) []byte {
	switch {
	case g.on == nil:
		return dst
	case g.issuing:
		return append(dst, g.on.issuePolicy...)
	}
	return append(dst, g.on.policy...)
}

// AppendState appends the value of RateLimit to dst: the tightest limit, or the one that
// refused (draft-ietf-httpapi-ratelimit-headers-10 §4). Nothing when no limit applies.
func (g *Grant) AppendState(dst []byte) []byte {
	if !g.any {
		return dst
	}
	dst = append(dst, '"')
	dst = append(dst, names[g.policy]...)
	dst = append(dst, `";r=`...)
	dst = strconv.AppendInt(dst, min(g.left, largest), 10)
	if g.policy.of() == concurrent {
		return dst // nobody knows when a request ends
	}
	dst = append(dst, ";t="...)
	return strconv.AppendInt(dst, seconds(g.resets), 10)
}
