package scenarios

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/shopspring/decimal"
)

// SLO is a service level objective, in OpenSLO's words: what share of a stream's
// requests is to be good in a rolling window, and what should be told when its
// error budget burns.
type SLO struct {
	Name      string
	Load      string
	Objective decimal.Decimal // share, below 1
	Within    time.Duration   // good: ok within this; 0: ok
	Window    time.Duration
	Scale     float64 // seconds of the SLO's clock in one of the run; default 1
	Spends    float64 // at most this share of the budget; 0: not claimed
	Alerts    []SLOAlert
	AlertsSet bool // otherwise the usual four
}

// SLOAlert fires while the budget burns faster than Burn in both windows, which
// may be one.
type SLOAlert struct {
	Severity    string // default page
	Long, Short time.Duration
	Burn        decimal.Decimal
	Fires       time.Duration // within this of the first fault, on the SLO's clock; 0: not claimed
	After       time.Duration // it must burn so for so long, without a break, on the SLO's clock
	AtLeast     bool          // Burn itself is enough
}

type slo struct {
	Name      string      `yaml:"-"`
	Load      string      `yaml:"load" doc:"The load stream it is about. Default: the stream of the same name, or the only one."`
	Objective *share      `yaml:"objective" doc:"The share of requests that are to be good in the window; the others are the error budget."`
	Window    *window     `yaml:"window" doc:"The rolling window of the objective: 30d, 4w, 12h."`
	Indicator *indicator  `yaml:"indicator" doc:"Which requests are good: ok (default), or ok within a time."`
	Scale     *float64    `yaml:"scale" doc:"How many seconds of the SLO's clock one second of the run stands for: with 60, an outage of 20 s counts as one of 20 min, and every window is a sixtieth. Default 1."`
	Spends    *share      `yaml:"spends" doc:"The share of the error budget that the incident may spend at most. Default: shown, not judged."`
	Alerts    *[]sloAlert `yaml:"alerts" doc:"Burn-rate alerts to evaluate. Default: 2% of the budget in 1h, 5% in 6h (page), 10% in 1d, 10% in 3d (ticket), each with a short window of a twelfth; [] means none."`
	OpenSLO   string      `yaml:"openslo" doc:"An OpenSLO v1 file beside the scenario, from which objective, window and alert policies are taken."`
	taken     []SLOAlert  // of the OpenSLO file's policies
}

type sloAlert struct {
	Severity string  `yaml:"severity" doc:"What it does: page (default), ticket."`
	Long     *window `yaml:"long,required" doc:"The window that shows that it matters: 1h."`
	Short    *window `yaml:"short,required" doc:"The window that shows that it still goes on: 5m."`
	Burn     float64 `yaml:"burn,required" doc:"The burn rate that both must exceed: 1 spends the whole budget in the window of the objective."`
	Fires    *window `yaml:"fires" doc:"It must fire within this time of the first fault, on the SLO's clock. Default: shown, not judged."`
}

// share is above 0% and below 100%, exactly as it was written.
type share decimal.Decimal

// UnmarshalText reads "99.9%".
func (s *share) UnmarshalText(text []byte) error {
	digits, unit := strings.CutSuffix(strings.TrimSpace(string(text)), "%")
	d, err := decimal.NewFromString(strings.TrimSpace(digits))
	switch {
	case err != nil || len(digits) > 20:
		return fmt.Errorf("%q is not a share: write one like 99.9%%", text)
	case !unit:
		return fmt.Errorf("%q has no unit: write %s%%", text, text)
	case d.Sign() <= 0 || d.GreaterThanOrEqual(decimal.NewFromInt(100)):
		return fmt.Errorf("a share is above 0%% and below 100%% here, not %s", text)
	}
	*s = share(d.Shift(-2))
	return nil
}

// window is a duration with days and weeks, as OpenSLO writes it.
type window time.Duration

// UnmarshalText reads "30d", "4w", or what durations look like elsewhere.
func (w *window) UnmarshalText(text []byte) error {
	d, err := parseWindow(string(text))
	if err != nil {
		return err
	}
	*w = window(d)
	return nil
}

// longestWindow is more than anyone budgets over.
const longestWindow = 366 * 24 * time.Hour

