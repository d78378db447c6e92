package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes the test binary into the commands that the scripts run:
// chaosctl itself, and servers of a few lines that stand in for a user's.
func TestMain(m *testing.M) {
	// Reference services, stressors and watchdogs are the same binary, re-executed: as chaosctl,
	// whatever the test binary is called.
	if len(os.Args) > 1 && slices.Contains([]string{"service", "stress", "watchdog"}, os.Args[1]) {
		main()
	}
	// The scripts measure time, and mostly wait: two at a time, unless somebody asks otherwise.
	if err := flag.Set("test.parallel", "2"); err != nil {
		panic(err)
	}
	commands := map[string]func(){
		"chaosctl": main,
		"hello":    hello,
		"secure":   secure,
		"front":    front,
		"numbers":  numbers,
		"asks":     asks,
		"guarded":  guarded,
		"relays":   relays,
	}
	maps.Copy(commands, http3Commands)
	testscript.Main(m, commands)
}

// TestScripts runs testdata/script: one file per behaviour.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Condition: func(name string) (bool, error) {
			if name != "http3" {
				return false, fmt.Errorf("%q is no condition of these scripts", name)
			}
			return len(http3Commands) > 0, nil
		},
		Setup: func(env *testscript.Env) error {
			env.Setenv("NO_COLOR", "1")
			tmp := filepath.Join(env.WorkDir, "tmp")
			env.Setenv("TMPDIR", tmp)
			env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, "state"))
			if err := errors.Join(serveScripts(env), serveHTTP3(env)); err != nil {
				return err
			}
			return os.MkdirAll(tmp, 0o755)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":     code,
			"whatever": whatever,
			"cleantmp": cleanTemp,
			"waitfor":  waitFor,
			"looked":   looked,
		},
	})
}

// whatever runs chaosctl for what it writes, not for its verdict, which may be
// that the machine was too slow: `whatever run x.yaml`.
func whatever(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: whatever ARG...")
	}
	switch got := exitCode(ts, args); got {
	case exitPass, exitFail, exitInconclusive:
	default:
		ts.Fatalf("chaosctl %v: exit code %d, want a verdict", args, got)
	}
}

// code runs chaosctl and checks its exit code: `code 3 run x.yaml`. A run whose
// generator had no processor for itself says so and judges nothing; as a user
// would, the script asks again then, twice at most.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N ARG...")
	}
	got := exitCode(ts, args[1:])
	for try := 1; try < 3 && got == exitInconclusive && args[0] != fmt.Sprint(got) && starved(ts); try++ {
		ts.Logf("the generator was starved: once more")
		if out := slices.Index(args, "--out"); out > 0 && out+1 < len(args) {
			ts.Check(os.RemoveAll(ts.MkAbs(args[out+1])))
		}
		got = exitCode(ts, args[1:])
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("chaosctl %v: exit code %d, want %s", args[1:], got, args[0])
	}
}

func exitCode(ts *testscript.TestScript, args []string) int {
	err := ts.Exec("chaosctl", args...)
	if err == nil {
		return 0
	}
	exit, ok := err.(interface{ ExitCode() int })
	if !ok {
		ts.Fatalf("chaosctl %v: %v", args, err)
	}
	return exit.ExitCode()
}

// starved tells whether the last command's answer was that it could not measure.
func starved(ts *testscript.TestScript) bool {
	out := strings.Join(strings.Fields(ts.ReadFile("stdout")), " ") // it is wrapped
	return strings.Contains(strings.ToLower(out), "generator saturated")
}

// cleanTemp fails when a run left something in the temporary folder.
func cleanTemp(ts *testscript.TestScript, _ bool, _ []string) {
	entries, err := os.ReadDir(ts.Getenv("TMPDIR"))
	ts.Check(err)
	for _, e := range entries {
		ts.Fatalf("left behind in the temporary folder: %s", e.Name())
	}
}

