//go:build race

package simulation

// raced says that the race detector is on, which shuffles the order in which goroutines run.
const raced = true