func parseWindow(text string) (time.Duration, error) {
	s := strings.TrimSpace(text)
	var d time.Duration
	for unit, length := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if digits, ok := strings.CutSuffix(s, unit); ok {
			n, err := strconv.Atoi(digits)
			if err != nil || n < 0 || n > 10_000 {
				return 0, fmt.Errorf("%q is not a time: write one like 30d, 4w or 12h", text)
			}
			d = time.Duration(n) * length
		}
	}
	if d == 0 {
		var err error
		if d, err = time.ParseDuration(s); err != nil {
			return 0, fmt.Errorf("%q is not a time: write one like 30d, 4w or 12h", text)
		}
	}
	if d <= 0 || d > longestWindow {
		return 0, fmt.Errorf("a time is above 0 and at most 366d here, not %s", text)
	}
	return d, nil
}

// indicator says which requests are good: 0 means all that are ok.
type indicator time.Duration

// UnmarshalText reads "ok" and "ok within 300ms".
func (i *indicator) UnmarshalText(text []byte) error {
	words := strings.Fields(string(text))
	switch {
	case len(words) == 1 && words[0] == "ok":
		*i = 0
		return nil
	case len(words) == 3 && words[0] == "ok" && words[1] == "within":
		d, err := time.ParseDuration(words[2])
		if err != nil || d <= 0 {
			return fmt.Errorf("%q is not a latency: write ok within 300ms", words[2])
		}
		*i = indicator(d)
		return nil
	case len(words) > 0 && strings.HasPrefix(words[0], "p"):
		return fmt.Errorf("%q is about a percentile, and a budget counts single requests: write ok within 300ms, and the share as the objective", text)
	}
	return fmt.Errorf("%q is no indicator: write ok, or ok within 300ms", text)
}

// slos checks the SLOs, and reads what they take from OpenSLO files.
func (c *checker) slos(files fs.FS) {
	for i := range c.file.SLOs {
		s := &c.file.SLOs[i]
		at, who := "slos."+s.Name, fmt.Sprintf("SLO %q", s.Name)
		if !namePattern.MatchString(s.Name) {
			c.doc.Report(at, "", "%q cannot name an SLO: use letters, digits, - _ and dots, at most 64, a letter or digit first", s.Name)
		}
		if s.Load == "" {
			s.Load = c.onlyStream(s.Name)
			if s.Load == "" {
				c.doc.Report(at, "write load: STREAM", "%s: it does not say which load stream it is about", who)
			}
		} else {
			c.stream(at+".load", who, s.Load)
		}
		if s.OpenSLO != "" {
			if err := s.take(files); err != nil {
				c.doc.Report(at+".openslo", "", "%s: %v", who, err)
				continue
			}
		} else {
			if s.Objective == nil && !c.doc.Has(at+".objective") {
				c.doc.Report(at, "write objective: 99.9%", "%s has no objective, and no openslo file that has one", who)
			}
			if s.Window == nil && !c.doc.Has(at+".window") {
				c.doc.Report(at, "write window: 30d", "%s has no window, and no openslo file that has one", who)
			}
		}
		scale := 1.0
		if s.Scale != nil {
			scale = *s.Scale
			if !(scale > 0 && scale <= 1e6) {
				c.doc.Report(at+".scale", "", "scale is a factor above 0, at most 1000000; got %v", scale)
				scale = 1
			}
		}
		if s.Alerts == nil {
			for _, a := range s.taken {
				s.unfit(a.Long, a.Short, a.Burn, scale, func(_, _, format string, args ...any) {
					c.doc.Report(at+".openslo", "write alerts of your own, or alerts: []", "%s: its alert over %s: %s", s.OpenSLO, a.Long, fmt.Sprintf(format, args...))
				})
			}
		} else {
			for k, a := range *s.Alerts {
				c.sloAlert(fmt.Sprintf("%s.alerts[%d]", at, k), *s, a, scale)
			}
		}
	}
}

// onlyStream is the stream that an SLO without a load means.
func (c *checker) onlyStream(name string) string {
	if len(c.file.Load) == 1 {
		return c.file.Load[0].Name
	}
	for _, l := range c.file.Load {
		if l.Name == name {
			return name
		}
	}
	return ""
}

// finest is what the journal tells apart.
const finest = 100 * time.Millisecond

