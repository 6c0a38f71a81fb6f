package simulation

import (
	"cmp"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
)

const (
	// fine is the time a command takes to Redis; all that arrive within it are executed in an order of the seed's.
	fine = time.Millisecond
	// coarse is the step in which servers that found nothing look again. They sleep for a random time in between,
	// always less than a step, so what they do next does not depend on it.
	coarse = 500 * time.Millisecond
	// coarsest is the same for quarantine, at which servers look once a second.
	coarsest = 2 * time.Second
)

// A packet is what one process sent in one go: a command, or a pipeline.
type packet struct {
	conn   *conn
	cmds   [][]string
	ops    []op
	due    time.Time
	number int // of arrival
	rank   uint64
}

// A network is the switch between the processes and Redis: it executes one packet at a time, and hands out the
// next reply only when everything that the last one set in motion has come to rest.
type network struct {
	world *world
	redis *miniredis.Miniredis

	mu      sync.Mutex
	waiting []*packet
	count   int
	closed  bool
	arrived chan struct{} // of size 1

	// Of the switch's goroutine only.
	idle map[string]bool // process and lane whose last dequeue found nothing
}

func newNetwork(w *world) *network {
	m := miniredis.NewMiniRedis()
	m.ClockTTL(true)
	if c, err := m.Dial(); err == nil { // the first one starts the server
		_ = c.Close()
	}
	return &network{world: w, redis: m, arrived: make(chan struct{}, 1), idle: map[string]bool{}}
}

// submit takes a packet. What only greets is answered at once: a client greets while it holds a lock for which its
// other goroutines wait, and while somebody waits for a lock the clock of a bubble stands still.
func (n *network) submit(c *conn, cmds [][]string) {
	if !slices.ContainsFunc(cmds, func(cmd []string) bool { return !greets(cmd) }) {
		n.greet(c, cmds)
		return
	}
	p := &packet{conn: c, cmds: cmds}
	for _, cmd := range cmds {
		p.ops = append(p.ops, opOf(cmd))
	}
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		c.deliver(nil, broken)
		return
	}
	n.count++
	p.number = n.count
	step := fine
	switch {
	case c.p.stalled():
		step = coarse
	case p.is(opDequeue) && n.idle[c.p.name+p.lane()]:
		if step = coarse; strings.Contains(p.lane(), ":quarantine") {
			step = coarsest
		}
	}
	p.due = time.Now().Truncate(step).Add(step)
	p.rank = n.rank(p)
	n.waiting = append(n.waiting, p)
	n.mu.Unlock()
	n.signal()
}

// greets reports whether a command is of those that a client sends before its first request, or to see whether
// anybody is there.
func greets(cmd []string) bool {
	return slices.Contains([]string{"HELLO", "CLIENT", "PING"}, strings.ToUpper(cmd[0]))
}

func (n *network) greet(c *conn, cmds [][]string) {
	if n.world.away() {
		c.deliver(nil, broken)
		return
	}
	c.reply.Reset()
	for _, cmd := range cmds {
		n.redis.Server().Dispatch(c.peer, cmd)
	}
	c.peer.Flush()
	c.deliver(bytesOf(&c.reply), nil)
}

// rank decides the order among packets of one instant: by seed, instant, process and command, so that not always
// the same worker comes first.
func (n *network) rank(p *packet) uint64 {
	h := fnv.New64a()
	var seed []byte
	seed = strconv.AppendUint(seed, n.world.plan.Seed, 10)
	seed = strconv.AppendInt(seed, p.due.UnixNano(), 10)
	h.Write(seed)
	h.Write([]byte(p.conn.p.name))
	h.Write([]byte(p.ops[0].label))
	if !strings.HasPrefix(p.ops[0].label, "SCRIPT asynq:") { // whose keys have a random part
		for _, key := range p.ops[0].keys {
			h.Write([]byte(key))
		}
	}
	return h.Sum64()
}

func (n *network) signal() {
	select {
	case n.arrived <- struct{}{}:
	default:
	}
}

// run executes packets until the network closes. It is the bubble's only caller of [synctest.Wait].
func (n *network) run() {
	for {
		due, waits, closed := n.next()
		if closed {
			return
		}
		if !waits {
			<-n.arrived
			continue
		}
		if wait := time.Until(due); wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-n.arrived: // perhaps for an earlier instant
				timer.Stop()
				continue
			}
		}
		synctest.Wait()
		for _, p := range n.take(due) {
			n.execute(p)
			synctest.Wait()
		}
	}
}

// next returns the earliest instant at which something is due.
func (n *network) next() (due time.Time, waits, closed bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.waiting {
		if due.IsZero() || p.due.Before(due) {
			due = p.due
		}
	}
	return due, len(n.waiting) > 0, n.closed
}

