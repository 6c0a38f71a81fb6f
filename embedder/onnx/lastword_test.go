//go:build unix

package onnx

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

var speaks = flag.String("last-word", "", "be the child of TestLastWord: fault with a last word, or after it is forgotten")

// TestLastWord has a child process fault, as native code does, while it has a last word and after it took it back.
func TestLastWord(t *testing.T) {
	if *speaks != "" {
		forget := LastWord("the model crashed: try --no-prepack")
		if *speaks == "forgotten" {
			forget()
		}
		if err := syscall.Kill(os.Getpid(), syscall.SIGSEGV); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"spoken", "forgotten"} {
		cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestLastWord$", "-last-word="+how)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		err := cmd.Run()
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			t.Fatalf("%s: %v, want it to die", how, err)
		}
		last := strings.HasSuffix(stderr.String(), "the model crashed: try --no-prepack\n")
		status, _ := exit.Sys().(syscall.WaitStatus)
		if spoken := how == "spoken"; last != spoken || spoken && status.Signal() != syscall.SIGSEGV {
			t.Errorf("%s: %v, its end was %q", how, err, stderr.String()[max(0, stderr.Len()-200):])
		}
	}
}
