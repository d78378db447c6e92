package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// The test binary is also every child the tests need: TEST ROLE ARGS.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "child" {
		child(os.Args[2], os.Args[3:])
		return
	}
	goleak.VerifyTestMain(m)
}

func child(role string, args []string) {
	switch role {
	case "sleep": // until killed
		fmt.Println("up")
		time.Sleep(time.Hour) // not select{}: alone in a process, that is a fatal deadlock
	case "env":
		fmt.Println(strings.Join(os.Environ(), "\n"))
	case "echo": // lines to stdout and stderr in turn, then exit 3
		for i, a := range args {
			fmt.Fprintln([]*os.File{os.Stdout, os.Stderr}[i%2], a)
		}
		os.Exit(3)
	case "many":
		n, _ := strconv.Atoi(args[0])
		for i := range n {
			fmt.Printf("line %d\n", i)
		}
	case "polite":
		c := make(chan os.Signal, 1)
		signal.Notify(c, unix.SIGTERM)
		fmt.Println("up")
		<-c
		fmt.Println("bye")
	case "stubborn":
		signal.Ignore(unix.SIGTERM)
		fmt.Println("up")
		time.Sleep(time.Hour) // not select{}: alone in a process, that is a fatal deadlock
	case "announce":
		fmt.Println(`{"listening":"127.0.0.1:4711"}`)
		fmt.Println("more")
		fmt.Fprintln(os.Stderr, "log")
		time.Sleep(time.Hour) // not select{}: alone in a process, that is a fatal deadlock
	case "family": // a child of its own that ignores SIGTERM; prints its number
		cmd := exec.Command(os.Args[0], "child", "stubborn")
		cmd.Stdout = os.Stdout // keeps the pipe open, too
		if err := cmd.Start(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Printf("grandchild %d\n", cmd.Process.Pid)
		if len(args) > 0 && args[0] == "leave" {
			return
		}
		time.Sleep(time.Hour) // not select{}: alone in a process, that is a fatal deadlock
	case "runtime": // holds a runtime with one child, prints its number
		p, err := StartRuntime().Start(Command{Name: "grandchild", Args: self("sleep")})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(p.PID())
		time.Sleep(time.Hour) // not select{}: alone in a process, that is a fatal deadlock
	}
}

func self(role string, args ...string) []string {
	return append([]string{os.Args[0], "child", role}, args...)
}

func start(t *testing.T, c Command) *Process {
	t.Helper()
	r := StartRuntime()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.Stop(ctx); err != nil {
			t.Errorf("stop the runtime: %v", err)
		}
	})
	if c.Name == "" {
		c.Name = "svc"
	}
	p, err := r.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// says waits for a line of output with that beginning and returns the rest.
func says(t *testing.T, p *Process, prefix string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var rest string
	err := poll(ctx, func() (bool, error) {
		for _, l := range p.Tail() {
			if after, ok := strings.CutPrefix(l, prefix); ok {
				rest = after
				return true, nil
			}
		}
		return false, nil
	}, func() error { return fmt.Errorf("it said %q, not %q", p.Tail(), prefix) })
	if err != nil {
		t.Fatal(err)
	}
	return rest
}

func ended(t *testing.T, p *Process) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the process does not end")
	}
	if err := p.Err(); err != nil {
		t.Errorf("seeing it off: %v", err)
	}
	if members, err := Group(p.PID()); err != nil || len(members) != 0 {
		t.Errorf("its group still has %v (%v)", members, err)
	}
}

func TestOutputGoesToTheTailAndTheLogInOrder(t *testing.T) {
	log := filepath.Join(t.TempDir(), "svc.log")
	for range 2 { // the second start appends
		p := start(t, Command{Args: self("echo", "one", "two", "three"), Log: log})
		ended(t, p)
		if got := p.Tail(); !slices.Equal(got, []string{"one", "two", "three"}) {
			t.Errorf("tail %q", got)
		}
		if e := p.Exit(); e.Code != 3 || e.String() != "exit status 3" {
			t.Errorf("exit: %v", e)
		}
		if _, open := <-p.Listening(); open {
			t.Error("an announcement from a command that makes none")
		}
	}
	if b, err := os.ReadFile(log); err != nil || string(b) != "one\ntwo\nthree\none\ntwo\nthree\n" {
		t.Errorf("log %q, %v", b, err)
	}
}

func TestTailKeepsTheLastLines(t *testing.T) {
	p := start(t, Command{Args: self("many", "1000")})
	ended(t, p)
	got := p.Tail()
	if len(got) != tailLines || got[0] != "line 950" || got[tailLines-1] != "line 999" {
		t.Errorf("%d lines, from %q to %q", len(got), got[0], got[len(got)-1])
	}
}

