package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/cmd/internal/fleet"
	"github.com/embedfleet/embedfleet/intake"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/tasks"
)

const alias = "bench"

// startRedis starts a redis-server of its own, with the append-only file that a real one has, on a free port.
func startRedis(ctx context.Context, dir string) (addr string, stop func(), err error) {
	if addr, err = freeAddress(ctx); err != nil {
		return "", nil, err
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", nil, err
	}
	cmd := exec.CommandContext(ctx, "redis-server", "--bind", "127.0.0.1", "--port", port, "--dir", dir,
		"--appendonly", "yes", "--save", "", "--logfile", "", "--daemonize", "no")
	cmd.Stdout = io.Discard
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Start(); err != nil {
		return "", nil, fmt.Errorf("starting redis-server: %w", err)
	}
	return addr, func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // its status is of no interest, its end is
	}, nil
}

// runFleet takes the texts through everything: a producer, Redis, a worker process, the store. The clock
// runs from the first text enqueued to the last vector readable; before that the other texts warm all of it.
func (b *bench) runFleet(ctx context.Context, redisAddr string, warm, texts []string) (measure, error) {
	conn, err := queue.Parse("redis://" + redisAddr)
	if err != nil {
		return measure{}, err
	}
	probes, err := freeAddress(ctx)
	if err != nil {
		return measure{}, err
	}
	worker := exec.CommandContext(ctx, b.worker, "--model", b.model, "--alias", alias, "--redis-url", "redis://"+redisAddr,
		"--onnxruntime", b.library, "--cache", b.cache, "--http", probes, "--log-level", "warn")
	worker.Stderr = os.Stderr
	if err := worker.Start(); err != nil {
		return measure{}, fmt.Errorf("starting the worker: %w", err)
	}
	m, err := warmAndMeasure(ctx, conn, probes, warm, texts)
	_ = worker.Process.Signal(syscall.SIGTERM)
	if waitErr := worker.Wait(); err == nil && waitErr != nil {
		err = fmt.Errorf("stopping the worker: %w", waitErr)
	}
	m.PeakKB = peakKB(worker.ProcessState)
	return m, err
}

func warmAndMeasure(ctx context.Context, conn queue.Conn, probes string, warm, texts []string) (measure, error) {
	f, err := openFleet(ctx, conn)
	if err != nil {
		return measure{}, err
	}
	defer f.Close()
	if err := awaitReady(ctx, f); err != nil {
		return measure{}, err
	}
	first, err := through(ctx, f, probes, warm, measure{})
	if err != nil {
		return measure{}, err
	}
	awaitStart()
	return through(ctx, f, probes, texts, first)
}

// through takes texts through a fleet that did before what is given.
func through(ctx context.Context, f *fleet.Fleet, probes string, texts []string, before measure) (measure, error) {
	begun := time.Now()
	for part := range slices.Chunk(texts, produced) {
		if err := produce(ctx, f, part); err != nil {
			return measure{}, err
		}
	}
	for {
		spaces, err := f.Store.Stats(ctx, alias)
		if err != nil {
			return measure{}, err
		}
		var stats store.Stats
		for _, s := range spaces {
			stats = s // there is one at most
		}
		took, done := time.Since(begun), int(stats.Documents)-before.Texts
		if done == len(texts) {
			padded, err := paddedTokens(ctx, probes)
			return measure{Seconds: took.Seconds(), Texts: done, Tokens: int(stats.Tokens) - before.Tokens, Padded: padded - before.Padded, Began: begun}, err
		}
		if took > 10*time.Minute {
			return measure{}, errors.New("the fleet did not finish within 10 minutes")
		}
		time.Sleep(nextLook(took, int64(done), int64(len(texts))))
	}
}

// inFlight is how many documents may become done at once: the last batches of both runners, and some.
const inFlight = 300

// nextLook returns when to look again at a fleet that has done some of all documents in so much time: half-way to the end at
// this rate; and near it, where all that is left may be done at any moment, so soon that what the look is late is 0.15 %
// of the time at most. To look is work for the cores that are measured: a hundred looks take 0.2 % of them in a run of 7 s.
func nextLook(took time.Duration, done, all int64) time.Duration {
	switch left := all - done; {
	case left < inFlight:
		return min(max(took/700, 5*time.Millisecond), 100*time.Millisecond)
	case done < 100: // the first few tell nothing of the rate
		return 100 * time.Millisecond
	default:
		half := float64(took) * float64(left) / float64(done) / 2
		return min(time.Second, time.Duration(half))
	}
}

// produced is how many documents a producer makes tasks of before it enqueues them; cmd/enqueue does as many.
const produced = 1000

// produce enqueues texts.
func produce(ctx context.Context, f *fleet.Fleet, texts []string) error {
	list := make([]tasks.Task, len(texts))
	for i, text := range texts {
		var err error
		if list[i], err = tasks.New(alias, tasks.Live, intake.ForText(text), nil); err != nil {
			return err
		}
	}
	_, err := f.Queue.Enqueue(ctx, list)
	return err
}

// paddedTokens reads from the worker's metrics what it computed.
func paddedTokens(ctx context.Context, address string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", http.NoBody)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("reading the worker's metrics: %w", err)
	}
	defer resp.Body.Close()
	scanner := bufio.NewScanner(resp.Body)
	for scanner.Scan() {
		if value, ok := strings.CutPrefix(scanner.Text(), "embed_padded_tokens_total "); ok {
			n, err := strconv.ParseFloat(value, 64)
			return int(n), err
		}
	}
	return 0, errors.New("reading the worker's metrics: no embed_padded_tokens_total")
}

// freeAddress returns a loopback address that nobody listens on.
func freeAddress(ctx context.Context) (string, error) {
	l, err := boot.Address{HostPort: "127.0.0.1:0"}.Listen(ctx)
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// openFleet waits for a Redis that is just starting.
func openFleet(ctx context.Context, conn queue.Conn) (*fleet.Fleet, error) {
	var err error
	for range 200 {
		var f *fleet.Fleet
		if f, err = fleet.Open(ctx, conn); err == nil {
			return f, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil, err
}

func awaitReady(ctx context.Context, f *fleet.Fleet) error {
	for range 1200 {
		workers, err := f.Workers.List(ctx)
		if err != nil {
			return err
		}
		for _, w := range workers {
			if w.Serving() {
				return nil
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("the worker was not ready within a minute")
}

// peakKB returns the most memory that a process which has ended had resident.
func peakKB(state *os.ProcessState) int64 {
	if state == nil {
		return 0
	}
	if usage, ok := state.SysUsage().(*syscall.Rusage); ok {
		return usage.Maxrss
	}
	return 0
}
