package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/scheduler/dart"
	"github.com/embedfleet/embedfleet/scheduler/news"
	"github.com/embedfleet/embedfleet/tasks"
)

// defaultHTTP is where the probes are, and where `scheduler health` looks for them.
const defaultHTTP = "127.0.0.1:8083"

// settings are the flags.
type settings struct {
	redisURL, alias, http, agent string

	sources      string
	allowPrivate bool

	dartKey, dartURL, dartCA string
	listedOnly               bool
	classes                  string
	companies, bodies        []string
	quota                    int

	feeds string
	alike int // percent

	naver, naverID, naverSecret string
	queries                     []string
}

func (f *settings) register(c *boot.Config) {
	c.String(&f.redisURL, "redis-url", "redis://127.0.0.1:6379", "the queue's Redis", boot.Env("REDIS_URL"), boot.Secret)
	c.String(&f.alias, "alias", "", "alias of the model that embeds what is found")
	c.String(&f.http, "http", defaultHTTP, "address of /livez, /readyz, /statusz and /metrics; a busy default gives way to a free port")
	c.String(&f.agent, "user-agent", "embedfleet/1", "how requests introduce themselves; put an address in it where people can complain")
	c.String(&f.sources, "sources", "", "file that says what is crawled, read again when it changes; see docs/add-a-source.md")
	c.Bool(&f.allowPrivate, "allow-private", "let what is crawled lead into the own network; for tests")
	c.String(&f.dartKey, "dart-key", "", "OpenDART's key, 40 characters; without it DART is not crawled", boot.Env("OPENDART_API_KEY", "DART_API_KEY"), boot.Secret)
	c.String(&f.dartURL, "dart-url", dart.BaseURL, "OpenDART's address")
	c.String(&f.dartCA, "dart-ca", "", "file of certificates to trust for OpenDART's address, in place of the system's")
	c.Bool(&f.listedOnly, "dart-listed-only", "filings of listed companies only")
	c.String(&f.classes, "dart-classes", "", "markets: letters out of Y (KOSPI), K (KOSDAQ), N (KONEX), E (other); default all")
	c.Strings(&f.companies, "dart-companies", nil, "stock codes or DART's company codes; default all")
	c.Strings(&f.bodies, "dart-bodies", nil, "embed the bodies of reports whose names begin so; default none")
	c.Int(&f.quota, "dart-quota", dart.DefaultQuota, [2]int{1, 1 << 20}, "calls a Korean day, of all processes with the key")
	c.String(&f.feeds, "feeds", "", "file with the list of feeds, read again when it changes; without it no feed is crawled")
	c.Int(&f.alike, "near-duplicates", 97, [2]int{0, 100}, "cosine, in percent, from which news are marked as telling what earlier news told; 0 marks none")
	c.Choice(&f.naver, "naver", "off", []string{"off", "legacy", "hub"}, "Naver's search: off until somebody has read its terms")
	c.String(&f.naverID, "naver-id", "", "Naver's client id", boot.Secret)
	c.String(&f.naverSecret, "naver-secret", "", "Naver's client secret", boot.Secret)
	c.Strings(&f.queries, "naver-queries", nil, "what is searched")
}

// config is a validated configuration.
type config struct {
	settings
	conn   queue.Conn
	roots  *x509.CertPool
	probes boot.Address
}

func (f *settings) config(c *boot.Config) (config, error) {
	out := config{settings: *f, probes: boot.Address{HostPort: f.http, Spare: !c.Given("http")}}
	var problems []error
	fault := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	var err error
	if out.conn, err = queue.Parse(f.redisURL); err != nil {
		fault("--redis-url: %w", err)
	}
	if f.alias != "" { // commands that enqueue ask for one
		if err := tasks.CheckModel(f.alias); err != nil {
			fault("--alias: %w", err)
		}
	}
	for flag, name := range map[string]string{"sources": f.sources, "feeds": f.feeds} {
		if _, err := os.Stat(name); name != "" && err != nil {
			fault("--%s: %w", flag, err)
		}
	}
	if f.dartKey != "" && len(f.dartKey) != 40 {
		fault("--dart-key: has %d characters, OpenDART's have 40", len(f.dartKey))
	}
	if strings.Trim(f.classes, "YKNE") != "" {
		fault("--dart-classes: %q has letters other than Y, K, N and E", f.classes)
	}
	if f.naver != "off" && (f.naverID == "" || f.naverSecret == "" || len(f.queries) == 0) {
		fault("--naver %s: needs --naver-id, --naver-secret and --naver-queries", f.naver)
	}
	if f.dartCA != "" {
		if out.roots, err = readRoots(f.dartCA); err != nil {
			fault("--dart-ca: %w", err)
		}
	}
	if len(problems) > 0 {
		return out, boot.Usagef("%w", errors.Join(problems...))
	}
	return out, nil
}

func readRoots(name string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s", name)
	}
	return roots, nil
}

// needAlias is the fault of a command that enqueues without knowing for whom.
func (c config) needAlias() error {
	if c.alias == "" {
		return boot.Usagef("--alias: is missing: name the alias of the model that embeds what is found")
	}
	return nil
}

func (c config) filter() dart.Filter {
	return dart.Filter{ListedOnly: c.listedOnly, Classes: c.classes, Companies: c.companies}
}

func (c config) naverOptions() news.NaverOptions {
	return news.NaverOptions{
		Shape: news.Shape(c.naver), ID: c.naverID, Secret: c.naverSecret, Queries: c.queries, Agent: c.agent,
	}
}

// newRoot returns the command with its subcommands.
func newRoot(s streams) *cobra.Command {
	a := &app{streams: s}
	root := &cobra.Command{
		Use:   "scheduler",
		Short: "crawl on aligned clocks and keep the lanes in order",
		Example: `  scheduler --alias minilm --sources sources.json       with $OPENDART_API_KEY
  scheduler next
  scheduler run dart --at 2026-11-22T11:05
  scheduler runs news --failed
  scheduler pause news --reason "complaint of an outlet"
  scheduler backfill dart --from 2021-01-01 --to 2021-12-31`,
		Args: boot.NoArgs,
		RunE: a.opened(a.serve),
	}
	boot.Root(root, s.out, s.err)
	a.config = boot.New(root.PersistentFlags())
	a.settings.register(a.config)
	a.logs.Register(a.config)
	a.traces.Register(a.config)
	root.AddCommand(boot.NewHealth("http", defaultHTTP, s.out, s.getenv), newRun(a), newNext(a), newPause(a), newResume(a), newStatus(a), newRuns(a), newBackfill(a))
	return root
}
