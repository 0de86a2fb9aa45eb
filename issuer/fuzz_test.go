package issuer

import (
	"slices"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"

	"postern/answer"
	"postern/registry"
)

// FuzzBody sends any content: there is no panic, and the answer is one of the closed set.
func FuzzBody(f *testing.F) {
	w := start(f, registry.Terms{Products: products("a", "b")})
	for _, seed := range []string{
		w.good(), w.good()[:len(w.good())-1] + `,"scope":"a b"}`, "", "{", "null", `{"client_id":1}`, `{"client_id":"\u0000","client_secret":"\ud800"}`,
		`{"client_id":"a","client_id":"b"}`, strings.Repeat("[", 100), `{"a":` + strings.Repeat(`{"a":`, 40),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var ctx fasthttp.RequestCtx
		ctx.Request.Header.SetMethod("POST")
		ctx.Request.SetRequestURI(testPath)
		ctx.Request.Header.SetContentType("application/json")
		ctx.Request.SetBody(body)
		w.closedSet(t, &ctx, body)
	})
}

// closedSet serves ctx and asserts that the answer is one that a stranger's content can get.
func (w *world) closedSet(t *testing.T, ctx *fasthttp.RequestCtx, input []byte) {
	possible := []answer.Reason{
		answer.OK, answer.InvalidRequest, answer.InvalidClient, answer.InvalidScope, answer.InvalidToken,
		answer.UnsupportedGrantType, answer.RateLimited, answer.TooLarge,
	}
	reason := w.issuer.Serve(ctx, testID)
	if !slices.Contains(possible, reason) {
		t.Fatalf("%s to %q", reason, input)
	}
	if got, want := ctx.Response.StatusCode(), reason.Status(); reason != answer.OK && got != want {
		t.Fatalf("%d for %s", got, reason)
	}
}
