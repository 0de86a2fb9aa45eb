package charts

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// sidecarFaults is what is wrong with pods in which postern is beside a container: a native sidecar that the others
// start after and end before, or the first of the containers, whose postStart holds back the next one.
func sidecarFaults(objects []object, native bool) []string {
	var faults []string
	found := 0
	for _, p := range pods(objects) {
		isPostern := func(c corev1.Container) bool { return c.Name == "postern" }
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
			faults = append(faults, "the Job's command does not wait for postern, and end it: "+command)
		}
	} else if app.Lifecycle == nil || app.Lifecycle.PreStop == nil {
		faults = append(faults, "no preStop lets the container outlive postern")
	}
	return faults
}
