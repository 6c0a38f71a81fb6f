package login

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Door serves /login and /logout. It stands outside of [Guard.Wrap].
func (g *Guard) Door() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /login", func(w http.ResponseWriter, r *http.Request) {
		g.form(w, r, Form{Next: within(r.URL.Query().Get("next"))})
	})
	mux.HandleFunc("POST /login", g.signIn)
	mux.HandleFunc("POST /logout", g.signOut)
	return g.sameOrigin(mux)
}

func (g *Guard) form(w http.ResponseWriter, r *http.Request, f Form) {
	w.Header().Set("Cache-Control", "no-store")
	if g.users == nil {
		g.screens.Refuse(w, r, http.StatusNotFound, "There is no file of users, so there is nobody to sign in as.")
		return
	}
	g.screens.SignIn(w, r, f)
}

// within keeps a way to go on to this site: a path, and no "//host" that browsers take for another one's.
func within(next string) string {
	if !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.ContainsAny(next, "\\\r\n\t") {
		return "/"
	}
	return next
}

func (g *Guard) signIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	f := Form{Name: strings.TrimSpace(r.PostFormValue("name")), Next: within(r.PostFormValue("next"))}
	if g.users == nil {
		g.form(w, r, f)
		return
	}
	addr := g.client(r)
	if wait := g.tries.begin(addr, f.Name); wait > 0 {
		g.opts.Observe("refused")
		f.Wait, f.Wrong = wait, "Too many wrong attempts."
		w.Header().Set("Retry-After", strconv.Itoa(int(wait.Seconds())+1))
		g.form(w, r, f)
		return
	}
	u, ok, err := g.check(r, f.Name, r.PostFormValue("password"))
	switch {
	case err != nil: // the browser went away
	case !ok:
		g.opts.Observe("wrong")
		g.log.Warn("a sign-in failed", "address", addr, "known", u.name != "") // a password may be in the field for the name
		f.Wrong = "Name and password do not fit."
		g.form(w, r, f)
	default:
		g.tries.forgive(addr, f.Name)
		g.opts.Observe("in")
		g.log.Info("signed in", "user", u.name, "role", u.role, "address", addr)
		g.jar(r).put(w, g.signer.issue(u))
		http.Redirect(w, r, f.Next, http.StatusSeeOther)
	}
}

// check compares a password, as long for a name that is not there as for one that is.
func (g *Guard) check(r *http.Request, name, password string) (user, bool, error) {
	select {
	case g.hashing <- struct{}{}:
		defer func() { <-g.hashing }()
	case <-r.Context().Done():
		return user{}, false, r.Context().Err()
	}
	u, known := g.person(name)
	if !known {
		u.secret = nobody()
	}
	return u, u.secret.matches(password) && known, nil
}

func (g *Guard) signOut(w http.ResponseWriter, r *http.Request) {
	cookie := g.jar(r)
	if g.users != nil {
		if open, u, ok := g.signer.open(cookie.take(r), g.person); ok {
			g.signer.end(open)
			g.log.Info("signed out", "user", u.name)
		}
	}
	cookie.put(w, "")
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// jar is where a browser's cookie is. It travels over TLS only, unless the browser sits on this machine and asks
// without.
func (g *Guard) jar(r *http.Request) jar {
	forwarded := g.trusts(peer(r)) && r.Header.Get("X-Forwarded-Proto") == "https"
	return jar{secure: r.TLS != nil || forwarded || !LocalHost(r.Host)}
}

// peer is the address at the other end of the connection; the zero one if there is none.
func peer(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	addr, _ := netip.ParseAddr(host) // zero if it is none
	return addr.Unmap()
}

func (g *Guard) trusts(addr netip.Addr) bool {
	return slices.ContainsFunc(g.opts.Proxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// client is the address that attempts are counted for: the peer's, or, behind trusted proxies, the last one
// in X-Forwarded-For that none of them wrote for another of them.
func (g *Guard) client(r *http.Request) netip.Addr {
	addr := peer(r)
	if !g.trusts(addr) {
		return addr
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		next, ok := parseHop(strings.TrimSpace(hop))
		if !ok {
			return addr
		}
		if addr = next.Unmap(); !g.trusts(addr) {
			return addr
		}
	}
	return addr
}

// parseHop reads an address as proxies write it: bare, in brackets, or with a port behind it.
func parseHop(hop string) (netip.Addr, bool) {
	if both, err := netip.ParseAddrPort(hop); err == nil {
		return both.Addr(), true
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(hop, "["), "]"))
	return addr, err == nil
}
