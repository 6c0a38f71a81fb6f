package boot

import "github.com/spf13/cobra"

// NoArgs is for commands that take flags only.
func NoArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return Usagef("%s takes no argument, got %q; --help lists the flags and commands", cmd.CommandPath(), args[0])
	}
	return nil
}
