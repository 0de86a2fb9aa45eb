package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// goal is one promise: a figure of a row, as a ratio to another row's in the same round or as it is.
type goal struct {
	mode, name string
	row, to    string // names of rows; to is empty where the figure itself counts
	figure     func(*row, measurement) float64
	limit      float64
	atLeast    bool // more is better
	unit       string
}

func cpuMicros(_ *row, m measurement) float64     { return m.CPUMicros }
func perSecond(_ *row, m measurement) float64     { return m.PerSecond }
func idleMegabytes(r *row, _ measurement) float64 { return float64(r.idle) / 1e6 }

// goals are explained in README.md, which also names those that this program does not measure.
func goals() []goal {
	return []goal{
		{modeWarm, "CPU, ES256 warm, to nginx with no auth: first", "postern-es256", "nginx", cpuMicros, 1.10, false, "x"},
		{modeWarm, "CPU, ES256 warm, to nginx with no auth: then", "postern-es256", "nginx", cpuMicros, 0.95, false, "x"},
		{modeWarm, "CPU, RS256 warm, to nginx with no auth: first", "postern-rs256", "nginx", cpuMicros, 1.10, false, "x"},
		{modeWarm, "CPU, RS256 warm, to nginx with no auth: then", "postern-rs256", "nginx", cpuMicros, 0.95, false, "x"},
		{modeWarm, "CPU, ES256 warm, to HAProxy jwt_verify ES256", "postern-es256", "haproxy-es256", cpuMicros, 1.0 / 6, false, "x"},
		{modeWarm, "CPU, RS256 warm, to HAProxy jwt_verify RS256", "postern-rs256", "haproxy-rs256", cpuMicros, 1.0 / 3, false, "x"},
		{modeWarm, "memory, idle", "postern-es256", "", idleMegabytes, 25, false, " MB"},
		{modeWarm, "CPU, ES256 warm, to the build before", "postern-es256", before + "es256", cpuMicros, 1.10, false, "x"},
		{modeCold, "CPU, ES256 cold, to HAProxy jwt_verify ES256", "postern-es256", "haproxy-es256", cpuMicros, 1, false, "x"},
		{modeIssue, "issuing ES256, durable", "postern-es256", "", perSecond, 5000, true, "/s"},
	}
}

// report is what --json prints. Figures are medians over the rounds; ratios are medians of each round's own ratio.
type report struct {
	Mode        string       `json:"mode"`
	Machine     string       `json:"machine"`
	Seconds     int          `json:"seconds"`
	Rounds      int          `json:"rounds"`
	Connections int          `json:"connections"`
	Threads     int          `json:"threads"`
	Tokens      int          `json:"tokens"`
	FsyncMillis float64      `json:"fsync_ms,omitempty"`
	Rows        []rowReport  `json:"rows"`
	Goals       []goalReport `json:"goals"`
}

type rowReport struct {
	Name    string        `json:"name"`
	Title   string        `json:"title"`
	Invalid string        `json:"invalid,omitempty"` // why it does not count
	Median  measurement   `json:"median"`
	Spread  float64       `json:"cpu_spread"`              // (most - least) / median of the CPU per request
	Rate    float64       `json:"rate_to_nginx,omitempty"` // 0: not known
	CPU     float64       `json:"cpu_to_nginx,omitempty"`
	Idle    int64         `json:"idle_rss_bytes"`
	Rounds  []measurement `json:"rounds"`
}

