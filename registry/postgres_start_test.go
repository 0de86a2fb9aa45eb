package registry

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postern/registry/pgtest"
)

// TestFiftyReplicasStartAtOnce: on one empty database. They take turns, and make one store.
func TestFiftyReplicasStartAtOnce(t *testing.T) {
	const replicas = 50
	ctx := context.Background()
	server := pgtest.Start(t, "max_connections=200")
	dsn := server.Fresh(t)
	var group sync.WaitGroup
	made := make([]bool, replicas)
	errs := make([]error, replicas)
	epochs := make([]string, replicas)
	for i := range replicas {
		group.Go(func() {
			o := least(dsn)
			o.Connections = 2
			r, err := Open(ctx, o)
			// A busy machine may be slow to take a connection; whoever serves tries again, too.
			for deadline := time.Now().Add(time.Minute); errors.Is(err, ErrUnavailable) && time.Now().Before(deadline); {
				r, err = Open(ctx, o)
			}
			if err != nil {
				errs[i] = err
				return
			}
			defer r.Close()
			made[i], err = r.EnsureKey(ctx, operator, "ES256", time.Minute, time.Minute, func() (Key, error) { return newKey(t, fmt.Sprint("key-", i), "ES256"), nil })
			errs[i] = errors.Join(err, r.engine.read.QueryRowContext(ctx, `SELECT epoch FROM counter`).Scan(&epochs[i]))
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	keys := 0
	for i := range replicas {
		if made[i] {
			keys++
		}
		if epochs[i] == "" || epochs[i] != epochs[0] {
			t.Errorf("replica %d has the epoch %q, the first one %q", i, epochs[i], epochs[0])
		}
	}
	if keys != 1 {
		t.Errorf("%d of them made the first key", keys)
	}
}

// TestPostgresTLS: sslmode=verify-full is kept, and whom it does not know it does not talk to.
func TestPostgresTLS(t *testing.T) {
	server := pgtest.Start(t)
	plain := server.Fresh(t)
	ca := certify(t, server.Directory)
	for _, setting := range []string{"ssl_cert_file = 'tls.crt'", "ssl_key_file = 'tls.key'", "ssl = on"} {
		server.Exec(t, "postgres", "ALTER SYSTEM SET "+setting)
	}
	server.Restart(t)
	with := func(mode, root string) string {
		return strings.Replace(plain, "sslmode=disable", "sslmode="+mode+"&sslrootcert="+root, 1)
	}
	r := open(t, with("verify-full", ca))
	newClient(t, r)
	encrypted, clear := 0, 0
	if err := r.engine.read.QueryRowContext(context.Background(),
		`SELECT count(*) FILTER (WHERE s.ssl), count(*) FILTER (WHERE NOT s.ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.application_name = 'postern'`,
	).Scan(&encrypted, &clear); err != nil || encrypted == 0 || clear != 0 {
		t.Errorf("%d connections with TLS, %d without, error %v", encrypted, clear, err)
	}
	other := certify(t, t.TempDir())
	if r, err := Open(context.Background(), least(with("verify-full", other))); err == nil {
		_ = r.Close()
		t.Error("a server that another authority vouches for was believed")
	} else if strings.Contains(err.Error(), "postgres://") {
		t.Errorf("the error shows the data source name: %v", err)
	}
}

// certify makes an authority and, in directory, tls.key and tls.crt for 127.0.0.1, which belong
// to the directory's owner. It returns the authority's certificate file.
func certify(t *testing.T, directory string) (ca string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	owner, err := os.Stat(directory)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, text := range map[string][]byte{"tls.crt": certificate, "tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})} {
		file := filepath.Join(directory, name)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		id := owner.Sys().(*syscall.Stat_t)
		if err := os.Chown(file, int(id.Uid), int(id.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	return ca
}
