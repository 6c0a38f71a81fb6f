package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/gateway"
	"github.com/embedfleet/embedfleet/gateway/tokenids"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/tasks"
)

// defaultProbes is where the probes are, and where `gateway health` looks for them.
const defaultProbes = "127.0.0.1:8091"

// settings are the flags.
type settings struct {
	redisURL, http, probes            string
	models, hosts, origins            []string
	tokensFile, zone                  string
	insecure                          bool
	queries, waiting, requests, batch int
}

func (f *settings) register(c *boot.Config) {
	c.String(&f.redisURL, "redis-url", "redis://127.0.0.1:6379", "the queue's Redis", boot.Env("REDIS_URL"), boot.Secret)
	c.Strings(&f.models, "model", nil, "aliases of the models, each with settings if need be, as minilm?truncate=true&input_type=document&dimensions=128:64&token_ids=o200k_base; by default all that living workers serve", boot.OnlyEnv("EMBEDFLEET_ALIAS"))
	c.String(&f.http, "http", "127.0.0.1:8090", "address of the interface; a busy default gives way to a free port", boot.OnlyEnv("EMBEDFLEET_GATEWAY_HTTP"))
	c.String(&f.probes, "probes", defaultProbes, "address of /livez, /readyz, /statusz and /metrics; a busy default gives way to a free port", boot.OnlyEnv("EMBEDFLEET_GATEWAY_PROBES"))
	c.String(&f.tokensFile, "tokens", "", "file of tokens, one a line; callers bring one as Authorization: Bearer TOKEN", boot.OnlyEnv("EMBEDFLEET_GATEWAY_TOKENS"))
	c.Bool(&f.insecure, "insecure", "serve other machines without tokens")
	c.Strings(&f.hosts, "hosts", nil, "names by which a gateway without tokens may be asked, beside addresses and names without a dot", boot.OnlyEnv("EMBEDFLEET_GATEWAY_HOSTS"))
	c.Strings(&f.origins, "cors-origins", nil, "origins whose pages may call and read, as https://app.example; * is all", boot.OnlyEnv("EMBEDFLEET_GATEWAY_CORS_ORIGINS"))
	c.String(&f.zone, "zone", store.DefaultZone, "time zone of days in filters")
	c.Int(&f.batch, "batches", 1, [2]int{0, 1}, "1 to work on batches, 0 to leave them to other gateways")
	c.Int(&f.queries, "max-queries", 8192, [2]int{0, 1 << 30}, "texts that may wait in the query lane before callers are turned away; 0 is no limit")
	c.Int(&f.requests, "max-requests", 256, [2]int{1, 1 << 16}, "requests at a time, each of which may hold a connection to Redis; more are told to come back")
	c.Int(&f.waiting, "max-waiting", 0, [2]int{0, 1 << 30}, "documents that may wait in a lane before callers are turned away; 0 is no limit")
}

// config is a validated configuration.
type config struct {
	settings
	conn        queue.Conn
	api, health boot.Address
	tokens      []gateway.Token
	list        []gateway.Model // named by flags; empty: all that there are
	open        fs.FileMode     // of the file of tokens, if others may read it
}

func (f *settings) config(c *boot.Config) (config, error) {
	out := config{
		settings: *f, api: boot.Address{HostPort: f.http, Spare: !c.Given("http")}, health: boot.Address{HostPort: f.probes, Spare: !c.Given("probes")},
	}
	var problems []error
	fault := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	var err error
	if out.conn, err = queue.Parse(f.redisURL); err != nil {
		fault("--redis-url: %w", err)
	}
	for _, s := range f.models {
		m, err := parseModel(s)
		if err == nil && slices.ContainsFunc(out.list, func(o gateway.Model) bool { return o.Alias == m.Alias }) {
			err = fmt.Errorf("%s is named twice", m.Alias)
		}
		if err != nil {
			fault("--model: %w", err)
		}
		out.list = append(out.list, m)
	}
	if _, err := store.ParseFilterIn(f.zone); err != nil {
		fault("--zone: %w", err)
	}
	if out.tokens, out.open, err = readTokens(f.tokensFile); err != nil {
		fault("--tokens: %w", err)
	}
	if f.tokensFile == "" && !f.insecure && !loopback(f.http) {
		fault("--http %s: other machines would reach the fleet without a token; give --tokens, or --insecure if everyone may", f.http)
	}
	if len(problems) > 0 {
		return out, boot.Usagef("%w", errors.Join(problems...))
	}
	return out, nil
}

