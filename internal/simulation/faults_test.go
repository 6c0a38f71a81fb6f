package simulation

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// A fault is one thing that goes wrong in a world.
type fault struct {
	Kind string
	Op   string        // of lost and refused commands, and of a kill: at the Nth of this op
	Nth  int           // counted over the whole fleet, from 1
	Runs int           // how many in a row; a client's own repetitions count
	Who  int           // the worker whose clock is off
	At   time.Duration // of what begins at a time
	For  time.Duration
}

// The kinds of faults.
const (
	lostRequest = "request lost"          // the connection breaks before Redis sees the command
	lostReply   = "reply lost"            // it breaks after Redis has executed it
	refused     = "refused"               // Redis answers an error and has done nothing
	refusedLate = "refused but persisted" // Redis answers an error, and it is done all the same
	killed      = "killed"                // the process dies when Redis has executed its command
	killedBusy  = "killed in a call"      // the process dies inside the Nth native call
	slowCall    = "slow call"             // the Nth native call takes half a minute, deaf to its end
	away        = "Redis away"            // from At on
	skew        = "clock off"             // of one worker, by For
	flushed     = "registry flushed"      // at At
	demoted     = "Redis demoted"         // from At on it is a replica, which refuses every write
	sluggish    = "slow worker"           // each native call of one takes as long as a deadline
	retired     = "told to stop"          // a worker, at At; its successor comes when it has ended
)

func (f fault) String() string {
	switch f.Kind {
	case killedBusy, slowCall:
		return fmt.Sprintf("%s %d", f.Kind, f.Nth)
	case away, demoted:
		return fmt.Sprintf("%s from %v for %v", f.Kind, f.At, f.For)
	case sluggish:
		return fmt.Sprintf("%s: w%d", f.Kind, f.Who+1)
	case skew:
		return fmt.Sprintf("%s: w%d by %v", f.Kind, f.Who+1, f.For)
	case flushed:
		return fmt.Sprintf("%s at %v", f.Kind, f.At)
	case retired:
		return fmt.Sprintf("%s: w%d at %v", f.Kind, f.Who+1, f.At)
	default:
		return fmt.Sprintf("%s: %s %d to %d", f.Kind, f.Op, f.Nth, f.Nth+f.Runs-1)
	}
}

// A text is one version of a document.
type text struct {
	Doc     string
	Version int64
	Text    string
	At      time.Duration // when the producer has it, or when the crawled source shows it
	Crawled bool
	Twice   bool // it is handed in for both lanes of documents at the same time
}

// The words that give a text its fate.
const (
	poisonWord = "poison" // kills the process that runs it
	badWord    = "bad"    // the model gives no usable vector
)

// A plan is all that a seed decides.
type plan struct {
	Seed   uint64
	Texts  []text
	Faults []fault
	Every  bool          // every worker runs maintenance too, not only the schedulers
	Spy    bool          // look at what writes
	Batch  bool          // every worker handles batches, not only some
	Crawl  time.Duration // how long the crawled source takes to answer
}

// breakable are the ops that faults choose from: the writes of the path, and what leads to them. What stands
// between a text and its acknowledgement is there more often.
var breakable = []string{
	opRegister, opEnqueue, opDequeue, opExtend, opAck, opRetry, opFail, opAnnounce, opBegin, opEnd, opClaimSpace,
	opRefresh, opPut, opReap, opForward, opLeave, opBury, opClaim, opRenewSlot, opFinish, opMark,
	opAck, opAck, opPut, opPut, opDequeue, opReap,
}

// newPlan draws a plan. Most worlds have few faults: what one fault does is seen best alone, and what two do
// together is what nobody has thought of.
func newPlan(seed uint64) plan {
	r := rand.New(rand.NewPCG(seed, 0x5eed))
	p := plan{Seed: seed, Every: r.IntN(4) == 0, Crawl: 300 * time.Millisecond}
	if r.IntN(8) == 0 {
		p.Crawl = 15 * time.Second // longer than a slot's lease is renewed after
	}
	p.texts(r)
	for range 1 + r.IntN(4) {
		p.Faults = append(p.Faults, drawFault(r, len(p.Texts)))
	}
	// Two absences would be one long one, longer than anybody is promised to survive unharmed.
	once := map[string]bool{}
	p.Faults = slices.DeleteFunc(p.Faults, func(f fault) bool {
		kind := f.Kind
		if kind == demoted {
			kind = away
		}
		again := (kind == away || kind == skew || kind == retired) && once[kind]
		once[kind] = true
		return again
	})
	return p
}

