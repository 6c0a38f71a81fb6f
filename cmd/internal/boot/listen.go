package boot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
)

// An Address is where a program listens.
type Address struct {
	HostPort string
	Spare    bool // a free port of the same host will do if this one is busy, since nobody asked for just this one
}

// Listen listens there. If it took a spare port, the caller tells people which.
func (a Address) Listen(ctx context.Context) (net.Listener, error) {
	l, err := listen(ctx, a.HostPort)
	if err == nil || !errors.Is(err, syscall.EADDRINUSE) {
		return l, err
	}
	if !a.Spare {
		return nil, fmt.Errorf("listening on %s: the port is in use by another process; choose another", a.HostPort)
	}
	host, _, err := net.SplitHostPort(a.HostPort)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", a.HostPort, err)
	}
	return listen(ctx, net.JoinHostPort(host, "0"))
}

func listen(ctx context.Context, address string) (net.Listener, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", address, err)
	}
	return l, nil
}

// Given reports whether the person or the environment set the flag, so that it is no default.
func (c *Config) Given(name string) bool { return c.flags.Changed(name) }
