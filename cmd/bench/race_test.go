package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestMain runs a racer where the test asks for one: a process that needs 80 turns of 10 ms.
func TestMain(m *testing.M) {
	switch os.Getenv("BENCH_TEST_RACER") {
	case "":
		os.Exit(m.Run())
	case "cold":
		os.Exit(1)
	case "fails":
		awaitStart()
		os.Exit(1)
	case "forever":
		awaitStart()
		time.Sleep(time.Hour)
	}
	awaitStart()
	begun := time.Now()
	for range 80 {
		time.Sleep(10 * time.Millisecond)
	}
	_ = json.NewEncoder(os.Stdout).Encode(measure{Seconds: time.Since(begun).Seconds(), Texts: 80, Began: begun})
	os.Exit(0)
}

func testRacer(ctx context.Context, kind string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "BENCH_TEST_RACER="+kind)
	return cmd
}

func TestRace(t *testing.T) {
	t.Parallel()
	begun := time.Now()
	measures, err := race(t.Context(), testRacer(t.Context(), "runs"), testRacer(t.Context(), "runs"))
	took := time.Since(begun).Seconds()
	if err != nil || len(measures) != 2 {
		t.Fatalf("%d measures, %v", len(measures), err)
	}
	// Each sleeps 0.8 s; a sleep during which it is stopped is shorter by that.
	sum := 0.0
	for _, m := range measures {
		if m.Texts != 80 || m.Seconds < 0.5 {
			t.Errorf("a racer of 0.8 s: %d texts in %.2f s", m.Texts, m.Seconds)
		}
		sum += m.Seconds
	}
	if sum > took {
		t.Errorf("they ran %.2f s together in a race of %.2f s", sum, took)
	}
}

func TestRaceFails(t *testing.T) {
	t.Parallel()
	for kind, want := range map[string]string{"cold": "EOF", "fails": "reading its measure"} {
		_, err := race(t.Context(), testRacer(t.Context(), "forever"), testRacer(t.Context(), kind))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q in it", kind, err, want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := race(ctx, testRacer(ctx, "runs"), testRacer(ctx, "forever")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a race that was given up: %v", err)
	}
}

func TestWithin(t *testing.T) {
	t.Parallel()
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	turns := []span{{at(0), at(500)}, {at(1000), at(1500)}, {at(2000), at(2500)}}
	for _, tt := range []struct{ from, to, want int }{
		{0, 2500, 1500}, {100, 2400, 1300}, {500, 1000, 0}, {600, 1100, 100}, {1100, 1200, 100}, {2400, 9000, 100}, {9000, 9900, 0},
	} {
		if got := within(turns, span{at(tt.from), at(tt.to)}); got != time.Duration(tt.want)*time.Millisecond {
			t.Errorf("%d to %d: %v, want %d ms", tt.from, tt.to, got, tt.want)
		}
	}
}

func TestTwoRunsAsOne(t *testing.T) {
	t.Parallel()
	sum := measure{Seconds: 1, Texts: 2, Tokens: 30, Padded: 40, PeakKB: 5, Flop: 6}.plus(measure{Seconds: 3, Texts: 2, Tokens: 30, Padded: 50, PeakKB: 4, Flop: 6})
	if want := (measure{Seconds: 4, Texts: 4, Tokens: 60, Padded: 90, PeakKB: 5, Flop: 12}); sum != want {
		t.Errorf("two runs are %+v, want %+v", sum, want)
	}
}
