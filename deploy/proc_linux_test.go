package deploy_test

import "syscall"

// dieWithParent asks the kernel to kill the child if the test process dies without its cleanups.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
