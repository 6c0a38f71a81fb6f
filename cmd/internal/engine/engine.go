// Package engine turns the name of a model into a running engine: folder, configuration, tokenizer, graph,
// session. It is the wiring that cmd/worker and cmd/bench share, and the only caller of the hub.
package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/embedder/model"
	"github.com/embedfleet/embedfleet/embedder/onnx"
	"github.com/embedfleet/embedfleet/embedder/tokenizer"
	"github.com/embedfleet/embedfleet/hub"
	"github.com/embedfleet/embedfleet/internal/fingerprint"
	"github.com/embedfleet/embedfleet/vector"
)

// Settings say which model to open and how.
type Settings struct {
	Model     string // a folder, or a Hugging Face repository id with an optional @revision
	Library   string // absolute path of ONNX Runtime's shared library
	Cache     string // folder for prepared graphs
	Hub       hub.Options
	Overrides model.Overrides
	Options   embedder.Options
	// NoPrepack loads the plain graph: slower to boot and not shared between processes, but a fraction of
	// the disk.
	NoPrepack bool
	// StandardKernels leaves the encoder's layers to the runtime also where we have faster ones.
	StandardKernels bool
	// Devices are tried in order until one serves: cpu, cuda or cuda:N. None means cpu.
	Devices []string
	// Stage is told how far a load is, by the loading goroutine; nil: nobody asks.
	Stage func(Stage)
}

// A Stage is a part of a load: fetching, checking (what the folder holds), preparing (compiling and
// prepacking the graph, once per host), loading or warming.
type Stage struct {
	Name        string
	Done, Total int64 // bytes, while fetching
}

func (set *Settings) stage(name string) {
	if set.Stage != nil {
		set.Stage(Stage{Name: name})
	}
}

// A Source loads one model. It is the environment of what it loaded: closed after the engine, it ends the
// runtime.
type Source struct {
	log *slog.Logger
	set Settings

	// Known once Load has returned an engine.
	Model   *model.Model
	Space   vector.Space
	Version string // of ONNX Runtime
	// Prepared is the folder of the graph that was loaded: prepacked, or plain where that was asked for.
	Prepared string

	digests *fingerprint.Digests
	runtime *onnx.Runtime // nil before Load
}

// NewSource returns a source of the model that set names.
func NewSource(log *slog.Logger, set Settings) *Source {
	return &Source{log: log, set: set, digests: fingerprint.OpenDigests(filepath.Join(set.Cache, "digests.json"))}
}

// ErrFetch is wrapped when a repository could not be fetched: unlike a folder that can't be loaded, that may
// go better the next time.
var ErrFetch = errors.New("fetching model")

// Folder returns the folder that name stands for: itself, or the snapshot of a repository, which is fetched
// if it is not in the hub's cache.
func Folder(ctx context.Context, log *slog.Logger, name string, opts hub.Options) (string, error) {
	info, err := os.Stat(name)
	switch {
	case err == nil && info.IsDir():
		return name, nil
	case err == nil:
		return "", fmt.Errorf("%s is a file, want a model's folder or a Hugging Face repository id", name)
	case !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("looking for the model: %w", err)
	case strings.HasPrefix(name, "/") || strings.HasPrefix(name, "."):
		return "", fmt.Errorf("there is no folder %s", name)
	}
	repo, revision, err := hub.Parse(name)
	if err != nil {
		return "", fmt.Errorf("%q is neither a folder nor a repository id: %w", name, err)
	}
	if revision != "" {
		opts.Revision = revision
	}
	opts.Logger = log
	opts.Weights = model.Compiles
	opts.Progress = reporter(log, opts.Progress)
	snapshot, err := hub.Fetch(ctx, repo, &opts)
	if err != nil {
		return "", fmt.Errorf("%w %s: %w", ErrFetch, repo, err)
	}
	log.Info("model fetched", "repository", repo, "commit", snapshot.Commit)
	return snapshot.Dir, nil
}

// reporter logs a fetch's progress every few seconds and hands all of it on to next, if there is one.
func reporter(log *slog.Logger, next func(hub.Progress)) func(hub.Progress) {
	var last time.Time
	return func(p hub.Progress) {
		if next != nil {
			next(p)
		}
		if now := time.Now(); now.Sub(last) > 5*time.Second {
			last = now
			log.Info("fetching the model", "file", p.File, "megabytes", p.Done>>20, "of", p.Total>>20)
		}
	}
}

