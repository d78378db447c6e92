package toxiproxy

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	update = flag.Bool("update", false, "write the transcripts anew")
	peer   = flag.String("peer", "", "address of a real Toxiproxy to hold testdata/toxiproxy.txt against (-update: to record it from)")
)

// TestTranscripts plays testdata/*.txt: toxiproxy.txt was recorded from Toxiproxy
// v2.12.0, so that byte for byte we say the same; chaosctl.txt is what we do better, and
// extended.txt what it does not have.
func TestTranscripts(t *testing.T) {
	for _, name := range []string{"toxiproxy.txt", "chaosctl.txt", "extended.txt"} {
		t.Run(name, func(t *testing.T) {
			at := *peer
			switch {
			case at != "" && name != "toxiproxy.txt":
				t.Skip("not for a real Toxiproxy")
			case at == "":
				at = startServer(t, Config{MaxProxies: 8}).URL
			}
			path := filepath.Join("testdata", name)
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, at, string(want))
			if *update && (*peer != "") == (name == "toxiproxy.txt") {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("%s (-recorded +now):\n%s", name, diff)
			}
		})
	}
}

var (
	somewhere = regexp.MustCompile(`(?:udp://)?127\.0\.0\.1:[1-9]\d*`)
	addressOf = regexp.MustCompile(`"name":"(\w+)","listen":"(` + somewhere.String() + `)"`)
	reference = regexp.MustCompile(`\$\w+`)
	wish      = regexp.MustCompile(`(?:"name":"(\w+)",)?"listen":"(\$\w+)"`)
)

// play sends the requests of a transcript and returns it with the answers of now. In
// those, $name is the address that the proxy of that name was given, also where another
// has asked for it as $name. Equal addresses alone are not the same: the kernel may give
// one that a proxy has left to the next.
func play(t *testing.T, base, transcript string) string {
	t.Helper()
	var out strings.Builder
	type place struct{ at, as string }
	places := map[string]place{}     // by proxy
	addresses := map[string]string{} // by $name
	for line := range strings.Lines(transcript) {
		line = strings.TrimSuffix(line, "\n")
		request, ok := strings.CutPrefix(line, "> ")
		if !ok {
			if line == "" || strings.HasPrefix(line, "#") {
				out.WriteString(line + "\n")
			}
			continue
		}
		parts := strings.SplitN(request, " ", 3)
		body := ""
		asked := map[string]string{} // $name by address
		if len(parts) == 3 {
			body = reference.ReplaceAllStringFunc(parts[2], func(name string) string {
				asked[addresses[name]] = name
				return addresses[name]
			})
			for _, m := range wish.FindAllStringSubmatch(parts[2], -1) {
				name := m[1]
				if name == "" {
					name = filepath.Base(parts[1])
				}
				places[name] = place{addresses[m[2]], m[2]}
			}
		}
		resp, answer := send(t, parts[0], base+parts[1], body, nil)
		answer = addressOf.ReplaceAllStringFunc(answer, func(pair string) string {
			m := addressOf.FindStringSubmatch(pair)
			name, at := m[1], m[2]
			p := places[name]
			if p.at != at {
				p = place{at, "$" + name}
				places[name], addresses[p.as] = p, at
			}
			return fmt.Sprintf(`"name":%q,"listen":%q`, name, p.as)
		})
		answer = somewhere.ReplaceAllStringFunc(answer, func(at string) string {
			if as, is := asked[at]; is {
				return as
			}
			return at
		})
		fmt.Fprintf(&out, "%s\n%d %s\n", line, resp.StatusCode, resp.Header.Get("Content-Type"))
		if answer != "" {
			out.WriteString(strings.TrimSuffix(answer, "\n") + "\n")
		}
	}
	return out.String()
}

func startServer(t *testing.T, c Config) *httptest.Server {
	t.Helper()
	s := NewServer(c)
	h := httptest.NewServer(s)
	t.Cleanup(func() { h.Close(); s.Stop() })
	return h
}

func send(t *testing.T, method, url, body string, header http.Header) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, bytes.NewBufferString(body))
	if err != nil {
		t.Fatal(err)
	}
	for k := range header {
		req.Header.Set(k, header.Get(k))
	}
	if h := header.Get("Host"); h != "" {
		req.Host = h
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}
