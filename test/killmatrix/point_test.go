package killmatrix

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/faults"
	"github.com/chaosctl/chaosctl/faults/undo"
)

const scenario = `scenario: matrix
target:
  services:
    front: { command: [%[1]q, serve, "${port}", "http://${edge.back}", "http://${edge.bytes}", "udp:${edge.datagrams}"], ready: GET /healthz }
    back: { command: [%[1]q, serve, "${port}"], env: { DATA: "${data}" }, ready: GET /healthz }
    bytes: { command: [%[1]q, serve, "${port}"], ready: GET /healthz, protocol: tcp }
    datagrams: { command: [%[1]q, serve, "udp:${port}"], protocol: udp }
load:
  readers: { request: GET /, timeout: 500ms, to: front, rate: 20/s }
phases: { before: 150ms, during: 300ms, after: 500ms }
faults:
  fault: %[2]s
`

// shop is for faults that only the services of a reference system can have.
const shop = `scenario: matrix
target: { system: shop }
load:
  readers: { request: GET /products/p-3, timeout: 500ms, to: gateway, rate: 20/s }
phases: { before: 150ms, during: 300ms, after: 500ms }
faults:
  fault: %s
`

// within bounds every wait for something that takes milliseconds.
const within = 20 * time.Second

// outcome is what became of one point.
type outcome struct {
	left   []string      // what is wrong; none: nothing is left behind
	missed bool          // the run was over before it was ended
	exact  bool          // it was ended in the very step that was meant
	undone time.Duration // from SIGKILL until the journal said the end
}

// run is a chaosctl that is about to be ended.
type run struct {
	point
	chaosctl, dir string
	cmd           *exec.Cmd
	said          bytes.Buffer
	group         string // the control group that it is alone in; "": none
	gone          chan struct{}
	recorded      bool // the fault was on record already when there was no more room for that
	outcome
}

func (r *run) folder() string  { return filepath.Join(r.dir, "run") }
func (r *run) temp() string    { return filepath.Join(r.dir, "tmp") }
func (r *run) state() string   { return filepath.Join(r.dir, "state") }
func (r *run) journal() string { return filepath.Join(r.folder(), "journal.jsonl") }

func (r *run) wrong(format string, args ...any) {
	r.left = append(r.left, fmt.Sprintf(format, args...))
}

// try makes a run, ends it at the point, and looks what is left.
func try(chaosctl, dir string, p point) (o outcome) {
	r := &run{point: p, chaosctl: chaosctl, dir: dir, gone: make(chan struct{})}
	if err := r.start(); err != nil {
		r.wrong("start: %v", err)
		return r.outcome
	}
	defer func() { r.sweep(); o = r.outcome }()
	if err := r.reach(); err != nil {
		r.wrong("%v", err)
		return r.outcome
	}
	ended, err := r.end()
	if err != nil {
		r.wrong("end it: %v", err)
	}
	r.look(ended)
	return r.outcome
}

func (r *run) start() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(r.temp(), 0o755), os.MkdirAll(r.state(), 0o755)); err != nil {
		return err
	}
	file := filepath.Join(r.dir, "matrix.yaml")
	text := fmt.Appendf(nil, scenario, self, kinds[r.kind])
	if slices.ContainsFunc(faults.Kinds, func(k faults.Kind) bool { return k.Verb == r.kind && k.Reference }) {
		text = fmt.Appendf(nil, shop, kinds[r.kind])
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return err
	}
	if r.way == "NO-ROOM" {
		if err := r.mount(); err != nil {
			return err
		}
	}
	r.cmd = r.command("run", file, "--out", r.folder(), "--quiet")
	r.cmd.Stdout, r.cmd.Stderr = &r.said, &r.said
	// A group of its own: that of the harness is not to be killed with it.
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Its services hold no end of our pipe, but wait for nobody who might.
	r.cmd.WaitDelay = time.Second
	if r.way == "CGROUP" {
		group, err := r.enclose()
		if err != nil {
			return err
		}
		defer group.Close()
	}
	if err := r.cmd.Start(); err != nil {
		return err
	}
	go func() {
		defer close(r.gone)
		_ = r.cmd.Wait() // how it ended stands in ProcessState
	}()
	return nil
}

