package charts

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	configName = "postern.yaml"
	secretsDir = "/run/secrets/" // where the chart mounts each Secret
)

// buildPostern builds the program that the charts run, of the clone that they are in.
func buildPostern(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "postern")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", path, ".")
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build postern: %v\n%s", err, out)
	}
	return path
}

// testConfig asks postern itself about each configuration, with the Secrets stood in for: no fault, and no warning but
// that of a trial without a master key.
func testConfig(t *testing.T, postern string, objects []object) {
	found := false
	for _, o := range objects {
		text := ""
		if o.Kind == "ConfigMap" {
			text = as[corev1.ConfigMap](o).Data[configName]
		}
		if text == "" {
			continue
		}
		found = true
		report(t, pathFaults(o, text, pods(objects)))
		dir := t.TempDir()
		writeSecrets(t, dir)
		file := filepath.Join(dir, configName)
		// The Secrets' directories alone are others: what a file is for is seen by its name.
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, secretsDir, dir+"/")), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), postern, "check", "--config", file, "--json")
		cmd.Env = environment(o, pods(objects))
		var out, failure bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &failure
		err := cmd.Run()
		var answer struct {
			OK       bool     `json:"ok"`
			Warnings []string `json:"warnings"`
		}
		parseErr := json.Unmarshal(out.Bytes(), &answer)
		if !strings.Contains(text, "master_key") {
			answer.Warnings = slices.DeleteFunc(answer.Warnings, func(w string) bool { return strings.Contains(w, "keys.master_key: is not set") })
		}
		if parseErr != nil || err != nil || !answer.OK || len(answer.Warnings) > 0 {
			t.Errorf("%s: postern check: %v\n%s%s\n%s", o, err, &out, &failure, text)
		}
	}
	testDomain(t, postern, objects)
	if !found {
		t.Error("no ConfigMap holds " + configName)
	}
}

// testDomain applies what is declared to a store of its own, as the chart's commands do.
func testDomain(t *testing.T, postern string, objects []object) {
	for _, o := range objects {
		text := ""
		if o.Kind == "ConfigMap" {
			text = as[corev1.ConfigMap](o).Data["domain.yaml"]
		}
		if text == "" {
			continue
		}
		dir := t.TempDir()
		file := filepath.Join(dir, "domain.yaml")
		secret := filepath.Join(dir, "postern-domain", "radio")
		if err := errors.Join(os.WriteFile(file, []byte(strings.ReplaceAll(text, secretsDir, dir+"/")), 0o600),
			os.Mkdir(filepath.Dir(secret), 0o700), os.WriteFile(secret, []byte(rand.Text()+rand.Text()), 0o440)); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"store", "migrate"}, {"apply", "-f", file}} {
			cmd := exec.CommandContext(t.Context(), postern, args...)
			cmd.Env = []string{"POSTERN_STORE=sqlite:" + filepath.Join(dir, "postern.db")}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: postern %s: %v\n%s", o, args[0], err, out)
			}
		}
	}
}

// pathFaults: a file that the configuration names is on a volume of each container that reads it.
func pathFaults(config object, text string, all []pod) []string {
	var faults []string
	for _, path := range regexp.MustCompile(`/(run|etc|data)/[^\s"'?&]*`).FindAllString(text, -1) {
		for _, p := range all {
			for _, c := range p.containers() {
				if mounts(p, c, config.Name) && !onVolume(p, c, path) {
					faults = append(faults, fmt.Sprintf("%s: container %s has no volume for %s", p.of, c.Name, path))
				}
			}
		}
	}
	return faults
}

// mounts says whether the container has the ConfigMap.
func mounts(p pod, c corev1.Container, configMap string) bool {
	return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
		return v.ConfigMap != nil && v.ConfigMap.Name == configMap &&
			slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name })
	})
}

// onVolume says whether the path is on one of the container's volumes, and where a Secret says what it holds, in it.
func onVolume(p pod, c corev1.Container, path string) bool {
	for _, m := range c.VolumeMounts {
		file, ok := strings.CutPrefix(path, m.MountPath+"/")
		if !ok {
			continue
		}
		for _, v := range p.Spec.Volumes {
			if v.Name == m.Name {
				return v.Secret == nil || len(v.Secret.Items) == 0 ||
					slices.ContainsFunc(v.Secret.Items, func(i corev1.KeyToPath) bool { return i.Path == file })
			}
		}
	}
	return false
}

// environment is what the container that reads the configuration is started with, and something for each Secret.
func environment(config object, all []pod) []string {
	var env []string
	for _, p := range all {
		for _, c := range p.containers() {
			if !mounts(p, c, config.Name) {
				continue
			}
			for _, e := range c.Env {
				if value := e.Value; e.Name != "POSTERN_CONFIG" {
					if e.ValueFrom != nil {
						value = "c2VjcmV0"
					}
					env = append(env, e.Name+"="+value)
				}
			}
		}
	}
	return env
}

// writeSecrets writes what the Secrets hold, by the names that the charts give their files, as only postern may read it.
func writeSecrets(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "api.example.com"},
		DNSNames: []string{"api.example.com"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	masterKey := make([]byte, 32)
	rand.Read(masterKey)
	for name, content := range map[string][]byte{
		"postern-store/dsn":             []byte("postgres://postern:secret@db.internal/postern?sslmode=verify-full\n"),
		"postern-master-key/master-key": []byte(base64.StdEncoding.EncodeToString(masterKey) + "\n"),
		"postern-redis/redis":           []byte("rediss://postern:secret@redis.internal:6379\n"),
		"postern-tls/tls.crt":           certificate,
		"postern-tls/tls.key":           pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		"postern-tls/ca.crt":            certificate,
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, content, 0o440); err != nil {
			t.Fatal(err)
		}
	}
}
