package embedder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

// Settings are the properties of the model that decide what a text's vector is. They are part of its
// [vector.Space].
type Settings struct {
	MaxTokens      int    // tokens the model reads, special ones included
	QueryPrompt    string // put before a search text, as "query: "
	DocumentPrompt string // put before every chunk of a document
	PromptExcluded bool   // a prompt is read but not pooled, see [Batch]
	Unit           bool   // the model's vectors have length 1
	Packed         bool   // the model computes no padding, so that batches need not be of one length
	Space          vector.Space
}

// Options are the engine's own choices; they change when a vector arrives, never what it is. The zero
// value and nil mean the defaults named at each field.
type Options struct {
	// Runners is the number of batches computed at once, each by one thread. 0 means one per usable core.
	Runners int

	// QueryRunners is the number of further runners, which take nothing but queries. A query then shares
	// the cores with the document batches under way instead of waiting for one of them to end. 0 means
	// 1, -1 none (an accelerator runs one call at a time).
	QueryRunners int

	// TokenBudget bounds a batch: the tokens computed, which are its rows times its longest row, or of a packed model
	// its real ones, stay within it. A longer row is a batch of its own. 0 means 512: a core is as fast with it as with more, which costs memory and latency and,
	// since lengths differ more within a larger batch, padding. For a packed model, which has no padding, 0 means 1024:
	// half as many calls wake everything around them.
	TokenBudget int

	// MaxTexts bounds a batch's rows. 0 means 256.
	MaxTexts int

	// Linger is how long documents that don't fill a batch wait for company while a runner is free. 0, the
	// default, starts them at once: under load batches fill while the runners are busy.
	Linger time.Duration

	// MaxWaitingTexts and MaxWaitingTokens bound what waits for a runner; over one of them callers get an
	// [OverloadError]. A document that is admitted is admitted with all its chunks. 0 means 8,192 texts
	// and 2,097,152 tokens (8 MB of ids).
	MaxWaitingTexts, MaxWaitingTokens int

	// Overlap is how many tokens two neighbouring chunks of a document share at most, so that a thought
	// across a border is whole in one of them. 0 means 32, -1 none. It is cut to half a window.
	Overlap int

	// MaxChunks bounds the chunks of one document; more is [ErrTooLong]. 0 means 2,048.
	MaxChunks int

	// OnCall is told of a native call right before it begins, with the context of every caller whose text is
	// inside, one for each; what it returns is called when the call has come back, however it ended. If the
	// process dies in between, those are the texts that may have killed it. It runs on the way of every
	// batch, on all runners at once. Nil: nobody looks.
	OnCall func(callers []context.Context) (returned func())

	Logger   *slog.Logger // nil discards
	Observer Observer     // nil: nobody looks
}

// An Observer sees the engine's work from inside, for metrics. Its methods are called by many goroutines
// and on the way of the work, so they must be quick.
type Observer interface {
	// Tokenized reports the time that one call spent on tokenising and chunking, and its rows and tokens.
	Tokenized(took time.Duration, rows, tokens int)
	// Ran reports a batch that has left the model.
	Ran(RunInfo)
}

// RunInfo describes one batch.
type RunInfo struct {
	Query  bool          // of the query lane
	Texts  int           // rows
	Tokens int           // real tokens
	Padded int           // tokens computed: rows times the longest row, or the real ones if the model is packed
	Waited time.Duration // the longest any of the rows had waited for a runner
	Took   time.Duration // inside the model
	Err    error         // the model's error, nil if it answered
}

func (s Settings) validate() error {
	if s.MaxTokens < 1 {
		return fmt.Errorf("max tokens %d, want at least 1", s.MaxTokens)
	}
	return nil
}

const (
	defaultBudget       = 512
	defaultPackedBudget = 1024
)

// withDefaults returns a copy of o, which may be nil, with every default filled in.
func (o *Options) withDefaults() Options {
	var d Options
	if o != nil {
		d = *o
	}
	def := func(v *int, value int) {
		switch *v {
		case 0:
			*v = value
		case -1:
			*v = 0
		}
	}
	if d.Runners == 0 {
		d.Runners = runtime.GOMAXPROCS(0)
	}
	def(&d.QueryRunners, 1)
	if d.TokenBudget == 0 {
		d.TokenBudget = defaultBudget
	}
	if d.MaxTexts == 0 {
		d.MaxTexts = 256
	}
	if d.MaxWaitingTexts == 0 {
		d.MaxWaitingTexts = 8192
	}
	if d.MaxWaitingTokens == 0 {
		d.MaxWaitingTokens = 2 << 20
	}
	def(&d.Overlap, 32)
	if d.MaxChunks == 0 {
		d.MaxChunks = 2048
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	if d.OnCall == nil {
		d.OnCall = func([]context.Context) func() { return func() {} }
	}
	if d.Observer == nil {
		d.Observer = nobody{}
	}
	return d
}

// validate lists everything that is out of range.
func (o Options) validate() error {
	var errs []error
	atLeast := func(what string, v, bound int) {
		if v < bound {
			errs = append(errs, fmt.Errorf("%s %d, want at least %d", what, v, bound))
		}
	}
	atLeast("runners", o.Runners, 1)
	atLeast("query runners", o.QueryRunners, 0)
	atLeast("token budget", o.TokenBudget, 1)
	atLeast("texts per batch", o.MaxTexts, 1)
	atLeast("waiting texts", o.MaxWaitingTexts, 1)
	atLeast("waiting tokens", o.MaxWaitingTokens, 1)
	atLeast("overlap", o.Overlap, 0)
	atLeast("chunks per document", o.MaxChunks, 1)
	if o.Linger < 0 {
		errs = append(errs, fmt.Errorf("linger %v, want at least 0", o.Linger))
	}
	return errors.Join(errs...)
}

type nobody struct{}

func (nobody) Tokenized(time.Duration, int, int) {}
func (nobody) Ran(RunInfo)                       {}
