// Package consumer does the tasks of one model's lanes: it leases them, hands them to a handler in batches, and settles
// what became of each. It is one loop a pool of lanes, [pool.run]; a walk of one text:
//
//	limiter   waits until there is room for work: seconds of it, by the consumer's own measured rate, and a number
//	fetcher   leases as much from a lane as fills the room (lease.lua); what expired or was cancelled is dropped there
//	executor  gives each task a context and a deadline for its own work, and the batch to the handler
//	settler   turns each result into one word by one table (judge), and all words of a moment into one script
//	          (settle.lua), which checks that the lease is still this consumer's
//
// Beside the loops run: the keeper, which renews leases (renew.lua); the notifier, which hears of new tasks and of
// cancellations; the heartbeat, by which asynq's tools see what is in hand.
//
// # Promise
//
// A task is delivered at least once, and acknowledged only after the handler reported it done. A task may run twice:
// after a crash, after its worker was away for longer than its lease. Handlers must be idempotent.
//
// # Leases
//
// A lease lasts 6 seconds and is renewed every 2; that of a query 1.5 s and every 0.4 s. Scores are Redis's time.
// Beside asynq's lease the task's hash names the holder, a word that is new with each lease. Whoever has not that word
// can neither renew nor settle, so that a process which was stopped for longer than its lease, and wakes up, changes
// nothing; and a script that is sent twice because its answer was lost does nothing the second time.
//
// # Pools
//
// Queries have a pool of their own, so have the documents of live and backfill, and the two never wait for each other.
// The quarantine lane runs one task at a time while nothing else is in hand.
package consumer