// parseModel reads an alias with its settings, which stand behind it as in an address.
func parseModel(s string) (gateway.Model, error) {
	alias, settings, _ := strings.Cut(s, "?")
	m := gateway.Model{Alias: alias}
	if err := tasks.CheckModel(alias); err != nil {
		return m, err
	}
	values, err := url.ParseQuery(settings)
	if err != nil {
		return m, fmt.Errorf("%s: reading the settings: %w", alias, err)
	}
	for name, list := range values {
		if len(list) > 1 {
			return m, fmt.Errorf("%s: %s is there %d times", alias, name, len(list))
		}
		if err := setModel(&m, name, list[0]); err != nil {
			return m, fmt.Errorf("%s: %s: %w", alias, name, err)
		}
	}
	return m, nil
}

func setModel(m *gateway.Model, name, value string) (err error) {
	switch name {
	case "truncate":
		m.Truncate, err = strconv.ParseBool(value)
	case "input_type":
		switch value {
		case "query":
		case "document":
			m.Prompt = tasks.AsDocument
		case "none":
			m.Prompt = tasks.AsIs
		default:
			err = fmt.Errorf("%q, want query, document or none", value)
		}
	case "dimensions":
		for part := range strings.SplitSeq(value, ":") {
			n, err := strconv.Atoi(part)
			if err != nil || n < 1 {
				return fmt.Errorf("%q, want numbers as 256:128", value)
			}
			m.Dimensions = append(m.Dimensions, n)
		}
	case "token_ids":
		if m.TokenIDs = value; value != tokenids.CL100K && value != tokenids.O200K && value != gateway.RefuseIDs {
			err = fmt.Errorf("%q, want %s, %s or %s", value, tokenids.CL100K, tokenids.O200K, gateway.RefuseIDs)
		}
	default:
		err = errors.New("there is no such setting, want truncate, input_type, dimensions or token_ids")
	}
	return err
}

// readTokens also returns the file's mode if others than its owner may read it.
func readTokens(name string) ([]gateway.Token, fs.FileMode, error) {
	if name == "" {
		return nil, 0, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	list, err := gateway.ReadTokens(f)
	if err != nil {
		return nil, 0, fmt.Errorf("reading %s: %w", name, err)
	}
	if mode := info.Mode().Perm(); mode&0o044 != 0 {
		return list, mode, nil
	}
	return list, 0, nil
}

// loopback reports whether an address to listen on can be reached from this machine only.
func loopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil || host == "localhost" {
		return err == nil
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// newRoot returns the command with its subcommand.
func newRoot(s streams) *cobra.Command {
	a := &app{streams: s}
	root := &cobra.Command{
		Use:   "gateway",
		Short: "serve the fleet over HTTP: embeddings as OpenAI's, documents, search",
		Example: `  gateway --model minilm
  gateway --http 0.0.0.0:8090 --tokens tokens
  curl -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" http://127.0.0.1:8090/v1/embeddings \
    -d '{"model":"minilm","input":["a text","another"]}'`,
		Args: boot.NoArgs,
		RunE: a.serve,
	}
	boot.Root(root, s.out, s.err)
	a.config = boot.New(root.Flags())
	a.settings.register(a.config)
	a.logs.Register(a.config)
	a.traces.Register(a.config)
	root.AddCommand(boot.NewHealth("probes", defaultProbes, s.out, s.getenv, boot.OnlyEnv("EMBEDFLEET_GATEWAY_PROBES")))
	return root
}
