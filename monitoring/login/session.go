package login

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// Lifetime is how long somebody stays signed in, used or not.
	Lifetime = 12 * time.Hour

	cookieName   = "embedfleet"
	securePrefix = "__Host-" // browsers take such a cookie over TLS only, for this host only
)

// A session is what the cookie says: name "." issued "." id "." signature. It is signed and not stored, so
// that it survives a restart if the key does; those who signed out are remembered until they lapse.
type session struct {
	name   string
	issued time.Time
	id     string
}

// A signer makes and checks sessions.
type signer struct {
	key []byte
	now func() time.Time

	mu   sync.Mutex
	over map[string]time.Time // ids signed out, and when they would have lapsed
}

func newSigner(key []byte, now func() time.Time) *signer {
	if len(key) == 0 {
		key = make([]byte, sha256.Size)
		_, _ = rand.Read(key) // never fails, see crypto/rand
	}
	return &signer{key: key, now: now, over: map[string]time.Time{}}
}

// sum is a keyed digest of parts, each closed by a NUL, which none of them holds.
func (s *signer) sum(parts ...string) string {
	mac := hmac.New(sha256.New, s.key)
	for _, part := range parts {
		mac.Write([]byte(part))
		mac.Write([]byte{0})
	}
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// issue returns the value of a cookie for u. The digest of his line is signed with it: when the line
// changes, the cookie is void.
func (s *signer) issue(u user) string {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails, see crypto/rand
	body := strings.Join([]string{
		base64.RawURLEncoding.EncodeToString([]byte(u.name)), strconv.FormatInt(s.now().Unix(), 10), base64.RawURLEncoding.EncodeToString(id),
	}, ".")
	return body + "." + s.sum("session", body, string(u.digest[:]))
}

// open reads the value of a cookie. find returns the user of a name as the file has him now.
func (s *signer) open(value string, find func(name string) (user, bool)) (session, user, bool) {
	parts := strings.Split(value, ".")
	if len(parts) != 4 {
		return session{}, user{}, false
	}
	name, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err != nil {
		return session{}, user{}, false
	}
	u, known := find(string(name))
	want := s.sum("session", strings.Join(parts[:3], "."), string(u.digest[:]))
	if !known || !hmac.Equal([]byte(parts[3]), []byte(want)) {
		return session{}, user{}, false
	}
	seconds, err := strconv.ParseInt(parts[1], 10, 64)
	issued := time.Unix(seconds, 0)
	age := s.now().Sub(issued)
	if err != nil || age < -time.Minute || age > Lifetime || s.ended(parts[2]) {
		return session{}, user{}, false
	}
	return session{name: u.name, issued: issued, id: parts[2]}, u, true
}

func (s *signer) ended(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, over := s.over[id]
	return over
}

// end signs a session out.
func (s *signer) end(one session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, lapse := range s.over {
		if s.now().After(lapse) {
			delete(s.over, id)
		}
	}
	s.over[one.id] = one.issued.Add(Lifetime)
}

// A jar is the browser's cookie of ours: over TLS only, or, on the machine itself, without.
type jar struct{ secure bool }

func (j jar) name() string {
	if j.secure {
		return securePrefix + cookieName
	}
	return cookieName
}

// put hands the session to the browser, or takes it away with an empty value.
func (j jar) put(w http.ResponseWriter, value string) {
	c := &http.Cookie{Name: j.name(), Value: value, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, //nolint:gosec // Secure, but on this machine, where there is no TLS
		Secure: j.secure, MaxAge: int(Lifetime / time.Second)}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// take returns what the browser brought.
func (j jar) take(r *http.Request) string {
	c, err := r.Cookie(j.name())
	if err != nil {
		return ""
	}
	return c.Value
}

// LocalHost reports whether a host, with or without a port, is this machine by any of its own names: what a
// browser on the machine itself writes, and what no foreign name can be made to look like.
func LocalHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && addr.IsLoopback()
}
