package charts

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

// podFaults are what is wrong with the pods: what a namespace of the restricted profile does not admit, as the server
// itself judges it, and what we hold to beyond that.
func podFaults(objects []object) []string {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return []string{err.Error()}
	}
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	var faults []string
	for _, p := range pods(objects) {
		var found []string
		verdict := policy.AggregateCheckResults(evaluator.EvaluatePod(restricted, &p.ObjectMeta, &p.Spec))
		if !verdict.Allowed {
			found = append(found, "is not restricted: "+verdict.ForbiddenDetail())
		}
		found = append(found, tokenFaults(p)...)
		found = append(found, volumeFaults(p)...)
		found = append(found, portFaults(p)...)
		found = append(found, graceFaults(p, objects)...)
		for _, c := range p.containers() {
			for _, fault := range slices.Concat(containerFaults(c), secretFaults(c), mountFaults(p, c), probeFaults(p, c)) {
				found = append(found, "container "+c.Name+": "+fault)
			}
		}
		for _, fault := range found {
			faults = append(faults, fmt.Sprintf("%s: %s", p.of, fault))
		}
	}
	return faults
}

// tokenFaults: nothing here asks the API server anything, so nothing gets a token for it.
func tokenFaults(p pod) []string {
	var faults []string
	if mount := p.Spec.AutomountServiceAccountToken; mount == nil || *mount {
		faults = append(faults, "automountServiceAccountToken is not false")
	}
	for _, v := range p.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil {
				faults = append(faults, "volume "+v.Name+" holds a service account token")
			}
		}
	}
	return faults
}

func containerFaults(c corev1.Container) []string {
	var faults []string
	if s := c.SecurityContext; s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
		faults = append(faults, "readOnlyRootFilesystem is not true")
	}
	for _, want := range []struct {
		name string
		in   corev1.ResourceList
		of   corev1.ResourceName
	}{
		{"requests.cpu", c.Resources.Requests, corev1.ResourceCPU},
		{"requests.memory", c.Resources.Requests, corev1.ResourceMemory},
		{"limits.memory", c.Resources.Limits, corev1.ResourceMemory},
	} {
		if q := want.in[want.of]; q.IsZero() {
			faults = append(faults, "resources."+want.name+" is not set")
		}
	}
	name := c.Image[strings.LastIndex(c.Image, "/")+1:]
	if _, tag, _ := strings.Cut(name, ":"); tag == "" || tag == "latest" {
		faults = append(faults, fmt.Sprintf("the image %q says no version", c.Image))
	}
	return append(faults, memoryFaults(c)...)
}

// memoryFaults: a limit of the runtime above the container's ends in a kill, without a word.
func memoryFaults(c corev1.Container) []string {
	for _, e := range c.Env {
		if e.Name != "GOMEMLIMIT" {
			continue
		}
		goLimit, err := resource.ParseQuantity(strings.TrimSuffix(e.Value, "B")) // the runtime's 60MiB is 60Mi here
		if err != nil {
			return []string{fmt.Sprintf("GOMEMLIMIT is %q: %v", e.Value, err)}
		}
		if limit := c.Resources.Limits.Memory(); goLimit.Cmp(*limit) >= 0 || goLimit.Value()*2 < limit.Value() {
			return []string{fmt.Sprintf("GOMEMLIMIT is %s with a limit of %s", e.Value, limit)}
		}
	}
	return nil
}

var (
	secretName  = regexp.MustCompile(`(?i)(SECRET|PASSWORD|DSN|MASTER_KEY|TOKEN|CREDENTIAL)`)
	credentials = regexp.MustCompile(`://[^/@\s]+:([^/@\s$][^/@\s]*)@`) // $(NAME) is none
	reference   = regexp.MustCompile(`\$\(([A-Za-z0-9_]+)\)`)
)

// secretFaults: a secret reaches a container from a Secret, never as a value that everybody reads who may read pods.
func secretFaults(c corev1.Container) []string {
	var faults []string
	for _, e := range c.Env {
		switch {
		case credentials.MatchString(e.Value):
			faults = append(faults, "env "+e.Name+" holds a password")
		case secretName.MatchString(e.Name) && !strings.HasSuffix(e.Name, "_FILE") && (e.ValueFrom == nil || e.ValueFrom.SecretKeyRef == nil):
			faults = append(faults, "env "+e.Name+" does not come from a Secret")
		}
	}
	for i, e := range c.Env {
		if strings.Contains(e.Value, "${") {
			faults = append(faults, "env "+e.Name+" holds a ${NAME}, which is replaced in a file alone")
		}
		for _, m := range reference.FindAllStringSubmatch(e.Value, -1) {
			if !slices.ContainsFunc(c.Env[:i], func(other corev1.EnvVar) bool { return other.Name == m[1] }) {
				faults = append(faults, fmt.Sprintf("env %s holds $(%s), which is not set before it", e.Name, m[1]))
			}
		}
	}
	for _, word := range slices.Concat(c.Command, c.Args) {
		if credentials.MatchString(word) {
			faults = append(faults, "its command line holds a password")
		}
	}
	return faults
}

