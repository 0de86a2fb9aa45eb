package charts

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// sidecarFaults is what is wrong with pods in which postern is beside a container: a native sidecar that the others
// start after and end before, or the first of the containers, whose postStart holds back the next one.
func sidecarFaults(objects []object, native bool) []string {
	var faults []string
	found := 0
	isPostern := func(c corev1.Container) bool { return c.Name == "postern" }
	for _, p := range pods(objects) {
		in, among := slices.IndexFunc(p.Spec.InitContainers, isPostern), slices.IndexFunc(p.Spec.Containers, isPostern)
		var wrong []string
		switch {
		case in < 0 && among < 0:
			continue
		case native:
			wrong = nativeFaults(p, in, among)
		default:
			wrong = plainFaults(p, in, among)
		}
		found++
		for _, fault := range wrong {
			faults = append(faults, fmt.Sprintf("%s: %s", p.of, fault))
		}
	}
	if found != 2 {
		faults = append(faults, fmt.Sprintf("postern is in %d pods, want those of a Deployment and of a Job", found))
	}
	return faults
}

func nativeFaults(p pod, in, among int) []string {
	if in != len(p.Spec.InitContainers)-1 || among >= 0 {
		return []string{"postern is not the last of the init containers, and of these alone"}
	}
	var faults []string
	c := p.Spec.InitContainers[in]
	if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		faults = append(faults, "postern's restartPolicy is not Always: the others would wait for its end")
	}
	if c.StartupProbe == nil || c.StartupProbe.HTTPGet == nil || c.StartupProbe.HTTPGet.Path != "/readyz" {
		faults = append(faults, "no startupProbe holds the others back until postern is ready")
	}
	return faults
}

func plainFaults(p pod, in, among int) []string {
	if in >= 0 || among != 0 || len(p.Spec.Containers) < 2 {
		return []string{"postern is not the first of the containers, and of these alone"}
	}
	var faults []string
	c := p.Spec.Containers[0]
	if l := c.Lifecycle; l == nil || l.PostStart == nil || l.PostStart.Exec == nil || !slices.Equal(l.PostStart.Exec.Command[:2], []string{"/postern", "wait"}) {
		faults = append(faults, "no postStart holds the others back until postern is ready")
	}
	app := p.Spec.Containers[1]
	if p.of.Kind == "Job" {
		const tool = "/postern-tools/postern"
		command := strings.Join(app.Command, " ")
		if !strings.HasPrefix(command, tool+" wait ") || !strings.Contains(command, " -- "+tool+" quit ") {
			faults = append(faults, "the Job's command does not wait for postern, and end it")
		}
	} else if app.Lifecycle == nil || app.Lifecycle.PreStop == nil {
		faults = append(faults, "no preStop lets the container outlive postern")
	}
	return faults
}

// TestPlantedSidecarFaultsAreSeen plants faults into the pods as they were reviewed.
func TestPlantedSidecarFaultsAreSeen(t *testing.T) {
	f := func(name, file, old, new string, want ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join("testdata", "golden", file))
			if err != nil {
				t.Fatal(err)
			}
			text := strings.ReplaceAll(string(data), old, new)
			if text == string(data) && old != "" {
				t.Fatalf("%s does not hold %q", file, old)
			}
			faults := sidecarFaults(parseObjects(t, text), file == "sidecar-example-native.yaml")
			if !slices.Equal(faults, want) {
				t.Errorf("got  %q\nwant %q", faults, want)
			}
		})
	}
	const native, plain = "sidecar-example-native.yaml", "sidecar-example-plain.yaml"
	f("native", native, "", "")
	f("plain", plain, "", "")
	f("no restart", native, "restartPolicy: Always", "restartPolicy: null",
		"Deployment/demo: postern's restartPolicy is not Always: the others would wait for its end",
		"Job/demo-job-1: postern's restartPolicy is not Always: the others would wait for its end")
	f("alive for ready", native, "startupProbe:\n            httpGet: {path: /readyz", "startupProbe:\n            httpGet: {path: /livez",
		"Deployment/demo: no startupProbe holds the others back until postern is ready",
		"Job/demo-job-1: no startupProbe holds the others back until postern is ready")
	f("no postStart", plain, "[/postern, wait, --timeout, 120s]", "[/postern, healthcheck]",
		"Deployment/demo: no postStart holds the others back until postern is ready",
		"Job/demo-job-1: no postStart holds the others back until postern is ready")
	f("a Job that does not end", plain, "            - quit\n", "            - healthcheck\n",
		"Job/demo-job-1: the Job's command does not wait for postern, and end it")
	f("no preStop", plain, "            preStop:\n", "            postStart:\n",
		"Deployment/demo: no preStop lets the container outlive postern")
	f("the other kind", plain, "        - name: postern\n", "        - name: other\n", "postern is in 0 pods, want those of a Deployment and of a Job")
}