func (c *checker) sloAlert(at string, s slo, a sloAlert, scale float64) {
	if a.Long == nil || a.Short == nil {
		return // said by the decoder
	}
	long, short := time.Duration(*a.Long), time.Duration(*a.Short)
	if short >= long {
		c.doc.Report(at+".short", "a twelfth of the long one is usual", "the short window (%s) must be shorter than the long one (%s)", short, long)
		return
	}
	burn := decimal.NewFromInt(1) // where none is written, that was said
	if c.doc.Has(at + ".burn") {
		if !(a.Burn > 0 && a.Burn < 1e9) {
			c.doc.Report(at+".burn", "", "a burn rate is above 0; got %v", a.Burn)
		} else {
			burn = decimal.NewFromFloat(a.Burn)
		}
	}
	s.unfit(long, short, burn, scale, func(field, hint, format string, args ...any) {
		c.doc.Report(at+"."+field, hint, format, args...)
	})
}

// unfit reports what keeps an alert from being evaluated in a run, or from ever firing.
func (s slo) unfit(long, short time.Duration, burn decimal.Decimal, scale float64, report func(field, hint, format string, args ...any)) {
	switch {
	case s.Window != nil && long > time.Duration(*s.Window):
		report("long", "", "the long window (%s) is longer than that of the objective (%s)", long, time.Duration(*s.Window))
	case float64(short)/scale < float64(finest):
		report("short", "make scale smaller", "at scale %v the short window is %s of the run, shorter than the %s that are told apart", scale, time.Duration(float64(short)/scale), finest)
	}
	if s.Objective != nil {
		allowed := decimal.NewFromInt(1).Sub(decimal.Decimal(*s.Objective))
		if burn.Mul(allowed).GreaterThanOrEqual(decimal.NewFromInt(1)) {
			report("burn", "", "it can never fire: with every request bad the budget burns at %s, and %s is asked", decimal.NewFromInt(1).DivRound(allowed, 2), burn)
		}
	}
}

// openSLO is what is taken of an OpenSLO v1 file (https://github.com/OpenSLO/OpenSLO).
// Where it measures (indicator) is another system's business: here the load stream is.
type openSLO struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
	Spec struct {
		BudgetingMethod string `yaml:"budgetingMethod"`
		TimeWindow      []struct {
			Duration  string `yaml:"duration"`
			IsRolling *bool  `yaml:"isRolling"`
		} `yaml:"timeWindow"`
		Objectives []struct {
			Target        *float64 `yaml:"target"`
			TargetPercent *float64 `yaml:"targetPercent"`
		} `yaml:"objectives"`
		AlertPolicies []openSLOPolicy `yaml:"alertPolicies"`
	} `yaml:"spec"`

	alerts  []SLOAlert // of its policies
	refused error      // why they cannot be evaluated here
}

// mostOpenSLO bounds the file: it is a page of text.
const mostOpenSLO = 256 << 10

// take fills in objective and window from the OpenSLO file; what the scenario says itself stands.
func (s *slo) take(files fs.FS) error {
	if files == nil {
		return fmt.Errorf("%s: OpenSLO files are read beside a scenario file, and this scenario is none", s.OpenSLO)
	}
	f, err := files.Open(s.OpenSLO)
	if err != nil {
		return fmt.Errorf("%s cannot be read: %w", s.OpenSLO, err)
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, mostOpenSLO+1))
	switch {
	case err != nil:
		return fmt.Errorf("%s cannot be read: %w", s.OpenSLO, err)
	case len(src) > mostOpenSLO:
		return fmt.Errorf("%s is larger than %d KiB", s.OpenSLO, mostOpenSLO>>10)
	}
	found, err := readOpenSLO(src, s.Name)
	if err != nil {
		return fmt.Errorf("%s: %w", s.OpenSLO, err)
	}
	spec := found.Spec
	if m := spec.BudgetingMethod; m != "Occurrences" {
		return fmt.Errorf("%s: budgetingMethod %q: only Occurrences are counted here", s.OpenSLO, m)
	}
	if s.Objective == nil {
		if len(spec.Objectives) != 1 {
			return fmt.Errorf("%s: it has %d objectives: write the one that is meant as objective", s.OpenSLO, len(spec.Objectives))
		}
		var d decimal.Decimal
		switch o := spec.Objectives[0]; {
		case o.Target != nil:
			d = decimal.NewFromFloat(*o.Target)
		case o.TargetPercent != nil:
			d = decimal.NewFromFloat(*o.TargetPercent).Shift(-2)
		}
		if d.Sign() <= 0 || d.GreaterThanOrEqual(decimal.NewFromInt(1)) {
			return fmt.Errorf("%s: its objective has no target above 0 and below 1", s.OpenSLO)
		}
		x := share(d)
		s.Objective = &x
	}
	if s.Window == nil {
		switch {
		case len(spec.TimeWindow) != 1:
			return fmt.Errorf("%s: it has %d time windows: write the one that is meant as window", s.OpenSLO, len(spec.TimeWindow))
		case spec.TimeWindow[0].IsRolling != nil && !*spec.TimeWindow[0].IsRolling:
			return fmt.Errorf("%s: its time window follows the calendar, and only rolling ones are known here: write window: 30d", s.OpenSLO)
		}
		d, err := parseWindow(spec.TimeWindow[0].Duration)
		if err != nil {
			return fmt.Errorf("%s: timeWindow: %w", s.OpenSLO, err)
		}
		w := window(d)
		s.Window = &w
	}
	if s.Alerts == nil && found.refused != nil {
		return fmt.Errorf("%s: %w: write alerts of your own, or alerts: []", s.OpenSLO, found.refused)
	}
	s.taken = found.alerts
	return nil
}