func (p *plan) texts(r *rand.Rand) {
	for i := range 4 + r.IntN(5) {
		doc, at := fmt.Sprintf("p%d", i), time.Duration(r.IntN(20_000))*time.Millisecond
		for v := range 1 + r.IntN(8)/6 { // one in four is written again
			x := text{Doc: doc, Version: int64(v + 1), Text: fmt.Sprintf("%s v%d", doc, v+1), At: at}
			x.Twice = p.Seed%4 == 0 && i == 0
			p.Texts = append(p.Texts, x)
			at += time.Duration(r.IntN(5_000)) * time.Millisecond
		}
	}
	for i := range 1 + r.IntN(3) {
		at := time.Duration(r.IntN(2)) * 5 * time.Second // for the first slot, or the second, ten seconds later
		if r.IntN(8) == 0 {
			at = 30 * time.Second // for the third
		}
		doc := fmt.Sprintf("c%d", i)
		p.Texts = append(p.Texts, text{Doc: doc, Text: doc, Crawled: true, At: at})
	}
	for word, odds := range map[string]int{badWord: 4, poisonWord: 12} { // of each its own part of r's numbers
		one := rand.New(rand.NewPCG(p.Seed, uint64(odds)))
		if one.IntN(odds) == 0 {
			p.Texts[one.IntN(len(p.Texts))].Text += " " + word
		}
	}
}

func drawFault(r *rand.Rand, texts int) fault {
	f := fault{Nth: 1 + r.IntN(texts), Op: breakable[r.IntN(len(breakable))], Runs: 1}
	if r.IntN(4) == 0 { // beyond a client's own patience
		f.Runs = 4
	}
	switch n := r.IntN(20); {
	case n < 3:
		f.Kind = lostRequest
	case n < 6:
		f.Kind = lostReply
	case n < 8:
		f.Kind = refused
	case n < 10:
		f.Kind = refusedLate
	case n < 12:
		f.Kind = killed
	case n < 14:
		f.Kind = killedBusy
	case n < 16:
		f.Kind = slowCall
	case n < 18:
		f.Kind, f.At, f.For = []string{away, demoted}[r.IntN(2)], time.Duration(r.IntN(60_000))*time.Millisecond, time.Duration(1+r.IntN(60))*time.Second
	case n < 19 && r.IntN(2) == 0:
		f.Kind, f.Who, f.At = retired, r.IntN(workers), time.Duration(r.IntN(20_000))*time.Millisecond
	case n < 19:
		f.Kind, f.Who, f.For = skew, r.IntN(workers), time.Duration(2*r.IntN(2)-1)*5*time.Second
	case r.IntN(2) == 0:
		f.Kind, f.Who = sluggish, r.IntN(workers)
	default:
		f.Kind, f.At = flushed, time.Duration(r.IntN(60_000))*time.Millisecond
	}
	return f
}

// faults deals out a plan's faults. Only the switch asks it about commands.
type faults struct {
	list []fault
	seen map[string]int // ops so far

	mu    sync.Mutex
	fired []bool // beside list
	over  bool
}

// stop lets nothing go wrong any more.
func (f *faults) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
}

func newFaults(list []fault) *faults {
	return &faults{list: list, seen: map[string]int{}, fired: make([]bool, len(list))}
}

// match counts a packet and returns the kind of fault that befalls it, "" for none.
func (f *faults) match(p *packet) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return ""
	}
	counted := map[string]bool{}
	for _, o := range p.ops {
		if o.name != opDequeue || p.conn.p.world.net.redis.Exists(o.keys[0]) { // looks at empty lanes don't count
			counted[o.name] = true
		}
	}
	for name := range counted {
		f.seen[name]++
	}
	for i, x := range f.list {
		n := f.seen[x.Op]
		if !counted[x.Op] || n < x.Nth || n >= x.Nth+x.Runs {
			continue
		}
		switch x.Kind {
		case lostRequest, lostReply, refused, refusedLate, killed:
			f.fired[i] = true
			p.conn.p.world.watch.fault(p.conn.p, x.Kind, p.opNamed(x.Op))
			return x.Kind
		}
	}
	return ""
}

func (p *packet) opNamed(name string) op {
	return p.ops[slices.IndexFunc(p.ops, func(o op) bool { return o.name == name })]
}

// call returns the kind of fault that befalls the nth native call.
func (f *faults) call(nth int) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, x := range f.list {
		if (x.Kind == killedBusy || x.Kind == slowCall) && x.Nth == nth {
			f.fired[i] = true
			return x.Kind
		}
	}
	return ""
}

// poisons reports whether a text kills.
func poisons(s string) bool { return strings.Contains(s, poisonWord) }
