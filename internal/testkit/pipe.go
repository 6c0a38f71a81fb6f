package testkit

import (
	"net"
	"sync"
	"time"
)

// A bufferedConn is one end of a net.Pipe whose writes never wait for the reader. A pipe has no buffer of
// its own, so a client that sends a long pipeline while the server answers its beginning would stand
// still for ever; a socket's buffer hides that.
type bufferedConn struct {
	net.Conn

	mu      sync.Mutex
	changed *sync.Cond // with mu: buf or closed
	buf     []byte
	err     error // of a write that happened behind Write's back
	closed  bool
}

func newBufferedConn(conn net.Conn) *bufferedConn {
	c := &bufferedConn{Conn: conn}
	c.changed = sync.NewCond(&c.mu)
	go c.send()
	return c
}

// send writes what is buffered until the connection closes.
func (c *bufferedConn) send() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.err == nil {
		for len(c.buf) == 0 && !c.closed {
			c.changed.Wait()
		}
		if c.closed {
			return
		}
		out := c.buf
		c.buf = nil
		c.mu.Unlock()
		_, err := c.Conn.Write(out)
		c.mu.Lock()
		c.err = err
	}
}

func (c *bufferedConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	if c.err != nil {
		return 0, c.err
	}
	c.buf = append(c.buf, b...)
	c.changed.Signal()
	return len(b), nil
}

func (c *bufferedConn) Close() error {
	c.mu.Lock()
	c.closed = true
	c.changed.Signal()
	c.mu.Unlock()
	return c.Conn.Close()
}

// SetDeadline is about reads only, for writes do not wait.
func (c *bufferedConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

func (c *bufferedConn) SetWriteDeadline(time.Time) error { return nil }
