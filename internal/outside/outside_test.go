package outside

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func TestPrivate(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"127.0.0.1", "127.9.9.9", "::1", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "fe80::1", "fe80::1%eth0",
		"fd00:ec2::254", "0.0.0.0", "::", "0.1.2.3", "100.64.0.1", "100.100.100.200", "224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1",
		"::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:c0a8:101::1",
		"198.18.0.1", "192.0.0.192", "fec0::1", "2001:0:1::1",
	} {
		if !Private(netip.MustParseAddr(s)) {
			t.Errorf("%s is taken for public", s)
		}
	}
	for _, s := range []string{"8.8.8.8", "172.32.0.1", "172.15.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::808:808", "2002:808:808::1", "::ffff:8.8.8.8", "223.130.200.104"} {
		if Private(netip.MustParseAddr(s)) {
			t.Errorf("%s is taken for private", s)
		}
	}
	if !Private(netip.Addr{}) {
		t.Error("no address is taken for public")
	}
}

// serve answers "here", and redirects where the query says.
func serve(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if to := r.URL.Query().Get("to"); to != "" {
			http.Redirect(w, r, to, http.StatusFound)
			return
		}
		_, _ = io.WriteString(w, "here "+r.Header.Get("X-Key"))
	}))
	t.Cleanup(s.Close)
	return s
}

func get(t *testing.T, c *http.Client, address string) (string, error) {
	t.Helper()
	defer c.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Key", "secret")
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// TestNoWayIn: neither an address, nor a name, nor a redirect, nor another way to write it leads into the own network.
func TestNoWayIn(t *testing.T) {
	t.Parallel()
	s := serve(t)
	_, port, _ := strings.Cut(strings.TrimPrefix(s.URL, "http://"), ":")
	for _, address := range []string{
		s.URL, "http://localhost:" + port, "http://[::ffff:127.0.0.1]:" + port, "http://0.0.0.0:" + port, "http://127.1.2.3:" + port,
		"http://169.254.169.254/latest/meta-data/", "http://[fe80::1]/", "http://10.0.0.1/",
	} {
		var private *PrivateError
		if body, err := get(t, Client(Options{Timeout: 5 * time.Second}), address); !errors.As(err, &private) {
			t.Errorf("%s: %q, %v", address, body, err)
		}
	}
	if body, err := get(t, Client(Options{Private: true, Timeout: 5 * time.Second}), s.URL); err != nil || body != "here secret" {
		t.Errorf("%q, %v", body, err)
	}
}

// TestARedirectLeadsNotIn begins at what is taken for a public address: a proxy stands for the world.
func TestARedirectLeadsNotIn(t *testing.T) {
	t.Parallel()
	inside := serve(t)
	world := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Host == "moved.example" {
			to := r.URL.Query().Get("to")
			if to == "itself" {
				to = r.URL.String()
			}
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusFound)
			return
		}
		_, _ = io.WriteString(w, r.URL.Host+" "+r.Header.Get("X-Key"))
	}))
	t.Cleanup(world.Close)
	proxy, err := url.Parse(world.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := func() *http.Client {
		c := Client(Options{Private: true, Timeout: 5 * time.Second})
		transport, _ := c.Transport.(*http.Transport)
		transport.Proxy = func(r *http.Request) (*url.URL, error) {
			if strings.HasSuffix(r.URL.Hostname(), ".example") || r.URL.Hostname() == "169.254.169.254" {
				return proxy, nil
			}
			return nil, nil //nolint:nilnil // direct, as [http.Transport] has it: to a name that an attacker leads inside
		}
		Guard(transport)
		return c
	}
	for _, to := range []string{inside.URL, "http://169.254.169.254/latest/meta-data/iam/", "http://[::1]:1/"} {
		var private *PrivateError
		if body, err := get(t, client(), "http://moved.example/?to="+url.QueryEscape(to)); !errors.As(err, &private) {
			t.Errorf("to %s: %q, %v", to, body, err)
		}
	}
	if body, err := get(t, client(), "http://moved.example/?to="+url.QueryEscape("http://other.example/")); err != nil || body != "other.example " {
		t.Errorf("to another host: %q, %v; it must not be told the key", body, err)
	}
	for _, to := range []string{"file:///etc/passwd", "itself"} {
		if body, err := get(t, client(), "http://moved.example/?to="+url.QueryEscape(to)); err == nil {
			t.Errorf("to %s: %q", to, body)
		}
	}
}
