package testkit

import (
	"context"
	"net"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// MiniRedis returns an in-process Redis and a client of it. Both use pipes and the test's clock only, so
// they work in a synctest bubble, where a sleep moves leases and TTLs along (docs/asynq.md 5).
func MiniRedis(t testing.TB) (*miniredis.Miniredis, *redis.Client) {
	t.Helper()
	m := miniredis.NewMiniRedis()
	m.ClockTTL(true)
	t.Cleanup(m.Close)
	return m, MiniClient(t, m)
}

// MiniClient returns one more client of m, closed at the end of the test.
func MiniClient(t testing.TB, m *miniredis.Miniredis) *redis.Client {
	client := redis.NewClient(MiniOptions(m))
	t.Cleanup(func() { _ = client.Close() }) // the test may have closed it
	return client
}

// MiniOptions returns what a go-redis client needs to reach m, for code that builds its own clients.
func MiniOptions(m *miniredis.Miniredis) *redis.Options {
	return &redis.Options{
		Addr: "miniredis",
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			conn, err := m.Dial()
			if err != nil {
				return nil, err
			}
			return newBufferedConn(conn), nil
		},
		// The handshake for these notifications asks for commands that miniredis lacks.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		DisableIdentity:          true,
	}
}
