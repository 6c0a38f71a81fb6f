// Package queue is asynq made dependable: a client that enqueues in bulk and within limits, a server whose
// slots follow the handler, acks that survive a fault, dead letters that can be replayed, a check that mends
// what crashes leave behind, and the state of every lane.
//
// It owns every key that begins with "asynq:" and the key names below. It knows what a task's envelope is
// (id, kind, model, lane, timeout, expiry) and refuses to know what is inside: the payload passes unread, but
// for a dead letter, of which tasks is asked what document it was about. No other
// room imports asynq, so that its traps stay here; they are numbered T1 to T35 in docs/asynq.md of the
// project's shared notes and named by number where the code answers one.
//
// # Promise
//
// A task is delivered at least once, and acknowledged only after its handler returned nil, or a [Together] reported it
// done. A task may run twice: after a crash, after a lost ack, after a timeout. Handlers must be idempotent.
//
// # Names
//
// A lane of a model is the asynq queue "embed:<alias>:<lane>"; all of its keys share one hash slot in
// Redis Cluster, since asynq writes the queue's name in braces.
//
//	asynq:queues                        SET   every queue; refreshed by clients and servers (T8)
//	asynq:{embed:<alias>:<lane>}:...    asynq 0.26's own layout
//	embedfleet:workers                  ZSET  worker id -> Unix time at which its entry lapses
//	embedfleet:worker:<id>              HASH  what the worker says of itself, TTL [WorkerTTL]: model, state,
//	                                          host, pid, and all of it in entry, JSON of [Worker]
//	embedfleet:lost:<id>                the process that noted the worker's end, TTL 2 h
//	embedfleet:events                   STREAM what changed lately, at most [MaxEvents]: what, who, model, about, text
//	embedfleet:settings:revision        counter of the orders given to workers, see [Control]
//	embedfleet:settings:model:<alias>   HASH  orders for every worker of a model: concurrency, max_access,
//	                                          access_timeout, each "<revision> <value>"; by
//	embedfleet:settings:worker:<id>     HASH  the same for one worker, and drain; TTL 1 h, kept while it lives
//	asynq:{embed:<alias>:<lane>}:pending is also a channel, on which producers announce new tasks
//	embedfleet:calls:<id>               HASH  tasks inside a native call of the worker, see [Calls], TTL 1 h
//
// The keys of our own beside a lane's are in its hash slot; <lane> is {embed:<alias>:<lane>}, with the braces.
//
//	embedfleet:<lane>:letter:<task id>  HASH  a dead letter: code, message, first, last (Unix ms), attempts,
//	                                          crashes, worker, kind, document, source, msg (asynq's message)
//	embedfleet:<lane>:dead              ZSET  task id -> last failure, Unix ms; the index of the letters
//	embedfleet:<lane>:dead:causes       HASH  code -> how many letters have it
//	embedfleet:<lane>:cancelled         ZSET  task id -> when it was cancelled, Unix seconds; see [Lanes.Cancel]
//	embedfleet:<lane>:counts            HASH  crashes, duplicates; they only grow
//
// A task's hash has fields that asynq does not know: "crashes", how often a worker died with the task inside
// a native call, and "charged", the worker of the last time; "first", "code" and "worker" of its failures;
// "buried", when its dead letter was written; "version", of the document in its message.
//
// # How a task dies
//
// asynq's archive drops what goes beyond 9,999 entries (T5), so it is only a place to pass through. A worker
// that gives its last verdict writes the letter and marks the task as buried in one script, then has asynq
// forget the task. If it dies in between, the reaper sees the mark and does the second half. What asynq
// archives by itself (a timeout at the last try, or while the letter could not be written) [Maintenance]
// takes out of the archive and turns into a letter in one script, every second. So each death is one letter.
//
// A letter holds the task's message, and with it the text, for it could not be replayed without; it is never
// logged, and shown only to who asks for it. Letters are dropped after 90 days, or when a lane has more than
// 250,000, the oldest first; both is checked every hour and logged. Whoever is enqueued again, in whichever
// lane, is not dead any more: the letter goes in the same script.
//
// asynq's message and key formats are not public, so this room depends on version 0.26 exactly; tests
// compare what it writes with what asynq's own client writes.
package queue
