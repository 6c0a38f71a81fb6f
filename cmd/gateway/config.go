package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/gateway"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/tasks"
)

// defaultProbes is where the probes are, and where `gateway health` looks for them.
const defaultProbes = "127.0.0.1:8091"

// settings are the flags.
type settings struct {
	redisURL, model, http, probes string
	tokensFile                    string
	insecure                      bool
	queries, waiting, requests    int
}

func (f *settings) register(c *boot.Config) {
	c.String(&f.redisURL, "redis-url", "redis://127.0.0.1:6379", "the queue's Redis", boot.Env("REDIS_URL"), boot.Secret)
	c.String(&f.model, "model", "", "alias of the model; may be left out while there is one only", boot.OnlyEnv("EMBEDFLEET_ALIAS"))
	c.String(&f.http, "http", "127.0.0.1:8090", "address of the interface; a busy default gives way to a free port", boot.OnlyEnv("EMBEDFLEET_GATEWAY_HTTP"))
	c.String(&f.probes, "probes", defaultProbes, "address of /livez, /readyz, /statusz and /metrics; a busy default gives way to a free port", boot.OnlyEnv("EMBEDFLEET_GATEWAY_PROBES"))
	c.String(&f.tokensFile, "tokens", "", "file of tokens, one a line; callers bring one as Authorization: Bearer TOKEN", boot.OnlyEnv("EMBEDFLEET_GATEWAY_TOKENS"))
	c.Bool(&f.insecure, "insecure", "serve other machines without tokens")
	c.Int(&f.queries, "max-queries", 8192, [2]int{0, 1 << 30}, "texts that may wait in the query lane before callers are turned away; 0 is no limit")
	c.Int(&f.requests, "max-requests", 256, [2]int{1, 1 << 16}, "requests at a time, each of which may hold a connection to Redis; more are told to come back")
	c.Int(&f.waiting, "max-waiting", 0, [2]int{0, 1 << 30}, "documents that may wait in a lane before callers are turned away; 0 is no limit")
}

// config is a validated configuration.
type config struct {
	settings
	conn        queue.Conn
	api, health boot.Address
	tokens      []string
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
	if f.model != "" {
		if err := tasks.CheckModel(f.model); err != nil {
			fault("--model: %w", err)
		}
	}
	if out.tokens, err = readTokens(f.tokensFile); err != nil {
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

func readTokens(name string) ([]string, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := gateway.ReadTokens(f)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return list, nil
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
  curl -H "Authorization: Bearer $TOKEN" http://127.0.0.1:8090/v1/embeddings \
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
