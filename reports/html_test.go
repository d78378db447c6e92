package reports

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

// element is one start tag of a page.
type element struct {
	name string
	attr map[string]string
}

// parse reads a page strictly: every element is closed in order, no attribute
// stands twice, and the whole of it is what a browser would see.
func parse(t *testing.T, page string) []element {
	t.Helper()
	if _, err := html.Parse(strings.NewReader(page)); err != nil {
		t.Fatal(err)
	}
	var all []element
	var open []string
	z := html.NewTokenizer(strings.NewReader(page))
	for {
		kind := z.Next()
		if kind == html.ErrorToken {
			if z.Err() != io.EOF {
				t.Fatal(z.Err())
			}
			break
		}
		tok := z.Token()
		switch kind {
		case html.StartTagToken, html.SelfClosingTagToken:
			e := element{tok.Data, map[string]string{}}
			for _, a := range tok.Attr {
				if _, twice := e.attr[a.Key]; twice {
					t.Errorf("<%s> has %s twice", tok.Data, a.Key)
				}
				e.attr[a.Key] = a.Val
			}
			all = append(all, e)
			if kind == html.StartTagToken && !slices.Contains([]string{"meta", "br"}, tok.Data) {
				open = append(open, tok.Data)
			}
		case html.EndTagToken:
			if len(open) == 0 || open[len(open)-1] != tok.Data {
				t.Fatalf("</%s> closes %q", tok.Data, open)
			}
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		t.Errorf("left open: %q", open)
	}
	return all
}

func TestHTMLIsWellFormed(t *testing.T) {
	each(t, func(t *testing.T, r Report) {
		ids := map[string]bool{}
		all := parse(t, render(t, HTML, r))
		for _, e := range all {
			if id, ok := e.attr["id"]; ok {
				if ids[id] {
					t.Errorf("the id %q stands twice", id)
				}
				ids[id] = true
			}
		}
		for _, e := range all {
			for _, id := range strings.Fields(e.attr["aria-labelledby"]) {
				if !ids[id] {
					t.Errorf("<%s> is labelled by %q, which is not there", e.name, id)
				}
			}
			if href, ok := e.attr["href"]; ok && !ids[strings.TrimPrefix(href, "#")] {
				t.Errorf("a link to %q leads nowhere", href)
			}
			if e.name == "svg" && (e.attr["role"] != "img" || e.attr["aria-labelledby"] == "" || e.attr["viewbox"] == "") {
				t.Errorf("a picture without role, label or size: %v", e.attr)
			}
		}
	})
}

// The page asks nobody for anything, and nothing in it acts but its own script.
func TestHTMLIsAlone(t *testing.T) {
	each(t, func(t *testing.T, r Report) {
		page := render(t, HTML, r)
		scripts := 0
		for _, e := range parse(t, page) {
			switch e.name {
			case "script":
				scripts++
			case "img", "link", "iframe", "object", "embed", "base", "form", "video", "audio", "use", "image", "foreignobject":
				t.Errorf("the page has <%s>", e.name)
			}
			for key, value := range e.attr {
				switch {
				case strings.HasPrefix(key, "on"), key == "style", key == "src", key == "srcset", key == "action":
					t.Errorf("<%s> has %s=%q", e.name, key, value)
				case strings.HasSuffix(key, "href") && !strings.HasPrefix(value, "#"):
					t.Errorf("<%s> leads to %q", e.name, value)
				case strings.Contains(value, "url(") && !strings.HasPrefix(value, "url(#"):
					t.Errorf("<%s> loads %q", e.name, value)
				}
			}
		}
		if scripts != 1 {
			t.Errorf("%d scripts, want the one of the page", scripts)
		}
		for _, bad := range []string{"http://", "https://", "@import", "<img"} {
			if strings.Contains(page, bad) {
				t.Errorf("the page has %q", bad)
			}
		}
		policy := regexp.MustCompile(`Content-Security-Policy" content="([^"]*)"`).FindStringSubmatch(page)
		if policy == nil {
			t.Fatal("the page has no policy")
		}
		for _, part := range []struct{ tag, directive string }{{"script", "script-src"}, {"style", "style-src"}} {
			_, rest, _ := strings.Cut(page, "<"+part.tag+">")
			body, _, _ := strings.Cut(rest, "</"+part.tag+">")
			want := part.directive + " '" + hashOf(body) + "'"
			if !strings.Contains(html.UnescapeString(policy[1]), want) {
				t.Errorf("the policy %q does not allow the page's own %s by %s", policy[1], part.tag, want)
			}
		}
	})
}

func TestHTMLShowsTheRun(t *testing.T) {
	page := render(t, HTML, failing())
	for _, want := range []string{
		`<p class="verdict"><span class="symbol" aria-hidden="true">✗</span> FAIL</p>`,
		"A slow payment provider may cost us speed, never the order.",
		"Latency of shoppers over time", "Latency of browsers over time", "Throughput and errors of shoppers",
		"Breaker states over time", "as the service reports it", "Latency percentiles of shoppers by phase",
		"Calls per second, orders -&gt; stock", "Delay added by slow-payments on orders -&gt; payments",
		"p95 &lt; 700ms</text>", "slow-payments (latency)</text>", "half-open</text>", "during</text>",
		"delay: 800 ms → 803 ms; share hit: 50% → 49.5%",
		"died (process 4101): signal: killed, as asked", "last 2 log lines", "o-4712",
		"trace 4bf92f3577b34da6", "stock is gone", "the clock stepped by 12 ms",
		"chaosctl run checkout-survives-slow-payments --seed 7", "The whole plan",
		"about 3740 more arrivals (74.8 s) would decide",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

func TestHTMLLeavesOutWhatIsNotThere(t *testing.T) {
	page := render(t, HTML, empty())
	for _, bad := range []string{`id="objectives"`, `id="breakers"`, `id="latency"`, "NaN", "Inf", "<svg"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page of nothing has %q", bad)
		}
	}
	each(t, func(t *testing.T, r Report) {
		page := render(t, HTML, r)
		for _, bad := range []string{`"NaN`, `"Inf`, `"+Inf`, " NaN ", "%!"} {
			if strings.Contains(page, bad) {
				t.Errorf("the page has %q", bad)
			}
		}
	})
}

// A chart of a long run has no more points than a screen has room for.
func TestHTMLOfALongRunStaysSmall(t *testing.T) {
	r := failing()
	for i := range r.Events {
		r.Events[i].At *= 1000 // fourteen hours
		if w := r.Events[i].Window; w != nil {
			w.DueS *= 1000
		}
	}
	e := gather(r, 150, roundWidth)
	if e.count > 150 || e.bucket != 600 {
		t.Errorf("%d buckets of %v s", e.count, e.bucket)
	}
	if page := render(t, HTML, r); len(page) > 1<<20 {
		t.Errorf("the page has %d bytes", len(page))
	}
}

func ExampleText() {
	r := minimal()
	r.Result.Reasons = []string{"All 3 claims hold, each at 95% confidence."}
	var b strings.Builder
	if err := Text(&b, r, TextOptions{Width: 80}); err != nil {
		fmt.Println(err)
	}
	verdict, _, _ := strings.Cut(b.String(), "\n")
	fmt.Println(verdict)
	// Output: ✓ PASS  All 3 claims hold, each at 95% confidence.
}
