package gateway

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/embedfleet/embedfleet/search"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// An ask is what a caller wants to have embedded, whichever interface it speaks.
type ask struct {
	model    *Model
	param    string // the field with the texts
	texts    []string
	bytes    int64
	prompt   string // as tasks.Options has it
	truncate bool
	dims     int  // 0 is what the model has
	own      bool // the model's own output, whatever its length
	tooLong  int  // the status of a text that is longer than the model reads
	spent    int  // tokens, when it is done
}

// job is the work of an ask; answer makes the answer of its vectors.
func (g *gateway) job(a ask, answer func(*vectors) any) (job, error) {
	if err := a.checkDims(); err != nil {
		return job{}, err
	}
	return job{
		texts: len(a.texts), bytes: a.bytes,
		run: func(ctx context.Context) (any, error) {
			v, err := g.embedded(ctx, &a)
			if err != nil {
				return nil, err
			}
			return answer(v), nil
		},
		tokens: func(any) int { return a.spent },
	}, nil
}

// embedded has the texts of a embedded, cuts the vectors, and refuses what was cut unasked.
func (g *gateway) embedded(ctx context.Context, a *ask) (*vectors, error) {
	list, err := g.embed(ctx, a)
	if err != nil {
		return nil, err
	}
	return a.finish(list)
}

// finish makes the answer of an ask's vectors.
func (a *ask) finish(list []vector.Embedding) (*vectors, error) {
	v := &vectors{list: list, model: a.model.Alias}
	for i := range list {
		if list[i].Truncated && !a.truncate {
			return nil, a.tooLongError(i, list[i])
		}
		v.tokens += list[i].Tokens
		if err := cut(&list[i].Vector, a); err != nil {
			return nil, err
		}
		if !a.own {
			list[i].Vector = unit(list[i].Vector)
		}
	}
	a.spent = v.tokens
	return v, nil
}

func (a *ask) tooLongError(i int, e vector.Embedding) error {
	has := "more tokens than that"
	if e.TokensIn > 0 {
		has = fmt.Sprintf("%d tokens", e.TokensIn)
	}
	return &requestError{
		status: a.tooLong, code: "context_length_exceeded", param: a.param,
		message: fmt.Sprintf("model %s reads at most %d tokens, %s[%d] has %s: shorten it, set truncate to have it cut, or POST /v1/documents, which cuts long texts into chunks",
			a.model.Alias, e.Tokens, a.param, i, has),
	}
}

// checkDims refuses a dimension for which the model was not trained. What its own is becomes known with the first vector.
func (a *ask) checkDims() error {
	if a.dims < 0 {
		return wrongParam("dimensions", "dimensions_not_supported", "dimensions is %d, want what the model has", a.dims)
	}
	return nil
}

// cut keeps the first of a vector's dimensions.
func cut(v *vector.Vector, a *ask) error {
	if a.dims == 0 || a.dims == len(*v) {
		return nil
	}
	if a.dims > len(*v) || !slices.Contains(a.model.Dimensions, a.dims) {
		return wrongParam("dimensions", "dimensions_not_supported", "model %s has %d dimensions%s and was not trained to be cut to %d", a.model.Alias, len(*v), also(a.model.Dimensions), a.dims)
	}
	*v = (*v)[:a.dims:a.dims]
	return nil
}

// unit returns v with length 1, as most models' own last step makes it; one without a direction stays what it is.
func unit(v vector.Vector) vector.Vector {
	norm := v.Norm()
	if norm == 0 || math.Abs(norm-1) < vector.NormTolerance {
		return v
	}
	out := make(vector.Vector, len(v))
	for i, x := range v {
		out[i] = float32(float64(x) / norm)
	}
	return out
}

func also(dims []int) string {
	if len(dims) == 0 {
		return ""
	}
	return fmt.Sprintf(", or by its settings %v,", dims)
}

