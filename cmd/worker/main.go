// Command worker loads one model when it starts and serves that model's lanes until it is told to stop. Its
// subcommands embed and tokenize do the same work on stdin, prepare the part of it that can be done ahead, all without
// Redis.
package main

import (
	"context"
	"fmt"
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
	// SIGHUP is not ours: a model is swapped by a new process, never by reloading in this one.
	signal.Ignore(syscall.SIGHUP)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr, os.LookupEnv})
	stop()
	os.Exit(code)
}

// errPartly ends a command that did its work but for some items, each of which was reported already.
var errPartly = fmt.Errorf("some items failed: %w", boot.ErrReported)

// run returns the exit status, which tells a supervisor of a model that can't be loaded.
func run(ctx context.Context, args []string, s streams) int { return boot.Run(ctx, newRoot(s), args) }
