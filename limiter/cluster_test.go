//go:build unix

package limiter

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"postern/registry"
)

// documented are the rights of a user as the README gives them to copy.
func documented(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "`ACL SETUSER postern on >PASSWORD ")
	rights, _, ok := strings.Cut(rest, "`")
	if !ok {
		t.Fatal("README.md does not say what a user of Redis needs")
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), "ACL SETUSER postern on >password "+rights+"\n") {
		t.Errorf("doc.go does not say %s", rights)
	}
	return strings.Fields(rights)
}

// Redis by TLS, with a user that may do no more than the documentation says.
func TestRedisByTLSAndACL(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificate(t, dir))
	rights := documented(t)
	r := newRedis(t, slices.Concat([]string{"--tls-cert-file", filepath.Join(dir, "cert.pem"), "--tls-key-file", filepath.Join(dir, "key.pem"),
		"--tls-ca-cert-file", filepath.Join(dir, "cert.pem"), "--tls-auth-clients", "no", "--user", "default", "off",
		"--user", "postern", "on", ">hunter2"}, rights, []string{"--user", "numbered", "on", ">hunter2", "+select"}, rights)...)
	r.tls = &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
	r.start()
	trusting := func(o *Options) { o.Roots = roots }
	all := newReplicas(t, 2, "rediss://postern:hunter2@"+r.address(), trusting)
	together(t, all, 2)
	terms := registry.Terms{QuotaDay: value(1000), QuotaMonth: value(1000)}
	n := sum(demand(all, of("a", terms), []int{100, 100}, 0, 500*time.Millisecond))
	eventually(t, "each knows of the other", func() bool { return total(all[0]) == n && total(all[1]) == n })
	numbered := newReplicas(t, 1, "rediss://numbered:hunter2@"+r.address()+"/3", trusting)
	together(t, numbered, 1) // another database, other limits
	all[1].close()
	r.kill()
	r.start()
	eventually(t, "it is shared again", func() bool { return all[0].logged("sharing limits through Redis again") == 1 && all[0].share.fresh() })
	if all[0].logged("NOPERM") > 0 || all[1].logged("NOPERM") > 0 {
		t.Errorf("logged:\n%s%s", all[0].logs, all[1].logs)
	}

	f := func(name, url, want string, change ...func(*Options)) {
		t.Helper()
		one := newReplicas(t, 1, url, change...)[0]
		eventually(t, name, func() bool { return one.logged("cannot share limits through Redis") == 1 })
		if text := one.logs.String(); !strings.Contains(text, want) || strings.Contains(text, "hunter") {
			t.Errorf("%s: logged %s", name, text)
		}
	}
	f("wrong password", "rediss://postern:hunter3@"+r.address(), "WRONGPASS", trusting)
	f("a number without the right to choose one", "rediss://postern:hunter2@"+r.address()+"/3", "NOPERM", trusting)
	f("certificate of nobody", "rediss://postern:hunter2@"+r.address(), "certificate")
}

// A node of a cluster that does not have the keys names the one that does, and limits are
// shared there: at the start and when the keys move, with the same login, and by TLS.
func TestRedisCluster(t *testing.T) {
	f := func(name string, secure bool) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nodes, roots := startCluster(t, secure)
			without, with := nodes[0], nodes[1]
			url := "redis://postern:hunter2@localhost:"
			if secure {
				url = "rediss://postern:hunter2@localhost:"
			}
			all := newReplicas(t, 2, url+strconv.Itoa(without.port), func(o *Options) { o.Roots = roots })
			together(t, all, 2)
			c := of("a", registry.Terms{QuotaDay: value(1000), QuotaMonth: value(1000)})
			share := func(at *redisServer, before int64) int64 {
				t.Helper()
				n := before + sum(demand(all, c, []int{100, 100}, 0, 500*time.Millisecond))
				eventually(t, "each knows of the other", func() bool { return total(all[0]) == n && total(all[1]) == n })
				eventually(t, "the node has the keys", func() bool { return len(at.do("HGETALL", present)) == 2 })
				return n
			}
			n := share(with, 0)
			if n == 0 {
				t.Error("nothing was granted")
			}
			// The other takes the keys over, without what is in them.
			slot := with.run("CLUSTER", "KEYSLOT", present)
			without.run("CLUSTER", "SETSLOT", slot, "IMPORTING", with.run("CLUSTER", "MYID"))
			without.run("CLUSTER", "SETSLOT", slot, "NODE", without.run("CLUSTER", "MYID"))
			eventually(t, "the keys are at the other node", func() bool {
				_, err := with.try("EXISTS", present)
				return err != nil && strings.HasPrefix(err.Error(), "MOVED ")
			})
			share(without, n)
			for _, one := range all {
				if one.logged("cannot share limits") > 0 {
					t.Errorf("logged:\n%s", one.logs)
				}
			}
		})
	}
	f("in clear", false)
	f("by TLS", true)
}

// startCluster starts two nodes. The second has the keys of postern and no others; its
// certificate is for its number alone, that of the first also for localhost.
func startCluster(t *testing.T, secure bool) (nodes [2]*redisServer, roots *x509.CertPool) {
	t.Helper()
	roots = x509.NewCertPool()
	var ports [2]int
	bundle := filepath.Join(t.TempDir(), "all.pem")
	var trusted []byte
	for i := range nodes {
		ports[i] = freePort(t)
		args := slices.Concat([]string{"--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(ports[i]), "--requirepass", "of the test",
			"--user", "postern", "on", ">hunter2"}, documented(t))
		nodes[i] = newRedis(t, args...)
		nodes[i].password = "of the test"
		if secure {
			var names []string
			if i == 0 {
				names = []string{"localhost"}
			}
			dir := nodes[i].dir
			trusted = append(trusted, certificate(t, dir, names...)...)
			nodes[i].args = append(nodes[i].args, "--tls-cert-file", filepath.Join(dir, "cert.pem"), "--tls-key-file", filepath.Join(dir, "key.pem"),
				"--tls-ca-cert-file", bundle, "--tls-auth-clients", "no", "--tls-cluster", "yes")
			nodes[i].tls = &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
		}
	}
	if err := os.WriteFile(bundle, trusted, 0o600); err != nil {
		t.Fatal(err)
	}
	roots.AppendCertsFromPEM(trusted)
	for _, r := range nodes {
		r.start()
	}
	slot := nodes[0].run("CLUSTER", "KEYSLOT", present).(int64)
	nodes[0].run("CLUSTER", "ADDSLOTSRANGE", 0, slot-1, slot+1, 16383)
	nodes[1].run("CLUSTER", "ADDSLOTS", slot)
	nodes[0].run("CLUSTER", "MEET", "127.0.0.1", nodes[1].port, ports[1])
	for i, r := range nodes {
		eventually(t, "the nodes know each other", func() bool {
			_, mine := r.try("EXISTS", present)
			_, other := r.try("EXISTS", "x")
			if i == 0 {
				mine, other = other, mine
			}
			return mine == nil && other != nil && strings.HasPrefix(other.Error(), "MOVED ")
		})
	}
	return nodes, roots
}

// certificate writes a certificate for 127.0.0.1 and for names, and its key, and returns it.
func certificate(t *testing.T, dir string, names ...string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		Subject:      pkix.Name{CommonName: rand.Text()}, // by which whoever trusts several finds the right one
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: names, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, text := range map[string][]byte{"cert.pem": certificate, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate
}