// embed has texts embedded in the query lane: all of them, or an error that names the one to blame. The tasks are
// in the lane together, so that workers batch them; the answers are fetched one by one. A text is let go as soon as
// its task is made.
func (g *gateway) embed(ctx context.Context, a *ask) ([]vector.Embedding, error) {
	ctx, cancel := context.WithTimeout(ctx, search.DefaultTimeout)
	defer cancel()
	list := make([]tasks.Task, len(a.texts))
	for i, text := range a.texts {
		t, err := tasks.NewQuery(a.model.Alias, text, &tasks.Options{Timeout: search.DefaultTimeout, Prompt: a.prompt})
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", a.param, i, err)
		}
		list[i], a.texts[i] = t, ""
	}
	receipts, err := g.Queue.Enqueue(ctx, list)
	if err != nil {
		return nil, fmt.Errorf("enqueuing %d texts: %w", len(list), err)
	}
	for i, receipt := range receipts {
		if receipt.Err != nil {
			return nil, fmt.Errorf("enqueuing %s[%d]: %w", a.param, i, receipt.Err)
		}
		list[i].Payload = nil
	}
	out := make([]vector.Embedding, len(list))
	for i, t := range list {
		if out[i], err = g.Answers.Await(ctx, t.ID); err != nil {
			return nil, a.noAnswer(i, err)
		}
		if out[i].Space != out[0].Space {
			return nil, &requestError{
				status: http.StatusServiceUnavailable, code: "model_changes", after: soon,
				message: fmt.Sprintf("workers of two models serve %s just now, whose vectors can't be compared", a.model.Alias),
			}
		}
	}
	return out, nil
}

// noAnswer tells a fleet that is late from a text that is wrong.
func (a *ask) noAnswer(i int, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w within %v: is a worker of model %q running, and is the request not too large for it?", search.ErrNoAnswer, search.DefaultTimeout, a.model.Alias)
	}
	return fmt.Errorf("embedding %s[%d]: %w", a.param, i, err)
}

// prompts are what callers call a text's purpose, and what it is embedded under.
var prompts = map[string]string{
	"query": "", "search_query": "",
	"document": tasks.AsDocument, "passage": tasks.AsDocument, "search_document": tasks.AsDocument,
	"none": tasks.AsIs, "text": tasks.AsIs,
}

// promptOf returns what a purpose is embedded under; "" is byDefault.
func promptOf(param, purpose, byDefault string) (string, error) {
	if purpose == "" {
		return byDefault, nil
	}
	prompt, ok := prompts[purpose]
	if !ok {
		return "", wrongParam(param, "bad_request", "%s is %q, want query or document (or search_query, search_document, passage, none): a model has no other prompt here", param, purpose)
	}
	return prompt, nil
}

// vectors are an answer of vectors, which is written number by number: as text they are several times as large.
type vectors struct {
	list   []vector.Embedding
	model  string
	tokens int
	base64 bool
	frame  func(v *vectors, w *bufio.Writer) // writes the answer around them
}

func (v *vectors) kind() string { return "application/json" }

func (v *vectors) size() int64 {
	if len(v.list) == 0 {
		return 0
	}
	return int64(4 * len(v.list) * len(v.list[0].Vector))
}

func (v *vectors) write(_ context.Context, w *bufio.Writer) error {
	v.frame(v, w)
	_, err := w.WriteString("\n") // an error of before comes again
	return err
}

// number writes the vector at place i as the caller wants it.
func (v *vectors) number(w *bufio.Writer, i int) {
	if v.base64 {
		buf := append(w.AvailableBuffer(), '"')
		buf = base64.StdEncoding.AppendEncode(buf, v.list[i].Vector.Bytes())
		_, _ = w.Write(append(buf, '"'))
		return
	}
	sep := byte('[')
	for _, x := range v.list[i].Vector {
		_ = w.WriteByte(sep)
		_, _ = w.Write(appendFloat(w.AvailableBuffer(), x))
		sep = ','
	}
	_ = w.WriteByte(']')
}

// appendFloat writes the shortest number that is read back as x.
func appendFloat(b []byte, x float32) []byte {
	format := byte('f')
	if abs := math.Abs(float64(x)); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(b, float64(x), format, -1, 32)
}

// quoted is a text as JSON has it.
func quoted(s string) []byte {
	b, err := jsontext.AppendQuote(nil, s)
	if err != nil {
		return []byte(`""`) // it is UTF-8, for it was read as JSON
	}
	return b
}
