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
	"slices"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/embedder/model"
	"github.com/embedfleet/embedfleet/embedder/onnx"
	"github.com/embedfleet/embedfleet/embedder/tokenizer"
	"github.com/embedfleet/embedfleet/hub"
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

	runtime *onnx.Runtime // nil before Load
}

// NewSource returns a source of the model that set names.
func NewSource(log *slog.Logger, set Settings) *Source { return &Source{log: log, set: set} }

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
	opts.Progress = reporter(log)
	snapshot, err := hub.Fetch(ctx, repo, &opts)
	if err != nil {
		return "", fmt.Errorf("%w %s: %w", ErrFetch, repo, err)
	}
	log.Info("model fetched", "repository", repo, "commit", snapshot.Commit)
	return snapshot.Dir, nil
}

// reporter logs a fetch's progress every few seconds.
func reporter(log *slog.Logger) func(hub.Progress) {
	var last time.Time
	return func(p hub.Progress) {
		if now := time.Now(); now.Sub(last) > 5*time.Second {
			last = now
			log.Info("fetching the model", "file", p.File, "megabytes", p.Done>>20, "of", p.Total>>20)
		}
	}
}

// Load loads the model and warms it up; it is an [embedder.Loader]. Its steps are logged as parts of the
// start-up; none of them runs at another time. An error leaves nothing open.
func (s *Source) Load(ctx context.Context, device string) (_ *embedder.Engine, err error) {
	if device != "cpu" {
		return nil, fmt.Errorf("device %q is not supported, want cpu", device)
	}
	begun := time.Now()
	m, tok, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	prepared, err := m.Prepare(ctx, s.set.Cache)
	if err != nil {
		return nil, err
	}
	s.log.Info("loading at start-up: graph ready", "dir", prepared.Dir, "reused", prepared.Reused, "dur", time.Since(begun))
	if s.runtime, err = onnx.Init(s.set.Library, s.log); err != nil {
		return nil, err
	}
	session, err := s.open(ctx, m, tok, prepared)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	major, _, _ := strings.Cut(s.runtime.Version(), ".")
	s.Model, s.Version, s.Space = m, s.runtime.Version(), m.Space(model.Runtime{Name: "ort" + major})
	e, err := embedder.NewEngine(session, tok, embedder.Settings{
		MaxTokens: m.MaxTokens, QueryPrompt: m.Prompts.Query, DocumentPrompt: m.Prompts.Document,
		Lowercase: m.Lowercase, Unit: m.Normalize, Space: s.Space,
	}, &s.set.Options)
	if err != nil {
		return nil, errors.Join(err, session.Close(), s.Close())
	}
	if err := s.warm(ctx, e); err != nil {
		return nil, errors.Join(fmt.Errorf("warming up: %w", err), e.Close(ctx), s.Close())
	}
	s.log.Info("loading at start-up: done", "model", s.set.Model, "space", s.Space.Short(), "dim", e.Dim(), "max_tokens", m.MaxTokens,
		"runtime", s.Version, "prepacked", session.Prepared(), "dur", time.Since(begun))
	return e, nil
}

// read finds the folder, fetching it if need be, and opens what is in it.
func (s *Source) read(ctx context.Context) (*model.Model, *tokenizer.Tokenizer, error) {
	dir, err := Folder(ctx, s.log, s.set.Model, s.set.Hub)
	if err != nil {
		return nil, nil, err
	}
	m, err := model.Open(dir, &s.set.Overrides)
	if err != nil {
		return nil, nil, err
	}
	tok, err := tokenizer.Open(m.TokenizerDir)
	if err == nil && m.VocabSize > 0 {
		err = tok.CheckTable(m.VocabSize)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("opening model folder %s: %w", dir, err)
	}
	for _, w := range slices.Concat(m.Warnings, tok.Warnings()) {
		s.log.Warn("model folder", "dir", dir, "what", w)
	}
	return m, tok, nil
}

// open creates the session, prepacked if that is wanted and possible.
func (s *Source) open(ctx context.Context, m *model.Model, tok *tokenizer.Tokenizer, p model.Prepared) (*onnx.Session, error) {
	vocabulary := m.VocabSize
	if vocabulary == 0 {
		vocabulary = tok.VocabSize()
	}
	opts := onnx.Options{VocabSize: vocabulary, MaxTokens: m.MaxTokens, PadID: int32(m.PadID), Dim: m.Dim}
	if !s.set.NoPrepack {
		opts.Prepared = onnx.Prepared{Dir: p.Dir + "-" + s.runtime.Key(), Source: p.Key}
		if err := s.runtime.Prepack(ctx, p.Graph, opts.Output, opts.Prepared); err != nil {
			return nil, err
		}
	}
	return s.runtime.Open(ctx, p.Graph, opts)
}

// warm runs the longest text the model reads and a short one, so that memory is taken once, in its largest
// shape, and the first task pays for nothing.
func (s *Source) warm(ctx context.Context, e *embedder.Engine) error {
	longest := strings.Repeat("a ", s.Model.MaxTokens)
	for _, text := range []string{longest, "a"} {
		if _, err := e.EmbedText(ctx, text); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the runtime. Every engine must be closed before. Closing what loaded nothing is harmless.
func (s *Source) Close() error {
	if s.runtime == nil {
		return nil
	}
	return s.runtime.Close()
}

// An Engine is a loaded model with its source, for commands that embed and end.
type Engine struct {
	*embedder.Engine
	*Source
}

// Open loads the model on the processor.
func Open(ctx context.Context, log *slog.Logger, set Settings) (*Engine, error) {
	s := NewSource(log, set)
	e, err := s.Load(ctx, "cpu")
	if err != nil {
		return nil, err
	}
	return &Engine{e, s}, nil
}

// Close ends the engine and then the runtime under it. Texts inside are waited for until ctx ends; then
// their native calls are stopped.
func (e *Engine) Close(ctx context.Context) error {
	if err := e.Engine.Close(ctx); err != nil {
		return err // the session may still be in use: never end the runtime under it
	}
	return e.Source.Close()
}
