//go:build !linux

package testkit

import "syscall"

const sigTerm = syscall.SIGTERM

// dieWithParent has no counterpart here: a redis-server may outlive a test process that was killed.
func dieWithParent() *syscall.SysProcAttr { return nil }
