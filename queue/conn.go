package queue

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// A Conn says how to reach Redis. Its printed form never shows a password. The zero Conn is not usable;
// make one with [Parse] or [ConnOf].
type Conn struct {
	opts redis.UniversalOptions
	text string // the address without secrets
}

// Forms lists the addresses [Parse] reads, for help texts.
const Forms = `redis://[user[:password]@]host[:6379][/db]
rediss://...                                      the same over TLS
unix://[user[:password]@]/path/to/socket[?db=N]
redis-sentinel://[user[:password]@]host[:26379],.../master[/db]   (rediss-sentinel:// over TLS)
redis-cluster://[user[:password]@]host[:6379],...                 (rediss-cluster:// over TLS)
Parameters: db, sentinel_username, sentinel_password, tls_ca (a file), tls_server_name, tls_insecure=true`

// ConnOf returns a Conn with exactly these options, for addresses that no text can express.
func ConnOf(opts redis.UniversalOptions) Conn {
	return Conn{opts: opts, text: "redis at " + strings.Join(opts.Addrs, ",")}
}

// Client returns a new client. It connects on first use; the caller closes it.
func (c Conn) Client() redis.UniversalClient {
	opts := c.opts
	return redis.NewUniversalClient(&opts)
}

// WithPool returns c with room for size connections of a client to each server; who waits for answers holds one.
// By default there are ten per core.
func (c Conn) WithPool(size int) Conn {
	c.opts.PoolSize = size
	return c
}

// String returns the address with every password replaced by "***".
func (c Conn) String() string { return c.text }

// GoString keeps passwords out of %#v.
func (c Conn) GoString() string { return "queue.Conn(" + c.text + ")" }

// LogValue keeps passwords out of structured logs.
func (c Conn) LogValue() slog.Value { return slog.StringValue(c.text) }

// Parse reads an address in one of the [Forms]. asynq's own parser drops the user name and confuses the
// two passwords of the sentinel form (T29). Percent-encode the characters : / ? # @ and % in a name or a
// password. Errors never quote the part that may hold a secret.
func Parse(address string) (Conn, error) {
	p, err := split(address)
	if err == nil {
		err = p.check()
	}
	var opts redis.UniversalOptions
	if err == nil {
		opts, err = p.options()
	}
	if err != nil {
		return Conn{}, fmt.Errorf("reading the Redis address: %w", err)
	}
	return Conn{opts: opts, text: p.masked(opts)}, nil
}

// parts are the pieces of an address, decoded but not yet checked.
type parts struct {
	kind     string // redis, unix, redis-sentinel or redis-cluster
	tls      bool
	user     string
	password string
	hosts    []string // host:port each; of kind unix none
	path     []string // decoded elements
	query    url.Values
}

// split cuts an address by hand: net/url refuses lists of hosts, and quotes the whole address, password
// included, in its errors.
func split(address string) (p parts, err error) {
	scheme, rest, ok := strings.Cut(address, "://")
	if !ok {
		return p, errors.New("no scheme, want for example redis://localhost:6379")
	}
	p.kind = scheme
	if kind, ok := strings.CutPrefix(scheme, "rediss"); ok {
		p.kind, p.tls = "redis"+kind, true
	}
	rest, query, _ := strings.Cut(rest, "?")
	if p.query, err = url.ParseQuery(query); err != nil {
		return p, errors.New("the parameters after the question mark are not well encoded")
	}
	authority, path := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		authority, path = rest[:i], rest[i:]
	}
	if strings.Contains(path+query, "@") {
		return p, errors.New("an @ after the host: percent-encode / ? and @ in the password")
	}
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		if err := p.userinfo(authority[:i]); err != nil {
			return p, err
		}
		authority = authority[i+1:]
	}
	if authority != "" {
		p.hosts = strings.Split(authority, ",")
	}
	if path, err = url.PathUnescape(path); err != nil {
		return p, errors.New("the path is not well encoded")
	}
	if p.kind == "unix" {
		p.path = []string{path}
	} else if path = strings.Trim(path, "/"); path != "" {
		p.path = strings.Split(path, "/")
	}
	return p, nil
}

func (p *parts) userinfo(s string) error {
	user, password, _ := strings.Cut(s, ":")
	var err1, err2 error
	p.user, err1 = url.PathUnescape(user)
	p.password, err2 = url.PathUnescape(password)
	if err1 != nil || err2 != nil {
		return errors.New("the user name or password is not well percent-encoded")
	}
	return nil
}

// parameters lists the parameters each kind of address takes.
var parameters = map[string][]string{
	"redis":          {"db", "tls_ca", "tls_server_name", "tls_insecure"},
	"unix":           {"db"},
	"redis-sentinel": {"db", "sentinel_username", "sentinel_password", "tls_ca", "tls_server_name", "tls_insecure"},
	"redis-cluster":  {"tls_ca", "tls_server_name", "tls_insecure"},
}

