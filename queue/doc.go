// Package queue is the producer's side of the lanes: a client that enqueues in bulk and within limits and waits for what
// became of tasks, the state of every lane, pausing, cancelling, moving and forgetting what waits, and the address of a
// Redis. What does the tasks is in queue/consumer, what keeps the lanes in order in queue/upkeep; how a lane looks in
// Redis is in queue/internal/wire. A picture of a task's states, with the script of each edge, is docs/task-states.md.
//
// It knows what a task's envelope is (id, kind, model, lane, timeout, expiry) and refuses to know what is inside: the
// payload passes unread. Where the code answers a trap of asynq's it names it, T1 to T35.
//
// # asynq is the format, the tools and the neighbour
//
// A lane of a model is the asynq queue "embed:<alias>:<lane>". An unmodified asynq.Client can enqueue into it, an
// unmodified asynq.Server can drain it beside our workers, asynq.Inspector and asynqmon read and steer it.
//
// # Names
//
// All keys of a lane share one hash slot in Redis Cluster, since asynq writes the queue's name in braces.
//
//	asynq:queues                        SET   every queue; refreshed by clients and consumers (T8)
//	asynq:{embed:<alias>:<lane>}:...    asynq 0.26's own layout
//	asynq:{embed:<alias>:<lane>}:pending is also a channel, on which producers announce new tasks
//	asynq:servers, asynq:workers, and one key each per consumer: what asynq's tools show of it
//	embedfleet:calls:<worker>           HASH  tasks inside a native call of the worker, TTL 1 h
//	{embedfleet:sweep}:turn             somebody has the turn to sweep the lanes, TTL 0.9 s
//	{embedfleet:sweep}:state            HASH  when that was last, and what was done
//
// The keys of our own beside a lane's are in its hash slot; <lane> is {embed:<alias>:<lane>}, with the braces.
//
//	embedfleet:<lane>:letter:<task id>  HASH  a dead letter: code, message, first, last (Unix ms), attempts,
//	                                          crashes, worker, kind, document, source, msg (asynq's message)
//	embedfleet:<lane>:dead              ZSET  task id -> last failure, Unix ms; the index of the letters
//	embedfleet:<lane>:dead:causes       HASH  code -> how many letters have it
//	embedfleet:<lane>:cancelled         ZSET  task id -> when it was cancelled, Unix seconds; also a channel, on
//	                                          which cancellations of tasks that run are announced
//	embedfleet:<lane>:counts            HASH  crashes, duplicates, expired; they only grow
//
// A task's hash has fields that asynq does not know: "holder", who has its lease; "tokens", the estimate of its text;
// "expires", Unix ms; "crashes", how often a worker died with the task inside a native call, and "charged", the worker
// of the last time; "first", "code" and "worker" of its failures; "version", of the document in its message.
package queue
