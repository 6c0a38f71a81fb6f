package scheduler

import (
	"sync"
	"time"
)

// A clock follows the board's. Between two answers it runs on the process's monotonic clock, which jumps
// neither when somebody sets the time nor when NTP does.
type clock struct {
	mu   sync.Mutex
	base time.Time // the board's time at the last answer
	at   time.Time // this process's reading then
}

func newClock() *clock {
	return &clock{base: time.Now(), at: time.Now()}
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.base.Add(time.Since(c.at)).Round(0)
}

// follow takes over the board's time.
func (c *clock) follow(now time.Time) {
	if now.IsZero() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base, c.at = now, time.Now()
}
