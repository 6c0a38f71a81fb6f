package main

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/cmd/internal/engine"
	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/embedder/model"
	"github.com/embedfleet/embedfleet/embedder/onnx"
	"github.com/embedfleet/embedfleet/hub"
	"github.com/embedfleet/embedfleet/internal/trace"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/tasks"
)

// defaultHTTP is where the probes are, and where `worker health` looks for them.
const defaultHTTP = "127.0.0.1:8081"

// modelFlags are the settings that every command which loads a model has.
type modelFlags struct {
	model, library, cache    string
	endpoint, token, hfCache string
	hfHome, revision         string
	offline                  bool
	pooling, normalize       string
	maxTokens                int
	queryPrompt, docPrompt   string
	runners, budget          int
	noPrepack                bool
	standardKernels          bool
	devices                  []string
}

func (f *modelFlags) register(c *boot.Config) {
	c.String(&f.model, "model", "", "the model: a folder, or a Hugging Face repository id, with @revision if wanted", boot.Env("MODEL"))
	c.String(&f.library, "onnxruntime", "", "ONNX Runtime's shared library; default: the one that make setup brought", boot.Env("ONNXRUNTIME_LIB"))
	c.String(&f.cache, "cache", "", "folder for prepared graphs; default embedfleet in the user's cache folder", boot.OnlyEnv("EMBEDFLEET_CACHE"))
	c.String(&f.endpoint, "hf-endpoint", "", "hub or mirror to fetch from", boot.OnlyEnv("HF_ENDPOINT"))
	c.String(&f.token, "hf-token", "", "access token of the hub", boot.OnlyEnv("HF_TOKEN"), boot.Secret)
	c.String(&f.hfCache, "hf-cache", "", "the hub's cache folder", boot.OnlyEnv("HF_HUB_CACHE"))
	c.String(&f.hfHome, "hf-home", "", "the hub's home; its cache is the folder hub in it", boot.OnlyEnv("HF_HOME"))
	c.Bool(&f.offline, "offline", "use what the hub's cache holds, never the network", boot.Env("HF_HUB_OFFLINE"))
	c.String(&f.revision, "revision", "", "branch, tag or commit of the repository")
	c.String(&f.pooling, "pooling", "", "replaces the folder's pooling: mean, cls, max, mean_sqrt_len_tokens, lasttoken, weightedmean")
	c.Choice(&f.normalize, "normalize", "auto", []string{"auto", "yes", "no"}, "vectors of length 1; auto does what the folder says")
	c.Int(&f.maxTokens, "max-tokens", 0, [2]int{0, 1 << 20}, "tokens of a text that are read; 0 does what the folder says")
	c.String(&f.queryPrompt, "query-prompt", "", "put before search texts, replaces the folder's")
	c.String(&f.docPrompt, "document-prompt", "", "put before documents, replaces the folder's")
	c.Int(&f.runners, "runners", 0, [2]int{0, 1024}, "native calls at once, one thread each; 0 is one per usable core")
	c.Int(&f.budget, "token-budget", 0, [2]int{0, 1 << 20}, "tokens of one native call, with padding where it is computed; 0 is 512, or 1024 where it is not")
	c.Strings(&f.devices, "device", []string{"cpu"}, "devices to try in order until one serves: cpu, cuda or cuda:N")
	c.Bool(&f.noPrepack, "no-prepack", "load the plain graph: less disk, slower to boot, memory not shared between workers")
	c.Bool(&f.standardKernels, "standard-kernels", "leave the encoder's layers to ONNX Runtime, also where the processor has AVX-512 and ours are faster")
}

// settings returns what the engine needs.
func (f *modelFlags) settings(c *boot.Config, getenv boot.Getenv) (engine.Settings, error) {
	return f.after(nil, c, getenv)
}

