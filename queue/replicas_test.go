//go:build unix

package queue

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

// A pair is a master with a replica that is in step.
type pair struct {
	master, replica *testkit.Server
	pid             int // the replica's
}

func startPair(t *testing.T) pair {
	t.Helper()
	// Whoever promotes the replica must not find in it what the kernel kept for it while it was stopped: the tests
	// hand in more than that.
	p := pair{master: testkit.RedisServer(t, "--repl-diskless-sync-delay", "0", "--client-output-buffer-limit", "replica 0 0 0"),
		replica: testkit.RedisServer(t)}
	ctx, rdb := t.Context(), p.replica.Client()
	host, port, err := net.SplitHostPort(p.master.Addr)
	if err != nil {
		t.Fatal(err)
	}
	info, err := rdb.InfoMap(ctx, "server").Result()
	if err != nil {
		t.Fatal(err)
	}
	if p.pid, err = strconv.Atoi(info["Server"]["process_id"]); err != nil {
		t.Fatal(err)
	}
	if err := rdb.ReplicaOf(ctx, host, port).Err(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if info := rdb.Info(ctx, "replication").Val(); strings.Contains(info, "master_link_status:up") {
			return p
		}
		if time.Now().After(deadline) {
			t.Fatal("the replica is not in step")
		}
	}
}

