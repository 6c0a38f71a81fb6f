package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/cmd/internal/fleet"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/tasks"
)

// An app is one call of the command: its settings, and what they open.
type app struct {
	streams
	config *boot.Config
	log    boot.Log
	url    string
	model  string // alias; "" is the only one there is
	json   bool

	fleet     *fleet.Fleet
	unwritten error // the first failure to print
}

func newRoot(s streams) *cobra.Command {
	a := &app{streams: s}
	add := &addCommand{app: a}
	root := &cobra.Command{
		Use:   "enqueue [TEXT...]",
		Short: "hand documents to the fleet: texts as arguments, --file, or stdin",
		Example: `  enqueue --model minilm "a text" "another"
  enqueue --model minilm --file docs.jsonl --wait
  generate | enqueue --lane backfill
  enqueue search "cost of borrowing" -k 5 --filter source=news`,
		Args: cobra.ArbitraryArgs,
		RunE: a.connected(add.run),
	}
	boot.Root(root, s.out, s.err)

	a.config = boot.New(root.PersistentFlags())
	a.config.String(&a.url, "redis-url", "redis://127.0.0.1:6379", "the queue's Redis", boot.Env("REDIS_URL"), boot.Secret)
	a.config.String(&a.model, "model", "", "alias of the model; may be left out while there is one only", boot.OnlyEnv("EMBEDFLEET_ALIAS"))
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON, one object a line")
	a.log.Register(a.config)
	add.register(root)
	root.AddCommand(newSearch(a), newStatus(a), newGet(a), newDelete(a), newDead(a), newFsck(a), newFleet(a), newCancel(a), newMove(a), newForget(a))
	return root
}

// connected wraps f with what every command does: settle the configuration, open Redis, close it.
func (a *app) connected(f func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := a.config.Resolve(a.getenv); err != nil {
			return err
		}
		conn, err := queue.Parse(a.url)
		if err != nil {
			return boot.Usagef("--redis-url: %w", err)
		}
		if a.model != "" {
			if err := tasks.CheckModel(a.model); err != nil {
				return boot.Usagef("--model: %w", err)
			}
		}
		boot.RedisLog(a.log.Logger(a.err))
		if a.fleet, err = fleet.Open(cmd.Context(), conn); err != nil {
			return err
		}
		defer a.fleet.Close()
		return errors.Join(f(cmd, args), a.unwritten)
	}
}
