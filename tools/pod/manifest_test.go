package pod

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

type object = map[string]any

// manifest is a pod as the chart renders it, and what the kubelet needs beside it.
type manifest struct {
	name   string
	spec   object
	group  int      // fsGroup
	seen   []object // all objects
	dir    string   // of the volumes
	probes []probe
	ready  []string // the command of postern's postStart
}

// probe is a question that the kubelet asks at the pod's address.
type probe struct {
	container, kind string
	path            string
	port            int
}

// readManifest takes the pod of the only Deployment in a file that helm rendered, and lays its volumes out in dir.
// secrets are the Secrets that the installer has made, by name and key.
func readManifest(t *testing.T, file, dir string, secrets map[string]map[string]string) *manifest {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	m := &manifest{dir: dir}
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var o object
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		m.seen = append(m.seen, o)
		if o["kind"] == "Deployment" {
			m.name = at[string](o, "metadata", "name")
			m.spec = at[object](o, "spec", "template", "spec")
		}
	}
	if m.spec == nil {
		t.Fatalf("%s holds no Deployment", file)
	}
	m.group = at[int](m.spec, "securityContext", "fsGroup")
	for _, v := range at[[]any](m.spec, "volumes") {
		m.layVolume(t, v.(object), secrets)
	}
	// By default podman starts init containers again that ended well.
	m.spec["restartPolicy"] = "Never"
	for _, list := range []string{"initContainers", "containers"} {
		for _, c := range at[[]any](m.spec, list) {
			m.prepare(c.(object))
		}
	}
	return m
}

// at follows names into an object; the zero value where one is missing.
func at[T any](o object, names ...string) T {
	var value any = o
	for _, name := range names {
		inner, _ := value.(object)
		value = inner[name]
	}
	found, _ := value.(T)
	return found
}

// prepare points a container to an image that is here, and takes out what podman would do in another way than the
// kubelet: the test asks the probes itself, and runs what a container is started and stopped with.
func (m *manifest) prepare(c object) {
	ports := map[string]int{}
	for _, p := range at[[]any](c, "ports") {
		ports[at[string](p.(object), "name")] = at[int](p.(object), "containerPort")
	}
	for _, kind := range []string{"startupProbe", "livenessProbe", "readinessProbe"} {
		if get := at[object](c, kind, "httpGet"); get != nil {
			port, numbered := get["port"].(int)
			if !numbered {
				port = ports[at[string](get, "port")]
			}
			m.probes = append(m.probes, probe{at[string](c, "name"), kind, at[string](get, "path"), port})
		}
		delete(c, kind)
	}
	image := "localhost/legacy"
	if strings.HasPrefix(at[string](c, "image"), "postern:") {
		image = "localhost/postern"
	} else {
		delete(c, "command") // Python's, of the example
	}
	for _, word := range at[[]any](c, "lifecycle", "postStart", "exec", "command") {
		m.ready = append(m.ready, word.(string))
	}
	delete(c, "lifecycle")
	c["image"], c["imagePullPolicy"] = image, "Never"
}

// layVolume makes a volume the way the kubelet does, and has podman mount that directory.
func (m *manifest) layVolume(t *testing.T, v object, secrets map[string]map[string]string) {
	t.Helper()
	name := at[string](v, "name")
	path := filepath.Join(m.dir, name)
	mode := os.FileMode(0o777)
	files := map[string]string{}
	switch {
	case v["emptyDir"] != nil:
	case v["configMap"] != nil:
		mode = os.FileMode(at[int](v, "configMap", "defaultMode"))
		files = m.configMap(t, at[string](v, "configMap", "name"))
	case v["secret"] != nil:
		mode = os.FileMode(at[int](v, "secret", "defaultMode"))
		files = secrets[at[string](v, "secret", "secretName")]
		if files == nil {
			t.Fatalf("volume %s: nobody made the Secret %s", name, at[string](v, "secret", "secretName"))
		}
	default:
		t.Fatalf("volume %s is of a kind that this test does not know: %v", name, v)
	}
	must(t, os.Mkdir(path, 0o777))
	must(t, os.Chown(path, 0, m.group))
	must(t, os.Chmod(path, 0o777|os.ModeSetgid))
	if len(files) > 0 {
		m.swap(t, name, files, mode)
	}
	clear(v)
	v["name"], v["hostPath"] = name, object{"path": path, "type": "Directory"}
}

func (m *manifest) configMap(t *testing.T, name string) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, o := range m.seen {
		if o["kind"] == "ConfigMap" && at[string](o, "metadata", "name") == name {
			for key, text := range at[object](o, "data") {
				files[key] = text.(string)
			}
			return files
		}
	}
	t.Fatalf("the chart renders no ConfigMap %s", name)
	return nil
}

// swap gives a volume other files as the kubelet does: each name is a link into ..data, which is a link to a directory
// with a name of its own, and one rename changes all of them at once.
func (m *manifest) swap(t *testing.T, volume string, files map[string]string, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(m.dir, volume)
	data, err := os.MkdirTemp(path, "..")
	must(t, err)
	must(t, os.Chown(data, 0, m.group))
	must(t, os.Chmod(data, 0o755))
	for name, text := range files {
		file := filepath.Join(data, name)
		must(t, os.WriteFile(file, []byte(text), mode))
		must(t, os.Chown(file, 0, m.group))
		must(t, os.Chmod(file, mode))
	}
	old, _ := os.Readlink(filepath.Join(path, "..data"))
	must(t, os.Symlink(filepath.Base(data), filepath.Join(path, "..data_tmp")))
	must(t, os.Rename(filepath.Join(path, "..data_tmp"), filepath.Join(path, "..data")))
	if old != "" {
		must(t, os.RemoveAll(filepath.Join(path, old)))
		return
	}
	for name := range files {
		must(t, os.Symlink(filepath.Join("..data", name), filepath.Join(path, name)))
	}
}

// configWith is the chart's configuration with one more route.
func (m *manifest) configWith(t *testing.T, route object) map[string]string {
	t.Helper()
	for _, o := range m.seen {
		text := at[string](o, "data", "postern.yaml")
		if o["kind"] != "ConfigMap" || text == "" {
			continue
		}
		var config object
		must(t, yaml.Unmarshal([]byte(text), &config))
		config["routes"] = append(at[[]any](config, "routes"), route)
		changed, err := yaml.Marshal(config)
		must(t, err)
		return map[string]string{"postern.yaml": string(changed)}
	}
	t.Fatal("no ConfigMap holds postern.yaml")
	return nil
}

// write says the pod as podman is to play it.
func (m *manifest) write(t *testing.T) (file string) {
	t.Helper()
	text, err := yaml.Marshal(object{"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": m.name}, "spec": m.spec})
	must(t, err)
	file = filepath.Join(m.dir, "pod.yaml")
	must(t, os.WriteFile(file, text, 0o600))
	return file
}

// kinds are the objects beside the pod, for the record.
func (m *manifest) kinds() string {
	count := map[string]int{}
	for _, o := range m.seen {
		count[fmt.Sprint(o["kind"])]++
	}
	return strings.Join(slices.Sorted(maps.Keys(count)), " ")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
