package charts

import (
	"fmt"
	"strconv"
	"strings"
)

// hookFaults: a hook runs before or after the release's own objects are made, and may only need what is there then.
func hookFaults(objects []object) []string {
	var faults []string
	for _, p := range pods(objects) {
		when := p.of.Annotations["helm.sh/hook"]
		if when == "" {
			continue
		}
		if !strings.Contains(deletion(p.of), "before-hook-creation") {
			faults = append(faults, fmt.Sprintf("%s: is not deleted before the next one, so that an upgrade fails", p.of))
		}
		if !strings.Contains(when, "pre-install") && !strings.Contains(when, "pre-upgrade") {
			continue
		}
		for _, o := range p.uses() {
			used, rendered := find(objects, o.Kind, o.Name)
			if rendered && !isBefore(used, p.of) {
				faults = append(faults, fmt.Sprintf("%s: runs before %s is there", p.of, o))
			}
		}
	}
	return faults
}

// deletion is when Helm deletes a hook; this is the default.
func deletion(o object) string {
	if policy := o.Annotations["helm.sh/hook-delete-policy"]; policy != "" {
		return policy
	}
	return "before-hook-creation"
}

// isBefore says whether Helm makes used in each phase of the hook, and first. Among equals it makes Jobs last.
func isBefore(used, hook object) bool {
	for when := range strings.SplitSeq(hook.Annotations["helm.sh/hook"], ",") {
		if !strings.Contains(used.Annotations["helm.sh/hook"], strings.TrimSpace(when)) {
			return false
		}
	}
	return weight(used) <= weight(hook)
}

func weight(o object) int {
	n, err := strconv.Atoi(o.Annotations["helm.sh/hook-weight"])
	if err != nil {
		return 0
	}
	return n
}
