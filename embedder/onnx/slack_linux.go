package onnx

/*
#include <sys/prctl.h>

static int slack(void) { return prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0); }

// Threads inherit the slack of the one that starts them, so that the first of all must have it before Go starts others:
// the C library calls this before Go's runtime begins.
__attribute__((constructor)) static void relax(void) { prctl(PR_SET_TIMERSLACK, 5000000UL, 0, 0, 0); }
*/
import "C"

import "time"

// timerSlack is how much later than asked for the kernel may wake this thread (prctl(2), PR_SET_TIMERSLACK). A process that
// links this package starts with 5 ms instead of Linux's 50 µs, for the sake of one thread: Go's monitor sleeps for 20 µs
// at a time after every native call, to see whether something else wants the call's processor (sysmon in runtime/proc.go), and
// each of its thousand looks a second takes a core from a model that computes, on a virtual machine with several exits to
// the host. With the slack it looks when something else happens, or every 5 ms. Timers of Go's are up to 5 ms late too:
// none here needs more, and queries wait no longer (docs/decisions/0007).
func timerSlack() time.Duration { return time.Duration(C.slack()) }
