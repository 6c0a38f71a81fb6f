package boot

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// Exit statuses that a supervisor can tell apart; every other failure is 1.
const (
	StatusUsage = 2 // the command line or the environment is wrong
	StatusModel = 3 // the model can't be loaded, and trying again won't help
)

var (
	// ErrModel is wrapped by the error of a model that can't be loaded: the same folder would fail again.
	ErrModel = errors.New("loading the model")
	// ErrReported is wrapped by an error of which people were told already, so that [Run] doesn't repeat it.
	ErrReported = errors.New("reported above")
)

// Root makes cmd a program's topmost command: it talks to out and errs only, [Run] reports its errors, and a
// flag it doesn't know is a usage error.
func Root(cmd *cobra.Command, out, errs io.Writer) {
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetOut(out)
	cmd.SetErr(errs)
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return Usagef("%w; --help lists the flags", err) })
	cmd.CompletionOptions.HiddenDefaultCmd = true
}

// Run runs a program, reports its error in one line, and returns its exit status: 0 if all went well,
// [StatusUsage], [StatusModel], or 1 for every other failure.
func Run(ctx context.Context, root *cobra.Command, args []string) int {
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && !errors.Is(err, ErrReported) {
		fmt.Fprintf(root.ErrOrStderr(), "%s: %v\n", root.Name(), err)
	}
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrUsage):
		return StatusUsage
	case errors.Is(err, ErrModel):
		return StatusModel
	default:
		return 1
	}
}