func (r *run) command(args ...string) *exec.Cmd {
	c := exec.Command(r.chaosctl, args...)
	c.Dir = r.dir
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.dir, "TMPDIR=" + r.temp(), "XDG_STATE_HOME=" + r.state(), "NO_COLOR=1"}
	return c
}

// reach waits until the journal shows the moment, and a little longer: 0 to 8 ms,
// as the seed decides.
func (r *run) reach() error {
	line := ""
	for _, m := range moments {
		if m.name == r.moment {
			line = m.line
		}
	}
	err := r.await("the moment never came", func() bool {
		if line == "" { // services start as soon as the run's own folder is there
			left, _ := filepath.Glob(filepath.Join(r.temp(), "*"))
			return len(left) > 0
		}
		b, _ := os.ReadFile(r.journal())
		return bytes.Contains(b, []byte(line))
	})
	if err == nil {
		random := rand.New(rand.NewPCG(r.seed, 1))
		// The one sleep that is meant: it is the point.
		time.Sleep(time.Duration(random.Int64N(int64(8 * time.Millisecond))))
	}
	return err
}

// await polls every half millisecond; it also ends when the run does.
func (r *run) await(late string, yes func() bool) error {
	deadline := time.Now().Add(within)
	for {
		over := false
		select {
		case <-r.gone:
			over = true
		default:
		}
		switch {
		case yes():
			return nil
		case over:
			return fmt.Errorf("%s: the run is over (%s): %s", late, r.cmd.ProcessState, r.said.String())
		case time.Now().After(deadline):
			return errors.New(late)
		}
		time.Sleep(500 * time.Microsecond)
	}
}

// end ends the run, waits until it is gone, and says when it was sent what ended it.
func (r *run) end() (at time.Time, err error) {
	pid := r.cmd.Process.Pid
	owner, err := undo.Identify(pid)
	select {
	case <-r.gone: // over already
		r.missed = true
		return time.Now(), nil
	default:
	}
	if err != nil {
		return at, err
	}
	send := func(pid int, s syscall.Signal) {
		if e := syscall.Kill(pid, s); e != nil && !errors.Is(e, syscall.ESRCH) {
			err = errors.Join(err, e)
		}
	}
	at = time.Now()
	switch r.way {
	case "INT":
		send(pid, syscall.SIGINT)
	case "TERM":
		send(pid, syscall.SIGTERM)
	case "HUP":
		send(pid, syscall.SIGHUP)
	case "INT-INT":
		send(pid, syscall.SIGINT)
		random := rand.New(rand.NewPCG(r.seed, 2))
		time.Sleep(time.Duration(random.Int64N(int64(30 * time.Millisecond))))
		send(pid, syscall.SIGINT)
	case "KILL":
		send(pid, syscall.SIGKILL)
	case "KILL-GROUP":
		send(-pid, syscall.SIGKILL)
	case "QUIT":
		send(pid, syscall.SIGQUIT)
	case "NO-ROOM":
		// Filling takes its time, in which the run is not to go on.
		send(pid, syscall.SIGSTOP)
		err = errors.Join(err, r.await("it does not stop", func() bool { return owner.Stopped() || !owner.Alive() }))
		took, e := r.fill()
		r.recorded = r.onRecord()
		send(pid, syscall.SIGCONT)
		err = errors.Join(err, e, r.free(took))
	case "CGROUP":
		err = r.killGroup()
	case "STOP-CONT":
		send(pid, syscall.SIGSTOP)
		err = errors.Join(err, r.await("it does not stop", func() bool { return owner.Stopped() || !owner.Alive() }))
		send(pid, syscall.SIGCONT)
	case "KILL-ALL", "KILL-BOTH-GROUPS", "WATCHDOG":
		// The watchdog first, so that it cannot do anything any more; and where the run is
		// to follow, it is stopped before, or it would start another one meanwhile.
		if r.recovers() {
			send(pid, syscall.SIGSTOP)
			err = errors.Join(err, r.await("it does not stop", func() bool { return owner.Stopped() || !owner.Alive() }))
		}
		for _, p := range r.watchdogs() {
			if r.way == "KILL-BOTH-GROUPS" {
				p = -p // it leads a session, and so a group, of its own
			}
			send(p, syscall.SIGKILL)
		}
		at = time.Now()
		switch r.way {
		case "KILL-ALL":
			send(pid, syscall.SIGKILL)
		case "KILL-BOTH-GROUPS":
			send(-pid, syscall.SIGKILL)
		}
	}
	select {
	case <-r.gone:
	case <-time.After(3 * within):
		return at, errors.New("it does not end")
	}
	return at, err
}

