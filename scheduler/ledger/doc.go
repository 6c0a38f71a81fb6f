// Package ledger is what crawlers must remember, in Redis: who runs which slot, what was seen, what a quota
// has left, how feeds fared, how far a backfill came. It implements the small interfaces of scheduler and of the
// rooms of sources, owns the key schema below, and knows nothing of sources and items but their names.
//
// # Key schema
//
// Other programs may read these keys; only this package writes them. <source> is the Cluster hash tag, so
// that a script may touch all keys of one source. <job> is a schedule's name.
//
//	key                                type    TTL      growth
//	ef:crawl:sources                   zset    none     source -> Unix time when a scheduler last kept it
//	ef:{crawl:<source>}:schedules      hash    none     job -> its schedule and when it was last kept, JSON
//	ef:{crawl:<source>}:job:<job>      hash    none     one per job, fields below
//	ef:{crawl:<source>}:slots:<job>    zset    none     slots done in the last 25 h or two slots, ~300 x 100 B
//	ef:{crawl:<source>}:runs:<job>     zset    none     runs that ended in 30 days, by when; 200 B each and 40 B a document
//	                                                    brought, of which each names at most 20
//	ef:{crawl:<source>}:lease:<job>    string  30 s     the token of the run under way
//	ef:{crawl:<source>}:asked:<job>    string  5 min    an operator wants a slot run now; who
//	ef:{crawl:<source>}:pause          hash    if until reason, since, until
//	ef:{crawl:<source>}:seen           zset    none     name -> Unix time seen first; trimmed, see [Seen]
//	ef:{crawl:<source>}:report:<hash>  string  400 d    the latest receipt of a company's report of one name
//	ef:{crawl:<source>}:awaited        zset    none     enqueued and not yet stored: id -> event time, ms
//	ef:{crawl:<source>}:latencies      list    none     the last 1024 of them, in milliseconds
//	ef:{crawl:<source>}:quota:<who>:<day>  string  48 h calls made by a key on a Korean day
//	ef:{crawl:<source>}:feeds          hash    none     one JSON per feed
//	ef:{crawl:<source>}:recall         hash    none     feed or interface -> what it brought in two days, JSON, 60 B an item
//	ef:{crawl:<source>}:compared       hash    none     alias -> number in its change log up to which documents were
//	                                                    compared for near duplicates
//	ef:{crawl:<source>}:backfill:<name> hash   none     one per backfill ever begun
//	ef:{crawl:<source>}:companies      hash    none     listed companies: code -> stock code, blank, name; 4,000
//
// The fields of a job: clock (the latest time seen, Unix ms), epoch (how often Redis's clock went back),
// running, attempts, begun (of the run under way or abandoned), last_ok (beginning of the last slot done,
// Unix ms), ended, report (JSON) and took of the last run, error, error_at, failures (in a row).
//
// Members of runs:<job> are when the run began, Unix ms, a blank, and JSON: slot, outcome, attempt, error, report.
//
// Members of slots:<job> are slot names, with "@<epoch>" behind them after the clock went back.
package ledger
