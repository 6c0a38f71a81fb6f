package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// probeKey is written to see whether Redis takes writes; it lapses by itself.
	probeKey = "embedfleet:probe"
	// probeEvery is how often a [Probe] asks, probeWait how long it waits for an answer, probeAge how old an answer may
	// be that counts.
	probeEvery = 2 * time.Second
	probeWait  = 2 * time.Second
	probeAge   = 3 * probeEvery
)

// unwritable says what a Redis that answers so is, and what to do.
var unwritable = []struct{ prefix, what string }{
	{"READONLY", "it is a replica: find out who is master, or wait for the failover to end"},
	{"LOADING", "it loads its data: wait"},
	{"MASTERDOWN", "it is a replica without its master: wait for the failover to end"},
	{"CLUSTERDOWN", "its cluster is not whole: look at the nodes"},
	{"OOM", "it is full: raise maxmemory, or let workers drain the lanes"},
	{"MISCONF", "it can't save its data and refuses writes: look at its disk"},
	{"NOREPLICAS", "it has fewer replicas than min-replicas-to-write asks for"},
	{"NOAUTH", "it wants a password: name it in the address"},
	{"WRONGPASS", "it refuses the password of the address"},
	{"NOPERM", "its user may not do this: see the rights in docs/operations.md"},
	{"BUSY", "a script keeps it busy"},
	{"TRYAGAIN", "its cluster moves the slot"},
}

// Unavailable reports whether an error is Redis's who is away, full, a replica or shut to us: not the request's fault, and
// worth another try when somebody has seen to it.
func Unavailable(err error) bool {
	if err == nil {
		return false
	}
	if redis.IsReadOnlyError(err) { // also within a script
		return true
	}
	for _, u := range unwritable {
		if redis.HasErrorPrefix(err, u.prefix) {
			return true
		}
	}
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, redis.ErrClosed) || errors.Is(err, redis.ErrPoolTimeout) || errors.Is(err, net.ErrClosed)
}

// Writable returns why Redis takes no writes now, in words that say what to do; nil if it does.
func Writable(ctx context.Context, rdb redis.UniversalClient) error {
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	err := rdb.Set(ctx, probeKey, 1, time.Minute).Err()
	if err == nil {
		return nil
	}
	for _, u := range unwritable {
		if redis.HasErrorPrefix(err, u.prefix) {
			return fmt.Errorf("redis takes no writes: %s (%w)", u.what, err)
		}
	}
	return fmt.Errorf("redis takes no writes: %w", err)
}

// A Probe knows whether Redis takes writes, for a process that must say whether it is ready.
type Probe struct {
	rdb redis.UniversalClient

	mu   sync.Mutex
	err  error
	good time.Time // when a write was last taken
}

// NewProbe returns a probe that believes in Redis until it has asked.
func NewProbe(rdb redis.UniversalClient) *Probe { return &Probe{rdb: rdb, good: time.Now()} }

// Run asks until ctx ends, then returns nil.
func (p *Probe) Run(ctx context.Context) error {
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		p.ask(ctx)
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	return nil
}

func (p *Probe) ask(ctx context.Context) {
	err := Writable(ctx, p.rdb)
	if ctx.Err() != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err = err; err == nil {
		p.good = time.Now()
	}
}

// Err returns why Redis takes no writes, nil while it does. One write that failed is no verdict where the connection
// broke; what Redis itself says is one at once.
func (p *Probe) Err() error {
	if p == nil { // nobody has asked
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	away := time.Since(p.good)
	if p.err != nil && (strings.Contains(p.err.Error(), ": it ") || away > probeAge) {
		return fmt.Errorf("%w; for %v", p.err, away.Round(time.Second))
	}
	if away > 2*probeAge {
		return fmt.Errorf("redis has not answered for %v", away.Round(time.Second))
	}
	return nil
}
