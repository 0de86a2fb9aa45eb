package config

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Duration is a length of time, written with its unit: 500ms, 30s, 5m, 2h, 1h30m.
type Duration time.Duration

// maxDuration keeps every sum with a time of today far from any overflow.
const maxDuration = Duration(10 * 365 * 24 * time.Hour)

// durationPattern is what a duration looks like; the JSON Schema carries it too.
const durationPattern = `^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$`

var durationForm = regexp.MustCompile(durationPattern)

// String writes d as an operator would: 2h, not 2h0m0s.
func (d Duration) String() string {
	text := time.Duration(d).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// A wrong is why a text is no value of its type: "is not above 0", and what to do.
// The zero value means that it is one.
type wrong struct{ problem, fix string }

const notAboveZero = "is not above 0"

func parseDuration(text string) (Duration, wrong) {
	const fix = "use a duration such as 30s, 5m or 2h"
	switch n, err := strconv.ParseFloat(text, 64); {
	case err == nil && n <= 0, strings.HasPrefix(text, "-") && durationForm.MatchString(text[1:]):
		return 0, wrong{notAboveZero, fix}
	case err == nil:
		return 0, wrong{"has no unit", fix}
	case !durationForm.MatchString(text):
		return 0, wrong{"is not a duration", fix}
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil || Duration(d) > maxDuration:
		return 0, wrong{"is more than ten years", fix}
	case d <= 0:
		return 0, wrong{notAboveZero, fix}
	}
	return Duration(d), wrong{}
}

// Size is a number of bytes, written with its unit: 512B, 16KiB, 32MiB, 1GiB.
type Size int64

// sizePattern is what a size looks like; the JSON Schema carries it too.
const sizePattern = `^[0-9]+(B|KiB|MiB|GiB)$`

var sizeForm = regexp.MustCompile(sizePattern)

// sizeUnits goes from the largest: String takes the first that divides evenly.
var sizeUnits = [...]struct {
	name  string
	bytes Size
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// String writes s in the largest unit that divides it.
func (s Size) String() string {
	for _, unit := range sizeUnits {
		if s != 0 && s%unit.bytes == 0 {
			return strconv.FormatInt(int64(s/unit.bytes), 10) + unit.name
		}
	}
	return "0B"
}

func parseSize(text string) (Size, wrong) {
	const fix = "use a size such as 16KiB or 32MiB (units: B, KiB, MiB, GiB)"
	if n, err := strconv.ParseFloat(text, 64); err == nil {
		if n <= 0 {
			return 0, wrong{notAboveZero, fix}
		}
		return 0, wrong{"has no unit", fix}
	}
	if !sizeForm.MatchString(text) {
		return 0, wrong{"is not a size", fix}
	}
	for _, unit := range sizeUnits {
		digits, ok := strings.CutSuffix(text, unit.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		switch {
		case err != nil || n > math.MaxInt64/int64(unit.bytes):
			return 0, wrong{"is too large", fix}
		case n == 0:
			return 0, wrong{notAboveZero, fix}
		}
		return Size(n) * unit.bytes, wrong{}
	}
	return 0, wrong{"is not a size", fix} // not reached: sizePattern names sizeUnits
}

func parseBool(text string) (value bool, w wrong) {
	if text != "true" && text != "false" {
		return false, wrong{"is neither true nor false", "write true or false"}
	}
	return text == "true", wrong{}
}

func parseInt(text string) (int, wrong) {
	if n, err := strconv.Atoi(text); err == nil && strings.Trim(text, "0123456789") == "" {
		return n, wrong{}
	}
	return 0, wrong{"is not a whole number", "use digits alone, such as 10000"}
}
