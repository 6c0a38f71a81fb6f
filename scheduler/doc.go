// Package scheduler decides when documents enter the fleet without a human: it owns the aligned clock of the
// crawlers, and the one order of steps in which a fetched item becomes a task. It refuses to know where
// items come from (the rooms dart and news below) and how anything is kept (package ledger).
//
// # The clock
//
// A [Schedule] is data: a job, cron lines in Korean time, how far a run looks back, and why. Each line cuts
// time into slots: a slot begins when the line fires and ends when it fires next. Slots are named by their
// beginning, "dart:2026-11-22T02:05Z", so that any number of replicas agree on the name without talking, and
// exactly one of them runs it, because they claim it at a [Board]. What a claim answers, and who judges the
// time, is written there.
//
// A slot that nobody ran while it was current is not run later: sweeps are not deltas. The next run is told
// when the last one succeeded ([Tick.Since]) and looks back that far. So an hour without Redis, or without
// any replica, costs delay and never an item. The slot that is current when a replica starts is run at once
// if nobody has.
//
// # The order of steps
//
// See [Outbox]: an item is marked as known only after its task is safely in the queue. Every step before may
// happen twice, and twice leaves the same state as once.
package scheduler
