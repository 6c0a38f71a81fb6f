package login

import (
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

func keyOf(s secret, password string) string {
	key := argon2.IDKey([]byte(password), s.salt, s.time, s.memory, s.threads, uint32(len(s.key)))
	return base64.RawStdEncoding.EncodeToString(key)
}

// screens are plain texts.
type screens struct{}

func (screens) SignIn(w http.ResponseWriter, _ *http.Request, f Form) {
	status := http.StatusOK
	if f.Wait > 0 {
		status = http.StatusTooManyRequests
	} else if f.Wrong != "" {
		status = http.StatusUnauthorized
	}
	w.WriteHeader(status)
	fmt.Fprintf(w, "sign in, then %s; %s", f.Next, f.Wrong)
}

func (screens) Refuse(w http.ResponseWriter, _ *http.Request, status int, why string) {
	http.Error(w, why, status)
}

// A house is a guard with a door, a page and an action behind it.
type house struct {
	*Guard
	http.Handler
	users string // path
	token string // of the operator called ci
}

func newHouse(t *testing.T, opts Options) *house {
	t.Helper()
	token, line, err := NewToken("ci", Operator)
	if err != nil {
		t.Fatal(err)
	}
	h := &house{token: token, users: filepath.Join(t.TempDir(), "users")}
	text := cheapLine(t, "ann", "operator", "correct horse") + "\n" + cheapLine(t, "vic", "viewer", "battery staple") + "\n" + line +
		"\nproxy bob operator\nproxy * viewer\n"
	if err := os.WriteFile(h.users, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if opts.Anonymous == "" {
		opts.UsersFile = h.users
	}
	opts.Logger = testkit.Logger(t)
	if h.Guard, err = New(screens{}, &opts); err != nil {
		t.Fatal(err)
	}
	inner := http.NewServeMux()
	inner.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		c := From(r.Context())
		fmt.Fprintf(w, "%s %s %s", c.Name, c.Role, c.Token())
	})
	inner.Handle("POST /act", h.Operator(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s acted", From(r.Context()).Name)
	})))
	mux := http.NewServeMux()
	mux.Handle("/", h.Wrap(inner))
	mux.Handle("/login", h.Door())
	mux.Handle("/logout", h.Door())
	h.Handler = mux
	return h
}

// A call is a request in words.
type call struct {
	method, path string
	host, from   string // localhost and 127.0.0.1 by default
	form         url.Values
	head         map[string]string
	cookie       *http.Cookie
}

