package tasks

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

// The default timeouts. They count the time that the model spends on the text, not what it waits for others.
const (
	DocumentTimeout = 2 * time.Minute // and a second more for each textPerSecond bytes
	QueryTimeout    = 30 * time.Second

	// textPerSecond is a slow model (2.3 GB of weights) on two cores; it only widens a deadline.
	textPerSecond = 2 << 10
)

// Options are what a producer may choose for one task. The zero value, and nil, mean the defaults.
type Options struct {
	// Version orders the texts of one document: the highest wins. By default the time of the call, in
	// nanoseconds of the Unix clock, which is right where one producer at a time writes a document.
	Version int64
	// Timeout bounds the text's own work, in whole seconds: a worker gives it that long or a multiple of what it
	// estimates, whichever is more. By default [DocumentTimeout] and one second for every 2 kB of text, or
	// [QueryTimeout], which is also when a query expires.
	Timeout time.Duration
	// Prompt is what a query is embedded under: [AsDocument], [AsIs], or by default the model's prompt for queries.
	Prompt string
	// Lane is a query's: by default [Query], where somebody waits for it. In another it never expires.
	Lane Lane
	// Expires is when a document's vectors are of no use any more: a worker that finds the task later
	// forgets it. By default never. A query expires with its timeout.
	Expires time.Time
}

func (o *Options) version() int64 {
	if o == nil || o.Version == 0 {
		return time.Now().UnixNano()
	}
	return o.Version
}

func (o *Options) expires() time.Time {
	if o == nil {
		return time.Time{}
	}
	return o.Expires
}

func (o *Options) prompt() string {
	if o == nil {
		return ""
	}
	return o.Prompt
}

func (o *Options) lane() Lane {
	if o == nil || o.Lane == "" {
		return Query
	}
	return o.Lane
}

func (o *Options) timeout(byDefault time.Duration) time.Duration {
	if o == nil || o.Timeout == 0 {
		return byDefault
	}
	return o.Timeout
}

// New returns the task to embed doc with the model called alias and to store its vectors. It composes
// doc's Hangul jamo ([ComposeHangul]), so that equal-looking texts are equal, and leaves doc itself alone.
//
// What is wrong with the input is an [*InvalidError] that names the field and the bound; such a document
// must not be enqueued. New does no I/O and is safe for concurrent use.
func New(alias string, lane Lane, doc vector.Document, opts *Options) (Task, error) {
	doc.Text = composed(doc.Text)
	timeout := opts.timeout(DocumentTimeout + time.Duration(len(doc.Text)/textPerSecond)*time.Second)
	if err := checkTask(alias, lane, timeout); err != nil {
		return Task{}, err
	}
	d := DocumentPayload{Model: alias, Version: opts.version(), Document: doc}
	if err := d.check(); err != nil {
		return Task{}, err
	}
	payload, err := d.encode()
	if err != nil {
		return Task{}, err
	}
	return Task{
		ID:      documentID(alias, doc.ID, vector.TextHash(doc.Text)),
		Kind:    EmbedDocument,
		Model:   alias,
		Lane:    lane,
		Payload: payload,
		Timeout: timeout,
		Expires: opts.expires(),
		Tokens:  EstimateTokens(doc.Text),
		Version: d.Version,
	}, nil
}

// NewQuery returns the task to embed a search text with the model called alias, for somebody who waits:
// its answer is handed to [Answers] under the task's id, which is random. A worker that finds the task
// later than its timeout drops it, since nobody waits any more; one in another lane ([Options.Lane]) is kept. Errors are
// those of [New].
func NewQuery(alias, text string, opts *Options) (Task, error) {
	timeout := opts.timeout(QueryTimeout)
	lane := opts.lane()
	if err := checkTask(alias, lane, timeout); err != nil {
		return Task{}, err
	}
	q := QueryPayload{Model: alias, Text: composed(text), Prompt: opts.prompt()}
	if lane == Query {
		q.ExpiresAt = time.Now().Add(timeout).UTC()
	}
	if err := q.check(); err != nil {
		return Task{}, err
	}
	payload, err := q.encode()
	if err != nil {
		return Task{}, err
	}
	var id [idBytes]byte
	_, _ = rand.Read(id[:]) // never fails since Go 1.24
	return Task{
		ID:      hex.EncodeToString(id[:]),
		Kind:    EmbedQuery,
		Model:   alias,
		Lane:    lane,
		Payload: payload,
		Timeout: timeout,
		Expires: q.ExpiresAt,
		Tokens:  EstimateTokens(q.Text),
	}, nil
}

// checkTask checks what a task says beside its payload.
func checkTask(alias string, lane Lane, timeout time.Duration) error {
	if err := CheckModel(alias); err != nil {
		return err
	}
	if err := checkLane(lane); err != nil {
		return err
	}
	return checkTimeout(timeout)
}

// composed is ComposeHangul for a text that was not checked yet: one that checkText will refuse comes back
// as it is, so that the refusal speaks of the producer's bytes.
func composed(text string) string {
	if len(text) > MaxText || checkString("text", text, MaxText) != nil {
		return text
	}
	return ComposeHangul(text)
}

const idBytes = 16

// documentID is the id that doc.go describes. The lengths keep ("ab", "c") and ("a", "bc") apart.
func documentID(alias, id, textHash string) string {
	h := sha256.New()
	for _, s := range []string{"embedfleet/task/v1", alias, id, textHash} {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(s)))
		h.Write(size[:])
		h.Write([]byte(s))
	}
	return hex.EncodeToString(h.Sum(nil)[:idBytes])
}