// Load loads the model on a device and warms it up; it is an [embedder.Loader]. Its steps are logged as parts
// of the start-up; none of them runs at another time. An error leaves nothing open, not even the runtime:
// the next device's attempt finds the process as it was.
func (s *Source) Load(ctx context.Context, device string) (_ *embedder.Engine, err error) {
	on, err := onnx.ParseDevice(device)
	if err != nil {
		return nil, err
	}
	if err := s.Close(); err != nil { // of an earlier load, whose engine is gone
		return nil, err
	}
	begun := time.Now()
	m, err := s.read(ctx, on)
	if err != nil {
		return nil, err
	}
	forget := onnx.LastWord(s.crashed(m))
	defer forget()
	session, tok, err := s.openBoth(ctx, m, on)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	major, _, _ := strings.Cut(s.runtime.Version(), ".")
	s.Model, s.Version, s.Space = m, s.runtime.Version(), m.Space(model.Runtime{Name: "ort" + major, Provider: on.Class()})
	e, err := embedder.NewEngine(session, tok, embedder.Settings{
		MaxTokens: m.MaxTokens, QueryPrompt: m.Prompts.Query, DocumentPrompt: m.Prompts.Document,
		PromptExcluded: m.PromptExcluded, Unit: m.Normalize, Packed: m.Packed, Space: s.Space,
	}, s.options(on))
	if err != nil {
		return nil, errors.Join(err, session.Close(), s.Close())
	}
	s.set.stage("warming")
	if err := s.warm(ctx, e, on); err != nil {
		return nil, errors.Join(fmt.Errorf("warming up: %w", err), e.Close(ctx), s.Close())
	}
	// What parsing has left, several times what is kept, would stay with this process for ever.
	debug.FreeOSMemory()
	s.log.Info("loading at start-up: done", "model", s.set.Model, "space", s.Space.Short(), "dim", e.Dim(), "max_tokens", m.MaxTokens,
		"runtime", s.Version, "prepacked", session.Prepared(), "dur", time.Since(begun))
	return e, nil
}

// crashed is what to say when native code ends the process while it loads m and runs it for the first time.
func (s *Source) crashed(m *model.Model) string {
	advice := "try --no-prepack, or --standard-kernels"
	if s.set.NoPrepack {
		advice = "--no-prepack is on, try --standard-kernels"
	}
	return fmt.Sprintf("worker: the runtime crashed while model %q was loaded and warmed up (%s, %d layers, hidden %d, %d heads, vocabulary %d, texts of 1 and %d tokens): %s",
		s.set.Model, m.Architecture, m.Layers, m.Hidden, m.Heads, m.VocabSize, m.MaxTokens, advice)
}

// read finds the folder, fetching it if need be, and opens what is in it.
func (s *Source) read(ctx context.Context, on onnx.Device) (*model.Model, error) {
	opts := s.set.Hub
	if told := s.set.Stage; told != nil {
		opts.Progress = func(p hub.Progress) { told(Stage{"fetching", p.Done, p.Total}) }
	}
	s.set.stage("checking") // whether there is anything to fetch; then what was fetched
	dir, err := Folder(ctx, s.log, s.set.Model, opts)
	if err != nil {
		return nil, err
	}
	s.set.stage("checking")
	kernels := model.Standard
	if onnx.HasOperators() && !on.Accelerated() && !s.set.StandardKernels {
		kernels = model.AVX512
	}
	m, err := model.Open(ctx, dir, &model.Options{Overrides: s.set.Overrides, Digests: s.digests, Kernels: kernels})
	if err != nil {
		return nil, err
	}
	for _, w := range m.Warnings {
		s.log.Warn("model folder", "dir", dir, "what", w)
	}
	return m, nil
}

// openBoth opens the session while another core parses the tokenizer's file, which takes as long. If one of
// them fails, the other one is given up, and neither is left open.
func (s *Source) openBoth(ctx context.Context, m *model.Model, on onnx.Device) (*onnx.Session, *tokenizer.Tokenizer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		tok     *tokenizer.Tokenizer
		broken  error
		parsing sync.WaitGroup
	)
	parsing.Go(func() {
		if tok, broken = s.tokenizer(m); broken != nil {
			cancel(broken)
		}
	})
	session, err := s.session(ctx, m, on, func() int {
		parsing.Wait()
		if broken != nil {
			return 0
		}
		return tok.VocabSize()
	})
	parsing.Wait()
	if broken != nil {
		if session != nil {
			broken = errors.Join(broken, session.Close())
		}
		return nil, nil, broken
	}
	return session, tok, err
}

// tokenizer opens the tokenizer and checks it against the weights.
func (s *Source) tokenizer(m *model.Model) (*tokenizer.Tokenizer, error) {
	tok, err := tokenizer.Open(m.TokenizerDir)
	if err == nil && m.VocabSize > 0 {
		err = tok.CheckTable(m.VocabSize)
	}
	if err != nil {
		return nil, fmt.Errorf("opening model folder %s: %w", m.Dir, err)
	}
	for _, w := range tok.Warnings() {
		s.log.Warn("model folder", "dir", m.Dir, "what", w)
	}
	return tok, nil
}

