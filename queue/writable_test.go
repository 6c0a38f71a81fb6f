package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

// What a Redis says that takes no writes, and when it is well again.
func TestWritable(t *testing.T) {
	t.Parallel()
	master := testkit.RedisServer(t)
	host, port, _ := strings.Cut(master.Addr, ":")
	rdb := master.Client()
	for name, tt := range map[string]struct {
		server       *testkit.Server
		break_, mend func(t *testing.T, s *testkit.Server)
		want         string
	}{
		"a replica": {testkit.RedisServer(t), func(t *testing.T, s *testkit.Server) {
			if err := s.Client().ReplicaOf(t.Context(), host, port).Err(); err != nil {
				t.Fatal(err)
			}
		}, func(t *testing.T, s *testkit.Server) { s.Client().ReplicaOf(t.Context(), "no", "one") }, "it is a replica"},
		"full": {testkit.RedisServer(t), func(t *testing.T, s *testkit.Server) {
			s.Client().ConfigSet(t.Context(), "maxmemory", "1mb")
		}, func(t *testing.T, s *testkit.Server) { s.Client().ConfigSet(t.Context(), "maxmemory", "0") }, "it is full"},
		"without enough replicas": {testkit.RedisServer(t), func(t *testing.T, s *testkit.Server) {
			s.Client().ConfigSet(t.Context(), "min-replicas-to-write", "1")
		}, func(t *testing.T, s *testkit.Server) { s.Client().ConfigSet(t.Context(), "min-replicas-to-write", "0") }, "fewer replicas"},
		"stopped": {testkit.RedisServer(t), func(_ *testing.T, s *testkit.Server) { s.Stop() }, func(_ *testing.T, s *testkit.Server) { s.Start() }, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			client := tt.server.Client()
			if err := Writable(t.Context(), client); err != nil {
				t.Fatal(err)
			}
			tt.break_(t, tt.server)
			var err error
			for range 50 { // a replica first says goodbye to its clients
				if err = Writable(t.Context(), client); err != nil && strings.Contains(err.Error(), tt.want) {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !Unavailable(err) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			tt.mend(t, tt.server)
			for range 50 {
				if err = Writable(t.Context(), client); err == nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
			t.Errorf("mended: %v", err)
		})
	}
	if err := Writable(t.Context(), rdb); err != nil {
		t.Error(err)
	}
	guarded := testkit.RedisServer(t)
	if err := guarded.Client().ConfigSet(t.Context(), "requirepass", "secret").Err(); err != nil {
		t.Fatal(err)
	}
	stranger := redis.NewClient(&redis.Options{Addr: guarded.Addr})
	defer stranger.Close()
	if err := Writable(t.Context(), stranger); err == nil || !strings.Contains(err.Error(), "it wants a password") {
		t.Errorf("without a password: %v", err)
	}
}

func TestUnavailable(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		nil:                                  false,
		errors.New("a bug"):                  false,
		context.Canceled:                     false,
		redis.Nil:                            false,
		redis.ErrPoolTimeout:                 true,
		fmt.Errorf("x: %w", redis.ErrClosed): true,
	} {
		if got := Unavailable(err); got != want {
			t.Errorf("Unavailable(%v) = %v", err, got)
		}
	}
}
