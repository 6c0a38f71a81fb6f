package simulation

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"
)

// The scenarios in which every write of the path happens.
var scenarios = map[string]plan{
	// Texts that are written again, in another text and in the same; one that no model can read; a crawled one.
	"calm": {Texts: []text{
		{Doc: "p0", Version: 1, Text: "p0 v1", At: 2 * time.Second},
		{Doc: "p0", Version: 2, Text: "p0 v2", At: 6 * time.Second},
		{Doc: "p1", Version: 1, Text: "p1", At: 2 * time.Second},
		{Doc: "p1", Version: 2, Text: "p1", At: 8 * time.Second},
		{Doc: "p2", Version: 1, Text: "p2 bad", At: 3 * time.Second},
		{Doc: "c0", Text: "c0", Crawled: true},
	}},
	// The store refuses once.
	"retry": {Texts: []text{{Doc: "p0", Version: 1, Text: "p0", At: 2 * time.Second}},
		Faults: []fault{{Kind: refused, Op: opPut, Nth: 1, Runs: 1}}},
	// A text kills three workers.
	"poison": {Texts: []text{{Doc: "p0", Version: 1, Text: "p0 poison", At: 16 * time.Second}, {Doc: "p1", Version: 1, Text: "p1"}}},
	// Workers are told to stop in the middle of a call that takes longer than they may: of a lone text, and of two that wait
	// for them and are leased together.
	"drain":   {Texts: []text{{Doc: "p0", Version: 1, Text: "p0", At: 2 * time.Second}}, Faults: drain},
	"drain 2": {Texts: []text{{Doc: "p0", Version: 1, Text: "p0"}, {Doc: "p1", Version: 1, Text: "p1"}}, Faults: drain, Batch: true},
	// A call takes so long that a heartbeat tells of it.
	"busy": {Texts: []text{{Doc: "p0", Version: 1, Text: "p0", At: 2 * time.Second}}, Faults: []fault{{Kind: slowCall, Nth: 1}}},
	// A run of the crawler outlasts the first renewal of its lease.
	"slow source": {Texts: []text{{Doc: "c0", Text: "c0", Crawled: true}}, Crawl: 15 * time.Second},
}

var drain = []fault{{Kind: slowCall, Nth: 1}, {Kind: retired, Who: 0, At: 5 * time.Second}, {Kind: retired, Who: 1, At: 5 * time.Second},
	{Kind: retired, Who: 2, At: 5 * time.Second}}

// writes names every write of the path, and a scenario in which it happens. TestEveryWriteBreaksTwice fails for a
// write that is not here.
var writes = map[string]string{
	// A text on its way into a lane.
	opRegister: "calm",
	opEnqueue:  "calm",

	// A worker takes it, and says of itself and of its calls what others must know.
	opDequeue:                       "calm",
	opExtend:                        "drain",
	opBegin:                         "calm",
	"PEXPIRE embedfleet:calls:*":    "calm",
	opEnd:                           "calm",
	opAnnounce:                      "calm",
	"PEXPIRE embedfleet:worker:*":   "calm",
	"ZADD embedfleet:workers":       "calm",
	"DEL embedfleet:worker:*":       "drain",
	"ZREM embedfleet:workers":       "drain",
	"HSET embedfleet:workers:names": "calm",
	"HDEL embedfleet:workers:names": "drain",
	opHeartbeat:                     "calm",
	"DEL asynq:servers:*":           "drain",
	"DEL asynq:workers:*":           "calm",
	"HSET asynq:workers:*":          "busy",
	"EXPIRE asynq:workers:*":        "busy",
	"ZADD asynq:servers":            "calm",
	"ZADD asynq:workers":            "calm",
	"ZREM asynq:servers":            "drain",
	"ZREM asynq:workers":            "drain",

	// The store, and the end of the task.
	opClaimSpace: "calm",
	opRefresh:    "calm",
	opPut:        "calm",
	opAck:        "calm",
	opFail:       "calm",
	opRetry:      "retry",
	opRequeue:    "drain",

	// Upkeep.
	opTurn:    "calm",
	opReap:    "poison",
	opForward: "retry",
	opCarry:   "poison",
	opLeave:   "poison",
	opBury:    "poison",

	// The crawler.
	opClaim:                                 "calm",
	opRenewSlot:                             "slow source",
	opFinish:                                "calm",
	opMark:                                  "calm",
	"ZADD ef:{crawl:feed}:awaited":          "calm",
	"ZREMRANGEBYSCORE ef:{crawl:feed}:seen": "calm",
}

// TestEveryWriteBreaksTwice breaks each write of the path in two ways: Redis refuses it, and Redis does it and says
// that it refused; and both once more on the wire, where the client itself repeats it. Each time all invariants hold.
func TestEveryWriteBreaksTwice(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(scenarios)) {
		p := scenarios[name]
		p.Spy = true
		o := run(t, p)
		for _, v := range o.violations {
			t.Errorf("scenario %s: %v", name, v)
		}
		for op, wrote := range o.writes {
			if wrote && seen[op] == "" {
				seen[op] = name
			}
		}
	}
	for op, name := range seen {
		if writes[op] == "" {
			t.Errorf("%q writes in scenario %q, and has no row", op, name)
		}
	}
	for op, name := range writes {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			for _, kind := range []string{refused, refusedLate, lostRequest, lostReply} {
				p := scenarios[name]
				p.Faults = append(slices.Clone(p.Faults), fault{Kind: kind, Op: op, Nth: 1, Runs: 1})
				o := run(t, p)
				if !o.fired[len(o.fired)-1] {
					t.Fatalf("it does not happen in scenario %q", name)
				}
				for _, v := range o.violations {
					t.Errorf("%s: %v", kind, v)
				}
				if t.Failed() {
					for _, l := range o.history {
						t.Log(l)
					}
					return
				}
			}
		})
	}
	t.Log(fmt.Sprint(len(writes), " writes"))
}