// watchdogs are the run's processes of that name.
func (r *run) watchdogs() (pids []int) {
	for _, p := range r.processes() {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p)); err == nil && bytes.Contains(b, []byte("\x00watchdog\x00")) {
			pids = append(pids, p)
		}
	}
	return pids
}

// recovers tells whether nobody is left to clean up but chaosctl recover.
func (r *run) recovers() bool {
	return r.way == "KILL-ALL" || r.way == "KILL-BOTH-GROUPS" || r.way == "CGROUP"
}

// goesOn tells whether the run is to end by itself.
func (r *run) goesOn() bool {
	return r.way == "STOP-CONT" || r.way == "WATCHDOG" || r.way == "NO-ROOM"
}

// killed tells whether the run had no chance to clean up by itself.
func (r *run) killed() bool {
	return slices.Contains([]string{"KILL", "KILL-GROUP", "QUIT", "KILL-ALL", "KILL-BOTH-GROUPS", "CGROUP"}, r.way)
}

// look compares the world with what it was.
func (r *run) look(ended time.Time) {
	status := r.cmd.ProcessState
	code := status.ExitCode() // -1: by a signal
	switch {
	case slices.Contains([]int{0, 1, 3}, code) && !r.goesOn():
		r.missed = true // it was on its way out
	case !r.missed && !slices.Contains(ways[r.index()].codes, code):
		r.wrong("it ended with %s, want one of %v: %s", status, ways[r.index()].codes, r.said.String())
	}
	switch {
	case r.recovers():
		r.recover()
	case r.killed():
		// Nobody is there to say when the watchdog is done: its process is gone then.
		deadline := time.Now().Add(within)
		for len(r.processes()) > 0 && time.Now().Before(deadline) {
			time.Sleep(500 * time.Microsecond)
		}
	}
	// From here on nothing is waited for.
	for _, pid := range r.processes() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		r.wrong("process %d is left: %s", pid, bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
	}
	for what, pattern := range map[string]string{
		"in the temporary folder": filepath.Join(r.temp(), "*"),
		"in the index":            filepath.Join(r.state(), "chaosctl", "live", "[^.]*"),
		"undo record":             filepath.Join(r.folder(), "undo*"),
	} {
		left, err := filepath.Glob(pattern)
		if err != nil || len(left) > 0 {
			r.wrong("left %s: %v (%v)", what, left, err)
		}
	}
	r.lookAtJournal(ended)
}

// recover is what heals when the watchdog was killed, too: once, and then there
// is nothing to heal.
func (r *run) recover() {
	for _, again := range []bool{false, true} {
		out, err := r.command("recover").CombinedOutput()
		if err != nil {
			r.wrong("recover: %v: %s", err, out)
		}
		if again && !bytes.Contains(out, []byte("nothing was left behind")) {
			r.wrong("recover finds something the second time: %s", out)
		}
	}
}