// readOpenSLO finds the SLO of the name, or the only one, in a file of several documents.
func readOpenSLO(src []byte, name string) (found openSLO, err error) {
	defer func() { // some malformed files make the YAML parser panic
		if p := recover(); p != nil {
			err = fmt.Errorf("it confuses the YAML parser (%v)", p)
		}
	}()
	var all []openSLO
	rules := openSLORules{}
	for d := yaml.NewDecoder(bytes.NewReader(src)); ; {
		var text yaml.MapSlice
		err := d.Decode(&text)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return openSLO{}, fmt.Errorf("not YAML that OpenSLO describes: %w", err)
		}
		doc, err := yaml.Marshal(text)
		if err != nil {
			return openSLO{}, fmt.Errorf("not YAML that OpenSLO describes: %w", err)
		}
		var o openSLO
		if err := rules.add(doc); err != nil {
			return openSLO{}, err
		}
		if err := yaml.Unmarshal(doc, &o); err != nil {
			return openSLO{}, fmt.Errorf("not YAML that OpenSLO describes: %w", err)
		}
		if o.Kind != "SLO" {
			continue
		}
		if o.APIVersion != "openslo/v1" {
			return openSLO{}, fmt.Errorf("apiVersion %q: openslo/v1 is read", o.APIVersion)
		}
		all = append(all, o)
	}
	at := slices.IndexFunc(all, func(o openSLO) bool { return o.Metadata.Name == name })
	switch {
	case len(all) == 0:
		return openSLO{}, errors.New("it holds no document of kind: SLO")
	case at < 0 && len(all) > 1:
		return openSLO{}, fmt.Errorf("it holds %d SLOs, and none of them is named %q", len(all), name)
	}
	found = all[max(at, 0)]
	found.alerts, found.refused = rules.alerts(found.Spec.AlertPolicies)
	return found, nil
}

// slo is the SLO with its defaults.
func (s slo) slo() SLO {
	out := SLO{Name: s.Name, Load: s.Load, Objective: decimal.Decimal(*s.Objective), Window: time.Duration(*s.Window), Scale: 1}
	if s.Indicator != nil {
		out.Within = time.Duration(*s.Indicator)
	}
	if s.Scale != nil {
		out.Scale = *s.Scale
	}
	if s.Spends != nil {
		out.Spends = decimal.Decimal(*s.Spends).InexactFloat64()
	}
	if s.Alerts == nil {
		out.Alerts, out.AlertsSet = s.taken, len(s.taken) > 0
		return out
	}
	out.AlertsSet = true
	for _, a := range *s.Alerts {
		alert := SLOAlert{Severity: a.Severity, Long: time.Duration(*a.Long), Short: time.Duration(*a.Short), Burn: decimal.NewFromFloat(a.Burn)}
		if alert.Severity == "" {
			alert.Severity = "page"
		}
		if a.Fires != nil {
			alert.Fires = time.Duration(*a.Fires)
		}
		out.Alerts = append(out.Alerts, alert)
	}
	return out
}
