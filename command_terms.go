package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"postern/registry"
)

// termsFlags are the flags of terms. One that is not given leaves its field as it is.
type termsFlags struct {
	Products      *setFlag      `group:"Terms (each a value, unlimited, or inherit):" placeholder:"NAMES" help:"The scopes that clients may ask for, separated by spaces; an empty list allows none."`
	Catalogs      *setFlag      `group:"Terms (each a value, unlimited, or inherit):" placeholder:"IDS" help:"External ids of the catalogs granted beyond the organization's own and the public ones, separated by spaces."`
	RequestRate   *limitFlag    `group:"Terms (each a value, unlimited, or inherit):" placeholder:"N" help:"Requests a second."`
	RequestBurst  *limitFlag    `group:"Terms (each a value, unlimited, or inherit):" placeholder:"N" help:"Requests that may come at once, beyond the rate; by default one second's worth."`
	Concurrent    *limitFlag    `group:"Terms (each a value, unlimited, or inherit):" placeholder:"N" help:"Requests that are under way at once."`
	QuotaDay      *limitFlag    `group:"Terms (each a value, unlimited, or inherit):" placeholder:"N" help:"Requests in a day, UTC."`
	QuotaMonth    *limitFlag    `group:"Terms (each a value, unlimited, or inherit):" placeholder:"N" help:"Requests in a calendar month, UTC."`
	TokenLifetime *lifetimeFlag `group:"Terms (each a value, unlimited, or inherit):" placeholder:"DURATION" help:"How long access tokens live, for example 1h; unlimited is as long as the issuer allows."`
	IssueRate     *limitFlag    `group:"Terms (each a value, unlimited, or inherit):" placeholder:"N" help:"Access tokens issued a minute."`
}

// given reports whether any flag is.
func (f termsFlags) given() bool { return f != (termsFlags{}) }

// change puts what is given into t.
func (f termsFlags) change(t *registry.Terms) {
	for _, one := range []struct {
		flag *setFlag
		set  *registry.Set
	}{{f.Products, &t.Products}, {f.Catalogs, &t.Catalogs}} {
		if one.flag != nil {
			*one.set = registry.Set(*one.flag)
		}
	}
	for _, one := range []struct {
		flag  *limitFlag
		limit *registry.Limit
	}{
		{f.RequestRate, &t.RequestRate}, {f.RequestBurst, &t.RequestBurst}, {f.Concurrent, &t.Concurrent}, {f.QuotaDay, &t.QuotaDay},
		{f.QuotaMonth, &t.QuotaMonth}, {(*limitFlag)(f.TokenLifetime), &t.TokenLifetime}, {f.IssueRate, &t.IssueRate},
	} {
		if one.flag != nil {
			*one.limit = registry.Limit(*one.flag)
		}
	}
}

// terms are those of something new.
func (f termsFlags) terms() (t registry.Terms) {
	f.change(&t)
	return t
}

// allowance reads the two values that every flag of terms has besides its own.
func allowance(text []byte) (s registry.State, ok bool) {
	switch string(text) {
	case "unlimited":
		return registry.Unlimited, true
	case "inherit":
		return registry.Unset, true
	}
	return registry.Value, false
}

// setFlag is names separated by spaces.
type setFlag registry.Set

// UnmarshalText reads the flag.
func (f *setFlag) UnmarshalText(text []byte) error {
	state, ok := allowance(text)
	*f = setFlag{State: state}
	if !ok {
		f.Values = strings.Fields(string(text))
	}
	return nil
}

// limitFlag is a number.
type limitFlag registry.Limit

// UnmarshalText reads the flag.
func (f *limitFlag) UnmarshalText(text []byte) error {
	state, ok := allowance(text)
	*f = limitFlag{State: state}
	if ok {
		return nil
	}
	n, err := strconv.ParseUint(string(text), 10, 53)
	if err != nil {
		return errors.New("use a whole number, unlimited or inherit")
	}
	f.Value = int64(n)
	return nil
}

// lifetimeFlag is a duration of whole seconds.
type lifetimeFlag registry.Limit

// UnmarshalText reads the flag.
func (f *lifetimeFlag) UnmarshalText(text []byte) error {
	state, ok := allowance(text)
	*f = lifetimeFlag{State: state}
	if ok {
		return nil
	}
	d, err := time.ParseDuration(string(text))
	if err != nil || d < time.Second || d%time.Second != 0 {
		return errors.New("use whole seconds, at least one, with their unit, for example 90m or 2h, or unlimited or inherit")
	}
	f.Value = int64(d / time.Second)
	return nil
}

// momentFlag is a point in time; zero is always, for a beginning, and never, for an end.
type momentFlag struct{ at registry.Time }

// UnmarshalText reads the flag.
func (f *momentFlag) UnmarshalText(text []byte) error {
	if s := string(text); s == "always" || s == "never" {
		*f = momentFlag{}
		return nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if at, err := time.Parse(layout, string(text)); err == nil && at.Year() >= 1971 {
			f.at = registry.At(at)
			return nil
		}
	}
	return errors.New("use a day or a time from 1971 on, as in 2026-01-31 or 2026-01-31T12:00:00Z")
}

// time is nil when the flag is not given.
func (f *momentFlag) time() *registry.Time {
	if f == nil {
		return nil
	}
	return &f.at
}

// termsRows are terms for a table; unset is what an unset field says.
func termsRows(t registry.Terms, unset string) []row {
	var rows []row
	for _, f := range registry.Fields(t, registry.Sources{}) {
		rows = append(rows, row{termName(f), termText(f, unset)})
	}
	return rows
}

func termName(f registry.Field) string { return strings.ReplaceAll(f.Name, "_", " ") }

// termText is a field's value.
func termText(f registry.Field, unset string) string {
	switch v := f.Value.(type) {
	case registry.Set:
		return setText(v, unset)
	case registry.Limit:
		return limitText(v, unset, f.Name == "token_lifetime")
	}
	return ""
}

// maxShown is how many names a table shows of one set.
const maxShown = 50

func setText(s registry.Set, unset string) string {
	switch {
	case s.State == registry.Unset:
		return unset
	case s.State == registry.Unlimited:
		return "unlimited"
	case len(s.Values) == 0:
		return "none"
	case len(s.Values) > maxShown:
		return fmt.Sprintf("%s and %d more", strings.Join(s.Values[:maxShown], " "), len(s.Values)-maxShown)
	}
	return strings.Join(s.Values, " ")
}

func limitText(l registry.Limit, unset string, seconds bool) string {
	switch {
	case l.State == registry.Unset:
		return unset
	case l.State == registry.Unlimited:
		return "unlimited"
	case seconds:
		return (time.Duration(l.Value) * time.Second).String()
	}
	return strconv.FormatInt(l.Value, 10)
}
