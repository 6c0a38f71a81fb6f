package login

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxForm bounds what an operator's form may hold in bytes.
const maxForm = 64 << 10

// Screens is how the guard talks to people; the page's frame has them.
type Screens interface {
	// SignIn shows the form, which posts name, password and next to /login.
	SignIn(w http.ResponseWriter, r *http.Request, f Form)
	// Refuse says in words why there is no answer.
	Refuse(w http.ResponseWriter, r *http.Request, status int, why string)
}

// A Form is what the form to sign in shows.
type Form struct {
	Next  string // where to go then
	Name  string // as it was typed
	Wrong string // why the last attempt failed, "" at first
	Wait  time.Duration
}

// Options are a guard's settings.
type Options struct {
	Logger *slog.Logger
	// UsersFile is the file of users; without it nobody can sign in.
	UsersFile string
	// Anonymous is what people may do who have not signed in; "" is nothing.
	Anonymous Role
	// LocalOnly answers only requests for this machine's own names. Without it a page of another site, whose name
	// points here (DNS rebinding), could act for an anonymous visitor.
	LocalOnly bool
	// Key signs sessions; by default one of the process's own, so that its end signs everybody out.
	Key []byte
	// Proxies are trusted to say whom they speak for: X-Forwarded-For, X-Forwarded-Proto, and ProxyUser.
	Proxies []netip.Prefix
	// ProxyUser is the header in which they name a user whom they have checked; "" is none.
	ProxyUser string
	// Observe is told of each attempt to sign in: "in", "wrong", or "refused" for too many. It may be nil.
	Observe func(outcome string)
}

// A Guard lets people in and keeps track of who they are.
type Guard struct {
	log     *slog.Logger
	opts    Options
	screens Screens
	users   *file // nil without one
	signer  *signer
	tries   *attempts
	cross   *http.CrossOriginProtection
	hashing chan struct{} // room for passwords that are being checked at once: each takes 19 MiB
}

// New returns a guard; nil options let nobody in. It reads the file of users, so that a bad one is found at
// the start.
func New(screens Screens, opts *Options) (*Guard, error) {
	g := &Guard{screens: screens, cross: http.NewCrossOriginProtection(), tries: newAttempts(time.Now), hashing: make(chan struct{}, 4)}
	if opts != nil {
		g.opts = *opts
	}
	g.log = g.opts.Logger
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	if g.opts.Observe == nil {
		g.opts.Observe = func(string) {}
	}
	g.signer = newSigner(g.opts.Key, time.Now)
	if g.opts.UsersFile != "" {
		var err error
		if g.users, err = openFile(g.log, g.opts.UsersFile); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// How somebody was recognised.
const (
	byPassword = "password"
	byToken    = "token"
	byProxy    = "proxy"
	anonymous  = "anonymous"
)

// A Caller is who sent a request.
type Caller struct {
	Name string // "local" if nobody signed in
	Role Role
	how  string
	csrf string
	open session
}

// CanAct reports whether he may change something.
func (c Caller) CanAct() bool { return c.Role == Operator }

// Token is what a form that changes something must bring as "csrf", or a script as X-CSRF-Token.
func (c Caller) Token() string { return c.csrf }

// SignedIn reports whether he has a session that can be ended.
func (c Caller) SignedIn() bool { return c.how == byPassword }

type callerKey struct{}

// From returns who calls; outside of [Guard.Wrap] nobody does, who may do nothing.
func From(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// Wrap lets those through who may read. Others are shown the form, or get 401 if they are no browser. Requests
// that change something must come from our own page; see [http.CrossOriginProtection].
func (g *Guard) Wrap(next http.Handler) http.Handler {
	return g.sameOrigin(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, wait := g.identify(r)
		switch {
		case wait > 0:
			g.tooMany(w, r, wait)
		case caller.Role == "":
			g.askIn(w, r)
		default:
			// Nothing that depends on who asks may stay in a cache.
			w.Header().Set("Cache-Control", "no-store")
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, caller)))
		}
	}))
}

