package proxy

import (
	"iter"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
)

// hidden is a request that is content where the framing is read as postern reads it. A
// peer that reads it in another way answers it.
const hidden = "GET /public/hidden HTTP/1.1\r\nHost: api.test\r\n\r\n"

// grammar makes requests out of templates: "{name}" stands for one of the name's
// alternatives. The first is what a good client sends, each other one is a deviation.
type grammar map[string][]string

// requestShapes are the templates of whole requests.
var requestShapes = []string{
	"{line}{host}{te}{extra}{end}{chunk}{last}",
	"{line}{host}{cl}{extra}{end}" + hidden,
	"{line}{host}{te}{cl}{extra}{end}{chunk}{last}",
	"{line}{host}{cl}{te}{extra}{end}{chunk}{last}",
	"{line}{host}{cl}{te}{extra}{end}" + hidden,
	"{get}{host}{extra}{end}",
}

// all yields what can be made of template with at most so many deviations.
func (g grammar) all(template string, deviations int) iter.Seq[string] {
	return func(yield func(string) bool) { g.expand(template, deviations, yield) }
}

func (g grammar) expand(template string, deviations int, yield func(string) bool) bool {
	before, name, after, found := reference(template)
	if !found {
		return yield(template)
	}
	for i, alternative := range g[name] {
		left := deviations
		if i > 0 {
			left--
		}
		if left < 0 {
			break
		}
		if !g.expand(before+alternative+after, left, yield) {
			return false
		}
	}
	return true
}

// random makes one of template, each name with a deviation in one of odds cases.
func (g grammar) random(r *rand.Rand, template string, odds int) string {
	for {
		before, name, after, found := reference(template)
		if !found {
			return template
		}
		alternative := g[name][0]
		if r.IntN(odds) == 0 {
			alternative = g[name][r.IntN(len(g[name]))]
		}
		template = before + alternative + after
	}
}

// reference cuts template around its first "{name}".
func reference(template string) (before, name, after string, found bool) {
	before, rest, opens := strings.Cut(template, "{")
	name, after, closes := strings.Cut(rest, "}")
	return before, name, after, opens && closes
}

// fieldLines makes an alternative of each of them, as a field line.
func fieldLines(name string, values ...string) (all []string) {
	for _, v := range values {
		all = append(all, name+": "+v+"\r\n")
	}
	return all
}

