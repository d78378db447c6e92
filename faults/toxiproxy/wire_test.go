package toxiproxy

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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
	addressOf = regexp.MustCompile(`"name":"(\w+)","listen":"((?:udp://)?127\.0\.0\.1:[1-9]\d*)"`)
	reference = regexp.MustCompile(`\$\w+`)
)

// play sends the requests of a transcript and returns it with the answers of now.
func play(t *testing.T, base, transcript string) string {
	t.Helper()
	var out strings.Builder
	addresses := map[string]string{}
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
		if len(parts) == 3 {
			body = reference.ReplaceAllStringFunc(parts[2], func(name string) string { return addresses[name] })
		}
		resp, answer := send(t, parts[0], base+parts[1], body, nil)
		for _, m := range addressOf.FindAllStringSubmatch(answer, -1) {
			addresses["$"+m[1]] = m[2]
		}
		for _, name := range slices.Sorted(maps.Keys(addresses)) {
			answer = strings.ReplaceAll(answer, addresses[name], name)
		}
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