// sameOrigin refuses what another site's page sends, and, where the guard is for this machine only, what is
// addressed to another name.
func (g *Guard) sameOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.opts.LocalOnly && !LocalHost(r.Host) {
			g.screens.Refuse(w, r, http.StatusMisdirectedRequest, "This page answers on this machine's own names only, such as localhost. To reach it from elsewhere, give it a file of users.")
			return
		}
		if err := g.cross.Check(r); err != nil {
			g.log.Warn("a request of another site was refused", "path", r.URL.Path, "origin", r.Header.Get("Origin"))
			g.screens.Refuse(w, r, http.StatusForbidden, "The request came from another site's page, so it was refused.")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Operator lets only those through who may act. What changes something must bring the caller's token; a
// program that sends its own with every request has none to lose.
func (g *Guard) Operator(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller := From(r.Context())
		if !caller.CanAct() {
			g.screens.Refuse(w, r, http.StatusForbidden, "You may look but not act: your role is "+string(Viewer)+". An operator can change that in the file of users.")
			return
		}
		if !safe(r.Method) && caller.how != byToken {
			r.Body = http.MaxBytesReader(w, r.Body, maxForm)
			token := r.Header.Get("X-Csrf-Token")
			if token == "" {
				token = r.PostFormValue("csrf")
			}
			if !hmac.Equal([]byte(token), []byte(caller.csrf)) {
				g.screens.Refuse(w, r, http.StatusForbidden, "This form is not of your session, or is too old. Load the page anew and try again.")
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

func safe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// identify says who sends r. A wait above 0 refuses the answer: too many wrong tokens came from there.
func (g *Guard) identify(r *http.Request) (c Caller, wait time.Duration) {
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return g.byToken(r, strings.TrimSpace(token))
	}
	if c, ok := g.byProxy(r); ok {
		return c, 0
	}
	if g.users != nil {
		if open, u, ok := g.signer.open(g.jar(r).take(r), g.person); ok {
			return g.caller(u, byPassword, open), 0
		}
	}
	if g.opts.Anonymous != "" {
		return g.caller(user{name: "local", role: g.opts.Anonymous}, anonymous, session{}), 0
	}
	return Caller{}, 0
}

func (g *Guard) caller(u user, how string, open session) Caller {
	return Caller{Name: u.name, Role: u.role, how: how, open: open, csrf: g.signer.sum("csrf", how, u.name, open.id)}
}

func (g *Guard) person(name string) (user, bool) {
	u, ok := g.users.current().people[name]
	return u, ok
}

func (g *Guard) byToken(r *http.Request, token string) (Caller, time.Duration) {
	if g.users == nil {
		return Caller{}, 0
	}
	if u, ok := g.users.current().tokens[sha256.Sum256([]byte(token))]; ok {
		return g.caller(u, byToken, session{}), 0
	}
	addr := g.client(r)
	wait := g.tries.begin(addr, "")
	if wait == 0 {
		g.opts.Observe("wrong")
		g.log.Warn("a wrong token was shown", "address", addr)
	}
	return Caller{}, wait
}

// byProxy takes a trusted proxy's word. A name that the file does not list is who "*" is there, or nobody.
func (g *Guard) byProxy(r *http.Request) (Caller, bool) {
	if g.opts.ProxyUser == "" || g.users == nil || !g.trusts(peer(r)) {
		return Caller{}, false
	}
	name := r.Header.Get(g.opts.ProxyUser)
	if checkName(name) != nil {
		return Caller{}, false
	}
	known := g.users.current().proxy
	u, ok := known[name]
	if !ok {
		u, ok = known["*"]
	}
	u.name = name
	return g.caller(u, byProxy, session{}), ok
}

// askIn shows the way in.
func (g *Guard) askIn(w http.ResponseWriter, r *http.Request) {
	browser := r.Method == http.MethodGet && strings.Contains(r.Header.Get("Accept"), "text/html") && r.Header.Get("Authorization") == ""
	if browser && g.users != nil {
		http.Redirect(w, r, "/login?"+url.Values{"next": {r.URL.RequestURI()}}.Encode(), http.StatusSeeOther)
		return
	}
	w.Header().Set("WWW-Authenticate", `Bearer realm="embedfleet"`)
	g.screens.Refuse(w, r, http.StatusUnauthorized, "Sign in first, or send a token as Authorization: Bearer.")
}

func (g *Guard) tooMany(w http.ResponseWriter, r *http.Request, wait time.Duration) {
	g.opts.Observe("refused")
	w.Header().Set("Retry-After", strconv.Itoa(int(wait.Seconds())+1))
	g.screens.Refuse(w, r, http.StatusTooManyRequests, "Too many wrong attempts from there. Try again in "+wait.Round(time.Second).String()+".")
}
