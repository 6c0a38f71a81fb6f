package simulation

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2/server"
)

// errUnreachable is what a client is told while Redis is away.
var errUnreachable = errors.New("simulated: connection refused")

// A conn is one end of a connection to Redis, without another end: what is written is handed to the switch,
// which executes it and puts the reply here. A connection of a dead process never answers, until the world ends.
type conn struct {
	p    *process
	peer *server.Peer // the server's view of it, of the switch only

	reply bytes.Buffer // what peer writes, of the switch only

	mu       sync.Mutex
	in       []byte // a command that is not complete yet
	out      []byte // replies that were not read yet
	err      error  // comes after out
	deadline time.Time
	changed  chan struct{} // of size 1: out, err or deadline are new
}

func newConn(p *process) *conn {
	c := &conn{p: p, changed: make(chan struct{}, 1)}
	c.peer = server.NewPeer(bufio.NewWriter(&c.reply))
	return c
}

// Read waits for a reply, the deadline, or the end of the connection.
func (c *conn) Read(b []byte) (int, error) {
	for {
		if c.p.isDead() { // see dial
			return 0, net.ErrClosed
		}
		c.mu.Lock()
		if len(c.out) > 0 {
			n := copy(b, c.out)
			c.out = c.out[n:]
			c.mu.Unlock()
			return n, nil
		}
		err, deadline := c.err, c.deadline
		c.mu.Unlock()
		if err != nil {
			return 0, err
		}
		if !c.wait(deadline) && !c.p.isDead() {
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// wait returns when something has changed, or with false at the deadline.
func (c *conn) wait(deadline time.Time) bool {
	if deadline.IsZero() {
		<-c.changed
		return true
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-c.changed:
		return true
	case <-timer.C:
		return false
	}
}

// Write takes commands; what one call carries is sent as one packet.
func (c *conn) Write(b []byte) (int, error) {
	if c.p.isDead() { // see dial
		return 0, net.ErrClosed
	}
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return 0, c.err
	}
	c.in = append(c.in, b...)
	cmds, rest := parse(c.in)
	c.in = append([]byte(nil), rest...)
	c.mu.Unlock()
	if len(cmds) > 0 {
		c.p.world.net.submit(c, cmds)
	}
	return len(b), nil
}

// deliver hands a reply over; err, if not nil, ends the connection after it.
func (c *conn) deliver(reply []byte, err error) {
	c.mu.Lock()
	c.out = append(c.out, reply...)
	if c.err == nil {
		c.err = err
	}
	c.mu.Unlock()
	c.signal()
}

func (c *conn) signal() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

func (c *conn) Close() error {
	c.deliver(nil, net.ErrClosed)
	return nil
}

func (c *conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	c.deadline = t
	c.mu.Unlock()
	c.signal()
	return nil
}

// SetWriteDeadline is about nothing: writes do not wait.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

func (c *conn) LocalAddr() net.Addr  { return &net.UnixAddr{Name: c.p.name, Net: "simulated"} }
func (c *conn) RemoteAddr() net.Addr { return &net.UnixAddr{Name: "redis", Net: "simulated"} }

// parse cuts complete commands off b, which holds arrays of bulk strings as every client sends them.
func parse(b []byte) (cmds [][]string, rest []byte) {
	for {
		cmd, n := parseOne(b)
		if n == 0 {
			return cmds, b
		}
		cmds, b = append(cmds, cmd), b[n:]
	}
}

// parseOne returns one command and its length, 0 if it is not complete.
func parseOne(b []byte) ([]string, int) {
	count, at, ok := header(b, 0)
	if !ok {
		return nil, 0
	}
	cmd := make([]string, 0, count)
	for range count {
		size, begin, ok := header(b, at)
		if !ok || begin+size+2 > len(b) {
			return nil, 0
		}
		cmd = append(cmd, string(b[begin:begin+size]))
		at = begin + size + 2
	}
	return cmd, at
}

// header reads the number of "*3\r\n" or "$5\r\n" at an offset, and returns the offset behind it.
func header(b []byte, at int) (n, next int, ok bool) {
	end := bytes.Index(b[min(at, len(b)):], []byte("\r\n"))
	if end < 1 {
		return 0, 0, false
	}
	n, err := strconv.Atoi(string(b[at+1 : at+end]))
	return n, at + end + 2, err == nil
}

// failure is the reply that makes a client report an error and not try again.
func failure(cmds [][]string) []byte {
	var b bytes.Buffer
	for range cmds {
		b.WriteString("-ERR simulated: refused\r\n")
	}
	return b.Bytes()
}

// broken is how a connection ends under a fault.
var broken = io.ErrUnexpectedEOF
