package verdict

import (
	"fmt"
	"math"
	"time"
)

// Tolerances of the positive control of what presses on a machine.
const (
	busyShare   = 0.8                    // of the processor time asked for that was wanted, at least
	gotShare    = 0.1                    // and had, where others wanted it, too
	memoryShare = 0.98                   // of the memory asked for that was resident
	memorySlack = 128 << 20              // bytes that the process which holds it may need beside
	driftShare  = 0.2                    // a drift may be off by so much of it
	diskSlack   = 4 << 20                // bytes that others wrote or freed meanwhile
	clockSlack  = 100 * time.Millisecond // a clock may be off by so much, beside what is uncertain of it
)

// comparePressure is the positive control of faults that no proxy sees and that no
// process dies of: what the runtime measured of them stands in the fault's lines.
// known is false for all other kinds.
func comparePressure(f Fault, out *FaultResult) (ok bool, detail string, known bool) {
	compare := map[string]func(Fault, map[string]float64) (bool, string){
		"cpu": compareCPU, "memory": compareMemory, "disk": compareDisk, "dns": compareLookups, "clock": compareClock,
	}[f.Kind]
	if compare == nil {
		return false, "", false
	}
	o := out.Observed
	out.Fired = max(out.Fired, int(o["instances"]), int(o["hit"]))
	if asked := f.Asked["instances"]; o["instances"] < asked {
		return false, fmt.Sprintf("%.0f of %.0f instances were hit", o["instances"], asked), true
	}
	ok, detail = compare(f, o)
	return ok, detail, true
}

// compareCPU wants the workers to have wanted what they were asked to burn, whether
// they had it or waited for it: where others want the same processors, waiting is
// what a contended machine looks like. A kernel that does not say how long threads
// waited leaves what they had, of which half is enough.
func compareCPU(f Fault, o map[string]float64) (ok bool, detail string) {
	asked := o["workers"] * f.Asked["load_ratio"]
	held := o["held_s"]
	if !(held > 0 && asked > 0) {
		return false, "no processor time of it was measured"
	}
	o["cores"] = o["cpu_s"] / held
	wanted := (o["cpu_s"] + o["wait_s"]) / held
	detail = fmt.Sprintf("burnt %.2f processors of the %.2f asked for", o["cores"], asked)
	if o["wait_s"] > 0 {
		detail += fmt.Sprintf(", and waited for %.2f more", o["wait_s"]/held)
	}
	if v, given := o["victim_cpu_s"]; given {
		o["victim_cores"] = v / held
		detail += fmt.Sprintf("; the service had %.2f meanwhile", v/held)
	}
	switch {
	case o["wait_s"] > 0 && (wanted < busyShare*asked || o["cores"] < gotShare*asked),
		o["wait_s"] == 0 && o["cores"] < asked/2:
		return false, detail + ": too little to call it that"
	}
	return true, detail
}

func compareMemory(f Fault, o map[string]float64) (ok bool, detail string) {
	asked := o["held_bytes"]
	if v := f.Asked["rss_bytes"]; v > 0 {
		asked = v * max(1, o["instances"]) // for each of them
	}
	got := o["rss_bytes"]
	detail = fmt.Sprintf("held %s of the %s asked for", mebibytes(got), mebibytes(asked))
	return asked > 0 && got >= memoryShare*asked && got <= asked+memorySlack*max(1, o["instances"]), detail
}

func compareDisk(f Fault, o map[string]float64) (ok bool, detail string) {
	if left, given := f.Asked["free_bytes"]; given {
		return o["bytes"] > 0 && o["free_bytes"] <= left+diskSlack,
			fmt.Sprintf("wrote %s, which left %s free; asked was %s", mebibytes(o["bytes"]), mebibytes(o["free_bytes"]), mebibytes(left))
	}
	asked := f.Asked["bytes"] * max(1, o["instances"]) // for each of them
	return o["bytes"] >= asked && o["bytes"] > 0,
		fmt.Sprintf("took %s of the disk; asked was %s; %s were left free", mebibytes(o["bytes"]), mebibytes(asked), mebibytes(o["free_bytes"]))
}

func compareLookups(f Fault, o map[string]float64) (ok bool, detail string) {
	if o["lookups"] == 0 {
		return false, fmt.Sprintf("found no traffic: nobody looked the callee of %s up while it was in place", f.Target)
	}
	return o["hit"] > 0, fmt.Sprintf("hit %s of %s", thousands(int(o["hit"])), plural(int(o["lookups"]), "lookup", "lookups"))
}

func compareClock(f Fault, o map[string]float64) (ok bool, detail string) {
	asked, got := f.Asked["offset_s"], o["offset_s"]
	within := o["uncertain_s"] + clockSlack.Seconds()
	detail = fmt.Sprintf("the service's clock was %+.3f s off ours (± %.3f s); asked was %+.3f s", got, o["uncertain_s"], asked)
	if drift := f.Asked["drift_ratio"]; drift != 0 {
		seen := o["drift_ratio"]
		detail += fmt.Sprintf(", and gained %+.4f s each second; asked was %+.4f s", seen, drift)
		// Over a short time the uncertainty of both readings hides it.
		slack := driftShare * math.Abs(drift)
		if f.For > 0 {
			slack += 2 * within / f.For.Seconds()
		}
		if math.Abs(seen-drift) > slack {
			return false, detail
		}
	}
	return math.Abs(got-asked) <= within, detail
}

func mebibytes(n float64) string { return fmt.Sprintf("%.1f MiB", n/(1<<20)) }
