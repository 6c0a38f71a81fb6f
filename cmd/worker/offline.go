package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/cmd/internal/engine"
	"github.com/embedfleet/embedfleet/embedder/tokenizer"
	"github.com/embedfleet/embedfleet/intake"
	"github.com/embedfleet/embedfleet/vector"
)

// window is how many texts are read before they are embedded together: enough to sort by length, few
// enough to see results soon and to hold in memory.
const window = 4096

// patience is how long a text waits for more to be embedded with: next to nothing for a person or a program
// that writes line by line and wants answers, long enough for a file to fill a window.
const patience = 100 * time.Millisecond

// An embedLine is one line of `worker embed`: an embedding, or why there is none.
type embedLine struct {
	*vector.Embedding
	Line  int    `json:"line,omitempty"` // of the input; only with Error
	Error string `json:"error,omitempty"`
}

// newEmbed returns `worker embed`.
func newEmbed(s streams) *cobra.Command {
	var (
		models modelFlags
		log    boot.Log
		as     string
	)
	cmd := &cobra.Command{
		Use:   "embed",
		Short: "embed texts from stdin, without Redis",
		Long: `Reads {"text":...} lines from stdin and writes {"vector":[...],"tokens":n,"truncated":b} lines in the same
order. A text that can't be embedded gives a line {"line":n,"error":"..."} in its place and exit status 1.`,
		Args: boot.NoArgs,
	}
	c := boot.New(cmd.Flags())
	models.register(c)
	log.Register(c)
	c.String(&as, "as", "text", "prompt to put before each text: none (text), the model's for a query or a document, or another of its prompts by name")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if !cmd.Flags().Changed("log-level") {
			log.Level = "warn" // a filter is quiet
		}
		if err := c.Resolve(s.getenv); err != nil {
			return err
		}
		set, err := models.settings(c, s.getenv)
		if err != nil {
			return err
		}
		e, err := engine.Open(cmd.Context(), log.Logger(s.err), set)
		if err != nil {
			return fmt.Errorf("%w: %w", boot.ErrModel, err)
		}
		defer func() {
			if closeErr := e.Close(context.WithoutCancel(cmd.Context())); err == nil {
				err = closeErr
			}
		}()
		prompt, err := e.Model.Prompt(as)
		if err != nil {
			return fmt.Errorf("%w: --as: %w", boot.ErrModel, err)
		}
		return embedAll(cmd.Context(), e, prompt, s)
	}
	return cmd
}

// embedAll answers each text of stdin, window by window.
func embedAll(ctx context.Context, e *engine.Engine, prompt string, s streams) error {
	out := bufio.NewWriterSize(s.out, 1<<20)
	enc := json.NewEncoder(out)
	failed := false
	for items := range intake.Group(ctx, intake.ReadTexts(s.in), window, patience) {
		lines, err := embedWindow(ctx, e, prompt, items)
		if err != nil {
			return err
		}
		for _, l := range lines {
			failed = failed || l.Error != ""
			if err := enc.Encode(l); err != nil {
				return fmt.Errorf("writing vectors: %w", err)
			}
		}
		if err := out.Flush(); err != nil {
			return fmt.Errorf("writing vectors: %w", err)
		}
	}
	if failed {
		return errPartly
	}
	return nil
}

func embedWindow(ctx context.Context, e *engine.Engine, prompt string, items []intake.Item) ([]embedLine, error) {
	var texts []string
	for _, item := range items {
		if item.Err == nil {
			texts = append(texts, item.Doc.Text)
		}
	}
	results, err := e.EmbedAllAs(ctx, prompt, texts)
	if err != nil {
		return nil, err
	}
	lines := make([]embedLine, len(items))
	next := 0
	for i, item := range items {
		if item.Err != nil {
			lines[i] = embedLine{Line: item.Line, Error: item.Err.Error()}
			continue
		}
		r := results[next]
		next++
		if r.Err != nil {
			lines[i] = embedLine{Line: item.Line, Error: r.Err.Error()}
		} else {
			lines[i] = embedLine{Embedding: &r.Embedding}
		}
	}
	return lines, nil
}

// newTokenize returns `worker tokenize`.
func newTokenize(s streams) *cobra.Command {
	var dir string
	var most int
	cmd := &cobra.Command{
		Use:   "tokenize",
		Short: "turn texts from stdin into token ids, without Redis or a model",
		Long: `Reads {"text":...} lines from stdin and writes {"ids":[...]} lines in the same order, special tokens included.
--model may be a model's folder or just a tokenizer.json. A line that can't be read gives {"line":n,"error":"..."} in its
place and exit status 1.`,
		Args: boot.NoArgs,
	}
	c := boot.New(cmd.Flags())
	c.String(&dir, "model", "", "a model's folder or a tokenizer.json", boot.Env("MODEL"))
	c.Int(&most, "max", 0, [2]int{0, 1 << 30}, "cut to so many ids, special tokens included; 0 is no limit")
	cmd.RunE = func(*cobra.Command, []string) error {
		if err := c.Resolve(s.getenv); err != nil {
			return err
		}
		if dir == "" {
			return boot.Usagef("--model: want a model's folder or a tokenizer.json")
		}
		tok, err := tokenizer.Open(dir)
		if err != nil {
			return fmt.Errorf("%w: %w", boot.ErrModel, err)
		}
		return tokenizeAll(tok, most, s.in, s.out)
	}
	return cmd
}

func tokenizeAll(tok *tokenizer.Tokenizer, most int, in io.Reader, w io.Writer) error {
	out := bufio.NewWriterSize(w, 1<<16)
	enc := json.NewEncoder(out)
	failed := false
	for item := range intake.ReadTexts(in) {
		var line any
		if item.Err != nil {
			line, failed = map[string]any{"line": item.Line, "error": item.Err.Error()}, true
		} else {
			ids, _ := tok.Encode([]int32{}, item.Doc.Text, most)
			line = map[string]any{"ids": ids}
		}
		if err := enc.Encode(line); err != nil {
			return fmt.Errorf("writing ids: %w", err)
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("writing ids: %w", err)
	}
	if failed {
		return errPartly
	}
	return nil
}
