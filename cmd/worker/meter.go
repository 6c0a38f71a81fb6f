package main

import (
	"sync"
	"time"
)

// meterWindow is how many seconds a rate looks back.
const meterWindow = 10

// A meter counts what the model computed. The zero value is ready to use.
type meter struct {
	mu            sync.Mutex
	texts, tokens int64
	inside        time.Duration      // in native calls, all runners added up
	seconds       [meterWindow]int64 // tokens by second, a ring
	at            int64              // the Unix second of the newest
}

func (m *meter) add(texts, tokens int, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn()
	m.texts += int64(texts)
	m.tokens += int64(tokens)
	m.inside += took
	m.seconds[m.at%meterWindow] += int64(tokens)
}

// read returns the totals and the tokens per second of the last ten seconds.
func (m *meter) read() (texts, tokens int64, rate float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn()
	var sum int64
	for _, n := range m.seconds {
		sum += n
	}
	return m.texts, m.tokens, float64(sum) / meterWindow
}

// perToken returns how long one thread computes a token, 0 while none has been.
func (m *meter) perToken() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inside / time.Duration(max(m.tokens, 1))
}

// turn clears the seconds that have passed. The caller holds the lock.
func (m *meter) turn() {
	now := time.Now().Unix()
	for m.at = max(m.at, now-meterWindow); m.at < now; {
		m.at++
		m.seconds[m.at%meterWindow] = 0
	}
}
