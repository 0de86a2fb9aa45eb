package charts

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// release is the name under which everything is rendered; what the charts make is named after it.
const release = "demo"

// referenceFaults are the names in the objects that lead nowhere. Where no pods are rendered, as when postern's chart is
// another one's dependency, what selects pods is left alone.
func referenceFaults(objects []object) []string {
	var faults []string
	served := slices.DeleteFunc(pods(objects), func(p pod) bool { return p.of.Kind == "Job" })
	for _, o := range objects {
		var found []string
		switch o.Kind {
		case "Service":
			if len(served) > 0 {
				found = serviceFaults(as[corev1.Service](o), pods(objects))
			}
		case "PodDisruptionBudget":
			found = selectorFaults(as[policyv1.PodDisruptionBudget](o).Spec.Selector, served)
		case "NetworkPolicy":
			if len(served) > 0 {
				found = policyFaults(as[networkingv1.NetworkPolicy](o), served)
			}
		case "HorizontalPodAutoscaler":
			ref := as[autoscalingv2.HorizontalPodAutoscaler](o).Spec.ScaleTargetRef
			if _, ok := find(objects, ref.Kind, ref.Name); !ok {
				found = []string{fmt.Sprintf("scales %s/%s, which is not there", ref.Kind, ref.Name)}
			}
		case "Ingress":
			for _, r := range as[networkingv1.Ingress](o).Spec.Rules {
				for _, path := range r.HTTP.Paths {
					found = append(found, backendFaults(objects, path.Backend.Service.Name, path.Backend.Service.Port.Number)...)
				}
			}
		case "HTTPRoute":
			for _, r := range as[httpRoute](o).Spec.Rules {
				for _, b := range r.BackendRefs {
					found = append(found, backendFaults(objects, b.Name, b.Port)...)
				}
			}
		case "ServiceMonitor":
			found = monitorFaults(as[monitor](o), objects)
		case "PodMonitor":
			if len(served) > 0 {
				found = podMonitorFaults(as[monitor](o), served)
			}
		}
		for _, fault := range found {
			faults = append(faults, fmt.Sprintf("%s: %s", o, fault))
		}
	}
	return append(faults, usedFaults(objects)...)
}

// httpRoute and monitor are as much of these custom resources as is looked at here.
type (
	httpRoute struct {
		Spec struct {
			Rules []struct {
				BackendRefs []struct {
					Name string `json:"name"`
					Port int32  `json:"port"`
				} `json:"backendRefs"`
			} `json:"rules"`
		} `json:"spec"`
	}
	endpoint struct {
		Port string `json:"port"`
	}
	monitor struct {
		Spec struct {
			Selector            *metav1.LabelSelector `json:"selector"`
			Endpoints           []endpoint            `json:"endpoints"`
			PodMetricsEndpoints []endpoint            `json:"podMetricsEndpoints"`
		} `json:"spec"`
	}
)

func matches(selector *metav1.LabelSelector, of map[string]string) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && s.Matches(labels.Set(of))
}

func selectorFaults(selector *metav1.LabelSelector, served []pod) []string {
	if slices.ContainsFunc(served, func(p pod) bool { return matches(selector, p.Labels) }) {
		return nil
	}
	return []string{fmt.Sprintf("selects no pods: %s", metav1.FormatLabelSelector(selector))}
}

// serviceFaults: it selects the pods that serve, not those of a Job too, and its ports are theirs.
func serviceFaults(s corev1.Service, all []pod) []string {
	selector := &metav1.LabelSelector{MatchLabels: s.Spec.Selector}
	faults := selectorFaults(selector, all)
	for _, p := range all {
		if !matches(selector, p.Labels) {
			continue
		}
		if p.of.Kind == "Job" {
			faults = append(faults, "selects the pods of "+p.of.String())
			continue
		}
		for _, port := range s.Spec.Ports {
			if !p.has(port.TargetPort) {
				faults = append(faults, fmt.Sprintf("its port %d leads to %s, which %s has not", port.Port, port.TargetPort.String(), p.of))
			}
		}
	}
	return faults
}