type goalReport struct {
	Name    string  `json:"name"`
	Limit   float64 `json:"limit"`
	AtLeast bool    `json:"at_least"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
	Reached bool    `json:"reached"`
	Off     float64 `json:"off"` // how far beyond the limit, as a part of it; negative: to spare
}

func (b *bench) report(rows []*row) report {
	r := report{Mode: b.mode, Machine: machine(), Seconds: b.seconds, Rounds: b.settings.rounds, Connections: b.connections,
		Threads: b.threads, Tokens: b.tokens, FsyncMillis: float64(b.fsync.Microseconds()) / 1e3}
	valid := map[string]*row{}
	for _, w := range rows {
		if b.invalid(w) == "" {
			valid[w.Name] = w
		}
	}
	for _, w := range rows {
		cpu := w.each(cpuMicros)
		line := rowReport{Name: w.Name, Title: w.Title, Invalid: b.invalid(w), Idle: w.idle, Rounds: w.Rounds}
		line.Median = medianOf(w)
		line.Spread = (slices.Max(cpu) - slices.Min(cpu)) / max(median(cpu), 0.001)
		if base := valid["nginx"]; base != nil && line.Invalid == "" {
			line.Rate, line.CPU = ratio(w, base, perSecond), ratio(w, base, cpuMicros)
		}
		r.Rows = append(r.Rows, line)
	}
	for _, g := range goals() {
		w, to := valid[g.row], valid[g.to]
		if g.mode != b.mode || w == nil || g.to != "" && to == nil || b.mode == modeIssue && fileSystem(b.dir) == "tmpfs" {
			continue
		}
		value := median(w.each(g.figure))
		if to != nil {
			value = ratio(w, to, g.figure)
		}
		off := value/g.limit - 1
		if g.atLeast {
			off = 1 - value/g.limit
		}
		r.Goals = append(r.Goals, goalReport{g.name, g.limit, g.atLeast, value, g.unit, off <= 0, off})
	}
	return r
}

// invalid says why w does not count; "" if it does.
func (b *bench) invalid(w *row) string {
	for _, m := range w.Rounds {
		looked := m.Hits + m.Misses
		switch {
		case m.Errors > 0:
			return fmt.Sprintf("%d errors in one round", m.Errors)
		case m.Requests == 0:
			return "no answers"
		case w.target != nil && w.target.metrics != "" && looked == 0:
			return "postern's cache counters did not move: it is not known whether the cache was warm"
		case b.mode == modeCold && w.target.tokens != "" && m.Requests > b.tokens:
			return fmt.Sprintf("%d requests with %d tokens: tokens were seen again (raise --tokens)", m.Requests, b.tokens)
		case b.mode == modeCold && m.Hits > 0.01*looked:
			return fmt.Sprintf("cache was hit %.0f times of %.0f", m.Hits, looked)
		case b.mode == modeWarm && b.tokens == 1 && m.Misses > 0.01*looked:
			return fmt.Sprintf("cache was missed %.0f times of %.0f", m.Misses, looked)
		}
	}
	return ""
}

func (w *row) each(figure func(*row, measurement) float64) []float64 {
	var values []float64
	for _, m := range w.Rounds {
		values = append(values, figure(w, m))
	}
	return values
}

// ratio compares within each round, and takes the median of that: what slows a whole round cancels out.
func ratio(w, to *row, figure func(*row, measurement) float64) float64 {
	var values []float64
	for i := range w.Rounds {
		values = append(values, figure(w, w.Rounds[i])/max(figure(to, to.Rounds[i]), 1e-9))
	}
	return median(values)
}

func medianOf(w *row) measurement {
	of := func(f func(measurement) float64) float64 {
		return median(w.each(func(_ *row, m measurement) float64 { return f(m) }))
	}
	return measurement{
		Requests:  int(of(func(m measurement) float64 { return float64(m.Requests) })),
		Errors:    int(slices.Max(w.each(func(_ *row, m measurement) float64 { return float64(m.Errors) }))),
		PerSecond: of(func(m measurement) float64 { return m.PerSecond }),
		CPUMicros: of(func(m measurement) float64 { return m.CPUMicros }),
		P50Millis: of(func(m measurement) float64 { return m.P50Millis }),
		P99Millis: of(func(m measurement) float64 { return m.P99Millis }),
		RSS:       int64(of(func(m measurement) float64 { return float64(m.RSS) })),
		Hits:      of(func(m measurement) float64 { return m.Hits }),
		Misses:    of(func(m measurement) float64 { return m.Misses }),
		Elsewhere: slices.Max(w.each(func(_ *row, m measurement) float64 { return m.Elsewhere })),
	}
}

func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func (r report) writeJSON(out io.Writer) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func (r report) writeTable(out io.Writer) error {
	what := map[string]string{modeWarm: "warm cache", modeCold: "cold tokens, each seen once", modeIssue: "issuing"}[r.Mode]
	var text strings.Builder
	fmt.Fprintf(&text, "%s: %d connections, wrk threads: %d, medians of %d rounds of %d s\n%s\n", what, r.Connections,
		r.Threads, r.Rounds, r.Seconds, r.Machine)
	if r.FsyncMillis > 0 {
		fmt.Fprintf(&text, "write and fsync of 4 KiB beside the store: %.2f ms\n", r.FsyncMillis)
	}
	text.WriteString("\n")
	r.writeRows(&text)
	if len(r.Goals) > 0 {
		text.WriteString("\ngoals\n")
		g := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
		for _, v := range r.Goals {
			fmt.Fprintf(g, "  %s\t%s\t%s\t%s\n", v.Name, amount(v.Value, v.Unit), v.bound(), v.verdict())
		}
		g.Flush()
	}
	text.WriteString(r.warnings())
	_, err := io.WriteString(out, text.String())
	return err
}

// writeRows leaves the ratios out where there is no nginx to compare with.
func (r report) writeRows(out io.Writer) {
	wide := 0
	for _, w := range r.Rows {
		wide = max(wide, len(w.Title))
	}
	compared := slices.ContainsFunc(r.Rows, func(w rowReport) bool { return w.CPU != 0 })
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(title, rate, rateRatio, cpu, cpuRatio string, rest ...string) {
		cells := []string{fmt.Sprintf("%-*s", wide, title), rate, cpu}
		if compared {
			cells = []string{cells[0], rate, rateRatio, cpu, cpuRatio}
		}
		fmt.Fprintln(t, strings.Join(append(cells, rest...), "\t")+"\t")
	}
	rate := map[bool]string{false: "requests/s", true: "tokens/s"}[r.Mode == modeIssue]
	line("", rate, "to nginx", "CPU us", "to nginx", "+-", "p50 ms", "p99 ms", "RSS MB", "idle MB", "errors")
	megabytes := func(n int64) string { return fmt.Sprintf("%.1f", float64(n)/1e6) }
	for _, w := range r.Rows {
		m := w.Median
		line(w.Title, thousands(m.PerSecond), orBlank(w.Rate), fmt.Sprintf("%.1f", m.CPUMicros), orBlank(w.CPU),
			fmt.Sprintf("%.0f %%", w.Spread*50), fmt.Sprintf("%.2f", m.P50Millis), fmt.Sprintf("%.2f", m.P99Millis),
			megabytes(m.RSS), megabytes(w.Idle), fmt.Sprint(m.Errors))
	}
	t.Flush()
}

// warnings say which rows do not count, and why the others may count for less.
func (r report) warnings() string {
	var text strings.Builder
	var noisy []string
	elsewhere := 0.0
	for _, w := range r.Rows {
		elsewhere = max(elsewhere, w.Median.Elsewhere)
		if w.Invalid != "" {
			fmt.Fprintf(&text, "\nINVALID: %s: %s\n", w.Title, w.Invalid)
		} else if w.Spread > 0.2 {
			noisy = append(noisy, fmt.Sprintf("%s by %.0f %%", w.Name, w.Spread*100))
		}
	}
	if len(noisy) > 0 {
		fmt.Fprintf(&text, "\nnoisy: CPU per request moved between rounds: %s\n", strings.Join(noisy, ", "))
	}
	if elsewhere > 0.1 {
		fmt.Fprintf(&text, "\nnoisy: other programs took up to %.1f of the cores: do not compare these figures\n", elsewhere)
	}
	return text.String()
}

func (g goalReport) bound() string {
	if g.AtLeast {
		return ">= " + amount(g.Limit, g.Unit)
	}
	return "<= " + amount(g.Limit, g.Unit)
}

func (g goalReport) verdict() string {
	if g.Reached {
		return fmt.Sprintf("reached, %.0f %% to spare", -g.Off*100)
	}
	return fmt.Sprintf("missed by %.0f %%", g.Off*100)
}

// invalid is the error of a run whose figures must not be used.
func (r report) invalid() error {
	var names []string
	for _, w := range r.Rows {
		if w.Invalid != "" {
			names = append(names, w.Name)
		}
	}
	if len(names) > 0 {
		return fmt.Errorf("rows that do not count: %s", strings.Join(names, ", "))
	}
	return nil
}

func amount(v float64, unit string) string {
	if v >= 1000 {
		return thousands(v) + unit
	}
	return fmt.Sprintf("%.2f%s", v, unit)
}

func orBlank(v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", v)
}

// thousands writes 48400 as 48,400.
func thousands(v float64) string {
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
