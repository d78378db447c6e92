package compare

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// markdown is the block for the document, markers excluded.
func (b Bench) markdown(r *Results, o Options, where string, began time.Time, took time.Duration) string {
	var out strings.Builder
	how := fmt.Sprintf("%d rounds, the programs taking turns; medians ± half of the range", o.Rounds)
	if o.Quick {
		how = "-quick: one short round, which shows that it works and not how well"
	}
	fmt.Fprintf(&out, "%s, %s; %s. Command: `make bench-%s` (%v).\n%s.\n\n",
		began.UTC().Format("2006-01-02 15:04 UTC"), where, how, b.Name, took, strings.Join(slices.Concat([]string{"chaosctl " + revision()}, b.Versions), ", "))
	for _, note := range b.Notes {
		fmt.Fprintf(&out, "%s\n\n", note)
	}
	for _, s := range b.Sections {
		s.write(&out, r)
	}
	for _, c := range sortedKeys(b.Skipped) {
		fmt.Fprintf(&out, "- %s was skipped: %s\n", c, b.Skipped[c])
	}
	for _, err := range r.failed {
		fmt.Fprintf(&out, "- failed: %s\n", strings.ReplaceAll(err.Error(), "\n", " "))
	}
	return strings.TrimSpace(out.String())
}

func (s Section) write(out *strings.Builder, r *Results) {
	fmt.Fprintf(out, "**%s**\n\n|", s.Title)
	for _, c := range s.Columns {
		fmt.Fprintf(out, " | %s", c)
	}
	for _, c := range s.Against {
		fmt.Fprintf(out, " | × better than %s", c)
	}
	fmt.Fprintf(out, " | goal | |\n|---%s|---|---|\n", strings.Repeat("|---:", len(s.Columns)+len(s.Against)))
	for _, p := range s.Probes {
		for _, row := range p.Rows {
			fmt.Fprintf(out, "| %s", row.Label)
			for _, c := range s.Columns {
				fmt.Fprintf(out, " | %s", row.cell(r, c))
			}
			for _, c := range s.Against {
				times, ok := r.times(row, s.ours(), c)
				if !ok || row.Plain {
					out.WriteString(" | –")
					continue
				}
				fmt.Fprintf(out, " | %.2f", times)
			}
			var texts, verdicts []string
			for _, g := range row.Goals {
				text, verdict := g(row, r)
				texts, verdicts = append(texts, text), append(verdicts, verdict)
			}
			if len(slices.Compact(slices.Clone(verdicts))) == 1 {
				verdicts = verdicts[:1]
			}
			fmt.Fprintf(out, " | %s | %s |\n", strings.Join(texts, ", "), strings.Join(verdicts, ", "))
		}
	}
	out.WriteString("\n")
}

// ours is the column that the others are compared with: the last.
func (s Section) ours() string { return s.Columns[len(s.Columns)-1] }

func (row Row) cell(r *Results, column string) string {
	v, ok := r.Median(column, row.Key)
	if !ok {
		return "–"
	}
	if s := r.spread(column, row.Key); s > 0 && !row.Plain {
		return fmt.Sprintf("%s ± %.0f %%", number(v), 100*s)
	}
	return number(v)
}

// machine says what it ran on, as far as the system tells.
func machine() string {
	parts := []string{fmt.Sprintf("%d cores", runtime.NumCPU())}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(b), "model name"); ok {
			line, _, _ := strings.Cut(rest, "\n")
			parts[0] += " (" + strings.TrimLeft(line, "\t :") + ")"
		}
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		parts = append(parts, "Linux "+strings.TrimSpace(string(b)))
	}
	parts = append(parts, runtime.Version())
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		// A machine that was busy beforehand explains a lot.
		lastMinute, _, _ := strings.Cut(string(b), " ")
		parts = append(parts, "load average before "+lastMinute)
	}
	return strings.Join(parts, ", ")
}

// revision is the commit that was measured.
func revision() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "outside of a git repository"
	}
	return strings.TrimSpace(string(out))
}

func sortedKeys(m map[string]string) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