// has says whether a container of the pod that stays has the port.
func (p pod) has(port intstr.IntOrString) bool {
	for _, c := range p.containers() {
		for _, own := range c.Ports {
			if own.ContainerPort == port.IntVal || port.StrVal != "" && own.Name == port.StrVal {
				return true
			}
		}
	}
	return false
}

func policyFaults(n networkingv1.NetworkPolicy, served []pod) []string {
	faults := selectorFaults(&n.Spec.PodSelector, served)
	for _, p := range served {
		if !matches(&n.Spec.PodSelector, p.Labels) {
			continue
		}
		for _, rule := range n.Spec.Ingress {
			if len(rule.Ports) == 0 {
				faults = append(faults, "lets every port of the pod be reached")
			}
			for _, port := range rule.Ports {
				if port.Port == nil || !p.has(*port.Port) {
					faults = append(faults, fmt.Sprintf("lets port %v be reached, which %s has not", port.Port, p.of))
				}
			}
		}
	}
	return faults
}

func backendFaults(objects []object, name string, port int32) []string {
	if o, ok := find(objects, "Service", name); ok {
		ports := as[corev1.Service](o).Spec.Ports
		if slices.ContainsFunc(ports, func(p corev1.ServicePort) bool { return p.Port == port }) {
			return nil
		}
	}
	return []string{fmt.Sprintf("leads to port %d of Service/%s, which is not there", port, name)}
}

func monitorFaults(m monitor, objects []object) []string {
	for _, o := range objects {
		if o.Kind != "Service" || !matches(m.Spec.Selector, o.Labels) {
			continue
		}
		ports := as[corev1.Service](o).Spec.Ports
		for _, e := range m.Spec.Endpoints {
			if !slices.ContainsFunc(ports, func(p corev1.ServicePort) bool { return p.Name == e.Port }) {
				return []string{fmt.Sprintf("scrapes port %q, which %s has not", e.Port, o)}
			}
		}
		return nil
	}
	return []string{"selects no Service: " + metav1.FormatLabelSelector(m.Spec.Selector)}
}

func podMonitorFaults(m monitor, served []pod) []string {
	faults := selectorFaults(m.Spec.Selector, served)
	for _, p := range served {
		for _, e := range m.Spec.PodMetricsEndpoints {
			if matches(m.Spec.Selector, p.Labels) && !p.has(intstr.FromString(e.Port)) {
				faults = append(faults, fmt.Sprintf("scrapes port %q, which %s has not", e.Port, p.of))
			}
		}
	}
	return faults
}

// uses are the objects that a pod cannot start without.
func (p pod) uses() []object {
	var all []object
	add := func(kind, name string, optional *bool) {
		if name != "" && (optional == nil || !*optional) {
			all = append(all, object{TypeMeta: metav1.TypeMeta{Kind: kind}, ObjectMeta: metav1.ObjectMeta{Name: name}})
		}
	}
	add("ServiceAccount", p.Spec.ServiceAccountName, nil)
	for _, v := range p.Spec.Volumes {
		switch {
		case v.ConfigMap != nil:
			add("ConfigMap", v.ConfigMap.Name, v.ConfigMap.Optional)
		case v.Secret != nil:
			add("Secret", v.Secret.SecretName, v.Secret.Optional)
		case v.PersistentVolumeClaim != nil:
			add("PersistentVolumeClaim", v.PersistentVolumeClaim.ClaimName, nil)
		}
	}
	for _, c := range p.containers() {
		for _, e := range c.EnvFrom {
			if e.ConfigMapRef != nil {
				add("ConfigMap", e.ConfigMapRef.Name, e.ConfigMapRef.Optional)
			}
		}
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
				add("ConfigMap", e.ValueFrom.ConfigMapKeyRef.Name, e.ValueFrom.ConfigMapKeyRef.Optional)
			}
		}
	}
	return all
}

