package charts

import (
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// object is one rendered manifest.
type object struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	text              string
}

func (o object) String() string { return o.Kind + "/" + o.Name }

func parseObjects(t *testing.T, manifests string) []object {
	t.Helper()
	var objects []object
	for _, text := range strings.Split("\n"+manifests, "\n---\n") {
		o := object{text: text}
		if err := yaml.Unmarshal([]byte(text), &o); err != nil {
			t.Fatalf("%v in:\n%s", err, text)
		}
		if o.Kind != "" {
			objects = append(objects, o)
		}
	}
	return objects
}

// as reads the object as one of its kind; that its fields are known ones is another test's.
func as[T any](o object) T {
	var v T
	if err := yaml.Unmarshal([]byte(o.text), &v); err != nil {
		panic(fmt.Sprintf("%s: %v", o, err))
	}
	return v
}

// pod is what a workload makes pods from.
type pod struct {
	of object
	corev1.PodTemplateSpec
}

func pods(objects []object) []pod {
	var all []pod
	for _, o := range objects {
		switch o.Kind {
		case "Deployment":
			all = append(all, pod{o, as[appsv1.Deployment](o).Spec.Template})
		case "StatefulSet":
			all = append(all, pod{o, as[appsv1.StatefulSet](o).Spec.Template})
		case "DaemonSet":
			all = append(all, pod{o, as[appsv1.DaemonSet](o).Spec.Template})
		case "Job":
			all = append(all, pod{o, as[batchv1.Job](o).Spec.Template})
		case "CronJob":
			all = append(all, pod{o, as[batchv1.CronJob](o).Spec.JobTemplate.Spec.Template})
		case "Pod":
			p := as[corev1.Pod](o)
			all = append(all, pod{o, corev1.PodTemplateSpec{ObjectMeta: p.ObjectMeta, Spec: p.Spec}})
		}
	}
	return all
}

// containers are all of a pod, in the order in which they start.
func (p pod) containers() []corev1.Container {
	return append(append([]corev1.Container{}, p.Spec.InitContainers...), p.Spec.Containers...)
}

// find returns the object of that kind and name.
func find(objects []object, kind, name string) (object, bool) {
	for _, o := range objects {
		if o.Kind == kind && o.Name == name {
			return o, true
		}
	}
	return object{}, false
}
