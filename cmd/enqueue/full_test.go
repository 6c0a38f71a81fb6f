package main

import (
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

func TestFullLane(t *testing.T) {
	redis := testkit.RedisServer(t)
	status, out, problems := call(t, redis, "a\nb\nc\nd\n", "--model", "quote", "--max-pending", "2", "--when-full", "fail", "--json")
	expect(t, status, 1, problems, "not all documents were enqueued", "lane live of quote has no room: 2 tasks may wait there")
	expect(t, status, 1, out, `"state":"enqueued"`, `"code":"lane_full"`, `"line":3`)

	// Who waits gets in as soon as a worker makes room.
	done := make(chan struct{})
	go func() {
		defer close(done)
		status, out, problems = call(t, redis, "a\nb\nc\nd\n", "--model", "quote", "--max-pending", "2", "--wait")
	}()
	time.Sleep(500 * time.Millisecond)
	startWorker(t, redis)
	<-done
	expect(t, status, 0, out, "4 read, 2 enqueued, 2 known already, 0 bad; 4 stored")
	expect(t, status, 0, problems, "2 documents wait: lane live of quote has no room")
}
