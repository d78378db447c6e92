package main

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/metrics"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chaosctl/chaosctl/loadgen"
)

// spareFiles is what the process holds open besides its connections.
const spareFiles = 64

// checkLimits refuses a load that this machine would not let us send, and says
// which limit it is. Connections that nobody asked for (the default) are made
// fewer instead.
func (p *loadPlan) checkLimits(asked bool) error {
	files, err := allowFiles(p.spec.MostConnections() + spareFiles)
	if err != nil {
		return internal(err)
	}
	ports := ephemeralPorts()
	most := min(files-spareFiles, ports)
	switch want := p.spec.MostConnections(); {
	case want <= most:
	case !asked && p.spec.Model() == "open" && most >= 1:
		p.spec.Connections = &most
		p.warnings = append(p.warnings, fmt.Sprintf("at most %d connections: %d open files are allowed (ulimit -n), and %d ports", most, files, ports))
	case want > files-spareFiles:
		return usage(fmt.Errorf("%d connections need %d open files; the hard limit is %d", want, want+spareFiles, files),
			fmt.Sprintf("raise it (ulimit -n %d, as root; or nofile in /etc/security/limits.conf), or lower --connections", want+spareFiles))
	default:
		return usage(fmt.Errorf("%d connections to one address need as many ports of our own; the system gives out %d (net.ipv4.ip_local_port_range)", want, ports),
			`sysctl -w net.ipv4.ip_local_port_range="1024 65535", or lower --connections`)
	}
	return nil
}

// allowFiles raises the soft limit of open files to what is needed, as far as the
// hard one allows, and returns what is allowed now.
func allowFiles(need int) (int, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("reading the limit of open files: %w", err)
	}
	if l.Cur < uint64(need) && l.Cur < l.Max {
		l.Cur = min(l.Max, uint64(need))
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			return 0, fmt.Errorf("raising the limit of open files to %d: %w", l.Cur, err)
		}
	}
	return int(min(l.Cur, math.MaxInt32)), nil
}

// ephemeralPorts is how many connections one address can have from here. (The
// range counts for IPv6 as well.)
func ephemeralPorts() int {
	var low, high int
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(text), &low, &high)
	}
	if err != nil || high < low {
		return 1<<16 - 1024 // another system, which will say so itself
	}
	return high - low + 1
}

// generatorHealth is what the generator cost, and how well it kept up: in the
// JSON, so that two measurements can be compared.
type generatorHealth struct {
	CPUs      int     `json:"cpus"`
	CPUShare  float64 `json:"cpu_share"` // of all processors, 0 to 1
	GCShare   float64 `json:"gc_share"`  // of the CPU time above
	GCs       int     `json:"gcs"`
	GCPauseS  float64 `json:"gc_pause_max_s"`
	ReadyP99S float64 `json:"ready_p99_s"` // a runnable goroutine's wait for a processor
	ReadyMaxS float64 `json:"ready_max_s"`
	PeakRSS   int64   `json:"peak_rss_bytes"`
}

// watchGenerator begins a span; the returned function ends it.
func watchGenerator() func() generatorHealth {
	health, began := loadgen.WatchHealth(), time.Now()
	cpu, gc, _ := processCost()
	return func() generatorHealth {
		h, took := health(), time.Since(began)
		cpuNow, gcNow, rss := processCost()
		g := generatorHealth{
			CPUs: runtime.NumCPU(), GCs: h.GCs, GCPauseS: h.GCPauseMax.Seconds(),
			ReadyP99S: h.ReadyP99.Seconds(), ReadyMaxS: h.ReadyMax.Seconds(), PeakRSS: rss,
		}
		if used := cpuNow - cpu; used > 0 && took > 0 {
			g.CPUShare = used / took.Seconds() / float64(g.CPUs)
			g.GCShare = min((gcNow-gc)/used, 1)
		}
		return g
	}
}

// processCost is the CPU time of this process and of its garbage collection, in
// seconds, and its largest resident memory in bytes.
func processCost() (cpu, gc float64, rss int64) {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) == nil {
		cpu = time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
		rss = u.Maxrss << 10
	}
	// Idle workers of the collector use only what nobody else wants.
	s := []metrics.Sample{{Name: "/cpu/classes/gc/total:cpu-seconds"}, {Name: "/cpu/classes/gc/mark/idle:cpu-seconds"}}
	metrics.Read(s)
	return cpu, s[0].Value.Float64() - s[1].Value.Float64(), rss
}