// after is settings whose error tells of earlier problems too.
func (f *modelFlags) after(earlier error, c *boot.Config, getenv boot.Getenv) (engine.Settings, error) {
	set := engine.Settings{
		Model:     f.model,
		NoPrepack: f.noPrepack,
		Devices:   f.devices,

		StandardKernels: f.standardKernels,

		Hub:       hub.Options{Endpoint: f.endpoint, Token: f.token, CacheDir: f.hfCache, Revision: f.revision, Offline: f.offline},
		Overrides: model.Overrides{MaxTokens: f.maxTokens},
		Options:   embedder.Options{Runners: f.runners, TokenBudget: f.budget},
	}
	if err := f.check(&set).Err(earlier); err != nil {
		return set, err
	}
	if f.hfCache == "" && f.hfHome != "" {
		set.Hub.CacheDir = filepath.Join(f.hfHome, "hub")
	}
	if f.normalize != "auto" {
		yes := f.normalize == "yes"
		set.Overrides.Normalize = &yes
	}
	if c.Given("query-prompt") {
		set.Overrides.QueryPrompt = &f.queryPrompt
	}
	if c.Given("document-prompt") {
		set.Overrides.DocumentPrompt = &f.docPrompt
	}
	cache, err := boot.Cache(getenv)
	if f.cache != "" {
		cache, err = filepath.Abs(f.cache)
	}
	if err != nil {
		return set, err
	}
	set.Cache = cache
	set.Library, err = f.findLibrary(cache)
	return set, err
}

// check lists what is wrong with flags that bounds can't tell, and fills in what it had to parse.
func (f *modelFlags) check(set *engine.Settings) *boot.Problems {
	var problems boot.Problems
	if f.model == "" {
		problems.Addf("model", "want a folder or a Hugging Face repository id")
	}
	for _, device := range f.devices {
		_, err := onnx.ParseDevice(device)
		problems.Add("device", err)
	}
	if f.pooling != "" {
		var err error
		set.Overrides.Pooling, err = model.ParsePooling(f.pooling)
		problems.Add("pooling", err)
	}
	return &problems
}

// findLibrary returns the library that was named, or the newest one that set-up brought.
func (f *modelFlags) findLibrary(cache string) (string, error) {
	if f.library != "" {
		return filepath.Abs(f.library)
	}
	name := "libonnxruntime.so"
	if runtime.GOOS == "darwin" {
		name = "libonnxruntime.dylib"
	}
	pattern := filepath.Join(cache, "onnxruntime", "*", name)
	found, err := filepath.Glob(pattern)
	if err != nil {
		return "", fmt.Errorf("looking for ONNX Runtime: %w", err)
	}
	if len(found) == 0 {
		return "", fmt.Errorf("no ONNX Runtime library at %s: run make setup, or name one by --onnxruntime", pattern)
	}
	slices.SortFunc(found, byVersion)
	return found[len(found)-1], nil
}

// byVersion orders paths so that 1.30 comes after 1.9: a longer run of digits is a larger number.
func byVersion(a, b string) int {
	pad := func(s string) string {
		var out, digits strings.Builder
		for _, r := range s + "/" {
			if r >= '0' && r <= '9' {
				digits.WriteRune(r)
				continue
			}
			if digits.Len() > 0 {
				fmt.Fprintf(&out, "%012s", digits.String())
				digits.Reset()
			}
			out.WriteRune(r)
		}
		return out.String()
	}
	return strings.Compare(pad(a), pad(b))
}

// serveFlags are the settings of a serving worker.
type serveFlags struct {
	redisURL    string
	alias       string
	lanes       []string
	concurrency int
	queries     int
	http        boot.Address
	grace       time.Duration
	ahead       time.Duration
	deadline    time.Duration
	loadTimeout time.Duration
	reembed     bool

	maxAccess     int // callers inside the model; 0 is all that are leased
	accessTimeout time.Duration

	// What the supervisor tells, or has to be told.
	name        string
	crashes     int
	restartFile string
}

