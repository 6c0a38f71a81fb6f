//go:build !crashtest

package main

import (
	"context"

	"github.com/embedfleet/embedfleet/tasks"
)

// sabotage and sabotaged do nothing outside of the crash tests and of make chaos.
func sabotage(begin func([]context.Context) func()) func([]context.Context) func() { return begin }

func sabotaged(e tasks.Embedder) tasks.Embedder { return e }