func (h *house) do(c call) *http.Response {
	var body io.Reader
	if c.form != nil {
		body = strings.NewReader(c.form.Encode())
	}
	r := httptest.NewRequest(c.method, "http://localhost"+c.path, body)
	if c.host != "" {
		r.Host = c.host
	}
	r.RemoteAddr = "127.0.0.1:1234"
	if c.from != "" {
		r.RemoteAddr = c.from + ":1234"
	}
	if c.form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	r.Header.Set("Accept", "text/html")
	for name, value := range c.head {
		r.Header.Set(name, value)
	}
	if c.cookie != nil {
		r.AddCookie(c.cookie)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func text(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// signIn returns the cookie of a user.
func (h *house) signIn(t *testing.T, name, password string) *http.Cookie {
	t.Helper()
	r := h.do(call{method: "POST", path: "/login", form: url.Values{"name": {name}, "password": {password}, "next": {"/somewhere"}}})
	if r.StatusCode != http.StatusSeeOther || r.Header.Get("Location") != "/somewhere" || len(r.Cookies()) != 1 {
		t.Fatalf("signing in as %s: %s to %q with %d cookies: %s", name, r.Status, r.Header.Get("Location"), len(r.Cookies()), text(t, r))
	}
	return r.Cookies()[0]
}

// csrf returns the token of a caller.
func (h *house) csrf(t *testing.T, c call) string {
	t.Helper()
	c.method, c.path = "GET", "/"
	fields := strings.Fields(text(t, h.do(c)))
	if len(fields) != 3 {
		t.Fatalf("the page says %q", fields)
	}
	return fields[2]
}

func TestSession(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	if r := h.do(call{method: "GET", path: "/dead?model=a"}); r.StatusCode != http.StatusSeeOther || r.Header.Get("Location") != "/login?next=%2Fdead%3Fmodel%3Da" {
		t.Errorf("without a session: %s to %q", r.Status, r.Header.Get("Location"))
	}
	cookie := h.signIn(t, "ann", "correct horse")
	if cookie.Name != "embedfleet" || !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.Path != "/" || cookie.Secure {
		t.Errorf("the cookie of a browser on this machine: %v", cookie)
	}
	r := h.do(call{method: "GET", path: "/", cookie: cookie})
	if got := text(t, r); !strings.HasPrefix(got, "ann operator ") {
		t.Errorf("with a session: %q", got)
	}
	if got := r.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("the page may be cached: %q", got)
	}
	if r := h.do(call{method: "POST", path: "/logout", cookie: cookie}); r.StatusCode != http.StatusSeeOther || r.Cookies()[0].MaxAge >= 0 {
		t.Errorf("signing out: %s, cookie %v", r.Status, r.Cookies())
	}
	if r := h.do(call{method: "GET", path: "/", cookie: cookie}); r.StatusCode != http.StatusSeeOther {
		t.Errorf("a session that was ended: %s", r.Status)
	}
}

func TestCookiesOfOtherMachinesNeedTLS(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	r := h.do(call{method: "POST", path: "/login", host: "fleet.example", form: url.Values{"name": {"ann"}, "password": {"correct horse"}}})
	if cookie := r.Cookies()[0]; cookie.Name != "__Host-embedfleet" || !cookie.Secure {
		t.Errorf("the cookie: %v", cookie)
	}
}

// TestForgedSessions changes every part of a good cookie.
func TestForgedSessions(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	good := h.signIn(t, "vic", "battery staple")
	parts := strings.Split(good.Value, ".")
	join := func(change func(p []string)) string {
		p := append([]string{}, parts...)
		change(p)
		return strings.Join(p, ".")
	}
	other := newHouse(t, Options{}).signIn(t, "vic", "battery staple")
	for name, value := range map[string]string{
		"empty":           "",
		"another's name":  join(func(p []string) { p[0] = base64.RawURLEncoding.EncodeToString([]byte("ann")) }),
		"a later time":    join(func(p []string) { p[1] = fmt.Sprint(time.Now().Add(time.Hour).Unix()) }),
		"another id":      join(func(p []string) { p[2] = "AAAAAAAAAAAAAAAAAAAAAA" }),
		"no signature":    join(func(p []string) { p[3] = "" }),
		"another key":     other.Value,
		"a part too many": good.Value + ".x",
	} {
		if r := h.do(call{method: "GET", path: "/", cookie: &http.Cookie{Name: good.Name, Value: value}}); r.StatusCode != http.StatusSeeOther {
			t.Errorf("%s: %s", name, r.Status)
		}
	}
	if r := h.do(call{method: "GET", path: "/", cookie: good}); r.StatusCode != http.StatusOK {
		t.Errorf("the good one: %s", r.Status)
	}
}

func TestSessionsEnd(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	cookie := h.signIn(t, "ann", "correct horse")
	status := func() int { return h.do(call{method: "GET", path: "/", cookie: cookie}).StatusCode }

	h.signer.now = func() time.Time { return time.Now().Add(Lifetime - time.Minute) }
	if got := status(); got != http.StatusOK {
		t.Errorf("a minute before its end: %d", got)
	}
	h.signer.now = func() time.Time { return time.Now().Add(Lifetime + time.Minute) }
	if got := status(); got != http.StatusSeeOther {
		t.Errorf("a minute after its end: %d", got)
	}
	h.signer.now = time.Now
	if err := os.WriteFile(h.users, []byte(cheapLine(t, "ann", "viewer", "correct horse")), 0o600); err != nil {
		t.Fatal(err)
	}
	h.Guard.users.looked = time.Time{}
	if got := status(); got != http.StatusSeeOther {
		t.Errorf("after the user's line changed: %d", got)
	}
}

func TestSessionsOutliveARestartWithTheKey(t *testing.T) {
	t.Parallel()
	key := []byte(strings.Repeat("k", 32))
	a := newHouse(t, Options{Key: key})
	b, err := New(screens{}, &Options{Key: key, UsersFile: a.users})
	if err != nil {
		t.Fatal(err)
	}
	cookie := a.signIn(t, "ann", "correct horse")
	if _, _, ok := b.signer.open(cookie.Value, b.person); !ok {
		t.Error("another process with the key does not know the session")
	}
}

// TestWhoMayAct goes through everybody who may or may not change something, and why not.
func TestWhoMayAct(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, ProxyUser: "X-User"})
	ann, vic := h.signIn(t, "ann", "correct horse"), h.signIn(t, "vic", "battery staple")
	again := h.signIn(t, "ann", "correct horse")
	token := h.csrf(t, call{cookie: ann})
	bob := call{from: "10.0.0.1", host: "fleet.example", head: map[string]string{"X-User": "bob"}}
	with := func(c call, token string, head ...string) call {
		c.method, c.path, c.form = "POST", "/act", url.Values{}
		if token != "" {
			c.form.Set("csrf", token)
		}
		all := map[string]string{}
		maps.Copy(all, c.head)
		for i := 0; i+1 < len(head); i += 2 {
			all[head[i]] = head[i+1]
		}
		c.head = all
		return c
	}
	for _, tt := range []struct {
		name string
		call call
		want int
	}{
		{"operator", with(call{cookie: ann}, token), 200},
		{"operator by script", with(call{cookie: ann}, "", "X-CSRF-Token", token), 200},
		{"operator without token", with(call{cookie: ann}, ""), 403},
		{"operator with a token of his other session", with(call{cookie: again}, token), 403},
		{"operator from another site", with(call{cookie: ann}, token, "Sec-Fetch-Site", "cross-site"), 403},
		{"operator from a sister site", with(call{cookie: ann}, token, "Sec-Fetch-Site", "same-site"), 403},
		{"operator from our page", with(call{cookie: ann}, token, "Sec-Fetch-Site", "same-origin"), 200},
		{"old browser, other origin", with(call{cookie: ann}, token, "Origin", "http://evil.example"), 403},
		{"old browser, our origin", with(call{cookie: ann}, token, "Origin", "http://localhost"), 200},
		{"viewer", with(call{cookie: vic}, h.csrf(t, call{cookie: vic})), 403},
		{"nobody", with(call{}, token), 401},
		{"program", with(call{}, "", "Authorization", "Bearer "+h.token), 200},
		{"program with a wrong token", with(call{}, "", "Authorization", "Bearer efm_x"), 401},
		{"wrong token beside a session", with(call{cookie: ann}, token, "Authorization", "Bearer efm_x"), 401},
		{"behind the proxy", with(bob, h.csrf(t, bob)), 200},
		{"behind the proxy without token", with(bob, ""), 403},
		{"unlisted behind the proxy", with(call{from: "10.0.0.1", head: map[string]string{"X-User": "eve"}}, token), 403},
		{"no proxy of ours", with(call{from: "192.0.2.1", head: map[string]string{"X-User": "bob"}}, token), 401},
		{"a name no proxy gives", with(call{from: "10.0.0.1", head: map[string]string{"X-User": "bob, ann"}}, token), 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if r := h.do(tt.call); r.StatusCode != tt.want {
				t.Errorf("%s, want %d: %s", r.Status, tt.want, text(t, r))
			}
		})
	}
}