// check completes the hosts with the default port and reports the first piece that does not fit.
func (p *parts) check() error {
	known, ok := parameters[p.kind]
	if !ok {
		return fmt.Errorf("scheme %q is not known, want one of\n%s", p.kind, Forms)
	}
	for name, values := range p.query {
		if !slices.Contains(known, name) {
			return fmt.Errorf("%s:// has no parameter %q", p.kind, name)
		}
		if len(values) > 1 {
			return fmt.Errorf("parameter %q is given %d times", name, len(values))
		}
		if strings.HasPrefix(name, "tls_") && !p.tls {
			return fmt.Errorf("parameter %q needs TLS: rediss instead of redis", name)
		}
	}
	if p.kind == "unix" {
		if len(p.hosts) > 0 || len(p.path[0]) < 2 {
			return errors.New("want an absolute path after unix://, for example unix:///run/redis.sock")
		}
		return nil
	}
	return p.checkHosts()
}

func (p *parts) checkHosts() error {
	if len(p.hosts) == 0 {
		return errors.New("no host")
	}
	if p.kind == "redis" && len(p.hosts) > 1 {
		return errors.New("more than one host: use redis-sentinel:// or redis-cluster://")
	}
	port := "6379"
	if p.kind == "redis-sentinel" {
		port = "26379"
	}
	for i, h := range p.hosts {
		addr, err := withPort(h, port)
		if err != nil {
			return fmt.Errorf("host %d of %d: %w", i+1, len(p.hosts), err)
		}
		p.hosts[i] = addr
	}
	return nil
}

// withPort completes a host, quoting nothing of it in errors: of an address without @ it is the password.
func withPort(host, port string) (string, error) {
	if strings.Count(host, ":") == 0 || strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host += ":" + port
	}
	name, port, err := net.SplitHostPort(host)
	if err != nil || name == "" {
		return "", errors.New("want host or host:port, and IPv6 addresses in brackets")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return "", errors.New("its port is not a number from 1 to 65535")
	}
	return net.JoinHostPort(name, port), nil
}

// options turns checked parts into the client's options.
func (p *parts) options() (redis.UniversalOptions, error) {
	opts := redis.UniversalOptions{
		Addrs:         p.hosts,
		Username:      p.user,
		Password:      p.password,
		IsClusterMode: p.kind == "redis-cluster",
		// Nothing here reacts to maintenance announcements of hosted Redis; asking for them costs a round
		// trip per connection and is refused by other servers.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	path := p.path
	switch p.kind {
	case "unix":
		opts.Addrs, path = p.path, nil
	case "redis-sentinel":
		if len(path) == 0 {
			return opts, errors.New("no master's name: want redis-sentinel://host,host/master")
		}
		opts.MasterName, path = path[0], path[1:]
		opts.SentinelUsername = p.query.Get("sentinel_username")
		opts.SentinelPassword = p.query.Get("sentinel_password")
	case "redis-cluster":
		if len(path) > 0 {
			return opts, errors.New("a cluster has no numbered databases")
		}
	}
	var err error
	if opts.DB, err = p.database(path); err != nil {
		return opts, err
	}
	if p.tls {
		opts.TLSConfig, err = p.tlsConfig()
	}
	return opts, err
}

// database returns the number given as the path's last element or as parameter.
func (p *parts) database(path []string) (int, error) {
	text := p.query.Get("db")
	if len(path) > 1 || len(path) == 1 && text != "" {
		return 0, errors.New("want at most one database number after the host")
	}
	if len(path) == 1 {
		text = path[0]
	}
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, errors.New("the database is not a number from 0 up")
	}
	return n, nil
}

func (p *parts) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: p.query.Get("tls_server_name")}
	if config.ServerName == "" && p.kind == "redis" {
		config.ServerName, _, _ = net.SplitHostPort(p.hosts[0]) // the form was checked
	}
	if text := p.query.Get("tls_insecure"); text != "" {
		insecure, err := strconv.ParseBool(text)
		if err != nil {
			return nil, fmt.Errorf("parameter tls_insecure is %q, want true or false", text)
		}
		config.InsecureSkipVerify = insecure
	}
	if file := p.query.Get("tls_ca"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading tls_ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("reading tls_ca: no certificate in %s", file)
		}
	}
	return config, nil
}

// masked returns the address as it may be shown.
func (p *parts) masked(opts redis.UniversalOptions) string {
	var b strings.Builder
	scheme := p.kind
	if p.tls {
		scheme = "rediss" + strings.TrimPrefix(p.kind, "redis")
	}
	b.WriteString(scheme + "://" + url.PathEscape(p.user))
	if p.password != "" {
		b.WriteString(":***")
	}
	if p.user != "" || p.password != "" {
		b.WriteString("@")
	}
	b.WriteString(strings.Join(opts.Addrs, ","))
	if opts.MasterName != "" {
		b.WriteString("/" + opts.MasterName)
	}
	if p.kind == "unix" {
		fmt.Fprintf(&b, "?db=%d", opts.DB)
	} else if p.kind != "redis-cluster" {
		fmt.Fprintf(&b, "/%d", opts.DB)
	}
	return b.String()
}
