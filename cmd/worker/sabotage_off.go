//go:build !crashtest

package main

import "context"

// sabotage and sabotaged do nothing outside of the crash tests and of make chaos.
func sabotage(begin func([]context.Context) func()) func([]context.Context) func() { return begin }

func sabotaged(e fullEmbedder) fullEmbedder { return e }