func TestNoLoginOnThisMachine(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{Anonymous: Operator, LocalOnly: true})
	for host, want := range map[string]int{
		"localhost:8084": 200, "127.0.0.1": 200, "[::1]:8084": 200, "fleet.localhost": 200,
		"evil.example": 421, "127.0.0.1.evil.example": 421, "10.0.0.7:8084": 421, "": 200,
	} {
		if r := h.do(call{method: "GET", path: "/", host: host}); r.StatusCode != want {
			t.Errorf("host %q: %s, want %d", host, r.Status, want)
		}
	}
	token := h.csrf(t, call{})
	if r := h.do(call{method: "POST", path: "/act", form: url.Values{"csrf": {token}}}); r.StatusCode != http.StatusOK {
		t.Errorf("acting: %s", r.Status)
	}
	if r := h.do(call{method: "POST", path: "/act", form: url.Values{}}); r.StatusCode != http.StatusForbidden {
		t.Errorf("acting without a token: %s", r.Status)
	}
	if r := h.do(call{method: "GET", path: "/login"}); r.StatusCode != http.StatusNotFound {
		t.Errorf("a form without users: %s", r.Status)
	}
}

func TestWhereTheFormLeads(t *testing.T) {
	t.Parallel()
	for next, want := range map[string]string{
		"/dead?model=a": "/dead?model=a", "": "/", "//evil.example": "/", "https://evil.example": "/", `/\evil.example`: "/", "/a\r\nb": "/",
	} {
		if got := within(next); got != want {
			t.Errorf("%q leads to %q", next, got)
		}
	}
}