// hello is a user's web server: `hello PORT`.
func hello() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Method, r.URL)
		_, _ = io.WriteString(w, "hello\n")
	})
	if err := http.ListenAndServe("127.0.0.1:"+os.Args[1], nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// secure is a user's web server that speaks TLS: `secure PORT`. `secure ca` prints
// the certificate that it is to be trusted by.
func secure() {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Method, r.URL, r.TLS.Version == tls.VersionTLS13, r.Proto)
		_, _ = io.WriteString(w, "secret\n")
	}))
	if os.Args[1] != "ca" {
		l, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		s.Listener.Close()
		s.Listener = l
	}
	s.EnableHTTP2 = true
	s.StartTLS()
	if os.Args[1] == "ca" {
		_ = pem.Encode(os.Stdout, &pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
		return
	}
	select {}
}

// front is a user's web server that answers with what another says: `front PORT
// URL`. Whom it trusts, the environment says (SSL_CERT_FILE).
func front() {
	client := &http.Client{Timeout: 5 * time.Second}
	http.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		answer, err := client.Get(os.Args[2])
		if err != nil {
			fmt.Println(err)
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer answer.Body.Close()
		w.WriteHeader(answer.StatusCode)
		_, _ = io.Copy(w, answer.Body)
	})
	if err := http.ListenAndServe("127.0.0.1:"+os.Args[1], nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// numbers is a user's UDP server: `numbers PORT` answers each datagram with itself.
func numbers() {
	c, err := net.ListenPacket("udp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for b := make([]byte, 1<<16); ; {
		if n, from, err := c.ReadFrom(b); err == nil {
			_, _ = c.WriteTo(b[:n], from)
		}
	}
}

// relays is a user's relay of datagrams: `relays PORT TO` sends on what each caller
// sends, from a port of the caller's own.
func relays() {
	port, err := net.ListenPacket("udp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	callers := map[string]net.Conn{}
	for b := make([]byte, 1<<16); ; {
		n, from, err := port.ReadFrom(b)
		if err != nil {
			continue
		}
		to := callers[from.String()]
		if to == nil {
			if to, err = net.Dial("udp", os.Args[2]); err != nil {
				continue
			}
			callers[from.String()] = to
			go func() {
				for b := make([]byte, 1<<16); ; {
					if n, err := to.Read(b); err == nil {
						_, _ = port.WriteTo(b[:n], from)
					}
				}
			}()
		}
		_, _ = to.Write(b[:n])
	}
}

// asks is a web server that asks numbers, as resolvers do: `asks PORT NUMBERS` sends two
// datagrams for every request, again when not both are answered, and gives up after the
// fifth time.
func asks() {
	var number atomic.Uint64
	ask := func(question string, c net.Conn) error {
		var err error
		known := map[string]bool{}
		for range 5 {
			for _, half := range []string{"a", "b"} {
				if _, err = io.WriteString(c, question+half); err != nil {
					return err
				}
			}
			_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			for b := make([]byte, 1<<16); err == nil; {
				var n int
				n, err = c.Read(b)
				known[string(b[:n])] = true // altered ones, too, and again what is late or came twice
				if known[question+"a"] && known[question+"b"] {
					return nil
				}
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return err
			}
		}
		return err
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		c, err := net.Dial("udp", os.Args[2])
		if err == nil {
			defer c.Close()
			err = ask(fmt.Sprint(number.Add(1)), c)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		_, _ = io.WriteString(w, "known\n")
	})
	if err := http.ListenAndServe("127.0.0.1:"+os.Args[1], nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// TestHelpOfEveryCommand: each command says what it is for, and --help works.
func TestHelpOfEveryCommand(t *testing.T) {
	for _, c := range newRoot().Commands() {
		if c.Hidden {
			continue
		}
		if c.Short == "" || c.GroupID == "" {
			t.Errorf("command %s: no Short or no GroupID: it would stand nowhere in --help", c.Name())
		}
		if got := run(context.Background(), []string{c.Name(), "--help"}, nil, io.Discard, io.Discard); got != 0 {
			t.Errorf("chaosctl %s --help: exit code %d", c.Name(), got)
		}
	}
}

// waitFor polls a file of a background command until a text stands in it:
// `waitfor FILE TEXT`.
func waitFor(ts *testscript.TestScript, _ bool, args []string) {
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		if b, err := os.ReadFile(ts.MkAbs(args[0])); err == nil && bytes.Contains(b, []byte(args[1])) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	ts.Fatalf("%s: no %q after 20 s", args[0], args[1])
}
