package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"postern/limiter"
	"postern/proxy"
	"postern/registry"
)

// placeOf is where a route's requests name their catalog.
func placeOf(c proxy.Catalog) string {
	switch {
	case c.Path > 0:
		return "segment " + strconv.Itoa(c.Path) + " of the path"
	case c.Query != "":
		return "the parameter " + c.Query
	}
	return "the field " + c.Header
}

// catalogs says which are named, and why they may be used or not.
func (u *explaining) catalogs() {
	f := &u.found
	if len(f.Named) == 0 && !f.Unknown {
		need := "and none is needed"
		if f.Route.Catalog.Required {
			need = "and the route demands one"
		}
		u.step(proxy.StepCatalog, "none is named in "+placeOf(f.Route.Catalog)+", "+need, "in "+placeOf(f.Route.Catalog))
		return
	}
	var all []string
	for _, one := range f.Named {
		all = append(all, one.ExternalID+" "+u.openBy(one))
	}
	if f.Unknown {
		all = append(all, "one is named that no catalog can be called")
	}
	text := strings.Join(all, "; ")
	u.step(proxy.StepCatalog, text, text)
}

// openBy says why a catalog is open to the client, or not.
func (u *explaining) openBy(one proxy.Named) string {
	switch c := one.Catalog; {
	case !one.Found:
		return "does not exist"
	case c.Public:
		return "is public"
	case u.grant == nil || !u.found.Known:
		return "is not public, and nobody is known to ask"
	case c.OrganizationID == u.grant.Organization.ID:
		return "is the organization's own"
	case !one.Open:
		return "is of organization " + c.OrganizationID + ", and not granted"
	}
	_, sources := u.grant.Effective()
	return "is granted by " + sources.Catalogs.From + " " + sources.Catalogs.ID
}

// standing is a limit as JSON has it.
type standing struct {
	Policy    string  `json:"policy"`
	Value     int64   `json:"value"`
	Burst     int64   `json:"burst"` // of a rate; 0 otherwise
	Replicas  int64   `json:"replicas"`
	Part      float64 `json:"part"` // of value, that each of them judges by
	PartBurst int64   `json:"part_burst"`
}

func standings(all []limiter.Standing) []standing {
	told := make([]standing, 0, len(all))
	for _, s := range all {
		told = append(told, standing{s.Policy, s.Limit, s.Burst, s.Replicas, s.Part, s.PartBurst})
	}
	return told
}

// partOf is what one replica judges by, in words.
func partOf(s limiter.Standing) string {
	part := strconv.FormatFloat(math.Round(s.Part*1000)/1000, 'f', -1, 64)
	switch {
	case strings.HasSuffix(s.Policy, "-rate"):
		return fmt.Sprintf("%s a second, up to %d at a time", part, s.PartBurst)
	case strings.HasSuffix(s.Policy, "-issue"):
		return fmt.Sprintf("%s a minute, up to %d at a time", part, s.PartBurst)
	case strings.HasSuffix(s.Policy, "-concurrent"):
		return part + " at once"
	}
	return part + ", or that of what was left when it began"
}

// limited says which limits there are, whose, and what the store knows was spent.
func (u *explaining) limited() {
	const live = "; a running postern alone knows what is spent of it"
	var spent []string
	for _, s := range u.limits {
		name, whose := "limit "+s.Policy, "the client's, by its effective terms"
		if strings.HasPrefix(s.Policy, "org-") {
			whose = "of all clients of the organization together, by its own terms"
		}
		var text string
		switch {
		case strings.HasSuffix(s.Policy, "-rate"):
			text = fmt.Sprintf("%d a second, up to %d at a time%s", s.Limit, s.Burst, live)
		case strings.HasSuffix(s.Policy, "-issue"):
			text = fmt.Sprintf("%s a minute, at the token route%s", counted(int(s.Limit), "access token"), live)
		case strings.HasSuffix(s.Policy, "-concurrent"):
			text = fmt.Sprintf("%s at once%s", counted(int(s.Limit), "request"), live)
		default:
			text = fmt.Sprintf("%d of %d are spent, as the store knows (up to usage.interval of %s late); back at %s",
				s.Limit-s.Left, s.Limit, time.Duration(u.settings.Usage.Interval), moment(registry.At(u.now.Add(max(s.Wait, s.Resets)))))
		}
		if s.Replicas > 1 {
			text += "; one of " + strconv.FormatInt(s.Replicas, 10) + " replicas judges by its equal part: " + partOf(s)
		}
		u.add(name, "ok", "%s: %s", whose, text)
		if s.Wait > 0 && !strings.HasSuffix(s.Policy, "-issue") {
			spent = append(spent, s.Policy)
		}
	}
	detail := "nothing that is known here is used up"
	switch {
	case u.grant == nil:
		detail = ""
	case len(u.limits) == 0:
		detail = "there are none"
	}
	u.step(proxy.StepLimits, detail, strings.Join(spent, ", "))
}
