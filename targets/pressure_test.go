package targets

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chaosctl/chaosctl/targets/process"
	"github.com/chaosctl/chaosctl/targets/stress"
)

// press is `chaosctl stress`, for the systems of these tests.
func press(args []string) error {
	f := flag.NewFlagSet("stress", flag.ContinueOnError)
	var join []string
	f.Func("join", "", func(file string) error { join = append(join, file); return nil })
	workers, load, bytes := f.Int("workers", 0, ""), f.Float64("load", 1, ""), f.Int64("bytes", 0, "")
	if err := f.Parse(args); err != nil {
		return err
	}
	stress.Join(join)
	if *workers > 0 {
		return stress.Burn(context.Background(), *workers, *load, os.Stdout)
	}
	return stress.Hold(context.Background(), *bytes, os.Stdout)
}

var one = Spec{Services: map[string]ServiceSpec{
	"store": {Command: command("store", "${port}"), Env: map[string]string{"DATA": "${data}"}, Ready: &ReadySpec{Path: "/healthz"}},
}}

func TestPressureIsMeasuredAndRelieved(t *testing.T) {
	sys, _, _ := start(t, one)
	pid, workers, where, err := sys.StressCPU(t.Context(), "store", 0, "busy", 1, 0.5)
	if err != nil || workers != 1 || !strings.HasPrefix(where, "beside it") {
		t.Fatal(pid, workers, where, err)
	}
	if _, _, _, err := sys.StressCPU(t.Context(), "store", 0, "busy", 1, 0.5); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("twice by the same fault: %v", err)
	}
	held, size, _, err := sys.StressMemory(t.Context(), "store", 0, "large", 40<<20, 0)
	if err != nil || size != 40<<20 {
		t.Fatal(size, err)
	}
	// Half of each 100 ms, wanted or had, whatever else this machine does.
	var m map[string]float64
	for m["held_s"] < 1 {
		time.Sleep(100 * time.Millisecond)
		if m, err = sys.Pressure("store", 0, "busy"); err != nil {
			t.Fatal(err)
		}
	}
	if m["cpu_s"] <= 0 || m["cpu_s"] > 0.75*m["held_s"] || (m["cpu_s"]+m["wait_s"])/m["held_s"] < 0.3 {
		t.Errorf("at a load of 50 %%: %v", m)
	}
	if _, known := m["victim_cpu_s"]; !known {
		t.Errorf("nothing is known of the victim: %v", m)
	}
	if m, err := sys.Pressure("store", 0, "large"); err != nil || m["rss_bytes"] < 40<<20 {
		t.Errorf("of 40 MiB held: %v (%v)", m, err)
	}
	for fault, pid := range map[string]int{"busy": pid, "large": held} {
		for range 2 { // relieved twice is relieved once
			if err := sys.Relieve(t.Context(), "store", 0, fault); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err == nil { // reaped: not even a zombie
			t.Errorf("%s: process %d is still there", fault, pid)
		}
		if _, err := sys.Pressure("store", 0, fault); err == nil {
			t.Errorf("%s: there is still pressure", fault)
		}
	}
	if folder, err := sys.DataFolder("store", 0); err != nil || !filepath.IsAbs(folder) || filepath.Base(folder) != "store" {
		t.Errorf("data folder %s, %v", folder, err)
	}
}

func TestPressureIsRefused(t *testing.T) {
	sys, _, _ := start(t, Spec{Services: map[string]ServiceSpec{
		"bare": {Command: command("store", "${port}"), Ready: &ReadySpec{Path: "/healthz"}},
	}})
	_, _, _, err := sys.StressCPU(t.Context(), "bare", 0, "f", 4*runtime.GOMAXPROCS(0)+1, 1)
	if err == nil || !strings.Contains(err.Error(), "would wait for one another") {
		t.Errorf("too many workers: %v", err)
	}
	if _, _, _, err := sys.StressMemory(t.Context(), "bare", 0, "f", 1<<60, 0); err == nil || !strings.Contains(err.Error(), "too much for the machine") {
		t.Errorf("too much memory: %v", err)
	}
	if _, _, _, err := sys.StressMemory(t.Context(), "bare", 0, "f", 0, 1); err == nil || !strings.Contains(err.Error(), "too much for the machine") {
		t.Errorf("all the memory: %v", err)
	}
	if _, err := sys.DataFolder("bare", 0); err == nil || !strings.Contains(err.Error(), "${data}") {
		t.Errorf("without a data folder: %v", err)
	}
	if err := sys.Kill(t.Context(), "bare", 0, "KILL"); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := sys.StressCPU(t.Context(), "bare", 0, "f", 1, 1); err == nil || !strings.Contains(err.Error(), "does not run") {
		t.Errorf("beside nobody: %v", err)
	}
}

