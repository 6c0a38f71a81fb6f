package queue

import "runtime"

// growStack grows its goroutine's stack at once to what a task needs on its way through the house, 16 KB. Go begins with 2 KB, or
// what stacks had on average when it last collected garbage, and doubles; and each time it rewrites every frame that is
// there, the deeper the dearer.
//
//go:noinline
func growStack() {
	var room [9 << 10]byte // with what is in use it does not fit into 8 KB, and fits into 16
	runtime.KeepAlive(&room)
}
