package login

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// Wrong attempts that are forgiven in a window, of one address and for one name. The second is higher, for
// whoever knows a name could lock its owner out otherwise; both are far from what guessing needs.
const (
	attemptWindow   = 5 * time.Minute
	addressPatience = 10
	namePatience    = 30
	// maxAddresses bounds what is remembered of addresses, nameSlots of names: a made-up name shares a slot with
	// others instead of taking memory, and a known one is not told apart from it.
	maxAddresses = 10_000
	nameSlots    = 4096
)

// attempts counts wrong ones. It is safe for concurrent use.
type attempts struct {
	now  func() time.Time
	seed maphash.Seed

	mu        sync.Mutex
	addresses map[netip.Prefix]window
	names     map[uint64]window
}

// A window begins at the first wrong attempt.
type window struct {
	begin time.Time
	wrong int
}

func newAttempts(now func() time.Time) *attempts {
	return &attempts{now: now, seed: maphash.MakeSeed(), addresses: map[netip.Prefix]window{}, names: map[uint64]window{}}
}

// neighbours is what counts as one address: of IPv6 the /64 that one customer has for himself.
func neighbours(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	prefix, _ := addr.Prefix(min(64, addr.BitLen())) // in range; of no address it is the zero one, which will do
	return prefix
}

func (a *attempts) slot(name string) uint64 { return maphash.String(a.seed, name) % nameSlots }

// left is how long a window of too many wrong attempts still lasts.
func (w window) left(now time.Time, patience int) time.Duration {
	if w.wrong < patience {
		return 0
	}
	return max(0, w.begin.Add(attemptWindow).Sub(now))
}

func (w window) more(now time.Time) window {
	if now.Sub(w.begin) >= attemptWindow {
		w = window{begin: now}
	}
	w.wrong++
	return w
}

// begin returns how long nobody from there, or by that name, may try; 0 if he may. The attempt counts as
// wrong until [attempts.forgive], so that a hundred at the same time are not one. An empty name, a token's, is
// counted by its address only.
func (a *attempts) begin(addr netip.Addr, name string) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	now, from, slot := a.now(), neighbours(addr), a.slot(name)
	if left := a.addresses[from].left(now, addressPatience); left > 0 {
		return left
	}
	if left := a.names[slot].left(now, namePatience); left > 0 && name != "" {
		return left
	}
	a.trim(now)
	a.addresses[from] = a.addresses[from].more(now)
	if name != "" {
		a.names[slot] = a.names[slot].more(now)
	}
	return 0
}

// forgive takes back an attempt that was right, and clears the address.
func (a *attempts) forgive(addr netip.Addr, name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.addresses, neighbours(addr))
	if w, ok := a.names[a.slot(name)]; ok && name != "" {
		w.wrong = max(0, w.wrong-1)
		a.names[a.slot(name)] = w
	}
}

// trim makes room: windows that are over go, and if that is not enough, all addresses. The names stay, so an
// attacker with ten thousand addresses gains nothing by it.
func (a *attempts) trim(now time.Time) {
	if len(a.addresses) < maxAddresses {
		return
	}
	for from, w := range a.addresses {
		if now.Sub(w.begin) >= attemptWindow {
			delete(a.addresses, from)
		}
	}
	if len(a.addresses) >= maxAddresses {
		clear(a.addresses)
	}
}
