// Package simulation is the fleet in one bubble of fake time: two schedulers, three workers, a producer, Redis and
// the clock, under faults that a seed decides. It is all tests; what ships is only this sentence about them.
//
// A world is made of the real parts (consumer.Consumer at batch 1 and 256, upkeep.Sweeper, tasks.Handler, embedder.Engine, the store,
// scheduler and ledger), a model that only takes time, and miniredis behind a network of its own: every command
// is executed alone and at an instant of the fake clock that the seed decides, and can be lost, refused, or
// executed without its sender learning of it. A process can be killed at any command or native call; nothing that
// it does afterwards reaches Redis.
//
// After each run: every document has exactly one outcome, no vector was written twice, there were never more
// native calls than runners, every slot of the crawler was done once, what a dead worker had leased came back
// within 10 s, nothing acknowledged ran again, and nothing is left in Redis that a check would mend. A seed that
// breaks one of these is run again with fewer and fewer faults, and the shortest history that shows it is printed.
//
// What the seed does not decide: the order in which Go runs goroutines that become ready by one reply, and which
// of several ready cases a select takes. With one processor (GOMAXPROCS=1) the first is fixed as well,
// but the store's round trips then wait for company in turns of the scheduler instead of time.
package simulation
