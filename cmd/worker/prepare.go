package main

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/cmd/internal/engine"
)

// newPrepare returns `worker prepare`.
func newPrepare(s streams) *cobra.Command {
	var (
		models modelFlags
		log    boot.Log
	)
	cmd := &cobra.Command{
		Use:   "prepare [MODEL]",
		Short: "fetch, compile and prepack a model ahead, without Redis",
		Long: `Does everything that a worker's first start does for a model, in the cache folder, and proves that it loads: for
images and for hosts that should start fast. What is prepacked is for this ONNX Runtime and this kind of processor;
elsewhere a worker prepares anew. A folder that is valid is left as it is.`,
		Args: cobra.MaximumNArgs(1),
	}
	c := boot.New(cmd.Flags())
	models.register(c)
	log.Register(c)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := c.Resolve(s.getenv); err != nil {
			return err
		}
		if len(args) == 1 {
			models.model = args[0]
		}
		set, err := models.settings(c, s.getenv)
		if err != nil {
			return err
		}
		e, err := engine.Open(cmd.Context(), log.Logger(s.err), set)
		if err != nil {
			return fmt.Errorf("%w: %w", boot.ErrModel, err)
		}
		if err := e.Close(context.WithoutCancel(cmd.Context())); err != nil {
			return err
		}
		size, err := folderSize(e.Prepared)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.out, "%s is prepared in %s (%d MB), space %s\n", set.Model, e.Prepared, size>>20, e.Space)
		return err
	}
	return cmd
}

// folderSize adds up the files of a folder.
func folderSize(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}
