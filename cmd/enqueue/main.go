// Command enqueue is the producer's tool: it hands documents to the fleet, waits for their vectors if
// asked, searches, and shows what the fleet and the store hold.
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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr, os.LookupEnv})
	stop()
	os.Exit(code)
}

// errPartly ends a command that did its work but for some items, each of which was reported already.
var errPartly = fmt.Errorf("some items failed: %w", boot.ErrReported)

// run returns the exit status.
func run(ctx context.Context, args []string, s streams) int { return boot.Run(ctx, newRoot(s), args) }
