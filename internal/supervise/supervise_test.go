package supervise_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/embedfleet/embedfleet/internal/supervise"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func child(t *testing.T, script string, opts supervise.Options) *supervise.Child {
	t.Helper()
	return supervise.New(slog.New(slog.DiscardHandler), "sh", []string{"sh", "-c", script}, nil, &opts)
}

func TestRestartsWhatCrashes(t *testing.T) {
	t.Parallel()
	marks := filepath.Join(t.TempDir(), "marks")
	var out bytes.Buffer
	c := child(t, "echo x >>"+marks+"; echo started; exit 3", supervise.Options{Crashes: 3, MinDelay: time.Millisecond, Output: &out})
	err := c.Run(t.Context())
	if !errors.Is(err, supervise.ErrGaveUp) || !strings.Contains(err.Error(), "3 times") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("Run() = %v", err)
	}
	b, err := os.ReadFile(marks)
	if err != nil || strings.Count(string(b), "x") != 3 || strings.Count(out.String(), "started") != 3 {
		t.Errorf("ran %q, printed %q, %v", b, out.String(), err)
	}
}

func TestOldCrashesAreForgiven(t *testing.T) {
	t.Parallel()
	marks := filepath.Join(t.TempDir(), "marks")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	c := child(t, "echo x >>"+marks+"; exit 3", supervise.Options{Crashes: 3, Window: time.Millisecond, MinDelay: 5 * time.Millisecond})
	if err := c.Run(ctx); err != nil {
		t.Errorf("Run() = %v", err)
	}
	if b, _ := os.ReadFile(marks); strings.Count(string(b), "x") < 4 {
		t.Errorf("ran %d times, want more than the limit", strings.Count(string(b), "x"))
	}
}

func TestFinalStatusIsNotRetried(t *testing.T) {
	t.Parallel()
	c := child(t, "exit 2", supervise.Options{Final: func(status int) bool { return status == 2 }})
	if err := c.Run(t.Context()); err == nil || errors.Is(err, supervise.ErrGaveUp) || !strings.Contains(err.Error(), "status 2") {
		t.Errorf("Run() = %v", err)
	}
}

func TestStopsInTwoPhases(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"a child that drains":         "trap 'exit 0' TERM; echo up >$0; while :; do sleep 0.01; done",
		"a child that ignores a TERM": "trap '' TERM; echo up >$0; while :; do sleep 0.01; done",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := filepath.Join(t.TempDir(), "up")
			ctx, cancel := context.WithCancel(t.Context())
			c := child(t, strings.ReplaceAll(script, "$0", up), supervise.Options{Grace: 100 * time.Millisecond})
			done := make(chan error, 1)
			go func() { done <- c.Run(ctx) }()
			for {
				if _, err := os.Stat(up); err == nil {
					break
				}
				time.Sleep(time.Millisecond)
			}
			cancel()
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("Run() = %v", err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("the child is still running")
			}
		})
	}
}

func TestMissingBinary(t *testing.T) {
	t.Parallel()
	c := supervise.New(slog.New(slog.DiscardHandler), "worker", []string{"/does/not/exist"}, nil, nil)
	if err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "starting worker") {
		t.Errorf("Run() = %v", err)
	}
}

// TestCrashesAreTold checks what the child and the owner learn of crashes, and that 0 may be an end.
func TestCrashesAreTold(t *testing.T) {
	t.Parallel()
	var told []supervise.Crash
	var out bytes.Buffer
	c := child(t, `echo "crash $CRASHES of $MARK"; [ "$CRASHES" = 2 ] && exit 0; [ "$CRASHES" = 1 ] && exit 7; kill -SEGV $$`, supervise.Options{
		MinDelay: time.Millisecond, Output: &out,
		Final:   func(status int) bool { return status == 0 },
		Env:     func(crashes int) []string { return []string{fmt.Sprint("CRASHES=", crashes), "MARK=x"} },
		Crashed: func(c supervise.Crash) { told = append(told, c) },
	})
	if err := c.Run(t.Context()); err != nil {
		t.Errorf("Run() = %v of a child that ended with 0", err)
	}
	if want := "crash 0 of x\ncrash 1 of x\ncrash 2 of x\n"; out.String() != want {
		t.Errorf("the child said %q, want %q", out.String(), want)
	}
	if len(told) != 2 || !strings.HasPrefix(told[0].How, "signal: segmentation fault") || told[0].Count != 1 || told[0].Again != time.Millisecond ||
		told[0].PID == told[1].PID || told[1] != (supervise.Crash{How: "exit status 7", PID: told[1].PID, Count: 2, Recent: 2, Again: 2 * time.Millisecond}) {
		t.Errorf("told %+v", told)
	}
}

func TestTheLastCrashIsToldToo(t *testing.T) {
	t.Parallel()
	var told []supervise.Crash
	c := child(t, "exit 3", supervise.Options{Crashes: 2, MinDelay: time.Millisecond, Crashed: func(c supervise.Crash) { told = append(told, c) }})
	if err := c.Run(t.Context()); !errors.Is(err, supervise.ErrGaveUp) {
		t.Errorf("Run() = %v", err)
	}
	if len(told) != 2 || told[1].Again != 0 || told[1].Recent != 2 {
		t.Errorf("told %+v", told)
	}
}

// Whoever wants to end the child's processes is told of each, and they are started again.
func TestStartedIsTold(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	pids := map[int]bool{}
	c := child(t, "while :; do sleep 0.01; done", supervise.Options{Crashes: 10, MinDelay: time.Millisecond, Started: func(p *os.Process) {
		if pids[p.Pid] = true; len(pids) == 3 {
			cancel()
			return
		}
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	}})
	if err := c.Run(ctx); err != nil || len(pids) != 3 {
		t.Errorf("Run() = %v after %d processes", err, len(pids))
	}
}
