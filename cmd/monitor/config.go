package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/monitoring/login"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/tasks"
)

// defaultProbes is where the probes are, and where `monitor health` looks for them.
const defaultProbes = "127.0.0.1:8085"

// settings are the flags.
type settings struct {
	redisURL, http, probes string
	models                 []string

	users, sessionKey string
	proxies           []string
	proxyUser         string
	insecure          bool
	cert, key         string

	search searchFlags
	queues queueFlags
}

func (f *settings) register(c *boot.Config) {
	c.String(&f.redisURL, "redis-url", "redis://127.0.0.1:6379", "the queue's Redis", boot.Env("REDIS_URL"), boot.Secret)
	c.String(&f.http, "http", "127.0.0.1:8084", "address of the page; a busy default gives way to a free port", boot.OnlyEnv("EMBEDFLEET_MONITOR_HTTP"))
	c.String(&f.probes, "probes", defaultProbes, "address of /livez, /readyz, /statusz and /metrics, which ask for no login; a busy default gives way to a free port")
	c.Strings(&f.models, "models", nil, "aliases to show even while nothing was ever enqueued for them")
	c.String(&f.users, "users", "", "file of users and tokens, see the commands password and token; without it nobody signs in and only this machine is served")
	c.String(&f.sessionKey, "session-key", "", "file with at least 32 random bytes that sign sessions; without it they end with the process")
	c.Strings(&f.proxies, "trusted-proxies", nil, "networks whose X-Forwarded-For and -Proto are believed, as 10.0.0.0/8")
	c.String(&f.proxyUser, "proxy-user-header", "", "header in which a trusted proxy names the user it has checked")
	c.Bool(&f.insecure, "insecure", "serve other machines without a login; everyone may read, nobody may act")
	c.String(&f.cert, "tls-cert", "", "file with the page's certificate, for TLS")
	c.String(&f.key, "tls-key", "", "file with its key")
	f.search.register(c)
	f.queues.register(c)
}

// config is a validated configuration.
type config struct {
	settings
	conn   queue.Conn
	page   boot.Address
	health boot.Address
	login  login.Options
}

func (f *settings) config(c *boot.Config) (config, error) {
	out := config{
		settings: *f,
		page:     boot.Address{HostPort: f.http, Spare: !c.Given("http")},
		health:   boot.Address{HostPort: f.probes, Spare: !c.Given("probes")},
	}
	var problems []error
	fault := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	var err error
	if out.conn, err = queue.Parse(f.redisURL); err != nil {
		fault("--redis-url: %w", err)
	}
	for _, model := range f.models {
		if err := tasks.CheckModel(model); err != nil {
			fault("--models: %w", err)
		}
	}
	if (f.cert == "") != (f.key == "") {
		fault("--tls-cert and --tls-key: one is of no use without the other")
	}
	if out.login, err = f.door(); err != nil {
		problems = append(problems, err)
	}
	if len(problems) > 0 {
		return out, boot.Usagef("%w", errors.Join(problems...))
	}
	return out, nil
}

// door settles who is let in. Whoever sits at this machine may act without a login, as he may in Redis; other
// machines are served with a file of users, or, by --insecure, for reading.
func (f *settings) door() (login.Options, error) {
	opts := login.Options{UsersFile: f.users, ProxyUser: f.proxyUser}
	var problems []error
	for _, network := range f.proxies {
		prefix, err := parseNetwork(network)
		if err != nil {
			problems = append(problems, fmt.Errorf("--trusted-proxies: %w", err))
		}
		opts.Proxies = append(opts.Proxies, prefix)
	}
	if f.proxyUser != "" && (len(f.proxies) == 0 || f.users == "") {
		problems = append(problems, errors.New("--proxy-user-header: needs --trusted-proxies, and roles in a file of --users"))
	}
	if f.sessionKey != "" {
		key, err := os.ReadFile(f.sessionKey)
		if err == nil && len(key) < 32 {
			err = fmt.Errorf("%s has %d bytes, at least 32 are needed: head -c 32 /dev/urandom", f.sessionKey, len(key))
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("--session-key: %w", err))
		}
		opts.Key = key
	}
	if f.users == "" {
		switch {
		case loopback(f.http):
			opts.Anonymous, opts.LocalOnly = login.Operator, true
		case f.insecure:
			opts.Anonymous = login.Viewer
		default:
			problems = append(problems, fmt.Errorf("--http %s: other machines would reach the page without a login; give --users, or --insecure if everyone may read", f.http))
		}
	}
	return opts, errors.Join(problems...)
}

// parseNetwork reads 10.0.0.0/8, or one address.
func parseNetwork(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return netip.Prefix{}, err
		}
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(s)
	return prefix.Masked(), err
}

// loopback reports whether an address to listen on can be reached from this machine only.
func loopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	return err == nil && host != "" && login.LocalHost(host)
}

// newRoot returns the command with its subcommands.
func newRoot(s streams) *cobra.Command {
	a := &app{streams: s}
	root := &cobra.Command{
		Use:   "monitor",
		Short: "the fleet's page",
		Example: `  monitor                                  on this machine only, no login
  monitor password ann operator >> users
  monitor --http 0.0.0.0:8084 --users users`,
		Args: boot.NoArgs,
		RunE: a.serve,
	}
	boot.Root(root, s.out, s.err)
	a.config = boot.New(root.Flags())
	a.settings.register(a.config)
	a.logs.Register(a.config)
	root.AddCommand(newPassword(s), newToken(s), boot.NewHealth("probes", defaultProbes, s.out, s.getenv))
	return root
}
