package main

import (
	"bytes"
	"encoding/base64"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

func TestFullLane(t *testing.T) {
	redis := testkit.RedisServer(t)
	status, out, problems := call(t, redis, "a\nb\nc\nd\n", "--model", "quote", "--max-pending", "2", "--when-full", "fail", "--json")
	expect(t, status, 1, problems, "not all documents were enqueued", "lane live of quote has no room: 2 tasks may wait there")
	expect(t, status, 1, out, `"state":"enqueued"`, `"code":"lane_full"`, `"line":3`)

	// Who waits gets in as soon as a worker makes room.
	var stdout bytes.Buffer
	stderr := &watched{part: "2 documents wait: lane live of quote has no room", seen: make(chan struct{})}
	done := make(chan int, 1)
	go func() {
		done <- run(t.Context(), []string{"--model", "quote", "--max-pending", "2", "--wait"}, streams{
			in: strings.NewReader("a\nb\nc\nd\n"), out: &stdout, err: stderr,
			getenv: func(k string) (string, bool) {
				if k != "REDIS_URL" {
					return "", false
				}
				return redis.URL(), true
			},
		})
	}()
	select {
	case <-stderr.seen:
	case status := <-done:
		t.Fatalf("ended with status %d instead of waiting:\n%s", status, stdout.String())
	}
	startWorker(t, redis)
	expect(t, <-done, 0, stdout.String(), "4 read, 2 enqueued, 2 known already, 0 bad; 4 stored")
}

func TestFullByBytes(t *testing.T) {
	redis := testkit.RedisServer(t)
	var lines strings.Builder
	random := rand.NewChaCha8([32]byte{})
	for range 5 { // some 300 kB each, which no compression takes away
		noise := make([]byte, 400_000)
		_, _ = random.Read(noise) // never fails
		lines.WriteString(base64.StdEncoding.EncodeToString(noise) + "\n")
	}
	status, out, _ := call(t, redis, lines.String(), "--model", "quote")
	expect(t, status, 0, out, "5 read, 5 enqueued")
	status, _, problems := call(t, redis, "small\n", "--model", "quote", "--max-pending-mb", "1", "--when-full", "fail")
	expect(t, status, 1, problems, "lane live of quote has no room", "try again in")
	status, out, _ = call(t, redis, "small\n", "--model", "quote", "--max-pending-mb", "100", "--when-full", "fail")
	expect(t, status, 0, out, "1 enqueued")
}

// watched is an output that tells when a part has been written to it, in one piece.
type watched struct {
	part string
	once sync.Once
	seen chan struct{}
}

func (w *watched) Write(b []byte) (int, error) {
	if strings.Contains(string(b), w.part) {
		w.once.Do(func() { close(w.seen) })
	}
	return len(b), nil
}
