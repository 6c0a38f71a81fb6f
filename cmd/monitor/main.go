// Command monitor is the fleet's page: lanes, workers, sources and dead letters as they are, with what to do
// about them; search; asynq's own page behind the same login. It changes nothing but what an operator asks
// for, and any number of it may run.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
)

// streams are a process's ends; tests replace them.
type streams struct {
	in       io.Reader
	out, err io.Writer
	getenv   boot.Getenv
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr, os.LookupEnv})
	stop()
	os.Exit(code)
}

// run returns the exit status.
func run(ctx context.Context, args []string, s streams) int { return boot.Run(ctx, newRoot(s), args) }
