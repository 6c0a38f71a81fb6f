package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
)

// A deletion is one line of `enqueue delete --json`.
type deletion struct {
	ID      string `json:"id"`
	Deleted bool   `json:"deleted"`
}

// newDelete returns `enqueue delete`.
func newDelete(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "delete ID...",
		Short: "delete documents, with their chunks and vectors",
		Long: `Delete documents from the store. Searches forget them at once, and a task of theirs that is on its
way does not bring them back; handed in anew, they are there again.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return boot.Usagef("delete takes document ids, got none")
			}
			return nil
		},
		RunE: a.connected(func(cmd *cobra.Command, args []string) error {
			alias, err := a.fleet.Model(cmd.Context(), a.model)
			if err != nil {
				return err
			}
			for _, id := range args {
				deleted, err := a.fleet.Documents(alias).Delete(cmd.Context(), id, 0)
				switch {
				case err != nil:
					return err
				case a.json:
					a.print(deletion{id, deleted})
				case deleted:
					fmt.Fprintf(a.out, "%s deleted\n", id)
				default:
					fmt.Fprintf(a.out, "%s was not stored\n", id)
				}
			}
			return nil
		}),
	}
}
