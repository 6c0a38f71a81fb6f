// Package interval does at each slot what a configuration says: runs a command, or makes an HTTP call. What either
// writes may be documents, a line of JSON each, or nobody's business. It owns how a command is begun and ended, and
// refuses to know when, and where anything is kept.
package interval

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/intake"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/tasks"
)

// A Config describes what is done. In Command, URL and Body, {slot} is the slot's beginning and {from} how far back a
// run has to look, both as 2026-11-22T02:05:00Z.
type Config struct {
	Command []string `json:"command,omitempty"` // program and arguments; no shell is between
	Env     []string `json:"env,omitempty"`     // variables that the command is given, beside PATH, HOME, LANG and TZ

	URL     string            `json:"url,omitempty"`
	Method  string            `json:"method,omitempty"` // default GET, with a body POST
	Headers map[string]string `json:"headers,omitempty"`
	Body    string            `json:"body,omitempty"`
	Private bool              `json:"private,omitempty"` // in the own network

	Gives   string `json:"gives,omitempty"` // "documents" or, by default, "nothing"
	Window  string `json:"window,omitempty"`
	Timeout string `json:"timeout,omitempty"` // default a minute
}

const (
	// Documents says that what is written are documents.
	Documents = "documents"

	defaultTimeout = time.Minute
	maxOutput      = 32 << 20 // bytes of what is written
	maxSaid        = 200      // bytes of what a command that failed said last
)

var place = regexp.MustCompile(`\{[a-z]+\}`)

// Check names every fault of a configuration.
func (c Config) Check() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	switch {
	case (len(c.Command) > 0) == (c.URL != ""):
		fault("command, url: want one of them")
	case c.URL != "":
		if u, err := url.Parse(place.ReplaceAllString(c.URL, "1")); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			fault("url: want an http or https address")
		}
		if len(c.Env) > 0 {
			fault("env: a call has no environment")
		}
	case c.Method != "" || len(c.Headers) > 0 || c.Body != "" || c.Private:
		fault("method, headers, body, private: a command has none")
	case c.Command[0] == "":
		fault("command: the program's name is empty")
	}
	for _, text := range append([]string{c.URL, c.Body}, c.Command...) {
		for _, p := range place.FindAllString(text, -1) {
			if p != "{slot}" && p != "{from}" {
				fault("%s is neither {slot} nor {from}", p)
			}
		}
	}
	if !slices.Contains([]string{"", "nothing", Documents}, c.Gives) {
		fault("gives: %q is neither nothing nor documents", c.Gives)
	}
	if !slices.Contains([]string{"", http.MethodGet, http.MethodPost, http.MethodPut}, c.Method) {
		fault("method: %q is none of GET, POST, PUT", c.Method)
	}
	for name, text := range map[string]string{"window": c.Window, "timeout": c.Timeout} {
		if d, err := time.ParseDuration(text); text != "" && (err != nil || d <= 0) {
			fault("%s: %q is no length of time, as 50s", name, text)
		}
	}
	return errors.Join(faults...)
}

// length returns a length of time that was checked.
func length(text string, otherwise time.Duration) time.Duration {
	if d, err := time.ParseDuration(text); err == nil {
		return d
	}
	return otherwise
}

// LookBack is how far {from} lies back at least.
func (c Config) LookBack() time.Duration { return length(c.Window, 0) }

// MaxTime is how long one run may take.
func (c Config) MaxTime() time.Duration { return length(c.Timeout, defaultTimeout) }

// A Memory remembers what was brought lately.
type Memory interface {
	// Recall returns what SetRecall was given last, "" for nothing.
	Recall(ctx context.Context, name string) (string, error)
	SetRecall(ctx context.Context, name, recall string) error
}

// Parts are what a runner works with. HTTP is needed for a call, Getenv for a command, Outbox and Memory for documents.
type Parts struct {
	Outbox scheduler.Outbox
	Memory Memory
	HTTP   *http.Client
	Agent  string
	Getenv func(name string) (string, bool)
}

// A Runner does one source's work.
type Runner struct {
	log   *slog.Logger
	name  string
	conf  Config
	parts Parts
}

// New returns one, for the source of a name. It does no I/O.
func New(log *slog.Logger, name string, c Config, p Parts) (*Runner, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	return &Runner{log: log.With("source", name), name: name, conf: c, parts: p}, nil
}

// Run does the work of a slot, and hands in what it wrote.
func (r *Runner) Run(ctx context.Context, t scheduler.Tick) (scheduler.Report, error) {
	report := scheduler.Report{Requests: 1}
	fill := strings.NewReplacer("{slot}", t.Slot.UTC().Format(time.RFC3339), "{from}", t.From().UTC().Format(time.RFC3339)).Replace
	var out []byte
	var err error
	if r.conf.URL != "" {
		out, err = r.call(ctx, fill)
	} else {
		out, err = r.command(ctx, fill)
	}
	if err != nil {
		report.Fail("call")
		return report, err
	}
	report.Bytes = len(out)
	if r.conf.Gives != Documents {
		return report, nil
	}
	put, err := r.hand(ctx, out, t.Now)
	report.Add(put)
	return report, err
}

// hand takes lines of JSON to the fleet. Their ids are put under the source's name, so that they meet nobody else's.
func (r *Runner) hand(ctx context.Context, out []byte, now time.Time) (report scheduler.Report, err error) {
	kept, err := r.parts.Memory.Recall(ctx, r.name)
	if err != nil {
		return report, err
	}
	recall := scheduler.ReadRecall(kept)
	var items []scheduler.Item
	for line := range intake.Read(bytes.NewReader(out), intake.JSONL) {
		report.Items++
		if line.Err != nil {
			report.Drop("bad_line", 1)
			r.log.Warn("a line is no document", "line", line.Line, "err", line.Err)
			continue
		}
		d := line.Doc
		if !strings.HasPrefix(d.ID, r.name+":") {
			d.ID = r.name + ":" + d.ID
		}
		if d.Source == "" {
			d.Source = r.name
		}
		d.Text = tasks.ComposeHangul(d.Text)
		there, changed := recall.Compare(d.ID, d.Text)
		recall.Note(d.ID, d.Text, "", now)
		if there && !changed {
			continue
		}
		it := scheduler.Item{Document: d, Event: now, Update: changed, Once: true}
		if changed {
			it.Event = time.Time{}
		}
		items = append(items, it)
	}
	put, err := r.parts.Outbox.Put(ctx, items)
	report.Add(put)
	if err != nil {
		return report, fmt.Errorf("handing %d documents in: %w", len(items), err)
	}
	recall.Trim(now)
	return report, r.parts.Memory.SetRecall(ctx, r.name, recall.Text())
}