// volumeFaults: a name twice, and a secret file that others on the pod could read.
func volumeFaults(p pod) []string {
	var faults []string
	seen := map[string]bool{}
	for _, v := range p.Spec.Volumes {
		if seen[v.Name] {
			faults = append(faults, "volume "+v.Name+" is there twice")
		}
		seen[v.Name] = true
		if v.Secret == nil {
			continue
		}
		if mode := v.Secret.DefaultMode; mode == nil || *mode&0o007 != 0 {
			faults = append(faults, "volume "+v.Name+": everybody may read the files of the Secret; set defaultMode")
		}
	}
	return faults
}

func mountFaults(p pod, c corev1.Container) []string {
	var faults []string
	paths := map[string]bool{}
	for _, m := range c.VolumeMounts {
		at := slices.IndexFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		if at < 0 {
			faults = append(faults, "mounts "+m.Name+", which is no volume of the pod")
			continue
		}
		if paths[m.MountPath] {
			faults = append(faults, "mounts two volumes at "+m.MountPath)
		}
		paths[m.MountPath] = true
		// A file that is mounted by itself is never changed again, so that nothing would be reloaded.
		if v := p.Spec.Volumes[at]; (v.ConfigMap != nil || v.Secret != nil) && m.SubPath+m.SubPathExpr != "" {
			faults = append(faults, "mounts "+m.Name+" by subPath, which no change reaches")
		}
	}
	return faults
}

// portFaults: the containers of a pod share one address, so that a port or its name is there once.
func portFaults(p pod) []string {
	var faults []string
	numbers, names := map[string]bool{}, map[string]bool{}
	for _, c := range p.containers() {
		for _, port := range c.Ports {
			number := fmt.Sprintf("%d/%s", port.ContainerPort, port.Protocol)
			if numbers[number] {
				faults = append(faults, "port "+number+" is there twice")
			}
			if port.Name != "" && names[port.Name] {
				faults = append(faults, "the port name "+port.Name+" is there twice")
			}
			numbers[number], names[port.Name] = true, true
		}
	}
	return faults
}

// probeFaults: a probe's name must be a port of its own container, its number one of the pod.
func probeFaults(p pod, c corev1.Container) []string {
	var faults []string
	for name, probe := range map[string]*corev1.Probe{"startup": c.StartupProbe, "readiness": c.ReadinessProbe, "liveness": c.LivenessProbe} {
		if probe == nil || probe.HTTPGet == nil {
			continue
		}
		port := probe.HTTPGet.Port
		known := slices.ContainsFunc(c.Ports, func(own corev1.ContainerPort) bool { return port.StrVal != "" && own.Name == port.StrVal })
		for _, other := range p.containers() {
			known = known || slices.ContainsFunc(other.Ports, func(o corev1.ContainerPort) bool { return o.ContainerPort == port.IntVal })
		}
		if !known {
			faults = append(faults, fmt.Sprintf("the %s probe asks port %s, which nothing has", name, port.String()))
		}
	}
	slices.Sort(faults)
	return faults
}

// graceFaults: a pod that is killed before postern has drained cuts requests off.
func graceFaults(p pod, objects []object) []string {
	var faults []string
	for _, v := range p.Spec.Volumes {
		if v.ConfigMap == nil {
			continue
		}
		config, ok := find(objects, "ConfigMap", v.ConfigMap.Name)
		text := as[corev1.ConfigMap](config).Data[configName]
		if !ok || text == "" || p.of.Kind == "Job" { // a job does not serve
			continue
		}
		var settings struct {
			Front struct {
				Delay string `json:"drain_delay"`
				Drain string `json:"drain"`
			} `json:"front"`
		}
		if err := yaml.Unmarshal([]byte(text), &settings); err != nil {
			faults = append(faults, err.Error())
			continue
		}
		delay, err := time.ParseDuration(settings.Front.Delay)
		drain, err2 := time.ParseDuration(settings.Front.Drain)
		switch grace := p.Spec.TerminationGracePeriodSeconds; {
		case err != nil || err2 != nil:
			faults = append(faults, fmt.Sprintf("front.drain_delay %q and front.drain %q are not set by the chart", settings.Front.Delay, settings.Front.Drain))
		case grace == nil || time.Duration(*grace)*time.Second <= delay+drain:
			faults = append(faults, fmt.Sprintf("the grace period does not outlast drain_delay %s and drain %s", delay, drain))
		default:
			faults = append(faults, stopFaults(p, delay+drain, time.Duration(*grace)*time.Second)...)
		}
	}
	return faults
}

