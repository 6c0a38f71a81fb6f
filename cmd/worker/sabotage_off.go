//go:build !crashtest

package main

import "context"

// sabotage does nothing outside of the crash tests.
func sabotage(begin func([]context.Context) func()) func([]context.Context) func() { return begin }