// lookAtJournal wants a journal that holds, that ends, and whose services' ports
// are free. A run that was killed while it was starting has none.
func (r *run) lookAtJournal(ended time.Time) {
	b, err := os.ReadFile(r.journal())
	if r.moment == "starting" && r.killed() && (errors.Is(err, os.ErrNotExist) || len(b) == 0) {
		r.exact = true
		return
	}
	if err != nil {
		r.wrong("%v", err)
		return
	}
	if err := journal.Verify(bytes.NewReader(b)); err != nil {
		r.wrong("%v", err)
	}
	events, _, err := journal.Read(bytes.NewReader(b))
	if err != nil {
		r.wrong("%v", err)
		return
	}
	last := events[len(events)-1]
	if last.End == nil || last.End.Error != "" && r.moment != "starting" { // there it says what did not get ready
		r.wrong("the journal ends with %q, and with %+v", last.Kind(), last.End)
	}
	when := ended.Sub(events[0].Start.Wall)
	step := ""
	for _, e := range events {
		switch {
		case e.At > when:
		case e.Phase != nil && step == "":
			step = e.Phase.Name
		case e.Fault != nil:
			step = e.Fault.State
		}
		if s := e.Service; s != nil && s.State == "ready" {
			l, err := net.Listen("tcp", s.Address)
			if err == nil {
				l.Close()
			} else if by := listener(s.Address); by == 0 || slices.Contains(r.processes(), by) {
				r.wrong("the port of %q is not free: %v (pid %d)", s.Name, err, by)
			} // else it was free, and another run on this machine has taken it
		}
	}
	if r.way == "NO-ROOM" && r.moment == "before" && !r.missed && !r.recorded {
		r.lookAtRecord(events)
	}
	r.exact = step == r.moment || r.moment == "starting" && when <= 0
	// SIGQUIT prints every stack before it ends the process: not the watchdog's time.
	if strings.HasPrefix(r.way, "KILL") && !r.recovers() && !r.missed {
		r.undone = last.At - when
	}
}

// listener is the process that listens at an address of 127.0.0.1, or 0.
func listener(address string) (pid int) {
	_, port, _ := net.SplitHostPort(address)
	number, _ := strconv.Atoi(port)
	table, _ := os.ReadFile("/proc/net/tcp")
	want := fmt.Sprintf("0100007F:%04X", number)
	for line := range strings.Lines(string(table)) {
		// sl local rem st tx:rx tr:tm retrnsmt uid timeout inode; state 0A is LISTEN
		f := strings.Fields(line)
		if len(f) < 10 || f[1] != want || f[3] != "0A" {
			continue
		}
		links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
		for _, link := range links {
			if to, _ := os.Readlink(link); to == "socket:["+f[9]+"]" {
				pid, _ = strconv.Atoi(strings.Split(link, "/")[2])
				return pid
			}
		}
	}
	return 0
}

// processes are those of this run that are alive: all were given its TMPDIR, and
// so was what they started.
func (r *run) processes() []int {
	names, _ := os.ReadDir("/proc")
	var pids []int
	for _, n := range names {
		pid, err := strconv.Atoi(n.Name())
		if err != nil {
			continue
		}
		b, _ := os.ReadFile("/proc/" + n.Name() + "/environ")
		if strings.Contains("\x00"+string(b), "\x00TMPDIR="+r.temp()+"\x00") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// sweep ends what a failed point has left, so that the next ones are not disturbed.
func (r *run) sweep() {
	for _, pid := range r.processes() {
		_ = syscall.Kill(pid, syscall.SIGKILL) // looked up this moment, and only by our own TMPDIR
	}
	<-r.gone
	if r.way == "NO-ROOM" {
		if err := r.unmount(); err != nil {
			r.wrong("unmount: %v", err)
		}
	}
	if r.group != "" {
		if err := r.removeGroup(); err != nil {
			r.wrong("left: %v", err)
		}
	}
	if len(r.left) == 0 {
		_ = os.RemoveAll(r.dir)
	}
}
