package process

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// StrangerListens tells whether somebody listens on a TCP port of this machine, and
// it is nobody of the process group pgid (proc(5)). Where that cannot be seen, it is
// false.
func StrangerListens(pgid, port int) bool {
	sockets := listeners(port)
	if len(sockets) == 0 {
		return false
	}
	members, err := Group(pgid)
	if err != nil {
		return false
	}
	for _, pid := range members {
		folder := fmt.Sprintf("/proc/%d/fd", pid)
		files, err := os.ReadDir(folder)
		if err != nil && !os.IsNotExist(err) {
			return false
		}
		for _, f := range files {
			if to, err := os.Readlink(folder + "/" + f.Name()); err == nil && slices.Contains(sockets, to) {
				return false
			}
		}
	}
	return true
}

// listeners are the sockets that listen on a port, as links in /proc/PID/fd name them.
// A line of the table reads: number, local:port, remote:port, state, …, the tenth of
// them the inode; ports and the state (0A listens) in hexadecimal.
func listeners(port int) (sockets []string) {
	local := fmt.Sprintf(":%04X", port)
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(table)
		if err != nil { // there is no IPv6, or no /proc
			continue
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], local) {
				sockets = append(sockets, "socket:["+f[9]+"]")
			}
		}
	}
	return sockets
}
