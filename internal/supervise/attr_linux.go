package supervise

import "syscall"

// processAttributes put the child in a group of its own, so that Ctrl-C reaches it only through us and the
// stop order holds, and end it when this process is killed.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