// usedFaults: what is named after the release is rendered; anything else is the user's own.
func usedFaults(objects []object) []string {
	var faults []string
	for _, p := range pods(objects) {
		for _, o := range p.uses() {
			if _, ok := find(objects, o.Kind, o.Name); !ok && strings.HasPrefix(o.Name, release) {
				faults = append(faults, fmt.Sprintf("%s: needs %s, which is not rendered", p.of, o))
			}
		}
	}
	return faults
}

// TestPlantedReferenceFaultsAreSeen plants names that lead nowhere.
func TestPlantedReferenceFaultsAreSeen(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "references.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	good := string(data)
	all := func(manifests string) []string {
		objects := parseObjects(t, manifests)
		return slices.Concat(referenceFaults(objects), hookFaults(objects))
	}
	report(t, all(good))
	f := func(name, old, new, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			if strings.Count(good, old) != 1 {
				t.Fatalf("references.yaml holds %q %d times, want once", old, strings.Count(good, old))
			}
			if faults := all(strings.Replace(good, old, new, 1)); len(faults) != 1 || faults[0] != want {
				t.Errorf("got  %q\nwant %q alone", faults, want)
			}
		})
	}
	f("selector of a service", "selector: {app: demo}", "selector: {app: demon}", "Service/demo: selects no pods: app=demon")
	f("port of a service", "targetPort: front", "targetPort: admin", "Service/demo: its port 80 leads to admin, which Deployment/demo has not")
	f("a job behind a service", "labels: {job: migrate}", "labels: {job: migrate, app: demo}", "Service/demo: selects the pods of Job/demo-migrate")
	f("budget", "maxUnavailable: 1, selector: {matchLabels: {app: demo}}", "maxUnavailable: 1, selector: {matchLabels: {app: x}}", "PodDisruptionBudget/demo: selects no pods: app=x")
	f("policy", "ports: [{port: 8080}]", "ports: [{port: 9090}]", "NetworkPolicy/demo: lets port 9090 be reached, which Deployment/demo has not")
	f("open policy", "- ports: [{port: 8080}]", "- from: []", "NetworkPolicy/demo: lets every port of the pod be reached")
	f("autoscaler", "scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: demo}", "scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: x}", "HorizontalPodAutoscaler/demo: scales Deployment/x, which is not there")
	f("ingress", "service: {name: demo, port: {number: 80}}", "service: {name: demo, port: {number: 81}}", "Ingress/demo: leads to port 81 of Service/demo, which is not there")
	f("route", "backendRefs: [{name: demo, port: 80}]", "backendRefs: [{name: x, port: 80}]", "HTTPRoute/demo: leads to port 80 of Service/x, which is not there")
	f("service monitor", "endpoints: [{port: http}]", "endpoints: [{port: admin}]", `ServiceMonitor/demo: scrapes port "admin", which Service/demo has not`)
	f("pod monitor", "podMetricsEndpoints: [{port: front}]", "podMetricsEndpoints: [{port: admin}]", `PodMonitor/demo: scrapes port "admin", which Deployment/demo has not`)
	f("config map", "configMap: {name: demo-config}", "configMap: {name: demo-cfg}", "Deployment/demo: needs ConfigMap/demo-cfg, which is not rendered")
	f("hook before its own", "secret: {secretName: dsn}", "configMap: {name: demo-config}", "Job/demo-migrate: runs before ConfigMap/demo-config is there")
	f("hook before its weight", "helm.sh/hook-weight: \"-2\"", "helm.sh/hook-weight: \"2\"", "Job/demo-migrate: runs before ServiceAccount/demo-migrate is there")
	f("hook that stays", "hook-delete-policy: before-hook-creation", "hook-delete-policy: hook-failed", "Job/demo-migrate: is not deleted before the next one, so that an upgrade fails")
}