// A service that has put itself into control groups is pressed on inside them.
func TestPressureIsInTheVictimsControlGroups(t *testing.T) {
	var procs []string
	for _, controller := range []string{"cpu", "memory"} {
		group := filepath.Join("/sys/fs/cgroup", controller, "chaosctl-test-"+strconv.Itoa(os.Getpid()))
		if err := os.Mkdir(group, 0o755); err != nil {
			t.Skipf("no control group of %s to be had: %v", controller, err)
		}
		t.Cleanup(func() {
			if err := os.Remove(group); err != nil {
				t.Error(err)
			}
		})
		procs = append(procs, filepath.Join(group, "cgroup.procs"))
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(procs[1]), "memory.limit_in_bytes"), []byte("300000000"), 0); err != nil {
		t.Skipf("the group takes no limit: %v", err)
	}
	line := fmt.Sprintf("echo 0 > %s; echo 0 > %s; exec %q child store \"$PORT\"", procs[0], procs[1], os.Args[0])
	t.Run("", func(t *testing.T) { // its clean-up comes before that of the groups
		sys, _, _ := start(t, Spec{Services: map[string]ServiceSpec{
			"store": {Command: []string{"sh", "-c", line}, Ready: &ReadySpec{Path: "/healthz"}},
		}})
		pid, _, where, err := sys.StressCPU(t.Context(), "store", 0, "busy", 1, 1)
		if err != nil || where != "in its control group "+filepath.Dir(procs[0]) {
			t.Errorf("%s, %v", where, err)
		}
		groups, err := process.ControlGroups(pid)
		if err != nil || !strings.Contains(fmt.Sprint(groups), "/"+filepath.Base(filepath.Dir(procs[0]))) {
			t.Errorf("it is in %v (%v)", groups, err)
		}
		if _, _, _, err := sys.StressMemory(t.Context(), "store", 0, "huge", 400_000_000, 0); err == nil || !strings.Contains(err.Error(), "too much for its control group") {
			t.Errorf("more than the group's limit: %v", err)
		}
		if _, _, where, err = sys.StressMemory(t.Context(), "store", 0, "large", 60<<20, 0); err != nil || where != "in its control group "+filepath.Dir(procs[1]) {
			t.Errorf("%s, %v", where, err)
		}
		b, err := os.ReadFile(filepath.Join(filepath.Dir(procs[1]), "memory.usage_in_bytes"))
		if used, _ := strconv.Atoi(strings.TrimSpace(string(b))); err != nil || used < 60<<20 {
			t.Errorf("the group uses %s bytes (%v), 60 MiB are held in it", b, err)
		}
	})
}

// The shop's services go wrong when they are told to, and only by whom they know.
func TestSeams(t *testing.T) {
	sys, _, c := start(t, Spec{System: "shop"})
	if err := sys.SetClock(t.Context(), "payments", 0, -time.Hour, 0); err != nil {
		t.Fatal(err)
	}
	offset := func() time.Duration {
		offset, uncertain, running, err := sys.ClockOffset(t.Context(), "payments", 0)
		if err != nil || !running {
			t.Fatal(running, err)
		}
		return offset.Round(2*uncertain + 100*time.Millisecond)
	}
	if got := offset(); (got + time.Hour).Abs() > time.Second {
		t.Errorf("the clock is %s ahead", got)
	}
	// One that is killed comes back with the same clock: the fault is not over.
	if err := errors.Join(sys.Kill(t.Context(), "payments", 0, "KILL"), sys.StartAgain(t.Context(), "payments", 0)); err != nil {
		t.Fatal(err)
	}
	if got := offset(); (got + time.Hour).Abs() > time.Second {
		t.Errorf("after a restart the clock is %s ahead", got)
	}
	if err := sys.SetClock(t.Context(), "payments", 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if got := offset(); got.Abs() > time.Second {
		t.Errorf("set right, the clock is %s ahead", got)
	}

	if err := sys.BreakLookup(t.Context(), "orders", "users", "nxdomain", 0); err != nil {
		t.Fatal(err)
	}
	if err := sys.BreakLookup(t.Context(), "orders", "nobody", "nxdomain", 0); err == nil || !strings.Contains(err.Error(), "does not call") {
		t.Errorf("a callee that it does not have: %v", err)
	}
	if err := errors.Join(sys.MendLookup(t.Context(), "orders", "nobody"), sys.MendLookup(t.Context(), "orders", "users")); err != nil {
		t.Error(err)
	}
	if _, _, _, err := sys.Lookups(t.Context(), "orders", "users"); err != nil {
		t.Error(err)
	}
	for _, token := range []string{"", "Bearer ", "Bearer wrong", sys.token} {
		for _, method := range []string{http.MethodGet, http.MethodPut} {
			r, err := http.NewRequestWithContext(t.Context(), method, "http://"+sys.Address("orders")+"/admin/faults", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", token)
			answer, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
			if answer.StatusCode != http.StatusForbidden {
				t.Errorf("%s with %q: %s", method, token, answer.Status)
			}
		}
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	// The token is in files that only this user may read.
	files, err := filepath.Glob(filepath.Join(c.Temp, "*.json"))
	if err != nil || len(files) != 5 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info.Mode(), err)
		}
	}
}
