package onnx

/*
#cgo LDFLAGS: -ldl
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

static void trim(void) {
	int (*malloc_trim)(size_t) = (int (*)(size_t))dlsym(RTLD_DEFAULT, "malloc_trim");
	if (malloc_trim) malloc_trim(0);
}
*/
import "C"

// trim gives back to the system what native code has freed. glibc keeps it in the arenas of threads that may
// never ask again, so that a session's memory would outlive it beside the next one's
// (microsoft/onnxruntime#26831). The function is looked up: other libraries, such as musl, have none and
// keep less.
func trim() { C.trim() }