// session starts the runtime, makes the graph ready and creates the session. The tokenizer's vocabulary is asked for
// where the weights don't tell theirs.
func (s *Source) session(ctx context.Context, m *model.Model, on onnx.Device, vocabulary func() int) (_ *onnx.Session, err error) {
	s.set.stage("preparing")
	begun := time.Now()
	if s.runtime, err = onnx.Init(s.set.Library, s.log); err != nil {
		return nil, err
	}
	opts := onnx.Options{VocabSize: m.VocabSize, MaxTokens: m.MaxTokens, PadID: int32(m.PadID), Dim: m.Dim, Device: on}
	graph, err := s.prepare(ctx, m, &opts)
	if err != nil {
		return nil, err
	}
	if err := s.digests.Save(); err != nil {
		s.log.Warn("files will be read again at the next start", "err", err)
	}
	s.log.Info("loading at start-up: graph ready", "dir", s.Prepared, "dur", time.Since(begun))
	if m.VocabSize == 0 {
		opts.VocabSize = vocabulary()
	}
	s.set.stage("loading")
	return s.runtime.Open(ctx, graph, opts)
}

// prepare makes the graph ready: prepacked, if that is wanted and possible, which opts then names; else plain, and the
// path of it is returned. The weights lie in the cache in one of the two forms.
func (s *Source) prepare(ctx context.Context, m *model.Model, opts *onnx.Options) (plain string, err error) {
	if s.set.NoPrepack || opts.Device.Accelerated() {
		p, err := m.Prepare(ctx, s.set.Cache)
		s.Prepared = p.Dir
		return p.Graph, err
	}
	cache, err := filepath.Abs(s.set.Cache)
	if err != nil {
		return "", err
	}
	key := m.PreparedKey()
	s.Prepared = filepath.Join(cache, model.PreparedFolder, key+"-"+s.runtime.Key())
	opts.Prepared = onnx.Prepared{Dir: s.Prepared, Source: key}
	return "", s.runtime.Prepack(ctx, func(ctx context.Context, dir string) (string, error) {
		return filepath.Join(dir, model.GraphFile), m.WriteGraph(ctx, dir)
	}, opts.Output, opts.Prepared)
}

// options are the engine's on a device: an accelerator runs one call at a time.
func (s *Source) options(on onnx.Device) *embedder.Options {
	o := s.set.Options
	if on.Accelerated() {
		o.Runners, o.QueryRunners = 1, -1
	}
	return &o
}

// warmTokens bounds the text of the warm-up: of models that read 32,000 tokens it alone would take minutes.
const warmTokens = 4096

// warm runs the longest text the model reads, or a very long one, and a short one, so that memory is taken once, and the first
// task pays for nothing. On an accelerator it runs the largest batch: if its memory is too small, that must
// show now, while another device can still serve.
func (s *Source) warm(ctx context.Context, e *embedder.Engine, on onnx.Device) error {
	if on.Accelerated() {
		return e.Warm(ctx)
	}
	longest := strings.Repeat("a ", min(s.Model.MaxTokens, warmTokens))
	for _, text := range []string{longest, "a"} {
		if _, err := e.EmbedText(ctx, text); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the runtime. Every engine must be closed before. Closing what loaded nothing is harmless, and
// after it another load may begin.
func (s *Source) Close() error {
	if s.runtime == nil {
		return nil
	}
	if err := s.runtime.Close(); err != nil {
		return err
	}
	s.runtime = nil
	return nil
}

// An Engine is a loaded model with its source, for commands that embed and end.
type Engine struct {
	*embedder.Engine
	*Source
}

// Open loads the model on the first device of the settings that serves.
func Open(ctx context.Context, log *slog.Logger, set Settings) (*Engine, error) {
	s := NewSource(log, set)
	devices := set.Devices
	if len(devices) == 0 {
		devices = []string{"cpu"}
	}
	var errs []error
	for i, device := range devices {
		e, err := s.Load(ctx, device)
		if err == nil {
			return &Engine{e, s}, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
		if i+1 < len(devices) {
			log.Warn("device does not serve", "device", device, "err", err)
		}
	}
	return nil, errors.Join(errs...)
}

// Close ends the engine and then the runtime under it. Texts inside are waited for until ctx ends; then
// their native calls are stopped.
func (e *Engine) Close(ctx context.Context) error {
	if err := e.Engine.Close(ctx); err != nil {
		return err // the session may still be in use: never end the runtime under it
	}
	return e.Source.Close()
}
