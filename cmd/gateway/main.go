// Command gateway serves the fleet over HTTP: embeddings as OpenAI's and text-embeddings-inference's interfaces,
// documents in, search. It links no native code and keeps nothing but the search's index; run as many as needed.
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
