// Command scheduler crawls on aligned clocks: filings from OpenDART, news from feeds and, where its terms
// allow, from Naver's search. It keeps the lanes in order too, so that tasks of dead workers come back and
// retries move while no worker runs. Run two of them.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/internal/trace"
)

// streams are a process's ends; tests replace them.
type streams struct {
	out, err io.Writer
	getenv   boot.Getenv
	tracer   *trace.Tracer // nil: as the flags say
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], streams{out: os.Stdout, err: os.Stderr, getenv: os.LookupEnv})
	stop()
	os.Exit(code)
}

// run returns the exit status.
func run(ctx context.Context, args []string, s streams) int { return boot.Run(ctx, newRoot(s), args) }
