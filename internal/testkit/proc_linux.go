package testkit

import "syscall"

const sigTerm = syscall.SIGTERM

// dieWithParent asks the kernel to kill the child if the test process dies without its cleanups, as it
// does when a test times out.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
