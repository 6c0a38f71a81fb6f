//go:build unix

package onnx

/*
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SIGNALS = 5 };
static const int fatal[SIGNALS] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
static struct sigaction before[SIGNALS];
static char *word;
static size_t length;

// Only what a signal handler may call: write, sigaction and raise (signal-safety(7)).
static void die(int number) {
	ssize_t written = write(STDERR_FILENO, word, length);
	(void)written;
	struct sigaction standard = {.sa_handler = SIG_DFL};
	sigaction(number, &standard, NULL);
	raise(number);
}

static void speak(char *text) {
	word = text, length = strlen(text);
	struct sigaction last = {.sa_handler = die, .sa_flags = SA_ONSTACK}; // Go's threads have a stack for signals
	for (int i = 0; i < SIGNALS; i++) sigaction(fatal[i], &last, &before[i]);
}

static void hush(void) {
	for (int i = 0; i < SIGNALS; i++) sigaction(fatal[i], &before[i], NULL);
	free(word);
	word = NULL;
}
*/
import "C"

// LastWord has the process write text and a newline to standard error, and die by the signal, when it faults before
// forget is called: in native code nothing can be recovered, so who reads the end of the log must find there what to
// do. Go's own account of a fault, which is of no use for one in a library, is then missing. Call it once at a time.
func LastWord(text string) (forget func()) {
	C.speak(C.CString(text + "\n"))
	return func() { C.hush() }
}