// stopFaults: a container that sleeps before it stops does so until postern has drained, and no longer than it may.
func stopFaults(p pod, drained, grace time.Duration) []string {
	var faults []string
	for _, c := range p.Spec.Containers {
		if c.Lifecycle == nil || c.Lifecycle.PreStop == nil {
			continue
		}
		var sleep time.Duration
		switch stop := c.Lifecycle.PreStop; {
		case stop.Sleep != nil:
			sleep = time.Duration(stop.Sleep.Seconds) * time.Second
		case stop.Exec != nil && len(stop.Exec.Command) == 2 && stop.Exec.Command[0] == "sleep":
			sleep, _ = time.ParseDuration(stop.Exec.Command[1] + "s")
		default: // it asks postern itself
			continue
		}
		if sleep < drained || sleep >= grace {
			faults = append(faults, fmt.Sprintf("container %s sleeps %s before it stops: postern drains %s, and the grace period is %s", c.Name, sleep, drained, grace))
		}
	}
	return faults
}

// TestPlantedPodFaultsAreSeen plants one fault after the other into a pod without any.
func TestPlantedPodFaultsAreSeen(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "good.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	good := string(data)
	report(t, podFaults(parseObjects(t, good)))
	f := func(name, old, new, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			if strings.Count(good, old) != 1 {
				t.Fatalf("good.yaml holds %q %d times, want once", old, strings.Count(good, old))
			}
			faults := podFaults(parseObjects(t, strings.Replace(good, old, new, 1)))
			if want = "Deployment/good: " + want; len(faults) != 1 || faults[0] != want {
				t.Errorf("got  %q\nwant %q alone", faults, want)
			}
		})
	}
	const own = "container postern: "
	f("root", "runAsNonRoot: true", "runAsNonRoot: false", `is not restricted: runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)`)
	f("seccomp", ", seccompProfile: {type: RuntimeDefault}", "", `is not restricted: seccompProfile (pod or container "postern" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")`)
	f("capabilities", "            capabilities: {drop: [ALL]}\n", "", `is not restricted: unrestricted capabilities (container "postern" must set securityContext.capabilities.drop=["ALL"])`)
	f("escalation", "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", `is not restricted: allowPrivilegeEscalation != false (container "postern" must set securityContext.allowPrivilegeEscalation=false)`)
	f("token", "automountServiceAccountToken: false", "automountServiceAccountToken: true", "automountServiceAccountToken is not false")
	f("root filesystem", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", own+"readOnlyRootFilesystem is not true")
	f("resources", ", limits: {memory: 128Mi}", "", own+"resources.limits.memory is not set")
	f("latest", "postern:1.0.0", "postern:latest", own+`the image "example.com/postern:latest" says no version`)
	f("no tag", "postern:1.0.0", "postern", own+`the image "example.com/postern" says no version`)
	f("secret", "{name: DSN, valueFrom: {secretKeyRef: {name: dsn, key: dsn}}}", "{name: DSN, value: x}", own+"env DSN does not come from a Secret")
	f("password", "{name: DSN, valueFrom: {secretKeyRef: {name: dsn, key: dsn}}}", `{name: X, value: "postgres://a:b@c/d"}`, own+"env X holds a password")
	f("reference of a file", "{name: DSN, valueFrom: {secretKeyRef: {name: dsn, key: dsn}}}", `{name: X, value: "${DSN}"}`, own+"env X holds a ${NAME}, which is replaced in a file alone")
	f("reference too early", "- {name: DSN,", "- {name: X, value: $(DSN)}\n            - {name: DSN,", own+"env X holds $(DSN), which is not set before it")
	f("memory", "{name: DSN, valueFrom: {secretKeyRef: {name: dsn, key: dsn}}}", `{name: GOMEMLIMIT, value: 128MiB}`, own+"GOMEMLIMIT is 128MiB with a limit of 128Mi")
	f("subPath", "mountPath: /etc/postern", "mountPath: /etc/postern, subPath: x", own+"mounts config by subPath, which no change reaches")
	f("no volume", "- {name: config, mountPath", "- {name: other, mountPath", own+"mounts other, which is no volume of the pod")
	f("open secret", "- {name: config, configMap: {name: good}}", "- {name: config, configMap: {name: good}}\n        - {name: s, secret: {secretName: s, defaultMode: 0444}}",
		"volume s: everybody may read the files of the Secret; set defaultMode")
	f("ports", "            - {name: front, containerPort: 8080}\n", "            - {name: front, containerPort: 8080}\n            - {name: b, containerPort: 8080}\n", "port 8080/ is there twice")
	f("probe", "port: front, path", "port: admin, path", own+"the readiness probe asks port admin, which nothing has")
	f("sleep", "          readinessProbe:", "          lifecycle: {preStop: {sleep: {seconds: 30}}}\n          readinessProbe:",
		"container postern sleeps 30s before it stops: postern drains 35s, and the grace period is 40s")
	f("grace", "terminationGracePeriodSeconds: 40", "terminationGracePeriodSeconds: 35", "the grace period does not outlast drain_delay 5s and drain 30s")
}
