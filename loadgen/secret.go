package loadgen

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Secret is a value that stands in the environment, not in the scenario. Templates
// write {{.secret.NAME}}; what they render goes over the wire and nowhere else:
// plans hold the variable's name, and samples and results the text [secret NAME].
//
//	secrets: { token: { env: API_TOKEN } }
//
// Nothing of the environment is read that a scenario does not name here.
type Secret struct {
	Env string `yaml:"env,required" json:"env"` // the variable
}

// secretName is what templates call all of them by: {{.secret.token}}.
const secretName = "secret"

// shortestSecret keeps what is taken out of samples from being every second letter.
const shortestSecret = 4

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (s Spec) checkSecrets(report func(path, format string, args ...any)) {
	for _, name := range slices.Sorted(maps.Keys(s.Secrets)) {
		at := "secrets." + name
		switch env := s.Secrets[name].Env; {
		case !identifier.MatchString(name):
			report(at, "%q cannot name a secret: templates say {{.secret.%s}}, so use letters, digits and _, no digit first", name, name)
		case env == "":
			report(at+".env", "which variable of the environment holds it is missing: write env: API_TOKEN")
		case !variableName.MatchString(env):
			report(at+".env", "%q cannot name a variable of the environment: letters, digits and _, no digit first", env)
		}
	}
	if _, ok := s.Data[secretName]; ok && len(s.Secrets) > 0 {
		report("data."+secretName, "{{.%s.…}} is a secret already: give the data another name", secretName)
	}
	for i, step := range s.sequence() {
		if _, ok := step.Capture[secretName]; ok && len(s.Secrets) > 0 {
			report(s.at(i)+".capture."+secretName, "{{.%s.…}} is a secret already: give the captured value another name", secretName)
		}
	}
}

// ReadSecrets finds out whether the stream's secrets are there; nil for lookup is
// the process's environment. The error names everything that is missing. Run does
// the same; who starts other things first asks earlier.
func (s Spec) ReadSecrets(lookup func(name string) (string, bool)) error {
	_, err := s.readSecrets(lookup)
	return err
}

func (s Spec) readSecrets(lookup func(string) (string, bool)) (map[string]string, error) {
	if lookup == nil {
		lookup = os.LookupEnv
	}
	values := map[string]string{}
	var missing []error
	for _, name := range slices.Sorted(maps.Keys(s.Secrets)) {
		env := s.Secrets[name].Env
		value, ok := lookup(env)
		switch {
		case !ok:
			missing = append(missing, fmt.Errorf("load %q: secret %q: the environment has no %s: export %s=… first", s.Name, name, env, env))
		case len(value) < shortestSecret:
			missing = append(missing, fmt.Errorf("load %q: secret %q: %s holds %d characters; a secret has at least %d, so that it can be kept out of what is written", s.Name, name, env, len(value), shortestSecret))
		}
		values[name] = value
	}
	return values, errors.Join(missing...)
}

// secretValues are the secrets by name; before they were read, with a value that is
// none.
func (s Spec) secretValues() map[string]string {
	values := map[string]string{}
	for name := range s.Secrets {
		values[name] = "x"
		if v, ok := s.values[name]; ok {
			values[name] = v
		}
	}
	return values
}

// redactor takes secrets out of texts; nil does nothing.
type redactor struct {
	replacer *strings.Replacer
	forms    []string // what secrets look like
}

// newRedactor knows each value as it is and as templates and messages quote it.
func newRedactor(values map[string]string) *redactor {
	if len(values) == 0 {
		return nil
	}
	r := new(redactor)
	var pairs []string
	names := slices.SortedFunc(maps.Keys(values), func(a, b string) int { // the longest first: one may hold another
		return len(values[b]) - len(values[a])
	})
	for _, name := range names {
		v := values[name]
		if v == "" {
			continue
		}
		quoted := fmt.Sprintf("%q", v)
		json := string(appendJSON(nil, v))
		for _, form := range []string{v, quoted[1 : len(quoted)-1], json[1 : len(json)-1], escape(v)} {
			pairs = append(pairs, form, "[secret "+name+"]")
			r.forms = append(r.forms, form)
		}
	}
	r.replacer = strings.NewReplacer(pairs...)
	return r
}

func (r *redactor) text(s string) string {
	if r == nil || s == "" {
		return s
	}
	s = r.replacer.Replace(s)
	// An excerpt may end in the middle of one.
	parts := strings.Split(s, "…")
	for i, part := range parts[:len(parts)-1] {
		bare := strings.TrimSuffix(part, `"`)
		for _, form := range r.forms {
			for n := min(len(form)-1, len(bare)); n >= shortestSecret; n-- {
				if strings.HasSuffix(bare, form[:n]) {
					parts[i] = bare[:len(bare)-n] + "[secret]" + part[len(bare):]
					bare = ""
					break
				}
			}
		}
	}
	return strings.Join(parts, "…")
}