// stall stops the replica until the returned function is called, or the test ends.
func (p pair) stall(t *testing.T) (goOn func()) {
	t.Helper()
	if err := syscall.Kill(p.pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goOn = func() { _ = syscall.Kill(p.pid, syscall.SIGCONT) }
	t.Cleanup(goOn)
	return goOn
}

// failOver kills the master, promotes the replica and returns a client of it.
func (p pair) failOver(t *testing.T, goOn func()) *redis.Client {
	t.Helper()
	p.master.Kill()
	goOn()
	rdb := p.replica.Client()
	if err := rdb.ReplicaOf(t.Context(), "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	return rdb
}

// large returns tasks of more bytes than two sockets hold.
func large(name string) []tasks.Task {
	list := named(tasks.Backfill, name, 60)
	for i := range list {
		list[i].Payload = make([]byte, 512<<10)
		_, _ = rand.Read(list[i].Payload) // never fails since Go 1.24
	}
	return list
}

// What a receipt is worth without replicas asked for: a master that dies takes along what it alone had, and nobody
// was told.
func TestReplicaStalledUnasked(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	goOn := p.stall(t)
	receipts, err := NewClient(p.master.Client(), nil).Enqueue(t.Context(), large("a"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range receipts {
		if r.State != Enqueued || r.Unconfirmed {
			t.Fatalf("receipt %+v", r)
		}
	}
	left := p.failOver(t, goOn).LLen(t.Context(), wire.KeysOf("m", tasks.Backfill).Pending()).Val()
	t.Logf("of %d accepted texts %d are left after the failover", len(receipts), left)
	if left == int64(len(receipts)) {
		t.Error("all are left, so this shows nothing")
	}
}

// Who asks for a replica is told, and what was confirmed survives.
func TestReplicaStalled(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	ctx, c := t.Context(), NewClient(p.master.Client(), &ClientOptions{Replicas: 1})
	confirmed := func(list []tasks.Task, want bool) {
		t.Helper()
		receipts, err := c.Enqueue(ctx, list)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range receipts {
			if !r.State.Accepted() || r.Unconfirmed == want {
				t.Fatalf("confirmed %v, want %v: %+v", !r.Unconfirmed, want, r)
			}
		}
	}
	safe := named(tasks.Live, "safe", 1500)
	confirmed(safe, true)
	goOn := p.stall(t)
	confirmed(large("b"), false)
	doubtful := named(tasks.Live, "doubtful", 50)
	confirmed(doubtful, false)
	// A replica that goes on has them; asking again says so and doubles nothing.
	goOn()
	for deadline := time.Now().Add(30 * time.Second); c.behind.Load() && time.Now().Before(deadline); {
		if _, err := c.Enqueue(ctx, doubtful); err != nil {
			t.Fatal(err)
		}
	}
	confirmed(doubtful, true)
	whole, err := c.EnqueueWhole(ctx, named(tasks.Query, "whole", 200))
	if err != nil || whole[0].Unconfirmed {
		t.Errorf("whole, in step: %v, %+v", err, whole[0])
	}
	goOn = p.stall(t)
	if whole, err = c.EnqueueWhole(ctx, named(tasks.Query, "more", 200)); err != nil || !whole[199].Unconfirmed {
		t.Errorf("whole, stalled: %v", err)
	}
	rdb := p.failOver(t, goOn)
	if n := rdb.LLen(ctx, wire.KeysOf("m", tasks.Live).Pending()).Val(); n != int64(len(safe)+len(doubtful)) {
		t.Errorf("%d are left of %d that were confirmed", n, len(safe)+len(doubtful))
	}
}

// In a cluster each master is asked for its own replicas, and lanes are cancelled, moved and forgotten as elsewhere.
func TestReplicasOfACluster(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	var nodes []*testkit.Server
	for _, half := range []struct{ first, last int }{{0, 8191}, {8192, 16383}} {
		bus, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := bus.Addr().(*net.TCPAddr).Port
		_ = bus.Close() // the server takes it over
		node := testkit.RedisServer(t, "--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(port))
		if err := node.Client().ClusterAddSlotsRange(ctx, half.first, half.last).Err(); err != nil {
			t.Fatal(err)
		}
		if len(nodes) > 0 {
			host, meet, _ := net.SplitHostPort(nodes[0].Addr)
			bus := nodes[0].Client().ConfigGet(ctx, "cluster-port").Val()["cluster-port"]
			if err := node.Client().Do(ctx, "CLUSTER", "MEET", host, meet, bus).Err(); err != nil {
				t.Fatal(err)
			}
		}
		nodes = append(nodes, node)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if strings.Contains(nodes[0].Client().ClusterInfo(ctx).Val(), "cluster_state:ok") && strings.Contains(nodes[1].Client().ClusterInfo(ctx).Val(), "cluster_state:ok") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the cluster is not up")
		}
	}
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{nodes[0].Addr}})
	t.Cleanup(func() { _ = rdb.Close() })
	c, lanes := NewClient(rdb, &ClientOptions{Replicas: 1}), NewLanes(rdb)
	var list []tasks.Task
	for i := range 60 { // lanes of both masters
		d := documentTask(t, []tasks.Lane{tasks.Live, tasks.Backfill}[i%2], strconv.Itoa(i), "news")
		list = append(list, d)
	}
	for _, model := range []string{"m1", "m2", "m3"} {
		other := named(tasks.Live, model, 1)[0]
		other.Model = model
		list = append(list, other)
	}
	receipts, err := c.Enqueue(ctx, list)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range receipts {
		if r.State != Enqueued || !r.Unconfirmed {
			t.Fatalf("without a replica: %+v", r)
		}
	}
	if r, err := lanes.Move(ctx, "m", Filter{}, tasks.Live, nil); err != nil || r.Removed != 30 {
		t.Errorf("moved: %+v, %v", r, err)
	}
	if r, err := lanes.CancelWaiting(ctx, "m", Filter{IDs: []string{"7", "8"}}, nil); err != nil || r.Removed != 2 {
		t.Errorf("cancelled: %+v, %v", r, err)
	}
	if n, err := lanes.Forget(ctx, "m"); err != nil || n < 58 {
		t.Errorf("forgotten: %d keys, %v", n, err)
	}
	if models, err := lanes.Models(ctx); err != nil || len(models) != 3 {
		t.Errorf("models %v, %v", models, err)
	}
}

// More replicas than there are confirm nothing; Redis itself refuses where it is told to.
func TestReplicasThatAreNotThere(t *testing.T) {
	t.Parallel()
	s := testkit.RedisServer(t)
	rdb := s.Client()
	receipts, err := NewClient(rdb, &ClientOptions{Replicas: 1}).Enqueue(t.Context(), named(tasks.Live, "a", 3))
	if err != nil || receipts[2].State != Enqueued || !receipts[2].Unconfirmed {
		t.Errorf("%+v, %v", receipts, err)
	}
	if err := rdb.ConfigSet(t.Context(), "min-replicas-to-write", "1").Err(); err != nil {
		t.Fatal(err)
	}
	receipts, err = NewClient(rdb, nil).Enqueue(t.Context(), named(tasks.Live, "b", 3))
	if err == nil || !redis.HasErrorPrefix(errors.Unwrap(err), "NOREPLICAS") && !strings.Contains(err.Error(), "NOREPLICAS") || receipts[0].State != Unknown {
		t.Errorf("with min-replicas-to-write: %+v, %v", receipts, err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	receipts, err = NewClient(rdb, &ClientOptions{Replicas: 1}).Enqueue(gone, named(tasks.Live, "c", 3))
	if err == nil || receipts[0].State != Unknown {
		t.Errorf("of a caller that is gone: %+v, %v", receipts, err)
	}
}
