// Command standalone runs the whole fleet on one machine: Redis, worker child processes and an HTTP server
// with the search API. With the sample documents that ship with the project it shows what the fleet does.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/tasks"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := run(ctx, os.Args[1:], streams{os.Stdout, os.Stderr, os.LookupEnv})
	stop()
	os.Exit(code)
}

// streams are a process's ends; tests replace them.
type streams struct {
	out, err io.Writer
	getenv   boot.Getenv
}

// run returns the exit status.
func run(ctx context.Context, args []string, s streams) int { return boot.Run(ctx, newRoot(s), args) }

// settings are the validated configuration.
type settings struct {
	redisURL string
	model    string
	alias    string
	workers  int
	http     boot.Address
	data     string
	worker   string
	crawler  string // the scheduler's binary, for the demonstration
	page     boot.Address
	monitor  string // the page's binary
	sample   bool
	demo     bool
	once     bool
	wait     time.Duration
	log      boot.Log

	// Of tests.
	pause   time.Duration // before a worker's first restart; 0 is the supervisor's own
	environ []string      // more of the workers' environment
}

func newRoot(s streams) *cobra.Command {
	var set settings
	var noSample bool
	cmd := &cobra.Command{
		Use:   "standalone",
		Short: "the fleet on one machine: Redis, workers, search; with sample documents",
		Args:  boot.NoArgs,
	}
	boot.Root(cmd, s.out, s.err)
	c := boot.New(cmd.Flags())
	c.String(&set.redisURL, "redis-url", "", "a Redis to use; else a redis-server from PATH is started, else an in-process one", boot.Env("REDIS_URL"), boot.Secret)
	c.String(&set.model, "model", "", "the model: a folder, or a Hugging Face repository id", boot.Env("MODEL"))
	c.String(&set.alias, "alias", "", "the model's name in the fleet; by default drawn from its folder or repository", boot.Env())
	c.Int(&set.workers, "workers", 1, [2]int{1, 64}, "worker processes")
	c.String(&set.http.HostPort, "http", "127.0.0.1:8080", "address of the search API; a busy default gives way to a free port")
	c.String(&set.page.HostPort, "page", "127.0.0.1:8084", "address of the fleet's page; a busy default gives way to a free port, empty is for no page")
	c.String(&set.data, "data", "", "folder for Redis's files and the logs; default embedfleet under $XDG_DATA_HOME or ~/.local/share")
	c.String(&set.worker, "worker-binary", "", "the worker's binary; default: worker beside this one")
	c.String(&set.monitor, "monitor-binary", "", "the page's binary; default: monitor beside the worker's")
	c.Duration(&set.wait, "ready-timeout", time.Hour, [2]time.Duration{time.Second, 24 * time.Hour}, "longest wait for the first worker, downloads included")
	c.Bool(&noSample, "no-sample", "do not enqueue the sample documents")
	c.Bool(&set.demo, "demo", "crawl a day of filings and news in seconds, from imitations of their sources on this machine", boot.Env("DEMO"))
	c.String(&set.crawler, "scheduler-binary", "", "the scheduler's binary, for --demo; default: scheduler beside the worker's")
	c.Bool(&set.once, "once", "end after the sample's searches", boot.Env("ONCE"))
	set.log.Register(c)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := c.Resolve(s.getenv); err != nil {
			return err
		}
		set.sample, set.http.Spare, set.page.Spare = !noSample, !c.Given("http"), !c.Given("page")
		if err := set.complete(s.getenv); err != nil {
			return err
		}
		app := newApp(set, s)
		boot.RedisLog(app.logger)
		return app.run(cmd.Context())
	}
	return cmd
}

// complete fills in what depends on other settings or on the machine.
func (set *settings) complete(getenv boot.Getenv) error {
	if set.model == "" {
		return boot.Usagef("--model: want a folder or a Hugging Face repository id")
	}
	if set.alias == "" {
		set.alias = boot.Alias(set.model)
	}
	if err := tasks.CheckModel(set.alias); err != nil {
		return boot.Usagef("--alias: %w", err)
	}
	if set.data == "" {
		dir, err := dataDir(getenv)
		if err != nil {
			return err
		}
		set.data = dir
	}
	data, err := filepath.Abs(set.data)
	if err != nil {
		return fmt.Errorf("finding the data folder: %w", err)
	}
	set.data = data
	if set.worker == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("finding the worker's binary: %w", err)
		}
		set.worker = filepath.Join(filepath.Dir(self), "worker")
	}
	if _, err := os.Stat(set.worker); err != nil {
		return fmt.Errorf("finding the worker's binary: %w: run make build, or name it by --worker-binary", err)
	}
	if set.monitor == "" {
		set.monitor = filepath.Join(filepath.Dir(set.worker), "monitor")
	}
	if set.demo {
		return set.checkDemo()
	}
	return nil
}

func dataDir(getenv boot.Getenv) (string, error) {
	if dir, ok := getenv("XDG_DATA_HOME"); ok && dir != "" {
		return filepath.Join(dir, "embedfleet"), nil
	}
	if home, ok := getenv("HOME"); ok && home != "" {
		return filepath.Join(home, ".local", "share", "embedfleet"), nil
	}
	return "", boot.Usagef("--data: no folder for data: name one, or set HOME")
}

// say prints one line of what happens, what first.
func (s streams) say(what, format string, args ...any) {
	fmt.Fprintf(s.out, "%-8s %s\n", what, strings.TrimSpace(fmt.Sprintf(format, args...)))
}