// TestAttempts counts wrong passwords of an address, of a name, and of both kinds of bystanders.
func TestAttempts(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	now := time.Now()
	h.tries.now = func() time.Time { return now }
	try := func(from, name, password string) int {
		return h.do(call{method: "POST", path: "/login", from: from, form: url.Values{"name": {name}, "password": {password}}}).StatusCode
	}
	for i := range addressPatience {
		if got := try("192.0.2.1", "ann", "wrong"); got != 401 {
			t.Fatalf("attempt %d: %d", i, got)
		}
	}
	if got := try("192.0.2.1", "ann", "correct horse"); got != 429 {
		t.Errorf("right, but after too many wrong: %d", got)
	}
	if got := try("192.0.2.2", "ann", "correct horse"); got != 303 {
		t.Errorf("the same name from elsewhere: %d", got)
	}
	if got := try("192.0.2.1", "vic", "battery staple"); got != 429 {
		t.Errorf("another name from there: %d", got)
	}
	now = now.Add(attemptWindow)
	if got := try("192.0.2.1", "ann", "correct horse"); got != 303 {
		t.Errorf("after the window: %d", got)
	}
	for i := range namePatience {
		try(fmt.Sprintf("198.51.100.%d", i), "ann", "wrong")
	}
	if got := try("203.0.113.1", "ann", "correct horse"); got != 429 {
		t.Errorf("a name that was guessed at from many addresses: %d", got)
	}
	if got := try("203.0.113.1", "vic", "battery staple"); got != 303 {
		t.Errorf("another name meanwhile: %d", got)
	}
}

func TestWrongTokensAreCounted(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	try := func(token string) int {
		return h.do(call{method: "GET", path: "/", from: "192.0.2.1", head: map[string]string{"Authorization": "Bearer " + token}}).StatusCode
	}
	for range addressPatience {
		if got := try("efm_guess"); got != 401 {
			t.Fatalf("a wrong token: %d", got)
		}
	}
	if got := try("efm_guess"); got != 429 {
		t.Errorf("one too many: %d", got)
	}
	if got := try(h.token); got != 200 {
		t.Errorf("a good one from there: %d", got)
	}
}

func TestAttemptsTakeBoundedRoom(t *testing.T) {
	t.Parallel()
	a := newAttempts(time.Now)
	for i := range 3 * maxAddresses {
		a.begin(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), fmt.Sprint("name", i))
	}
	if len(a.addresses) > maxAddresses || len(a.names) > nameSlots {
		t.Errorf("%d addresses and %d names are remembered", len(a.addresses), len(a.names))
	}
	if x, y := neighbours(netip.MustParseAddr("2001:db8::1")), neighbours(netip.MustParseAddr("2001:db8::ffff:1")); x != y {
		t.Errorf("two addresses of one customer are counted apart: %v, %v", x, y)
	}
}

func TestClientBehindProxies(t *testing.T) {
	t.Parallel()
	g, err := New(screens{}, &Options{Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ peer, header, want string }{
		{"192.0.2.1", "", "192.0.2.1"},
		{"192.0.2.1", "203.0.113.9", "192.0.2.1"}, // not a proxy: its word is nothing
		{"10.0.0.1", "203.0.113.9", "203.0.113.9"},
		{"10.0.0.1", "1.1.1.1, 203.0.113.9, 10.0.0.2", "203.0.113.9"},
		{"10.0.0.1", "203.0.113.9:4711, 10.0.0.2:80", "203.0.113.9"},
		{"10.0.0.1", "[2001:db8::1]:4711", "2001:db8::1"},
		{"10.0.0.1", "[2001:db8::1]", "2001:db8::1"},
		{"10.0.0.1", "2001:db8::1", "2001:db8::1"},
		{"10.0.0.1", "nonsense", "10.0.0.1"},
		{"10.0.0.1", "203.0.113.9:port", "10.0.0.1"},
		{"10.0.0.1", "", "10.0.0.1"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = tt.peer + ":1"
		if tt.header != "" {
			r.Header.Set("X-Forwarded-For", tt.header)
		}
		if got := g.client(r).String(); got != tt.want {
			t.Errorf("%s says %q: %s, want %s", tt.peer, tt.header, got, tt.want)
		}
	}
}
