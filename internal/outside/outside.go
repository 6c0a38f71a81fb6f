// Package outside speaks HTTP to addresses that others chose: of feeds, of what a feed redirects to, of what a
// name leads to today. It owns the rule that none of them leads into the own network, and knows nothing of what
// is asked.
package outside

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"syscall"
	"time"
)

const (
	maxRedirects = 5
	maxHeader    = 64 << 10 // bytes of an answer's header
)

// A PrivateError says that an address leads into the own network, where it has no business.
type PrivateError struct{ Addr netip.Addr }

func (e *PrivateError) Error() string {
	return fmt.Sprintf("it leads to %s, an address of the own network: not asked unless the source is marked as private or --allow-private is given", e.Addr)
}

// Code is a word for counts.
func (*PrivateError) Code() string { return "private_address" }

// closed are the networks that [Private] adds to those that package netip knows.
var closed = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // behind a carrier's NAT; some clouds' metadata
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("fec0::/10"),
	netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("2001::/32"), // Teredo hides an IPv4 address in it
}

// Private reports whether an address is none of the public internet's: loopback, private, link-local (where clouds
// keep their metadata), shared, multicast, unspecified, or one of IPv6 that stands for such an IPv4 address.
func Private(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if !a.IsValid() || a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() {
		return true
	}
	for _, p := range closed {
		if p.Contains(a) {
			return true
		}
	}
	inner, is := within(a)
	return is && Private(inner)
}

// within returns the IPv4 address that an IPv6 one stands for: NAT64, 6to4, IPv4-compatible.
func within(a netip.Addr) (netip.Addr, bool) {
	if !a.Is6() {
		return a, false
	}
	b := a.As16()
	switch {
	case netip.MustParsePrefix("64:ff9b::/96").Contains(a), netip.MustParsePrefix("::/96").Contains(a):
		return netip.AddrFrom4([4]byte(b[12:])), true
	case netip.MustParsePrefix("2002::/16").Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	}
	return a, false
}

// Control refuses a connection to a private address. It is a [net.Dialer]'s: it sees what a name led to, at the
// moment of the connection, so that no second answer of a name server can differ.
func Control(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("reading the address that is to be dialled: %w", err)
	}
	if Private(at.Addr()) {
		return &PrivateError{at.Addr()}
	}
	return nil
}

// Options are a client's settings.
type Options struct {
	// Private lifts the rule: for tests, and for sources that the operator has in the own network.
	Private bool
	Timeout time.Duration // of one request, redirects and body included
}

// Client returns a client for addresses that others chose. A proxy of the environment is used as ever, and is where it is;
// names are then its affair, and only addresses can be judged here.
func Client(o Options) *http.Client {
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: plainDialer().DialContext, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: o.Timeout, IdleConnTimeout: 90 * time.Second,
		MaxIdleConnsPerHost: 2, MaxResponseHeaderBytes: maxHeader,
	}
	if !o.Private {
		Guard(t)
	}
	return &http.Client{Transport: t, Timeout: o.Timeout, CheckRedirect: redirect}
}

// Guard makes the rule hold for a transport, which goes on using its proxies.
func Guard(t *http.Transport) {
	g := &gate{proxy: t.Proxy}
	t.DialContext = g.dial
	if g.proxy != nil {
		t.Proxy = g.choose
	}
}

func plainDialer() *net.Dialer {
	return &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
}

// redirect follows a few, to web addresses, and takes nothing along to another host that was meant for the first.
func redirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if req.URL.Scheme != "http" && req.URL.Scheme != "https" {
		return errors.New("a redirect leads to something else than http and https")
	}
	if req.URL.Host != via[0].URL.Host {
		for name := range req.Header {
			if name != "User-Agent" && name != "Accept" {
				req.Header.Del(name)
			}
		}
	}
	return nil
}

// A gate lets connections through to public addresses and to the proxies of the environment.
type gate struct {
	proxy   func(*http.Request) (*url.URL, error)
	proxies sync.Map // host:port -> true
}

// choose returns a request's proxy, and remembers where it is.
func (g *gate) choose(req *http.Request) (*url.URL, error) {
	proxy, err := g.proxy(req)
	if err != nil || proxy == nil {
		return proxy, err
	}
	if a, err := netip.ParseAddr(req.URL.Hostname()); err == nil && Private(a) {
		return nil, &PrivateError{a}
	}
	port := proxy.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[proxy.Scheme]
	}
	g.proxies.Store(net.JoinHostPort(proxy.Hostname(), port), true)
	return proxy, nil
}

func (g *gate) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := plainDialer()
	if _, is := g.proxies.Load(address); !is {
		d.Control = Control
	}
	return d.DialContext(ctx, network, address)
}
