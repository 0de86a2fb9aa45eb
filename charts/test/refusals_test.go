package charts

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// least are the values without which nothing renders.
const least = "config.issuer.url=https://api.example.com,config.routes[0].path=/,config.routes[0].upstream[0]=http://api.default.svc:80"

// testRefusals holds the messages that users see, all of each, for values that must not render.
func testRefusals(t *testing.T, tools []helm, chart string) {
	refuse := func(name, want string, args ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			for _, h := range tools {
				out, failure, ok := h.template(t, chart, args...)
				if ok || strings.Contains(out, "kind:") {
					t.Fatalf("helm %s renders it", h.name)
				}
				if diff := cmp.Diff(strings.TrimSpace(want), message(failure)); diff != "" {
					t.Errorf("helm %s says something else (-want +got):\n%s", h.name, diff)
				}
			}
		})
	}
	f := func(name, set, want string) {
		t.Helper()
		refuse(name, want, "--set", least+","+set)
	}
	const postgres = "secrets.store.existingSecret=dsn,secrets.masterKey.existingSecret=master-key"

	// Refused by the schema.
	f("typo", "imgae.tag=1", "- at '': additional properties 'imgae' not allowed")
	f("typo below", "service.prot=80", "- at '/service': additional properties 'prot' not allowed")
	f("typo in a setting", "config.isuer.url=x", "- at '/config': additional properties 'isuer' not allowed")
	f("unknown setting of a route", "config.routes[0].upstreams[0]=http://a", "- at '/config/routes/0': additional properties 'upstreams' not allowed")
	f("word for a number", "replicaCount=two", "- at '/replicaCount': got string, want integer")
	f("number for a word", "image.repository=1", "- at '/image/repository': got number, want string")
	f("list for a map", "podLabels[0]=a", "- at '/podLabels': got array, want object")
	f("mode", "mode=sidcar", "- at '/mode': value must be one of 'gateway', 'sidecar'")
	f("negative drain", "drain.seconds=-1", "- at '/drain/seconds': minimum: got -1, want 1")
	f("two at once", "imgae.tag=1,replicaCount=two", `
- at '': additional properties 'imgae' not allowed
- at '/replicaCount': got string, want integer`)

	// Refused by the templates, for what a schema cannot tell.
	refuse("nothing set", `
- config.issuer.url is not set: set it to the URL that clients reach postern at, such as https://api.example.com
- config.routes is empty: say where to forward to, such as --set config.routes[0].path=/ --set config.routes[0].upstream[0]=http://api.default.svc:80`)
	refuse("sidecar on an old cluster", `
- Kubernetes v1.28.0 has no native sidecars: set sidecar.native=false
- Kubernetes v1.28.0 has no sleep for preStop: set sidecar.app.stop to quit, or to exec where your image has a sleep`,
		"--set", least+",mode=sidecar", "--kube-version", "1.28.0")
	f("SQLite for two", "replicaCount=2",
		"- replicaCount is 2, and the store is SQLite, a file for one pod: set secrets.store.existingSecret to a Secret with a PostgreSQL DSN, or replicaCount=1")
	f("SQLite scaled", "autoscaling.enabled=true",
		"- autoscaling.enabled needs a store that pods share, and this one is SQLite, a file for one pod: set secrets.store.existingSecret to a Secret with a PostgreSQL DSN, or autoscaling.enabled=false")
	f("SQLite for two sidecars", "mode=sidecar,replicaCount=2",
		"- replicaCount is 2, and the store is SQLite, a file for one pod: set secrets.store.existingSecret to a Secret with a PostgreSQL DSN, or replicaCount=1")
	f("SQLite elsewhere", "config.store=sqlite:/tmp/x.db",
		"- config.store is no file on the volume: use sqlite:/data/postern.db, or PostgreSQL with secrets.store.existingSecret")
	f("PostgreSQL without a master key", "secrets.store.existingSecret=dsn",
		`- PostgreSQL needs a master key: kubectl create secret generic postern-master-key --from-literal=master-key="$(openssl rand -base64 32)", and set secrets.masterKey.existingSecret=postern-master-key`)
	f("password in the DSN", "secrets.masterKey.existingSecret=k,config.store=postgres://postern:geheim@db/postern",
		"- config.store has a password, which would be written in a ConfigMap: put the whole DSN into a Secret, and name that in secrets.store.existingSecret")
	f("password in the DSN's query", "secrets.masterKey.existingSecret=k,config.store=postgres://db/postern?password=geheim",
		"- config.store has a password, which would be written in a ConfigMap: put the whole DSN into a Secret, and name that in secrets.store.existingSecret")
	f("password in another form", "secrets.masterKey.existingSecret=k,config.store=host=db password=geheim",
		"- config.store is no file on the volume: use sqlite:/data/postern.db, or PostgreSQL with secrets.store.existingSecret")
	f("password of Redis", "config.redis=rediss://postern:geheim@redis:6379",
		"- config.redis has a password, which would be written in a ConfigMap: put the whole address into a Secret, and name that in secrets.redis.existingSecret")
	f("password of Redis without a user", "config.redis=redis://:geheim@redis:6379",
		"- config.redis has a password, which would be written in a ConfigMap: put the whole address into a Secret, and name that in secrets.redis.existingSecret")
	f("master key in clear", "config.keys.master_key=Z2VoZWltZ2VoZWltZ2VoZWltZ2VoZWltZ2VoZWltZ2U=",
		"- config.keys.master_key would be written in a ConfigMap: put it into a Secret, and name that in secrets.masterKey.existingSecret")
	f("credentials for an upstream", "config.routes[0].request_headers[0].name=Authorization,config.routes[0].request_headers[0].value=Basic abc",
		`- config.routes[0] sets Authorization to what would be written in a ConfigMap: use value: "${NAME}", with NAME in env from a Secret, or value_file`)
	f("secret in env", "env[0].name=POSTERN_STORE,env[0].value=postgres://a:geheim@db/postern,secrets.masterKey.existingSecret=k",
		"- env POSTERN_STORE is written in clear: use valueFrom.secretKeyRef")
	f("Redis in env", "env[0].name=POSTERN_REDIS,env[0].value=rediss://postern:geheim@redis:6379",
		"- env POSTERN_REDIS is written in clear: use valueFrom.secretKeyRef")
	f("store twice", postgres+",config.store=sqlite:/data/postern.db",
		"- secrets.store.existingSecret and config.store are both set: use one of the two")
	f("Redis twice", "secrets.redis.existingSecret=redis,config.redis=redis://redis:6379",
		"- secrets.redis.existingSecret and config.redis are both set: use one of the two")
	f("Redis in two files", "secrets.redis.existingSecret=redis,config.redis_file=/run/x",
		"- secrets.redis.existingSecret and config.redis are both set: use one of the two")
	f("master key twice", postgres+",config.keys.master_key_file=/run/x",
		"- secrets.masterKey.existingSecret and config.keys.master_key are both set: use one of the two")
	f("drain twice", "config.front.drain=30s",
		"- config.front.drain_delay and config.front.drain follow from drain.delaySeconds and drain.seconds, as the pod's grace period does: set those instead")
	f("memory", "resources.limits.memory=much",
		`- resources.limits.memory is "much", which is no amount of memory: use one such as 320Mi or 1Gi`)
	f("memory of another unit", "resources.limits.memory=320MB",
		`- resources.limits.memory is "320MB", which is no amount of memory: use one such as 320Mi or 1Gi`)
	f("too little memory", "resources.limits.memory=16Mi",
		`- resources.limits.memory is "16Mi", less than the 31 MB that postern takes when it is idle: use 64Mi or more`)
	f("loopback", "config.admin.listen=127.0.0.1:9090",
		`- config.admin.listen is "127.0.0.1:9090", which nobody outside the pod reaches, not even its probes: use ":9090"`)
	f("one port", "config.front.listen=:9090",
		"- config.front.listen and config.admin.listen have one port: give them two")
	f("no port", "config.front.listen=:http",
		`- config.front.listen is ":http", from which the chart cannot tell the port: use one such as ":8080"`)
	f("ingress without hosts", "ingress.enabled=true",
		"- ingress.enabled needs ingress.hosts: set ingress.hosts[0].host=api.example.com")
	f("route without a Gateway", "httpRoute.enabled=true",
		"- httpRoute.enabled needs a Gateway: set httpRoute.parentRefs[0].name and .namespace")
	f("ingress of a sidecar", "mode=sidecar,ingress.enabled=true,ingress.hosts[0].host=a",
		"- ingress.enabled is of mode gateway: in mode sidecar the Service and the pods are your chart's")
	f("scaled by nothing", postgres+",autoscaling.enabled=true,resources.requests.cpu=null",
		"- autoscaling.enabled needs resources.requests.cpu, which it measures against: set it, such as 100m")
	f("fewest above most", postgres+",autoscaling.enabled=true,autoscaling.minReplicas=11",
		"- autoscaling.minReplicas is more than autoscaling.maxReplicas")
	f("domain twice", "domain.declaration.organizations[0].name=Acme,domain.existingConfigMap=x",
		"- domain.declaration and domain.existingConfigMap are both set: use one of the two")
}

// message is the part of Helm's words that is about the values.
func message(failure string) string {
	_, failure, _ = strings.Cut(failure, "\n- ")
	failure, _, _ = strings.Cut(failure, "\n\n")
	faults := strings.Split(strings.TrimSpace(failure), "\n- ")
	slices.Sort(faults) // the schema's come in any order
	return "- " + strings.Join(faults, "\n- ")
}