// requestGrammar is the grammar of what a client may send to have it read in two ways.
func requestGrammar() grammar {
	n, x := strconv.Itoa(len(hidden)), strconv.FormatInt(int64(len(hidden)), 16)
	less, more := strconv.Itoa(len(hidden)-1), strconv.Itoa(len(hidden)+len("GET "))
	return grammar{
		"line": {
			"{method} {target} {version}{eol}", "\r\n{method} {target} {version}{eol}", "\n{method} {target} {version}{eol}", "\r\n\r\n\r\n{method} {target} {version}{eol}", " {method} {target} {version}{eol}",
			"{method}  {target} {version}{eol}", "{method} {target}  {version}{eol}", "{method}\t{target} {version}{eol}", "{method} {target}\t{version}{eol}", "{method} {target} {version} {eol}",
			"{method} {target}{eol}", "{method} {version}{eol}", "{method} {target} a {version}{eol}", "{method} {target} {version}{eol} {method} {target} {version}{eol}", "{method}\x0b{target}\x0c{version}{eol}",
			"\x00{method} {target} {version}{eol}", "\xef\xbb\xbf{method} {target} {version}{eol}", "\r{method} {target} {version}{eol}", "{method} {target} {version}\r{eol}", "{method} {target} {version}\r\n\r\n{eol}",
		},
		"get":    {"GET {target} {version}{eol}", "HEAD {target} {version}{eol}", "OPTIONS {target} {version}{eol}", "DELETE {target} {version}{eol}"},
		"method": {"POST", "GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "PO ST", "POST:", "POST\x00", "TRACE", "CONNECT", "(POST)", "post", "POSTX"},
		"target": {
			"/public/a", "/public/a?b=c", "/public/?", "/public//a", "/public/../a", "/public/%2e%2e/a", "/public/a;b", "/public/a%2fb", "/public/a#b", "/public/a b", "/public/\x7f", "/public/\xff", "/public/%00", "/public/%0d%0aX:%20y",
			"http://api.test/public/a", "http://other.test/public/a?b", "https://api.test:443/public/a", "http://u:p@api.test/public/a", "http:///public/a", "public/a", "*", "api.test:80", "", "/public/a?b=HTTP/1.1", "/public/a\x00", "/public/{x}",
			"/public/" + strings.Repeat("p", 900),
		},
		"version": {"HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "HTTP/9.9", "HTTP/1", "HTTP/1.10", "HTTP/01.1", "http/1.1", "HTTP 1.1", "HTTP/1.1x", "HTTP/+1.1", "XTTP/1.1", "HTTP/1,1"},
		"eol":     {"\r\n", "\n", "\r", "\r\r\n", "\n\r", " \r\n", "\t\r\n", "\x00\r\n"},
		"host": {
			"Host: api.test{eol}", "", "Host: api.test\r\nHost: api.test\r\n", "Host: api.test\r\nHost: other.test\r\n", "Host: \r\n", "Host: a b\r\n", "Host: a@b\r\n", "Host: a/b\r\n", "Host: api.test:80\r\n", "Host: [::1]:80\r\n",
			"Host: api.test, other.test\r\n", "Host : api.test\r\n", " Host: api.test\r\n", "Host\r\n", "Host: api.test\r\n other.test\r\n", "hOST:api.test\r\n", "Host: api.test\x00\r\n", "Host: \"api.test\"\r\n", "Host: a%41\r\n", "Host: http://api.test\r\n",
		},
		"te": append(fieldLines("Transfer-Encoding",
			"chunked", "Chunked", "CHUNKED", " chunked ", "\tchunked\t", "identity", "gzip", "gzip, chunked", "chunked, gzip", "chunked, chunked", "chunked, identity", "identity, chunked", "chunked,", ",chunked", ", chunked", "chunked;q=1", "chunked; a=b",
			"xchunked", "chunkedx", "x chunked", "chunked x", "\"chunked\"", "'chunked'", "chunked\x00", "\x00chunked", "chunked\x0b", "\x0bchunked", "\x0cchunked", "chunked\x7f", "chunk\u212aed", "chunke\xc4\x8f", "", "chu\tnked", "chunked\r", "chunked\rx", "chunked\n",
			"\n chunked", "\r\n chunked", "\r\n\tchunked", "chunked\r\n ", "chunked\r\n , identity", "trailers", "deflate", "0",
		),
			"transfer-encoding: chunked\r\n", "TRANSFER-ENCODING:chunked\r\n", "Transfer-Encoding : chunked\r\n", "Transfer-Encoding\t: chunked\r\n", " Transfer-Encoding: chunked\r\n", "\tTransfer-Encoding: chunked\r\n", "Transfer_Encoding: chunked\r\n",
			"Transfer.Encoding: chunked\r\n", "Transfer Encoding: chunked\r\n", "TransferEncoding: chunked\r\n", "Transfer-Encoding:: chunked\r\n", "Transfer-Encoding chunked\r\n", "Transfer-Encoding\r\n: chunked\r\n", "Transfer-Encoding\x00: chunked\r\n", "X: y\rTransfer-Encoding: chunked\r\n",
			"X: y\nTransfer-Encoding: chunked\r\n", "X: y\n\rTransfer-Encoding: chunked\r\n", "\x00Transfer-Encoding: chunked\r\n", "\x0bTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
			"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nTransfer_Encoding: identity\r\n", "Transfer-Encoding: chunked\n", "Transfer-Encoding: chunked\r\r\n", "Transfer-Encoding\xa0: chunked\r\n", "TE: chunked\r\n", "Transfer-Encodin\u0261: chunked\r\n", "",
		),
		"cl": append(fieldLines("Content-Length",
			n, less, more, "0", "00"+n, "+"+n, "-"+n, "-0", "-1", "0x"+x, x, n+".0", n+"e0", n+",", ","+n, n+", "+n, n+","+n, n+", 0", "0, "+n, n+" "+n, n+" ", "\t"+n, n+";a=b", "\""+n+"\"", n+"\x00", "\x00"+n, n+"\x0b", "\x0c"+n, "", " ", "a", n[:1]+"_"+n[1:], n+"\r", n+"\n", "\r\n "+n, n+"\r\n ", n+"\r\n 0",
			"4294967296", "4294967343", "9223372036854775807", "9223372036854775808", "18446744073709551616", "18446744073709551663", "99999999999999999999", "\u0664\u0667", strings.Repeat("0", 20)+n, "1e1", "NaN", "0b1", "0o57", "("+n+")", "identity",
		),
			"content-length: "+n+"\r\n", "CONTENT-LENGTH:"+n+"\r\n", "Content-Length : "+n+"\r\n", "Content-Length\t: "+n+"\r\n", " Content-Length: "+n+"\r\n", "\tContent-Length: "+n+"\r\n", "Content_Length: "+n+"\r\n", "Content.Length: "+n+"\r\n", "Content Length: "+n+"\r\n",
			"ContentLength: "+n+"\r\n", "Content-Length:: "+n+"\r\n", "Content-Length "+n+"\r\n", "Content-Length\r\n: "+n+"\r\n", "Content-Length\x00: "+n+"\r\n", "X: y\rContent-Length: "+n+"\r\n", "X: y\nContent-Length: "+n+"\r\n", "\x00Content-Length: "+n+"\r\n",
			"Content-Length: "+n+"\r\nContent-Length: "+n+"\r\n", "Content-Length: "+n+"\r\nContent-Length: 0\r\n", "Content-Length: 0\r\nContent-Length: "+n+"\r\n", "Content-Length: "+n+"\r\nContent_Length: 0\r\n", "Content-Length: "+n+"\n", "Content-Length: "+n+"\r\r\n", "",
		),
		"extra": {
			"", "Connection: close\r\n", "Connection: keep-alive\r\n", "Connection: Content-Length\r\n", "Connection: Transfer-Encoding\r\n", "Connection: Host\r\n", "Connection: close, Content-Length, Transfer-Encoding\r\n", "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
			"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "Trailer: Content-Length\r\n", "Trailer: X-A\r\n", "TE: trailers\r\n", "Expect: 100-continue\r\n", "Expect: x\r\n", "Content-Encoding: chunked\r\n", "X-HTTP-Method-Override: DELETE\r\n",
			"Content-Type: multipart/form-data; boundary=a\r\n", "X: " + strings.Repeat("y", 5000) + "\r\n", "X: a\r\n b\r\n", "X: a\r\n\tb\r\n", "X: \r\n\r\n", "X:\r\n", "X\r\n", ": y\r\n", "X y: z\r\n", "X: a\nY: b\r\n", "X: a\rY: b\r\n", "X: a\x00b\r\n", "X: \xff\r\n", "\r: y\r\n", "X[]: y\r\n", "Content-Length-X: 3\r\n",
			"Proxy-Connection: keep-alive\r\n", "Keep-Alive: timeout=1\r\n", "Range: bytes=0-0\r\n", "X-Forwarded-For: 10.0.0.1\r\n", "Upgrade: TLS/1.0\r\n", "Sec-WebSocket-Key: a\r\n",
		},
		"end": {"\r\n", "\n", "\r", "\r\r\n", "\n\r\n", " \r\n", "\r\n\r\n", "\x00\r\n", "", "\r\n\n"},
		"chunk": {
			x + "\r\n" + hidden + "\r\n", strings.ToUpper(x) + "\r\n" + hidden + "\r\n", "0" + x + "\r\n" + hidden + "\r\n", "00000000000000000" + x + "\r\n" + hidden + "\r\n", "", "1\r\na\r\n" + x + "\r\n" + hidden + "\r\n",
			"0x" + x + "\r\n" + hidden + "\r\n", "-" + x + "\r\n" + hidden + "\r\n", "+" + x + "\r\n" + hidden + "\r\n", " " + x + "\r\n" + hidden + "\r\n", x + " \r\n" + hidden + "\r\n", x + "\t\r\n" + hidden + "\r\n", x + "\n" + hidden + "\r\n", x + "\r" + hidden + "\r\n", x + "\r\r\n" + hidden + "\r\n",
			x + "\r\n" + hidden + "\n", x + "\r\n" + hidden, x + "\r\n" + hidden + "\r", x + "\r\n" + hidden + "a\r\n", x + "\r\n" + hidden + "\r\r\n", "\r\n" + x + "\r\n" + hidden + "\r\n", x + "h\r\n" + hidden + "\r\n", x + ".0\r\n" + hidden + "\r\n", x + "," + x + "\r\n" + hidden + "\r\n", x + "\x00\r\n" + hidden + "\r\n",
			"ffffffffffffffff\r\n" + hidden + "\r\n", "10000000000000000\r\n" + hidden + "\r\n", "1000000000000000" + x + "\r\n" + hidden + "\r\n", "100000000" + x + "\r\n" + hidden + "\r\n", "7fffffffffffffff\r\n" + hidden + "\r\n", "fffffffe\r\n" + hidden + "\r\n", "\r\n" + hidden + "\r\n", "g\r\n" + hidden + "\r\n", "1" + x + "\r\n" + hidden + "\r\n",
			x + ";a\r\n" + hidden + "\r\n", x + ";a=b\r\n" + hidden + "\r\n", x + ";a=\"b\"\r\n" + hidden + "\r\n", x + ";a=\"\r\n" + hidden + "\r\n", x + ";a=\"b;c\"\r\n" + hidden + "\r\n", x + " ;a\r\n" + hidden + "\r\n", x + ";\r\n" + hidden + "\r\n", x + ";a\n" + hidden + "\r\n", x + ";a\rb\r\n" + hidden + "\r\n", x + ";a\nb\r\n" + hidden + "\r\n",
			x + ";\x00\r\n" + hidden + "\r\n", x + ";" + strings.Repeat("a", 2000) + "\r\n" + hidden + "\r\n", "_" + x + "\r\n" + hidden + "\r\n", "\xef\xbc\x92\xef\xbd\x86\r\n" + hidden + "\r\n", "1;\n0\r\n\r\n" + hidden, "2\r\n\r\n\r\n0\r\n\r\n",
		},
		"last": {
			"0\r\n\r\n", "00\r\n\r\n", "0\r\nX-A: b\r\n\r\n", "0\r\nContent-Length: 5\r\n\r\n", "0\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\nHost: other.test\r\n\r\n", "0\r\n" + hidden, "0\r\nX y\r\n\r\n", "0\r\n x\r\n\r\n", "0\r\nX: a\r\n b\r\n\r\n", "0\r\nX: a\n\r\n", "0\r\n\n", "0\n\n", "0\n\r\n", "0\r\r\n\r\n", "0\r\n\r\r\n",
			"0\r\n", "0", "", "0;a\r\n\r\n", "0;a=\"\r\n\r\n", "0 \r\n\r\n", "0x0\r\n\r\n", "-0\r\n\r\n", "+0\r\n\r\n", "0\r\nX: \x00\r\n\r\n", "0\r\n: a\r\n\r\n", "0\r\nX\r\n\r\n", "000000000000000000000\r\n\r\n", "0\r\n\r\n\r\n", "0\r\n\r\n\n", "0\r\n\r\n" + hidden,
		},
		"x": {"x"},
	}
}

// mutations are what the grammar makes: all with one deviation, and of those with more,
// alone and behind another request, as many as are tried in a few seconds.
func mutations() (all []string) {
	g, known := requestGrammar(), map[string]bool{}
	add := func(text string) {
		if !known[text] {
			known[text] = true
			all = append(all, text)
		}
	}
	for _, shape := range requestShapes {
		for text := range g.all(shape, 1) {
			add(text)
		}
	}
	r := rand.New(rand.NewPCG(111, 120))
	for n := len(all) + 1500; len(all) < n; { // the two fields that frame content, at odds
		te, cl := g["te"][1+r.IntN(len(g["te"])-1)], g["cl"][1+r.IntN(len(g["cl"])-1)]
		add(g.random(r, strings.NewReplacer("{te}", te, "{cl}", cl).Replace(requestShapes[r.IntN(len(requestShapes)-1)]), 30))
	}
	for n := len(all) + 500; len(all) < n; {
		add(g.random(r, requestShapes[r.IntN(len(requestShapes))], 4))
	}
	for n := len(all) + 300; len(all) < n; { // pipelined
		add(g.random(r, requestShapes[r.IntN(2)], 1000) + g.random(r, requestShapes[r.IntN(len(requestShapes))], 6))
	}
	return all
}

func TestGrammar(t *testing.T) {
	g := grammar{"a": {"1", "2"}, "b": {"x{a}", "y"}}
	var got []string
	for text := range g.all("{a}{b}", 1) {
		got = append(got, text)
	}
	if want := "1x1 1x2 1y 2x1"; strings.Join(got, " ") != want {
		t.Errorf("made %q, want %q", got, want)
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 100 {
		if text := g.random(r, "{a}{b}", 2); !strings.Contains("1x1 1x2 1y 2x1 2x2 2y", text) {
			t.Errorf("made %q", text)
		}
	}
	for _, text := range mutations() {
		if strings.ContainsAny(text, "{}") {
			t.Fatalf("%q is not made to the end", text)
		}
	}
}