// take returns what is due, in the order of its execution.
func (n *network) take(due time.Time) []*packet {
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []*packet
	n.waiting = slices.DeleteFunc(n.waiting, func(p *packet) bool {
		if p.due.After(due) {
			return false
		}
		list = append(list, p)
		return true
	})
	slices.SortFunc(list, func(a, b *packet) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.number, b.number))
	})
	return list
}

// execute takes one packet through the faults to Redis and back.
func (n *network) execute(p *packet) {
	c, w := p.conn, n.world
	if c.p.isDead() {
		return
	}
	if w.away() {
		c.deliver(nil, broken)
		return
	}
	fault := w.faults.match(p)
	switch fault {
	case lostRequest:
		c.p.stall()
		c.deliver(nil, broken)
		return
	case refused:
		c.deliver(failure(p.cmds), nil)
		return
	}
	reply := n.dispatch(p)
	switch fault {
	case killed:
		w.kill(c.p, p.ops[0].name)
	case lostReply:
		c.p.stall()
		c.deliver(nil, broken)
	case refusedLate:
		c.deliver(failure(p.cmds), nil)
	default:
		c.deliver(reply, nil)
	}
}

// dispatch runs the commands of a packet and returns their replies.
func (n *network) dispatch(p *packet) []byte {
	c := p.conn
	var all []byte
	for i, cmd := range p.cmds {
		c.reply.Reset()
		switch {
		case p.ops[i].name == opSubscribe && cmd[1] != "asynq:cancel":
			// A subscription that never comes about: what is published is a hint, and everything must work without.
			// To hear it, a server takes the lock that it holds while it leases, and a bubble's clock stands still
			// while somebody waits for a lock whose owner waits for Redis.
		case p.ops[i].name == opSubscribe:
			// Nobody publishes to asynq's channel here. miniredis would need a goroutine per subscriber.
			c.peer.WriteLen(3)
			c.peer.WriteBulk("subscribe")
			c.peer.WriteBulk(cmd[1])
			c.peer.WriteInt(1)
		case n.nothing(p, i):
		case n.world.readonly() && (p.ops[i].script != "" || !n.redis.IsReadOnlyCommand(strings.ToUpper(cmd[0])) && !slices.Contains(noWrites, strings.ToUpper(cmd[0]))):
			c.peer.WriteError("READONLY You can't write against a read only replica.")
		default:
			n.spy(p.ops[i], cmd, func() { n.redis.Server().Dispatch(c.peer, n.world.sent(c.p, p.ops[i], cmd)) })
		}
		c.peer.Flush()
		reply := bytesOf(&c.reply)
		n.watch(p, i, reply)
		all = append(all, reply...)
	}
	return all
}

// spy runs a command, and notes whether it writes: a plain one by its name, a script by what it does.
func (n *network) spy(o op, cmd []string, execute func()) {
	writes := n.world.watch.writes
	switch {
	case writes == nil || writes[o.name]:
		execute()
	case o.script == "":
		execute()
		plain := strings.ToUpper(cmd[0])
		writes[o.name] = !n.redis.IsReadOnlyCommand(plain) && !slices.Contains(noWrites, plain)
	default:
		before := n.redis.Dump()
		execute()
		writes[o.name] = n.redis.Dump() != before
	}
}

// noWrites are the commands that neither read nor write keys.
var noWrites = []string{"PING", "HELLO", "CLIENT", "INFO", "TIME", "MULTI", "EXEC", "SCRIPT", "AUTH", "SELECT", "DISCARD", "SCAN"}

// nothing answers what servers ask of empty lanes all day, as the scripts would; each run of a script costs
// miniredis an interpreter.
func (n *network) nothing(p *packet, i int) bool {
	o := p.ops[i]
	if o.script == "" || len(o.keys) == 0 || n.redis.Exists(o.keys[0]) {
		return false
	}
	switch o.name {
	case opForward:
		p.conn.peer.WriteInt(0)
	case opDequeue:
		p.conn.peer.WriteLen(1)
		p.conn.peer.WriteInt(0)
	default:
		return false
	}
	return true
}

// watch tells the world what was executed.
func (n *network) watch(p *packet, i int, reply []byte) {
	if p.ops[i].name == opDequeue {
		n.mu.Lock()
		n.idle[p.conn.p.name+p.lane()] = isEmpty(reply)
		n.mu.Unlock()
	}
	n.world.watch.executed(p.conn.p, p.ops[i], p.cmds[i], reply)
}

// is reports whether a packet carries an op.
func (p *packet) is(name string) bool {
	return slices.ContainsFunc(p.ops, func(o op) bool { return o.name == name })
}

func (p *packet) lane() string {
	if len(p.ops[0].keys) == 0 {
		return ""
	}
	lane, _, _ := strings.Cut(p.ops[0].keys[0], "}")
	return lane
}

// close ends every connection and the switch.
func (n *network) close() {
	n.mu.Lock()
	n.closed = true
	left := n.waiting
	n.waiting = nil
	n.mu.Unlock()
	for _, p := range left {
		p.conn.deliver(nil, broken)
	}
	n.signal()
}