func TestRing(t *testing.T) {
	var r ring
	rest := r.take([]byte("a\r\nb\xff\nc"))
	if string(rest) != "c" || !slices.Equal(r.lines(), []string{"a", "b�"}) {
		t.Errorf("lines %q, rest %q", r.lines(), rest)
	}
	rest = r.take([]byte(strings.Repeat("x", 2*lineLimit+5)))
	if got := r.lines(); len(got) != 4 || len(got[3]) != lineLimit || len(rest) != 5 {
		t.Errorf("an endless line: %d lines, rest of %d", len(got), len(rest))
	}
}

// The lines that make a tail do not depend on how the pipe cuts the bytes.
func FuzzRing(f *testing.F) {
	f.Add([]byte("a\nb\r\n\ncc"), uint8(3))
	f.Fuzz(func(t *testing.T, b []byte, size uint8) {
		var whole, pieces ring
		whole.take(slices.Clone(b))
		var line []byte
		for piece := range slices.Chunk(b, int(size)+1) {
			line = pieces.take(append(line, piece...))
		}
		if len(b) <= lineLimit && !slices.Equal(whole.lines(), pieces.lines()) {
			t.Errorf("whole: %q, in pieces of %d: %q", whole.lines(), int(size)+1, pieces.lines())
		}
		for _, l := range pieces.lines() {
			if strings.Contains(l, "\n") || len(l) > 3*lineLimit {
				t.Errorf("line %q", l)
			}
		}
	})
}

func TestAnnouncement(t *testing.T) {
	p := start(t, Command{Args: self("announce"), Announces: true})
	if got := <-p.Listening(); got != "127.0.0.1:4711" {
		t.Errorf("listening %q", got)
	}
	says(t, p, "more") // the rest of stdout is output like any other
	says(t, p, "log")
	if got := p.Tail(); slices.ContainsFunc(got, func(l string) bool { return strings.Contains(l, "listening") }) {
		t.Errorf("the announcement is in the log: %q", got)
	}
}

func TestNoAnnouncement(t *testing.T) {
	p := start(t, Command{Args: self("echo", "panic: no database", "trace"), Announces: true})
	if got, open := <-p.Listening(); open {
		t.Errorf("listening %q", got)
	}
	ended(t, p)
	if got := p.Tail(); !slices.Contains(got, "panic: no database") {
		t.Errorf("what it said instead is lost: %q", got)
	}
}

func TestMinimalEnvironment(t *testing.T) {
	t.Setenv("SECRET_TOKEN", "x")
	t.Setenv("LANG", "C.UTF-8")
	p := start(t, Command{Args: self("env"), Env: []string{"PORT=4711"}})
	ended(t, p)
	for _, line := range p.Tail() {
		key, _, _ := strings.Cut(line, "=")
		if !slices.Contains([]string{"PATH", "HOME", "TMPDIR", "LANG", "PORT"}, key) {
			t.Errorf("the child was given %s", line)
		}
	}
	if !slices.Contains(p.Tail(), "PORT=4711") || !slices.Contains(p.Tail(), "LANG=C.UTF-8") {
		t.Errorf("environment %q", p.Tail())
	}
}

func TestStop(t *testing.T) {
	p := start(t, Command{Args: self("polite")})
	says(t, p, "up")
	if err := p.Pause(t.Context()); err != nil { // even a paused child hears SIGTERM
		t.Fatal(err)
	}
	forced, err := p.Stop(t.Context(), 10*time.Second)
	if forced || err != nil || p.Exit() != (Exit{}) {
		t.Errorf("forced %v, %v, %v; want an orderly exit 0", forced, err, p.Exit())
	}
	if tail := p.Tail(); !slices.Contains(tail, "bye") {
		t.Errorf("its last words are lost: %q", tail)
	}

	p = start(t, Command{Args: self("stubborn")})
	says(t, p, "up")
	forced, err = p.Stop(t.Context(), 20*time.Millisecond)
	if !forced || err != nil || p.Exit().String() != "killed by SIGKILL" {
		t.Errorf("forced %v, %v, %v; want killed", forced, err, p.Exit())
	}
	ended(t, p)
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Errorf("signalling what is gone: %v", err)
	}
}

func TestAGroupGoesTogether(t *testing.T) {
	end := map[string]func(*Process) error{
		"killed": func(p *Process) error { return p.Kill(context.Background(), unix.SIGKILL) },
		"stopped": func(p *Process) error {
			_, err := p.Stop(context.Background(), 10*time.Second)
			return err
		},
		"left": func(*Process) error { return nil }, // the first process exits by itself
	}
	for name, do := range end {
		t.Run(name, func(t *testing.T) {
			args := self("family")
			if name == "left" {
				args = self("family", "leave")
			}
			p := start(t, Command{Args: args})
			grandchild, err := strconv.Atoi(says(t, p, "grandchild "))
			if err != nil {
				t.Fatal(err)
			}
			if err := do(p); err != nil {
				t.Fatal(err)
			}
			ended(t, p)
			if state, _, err := stat(grandchild); err != nil || state != 0 && state != 'Z' {
				t.Errorf("the grandchild is still there, state %c (%v)", state, err)
			}
		})
	}
}

