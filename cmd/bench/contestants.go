package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/embedfleet/embedfleet/cmd/internal/engine"
	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/embedder/onnx"
)

// A measure is what one contestant's run gave; its own process prints it as JSON.
type measure struct {
	Seconds float64 `json:"seconds"`
	Texts   int     `json:"texts"`
	Tokens  int     `json:"tokens"`        // real ones
	Padded  int     `json:"padded_tokens"` // computed, padding included; 0 if unknown
	PeakKB  int64   `json:"peak_kb"`       // of the process that embeds
	Flop    float64 `json:"flop"`          // of the matrix limit only

	Began time.Time `json:"began,omitzero"` // in a race only
}

func (m measure) tokensPerSecond() float64 { return float64(m.Tokens) / m.Seconds }

// plus is two runs of a contestant as one.
func (m measure) plus(n measure) measure {
	return measure{
		Seconds: m.Seconds + n.Seconds, Texts: m.Texts + n.Texts, Tokens: m.Tokens + n.Tokens, Padded: m.Padded + n.Padded,
		PeakKB: max(m.PeakKB, n.PeakKB), Flop: m.Flop + n.Flop,
	}
}

func readLines(path string) ([]string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the texts: %w", err)
	}
	var texts []string
	for line := range strings.Lines(string(b)) {
		var t struct{ Text string }
		if err := json.Unmarshal([]byte(line), &t); err != nil {
			return nil, fmt.Errorf("reading the texts: %w", err)
		}
		texts = append(texts, t.Text)
	}
	return texts, nil
}

// padCounter adds up what the engine's batches computed.
type padCounter struct{ tokens, padded atomic.Int64 }

func (*padCounter) Tokenized(time.Duration, int, int) {}

func (p *padCounter) Ran(r embedder.RunInfo) {
	p.tokens.Add(int64(r.Tokens))
	p.padded.Add(int64(r.Padded))
}

func (b *bench) settings(observer embedder.Observer) engine.Settings {
	return engine.Settings{
		Model: b.model, Library: b.library, Cache: b.cache, NoPrepack: false,
		Options: embedder.Options{Observer: observer},
	}
}

// runEngine embeds all texts with the engine alone, in this process, after others that warm it.
func (b *bench) runEngine(ctx context.Context, warm, texts []string) (measure, error) {
	var pads padCounter
	e, err := engine.Open(ctx, slog.New(slog.DiscardHandler), b.settings(&pads))
	if err != nil {
		return measure{}, err
	}
	if _, err := e.EmbedAll(ctx, warm); err != nil {
		return measure{}, err
	}
	pads.tokens.Store(0)
	pads.padded.Store(0)
	awaitStart()
	begun := time.Now()
	results, err := e.EmbedAll(ctx, texts)
	took := time.Since(begun)
	if err != nil {
		return measure{}, err
	}
	tokens := 0
	for i, r := range results {
		if r.Err != nil {
			return measure{}, fmt.Errorf("text %d: %w", i, r.Err)
		}
		tokens += r.Tokens
	}
	m := measure{Seconds: took.Seconds(), Texts: len(texts), Tokens: tokens, Padded: int(pads.padded.Load()), Began: begun}
	return m, e.Close(ctx)
}

// runLimit runs the matrix products on as many threads as the engine has runners.
func (b *bench) runLimit(ctx context.Context, graph string, flop float64) (measure, error) {
	rt, err := onnx.Init(b.library, nil)
	if err != nil {
		return measure{}, err
	}
	session, err := rt.Open(ctx, graph, onnx.Options{VocabSize: 2, MaxTokens: 1})
	if err != nil {
		return measure{}, err
	}
	batch := embedder.Batch{Rows: [][]int32{{1}}}
	const each = 12
	var (
		group sync.WaitGroup
		fault atomic.Value
	)
	run := func(times int) {
		for range runtime.GOMAXPROCS(0) {
			group.Go(func() {
				for range times {
					if _, err := session.Run(ctx, batch); err != nil {
						fault.Store(err)
					}
				}
			})
		}
		group.Wait()
	}
	run(2)
	awaitStart()
	begun := time.Now()
	run(each)
	took := time.Since(begun)
	if err, ok := fault.Load().(error); ok {
		return measure{}, err
	}
	if err := session.Close(); err != nil {
		return measure{}, err
	}
	return measure{Seconds: took.Seconds(), Flop: flop * each * float64(runtime.GOMAXPROCS(0)), Began: begun}, rt.Close()
}