func (f *serveFlags) register(c *boot.Config) {
	c.String(&f.redisURL, "redis-url", "redis://127.0.0.1:6379", "the queue's Redis", boot.Env("REDIS_URL"), boot.Secret)
	c.String(&f.alias, "alias", "", "the model's name in the fleet; by default drawn from its folder or repository")
	c.Strings(&f.lanes, "lanes", laneNames(tasks.Lanes), "lanes to serve")
	c.Int(&f.concurrency, "concurrency", 512, [2]int{1, registry.MaxConcurrency}, "documents in hand at most")
	c.Int(&f.queries, "query-concurrency", 64, [2]int{1, 1 << 12}, "queries in hand at most")
	c.Duration(&f.ahead, "ahead", 15*time.Second, [2]time.Duration{time.Second, 10 * time.Minute}, "work in hand at most, in the time that this worker needs for it by its own measured rate")
	c.String(&f.http.HostPort, "http", defaultHTTP, "address of /livez, /readyz, /statusz and /metrics; a busy default gives way to a free port")
	c.Duration(&f.grace, "grace", 25*time.Second, [2]time.Duration{time.Second, time.Hour}, "time for tasks under way after SIGTERM")
	c.Duration(&f.deadline, "task-timeout", 0, [2]time.Duration{0, 24 * time.Hour}, "longest time that the model may spend on one text; 0 leaves it to the producer")
	c.Duration(&f.loadTimeout, "load-timeout", time.Hour, [2]time.Duration{time.Second, 24 * time.Hour}, "longest start-up, download included")
	c.Int(&f.maxAccess, "max-access", 0, [2]int{0, registry.MaxAccess}, "texts inside the model at once; 0 is all that are in hand")
	c.Duration(&f.accessTimeout, "access-timeout", 30*time.Second, [2]time.Duration{registry.MinAccessTimeout, registry.MaxAccessTimeout}, "longest wait of a text for access to the model")
	c.String(&f.name, "name", "", "what the fleet page calls this worker, beside host and process id")
	c.Int(&f.crashes, "crashes", 0, [2]int{0, 1 << 30}, "how often its supervisor started it again, for the fleet page")
	c.String(&f.restartFile, "restart-file", "", "file to count crashes in, under a supervisor that does not: after 5 in 10 min the worker stays up and only says so")
	c.Bool(&f.reembed, "reembed", "take over an alias whose vectors are of another space; its documents are embedded again as they come")
}

// laneNames are lanes as flags name them.
func laneNames(lanes []tasks.Lane) []string {
	names := make([]string, len(lanes))
	for i, l := range lanes {
		names[i] = string(l)
	}
	return names
}

// history is what the past of a worker is in words; more is what it counted itself.
func (f *serveFlags) history(more int) string {
	switch n := f.crashes + more; n {
	case 0:
		return ""
	case 1:
		return "again, after a crash"
	default:
		return fmt.Sprintf("again, after %d crashes", n)
	}
}

// config is a serving worker's validated configuration.
type config struct {
	serveFlags
	conn   queue.Conn
	lanes  []tasks.Lane
	engine engine.Settings
}

// config completes the flags with what the model's say. resolved is what Resolve said of c and is told with
// the other problems.
func (f *serveFlags) config(c *boot.Config, name string, resolved error) (config, error) {
	out := config{serveFlags: *f}
	out.http.Spare = !c.Given("http")
	var problems boot.Problems
	var err error
	out.conn, err = queue.Parse(f.redisURL)
	problems.Add("redis-url", err)
	if out.alias == "" {
		out.alias = boot.Alias(name)
	}
	if name != "" || f.alias != "" { // else the model is what is missing
		problems.Add("alias", tasks.CheckModel(out.alias))
	}
	for _, name := range f.lanes {
		switch lane := tasks.Lane(name); {
		case !slices.Contains(tasks.Lanes, lane):
			problems.Addf("lanes", "%q is none of %v", name, tasks.Lanes)
		case slices.Contains(out.lanes, lane):
			problems.Addf("lanes", "%q is named twice", name)
		default:
			out.lanes = append(out.lanes, lane)
		}
	}
	if len(f.lanes) == 0 {
		problems.Addf("lanes", "want at least one of %v", tasks.Lanes)
	}
	return out, problems.Err(resolved)
}

// newRoot returns the command with its subcommands.
func newRoot(s streams) *cobra.Command {
	var (
		models modelFlags
		serves serveFlags
		log    boot.Log
		traces boot.Trace
	)
	root := &cobra.Command{
		Use:   "worker",
		Short: "load one model, eagerly, and serve its lanes",
		Args:  boot.NoArgs,
	}
	boot.Root(root, s.out, s.err)
	c := boot.New(root.Flags())
	models.register(c)
	serves.register(c)
	log.Register(c)
	traces.Register(c)
	root.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := serves.config(c, models.model, c.Resolve(s.getenv))
		if cfg.engine, err = models.after(err, c, s.getenv); err != nil {
			return err
		}
		defer runtime.KeepAlive(newBallast())
		dieBySignal()
		logger := slog.New(trace.Log(log.Logger(s.err).Handler()))
		boot.RedisLog(logger)
		logger.Info("configuration", c.Attrs()...)
		return traced(cmd.Context(), newWorker(logger, cfg), traces)
	}
	root.AddCommand(newEmbed(s), newTokenize(s), newPrepare(s), boot.NewHealth("http", defaultHTTP, s.out, s.getenv))
	return root
}