func TestPause(t *testing.T) {
	p := start(t, Command{Args: self("family")})
	grandchild, err := strconv.Atoi(says(t, p, "grandchild "))
	if err != nil {
		t.Fatal(err)
	}
	says(t, p, "up") // the grandchild's
	if p.Paused() {
		t.Error("paused before it was")
	}
	if members, err := p.Members(); err != nil || !slices.Equal(members, []int{p.PID(), grandchild}) {
		t.Errorf("members %v (%v); want the child first, then %d", members, err, grandchild)
	}
	if err := p.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{p.PID(), grandchild} {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err != nil || !strings.Contains(string(b), ") T ") {
			t.Errorf("process %d is not stopped: %s %v", pid, b, err)
		}
	}
	if !p.Paused() {
		t.Error("not seen as paused")
	}
	for range 2 {
		if err := p.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		if p.Paused() {
			t.Error("paused after Resume")
		}
	}
	if err := p.Kill(t.Context(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := p.Resume(t.Context()); err != nil {
		t.Errorf("resume what is gone: %v", err)
	}
	if err := p.Pause(t.Context()); err == nil || p.Paused() {
		t.Errorf("pause what is gone: %v, paused %v; want an error", err, p.Paused())
	}
}

func TestChildrenDieWithUs(t *testing.T) {
	between := exec.Command(os.Args[0], "child", "runtime")
	out, err := between.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := between.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := between.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = between.Wait()
	// A pidfd becomes readable when its process ends.
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000); n != 1 {
		t.Errorf("process %d outlives the killed one that started it (%v)", pid, err)
	}
}

// A thread that ends takes the children it forked along; the runtime must not
// fork on its caller's thread.
func TestChildrenOutliveTheThreadThatAsked(t *testing.T) {
	r := StartRuntime()
	defer func() {
		if err := r.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	var p *Process
	var all sync.WaitGroup
	all.Go(func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		var err error
		if p, err = r.Start(Command{Name: "svc", Args: self("sleep")}); err != nil {
			t.Error(err)
		}
	})
	all.Wait()
	if p == nil {
		return
	}
	says(t, p, "up")
	select {
	case <-p.Done():
		t.Errorf("it died with the thread: %v", p.Exit())
	case <-time.After(50 * time.Millisecond):
	}
}

func TestStopTheRuntime(t *testing.T) {
	r := StartRuntime()
	var ps []*Process
	for i := range 5 {
		p, err := r.Start(Command{Name: strconv.Itoa(i), Args: self("family")})
		if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	for range 2 {
		if err := r.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range ps {
		ended(t, p)
	}
	if _, err := r.Start(Command{Name: "late", Args: self("sleep")}); err == nil || !strings.Contains(err.Error(), "the runtime is stopped") {
		t.Errorf("start after Stop: %v", err)
	}
}

func TestWhatCannotBeStarted(t *testing.T) {
	r := StartRuntime()
	defer func() {
		if err := r.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte("\x7fELF"), 0o755); err != nil {
		t.Fatal(err)
	}
	cases := map[string]Command{
		"the command is empty":                        {},
		`there is no command "no-such-program"`:       {Args: []string{"no-such-program"}},
		"there is no file " + dir + "/bin/api":        {Args: []string{"./bin/api"}, Dir: dir},
		plain + " is not executable":                  {Args: []string{plain}},
		"working directory: stat /no/such":            {Args: self("sleep"), Dir: "/no/such"},
		"working directory " + plain:                  {Args: self("sleep"), Dir: plain},
		"exec format error":                           {Args: []string{garbage}},
		"open its log: open " + dir + "/none/svc.log": {Args: self("sleep"), Log: dir + "/none/svc.log"},
	}
	for want, c := range cases {
		c.Name = "api"
		p, err := r.Start(c)
		if p != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v; want %q", err, want)
		}
	}
}

func TestFreePort(t *testing.T) {
	port, hold, err := FreePort(false)
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := PortFree(l.Addr().String(), false); !errors.Is(err, ErrTaken) {
		t.Errorf("while somebody listens: %v; want ErrTaken", err)
	}
}

func TestAPickedPortIsHeld(t *testing.T) {
	port, hold, err := FreePort(false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := holdPort(port); runtime.GOOS == "linux" && err == nil {
		t.Error("it is picked twice")
	}
	hold.Close()
	again, err := holdPort(port)
	if err != nil {
		t.Fatalf("once it is let go: %v", err)
	}
	again.Close()
}

func TestAFullLogDoesNotHangTheChild(t *testing.T) {
	p := start(t, Command{Args: self("many", "20000"), Log: "/dev/full"})
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the child hangs")
	}
	if err := p.Err(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error %v; want that the log is full", err)
	}
	if got := p.Tail(); len(got) != tailLines || got[tailLines-1] != "line 19999" {
		t.Error("the tail is not complete")
	}
}
