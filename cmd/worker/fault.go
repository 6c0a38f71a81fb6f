package main

import (
	"os"
	"runtime/debug"
	"syscall"
)

// dieBySignal has a fault in native code, or a panic, end this process by a signal. A Go program would end
// with status 2, which tells a supervisor that the command line is wrong and a restart useless. No core
// is dumped, gigabytes of weights in it, unless whoever started the process asked for one by GOTRACEBACK=crash.
func dieBySignal() {
	if os.Getenv("GOTRACEBACK") == "crash" {
		return
	}
	debug.SetTraceback("crash")
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_CORE, &limit) == nil {
		limit.Cur = 0
		_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &limit) // lowering is always allowed; else there is a core
	}
}
