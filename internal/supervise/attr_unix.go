//go:build unix && !linux

package supervise

import "syscall"

// processAttributes put the child in a group of its own, so that Ctrl-C reaches it only through us and the
// stop order holds.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
