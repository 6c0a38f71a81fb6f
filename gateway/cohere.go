package gateway

import (
	"bufio"
	"fmt"
	"net/http"
	"slices"
)

// A cohereRequest is the body of Cohere's POST /v2/embed and /v1/embed.
type cohereRequest struct {
	model, purpose, truncate string
	texts                    []string
	bytes                    int64
	types                    []string
	dims                     *int
}

func (q *cohereRequest) members() members {
	return members{
		"model": into(&q.model), "input_type": into(&q.purpose), "truncate": into(&q.truncate), "embedding_types": into(&q.types), "output_dimension": into(&q.dims),
		"texts": func(name string, r *reading) error {
			return r.list(name, maxInputs, func(i int) error {
				var s string
				if err := r.value(fmt.Sprintf("texts[%d]", i), &s); err != nil {
					return err
				}
				q.texts, q.bytes = append(q.texts, s), q.bytes+int64(len(s))
				return nil
			})
		},
	}
}

// cohere is Cohere's embed in either version, which differ in the answer's form: version 1 has the vectors themselves
// unless types were asked for.
func (g *gateway) cohere(version int) func(r *http.Request) (job, error) {
	return func(r *http.Request) (job, error) {
		var q cohereRequest
		if err := noParams(r); err != nil {
			return job{}, err
		}
		if err := readObject(r.Body, q.members()); err != nil {
			return job{}, err
		}
		a, err := g.cohereAsk(&q)
		if err != nil {
			return job{}, err
		}
		typed := version == 2 || len(q.types) > 0
		texts := slices.Clone(a.texts)
		return g.job(a, func(v *vectors) any {
			v.frame = cohereAnswer{typed, texts}.frame
			return v
		})
	}
}

func (g *gateway) cohereAsk(q *cohereRequest) (a ask, err error) {
	if a.model, err = g.model(q.model); err != nil {
		return a, err
	}
	if len(q.texts) == 0 {
		return a, wrongParam("texts", "bad_request", "texts has 0 texts, want 1 to %d", maxInputs)
	}
	for _, t := range q.types {
		if t != "float" {
			return a, wrongParam("embedding_types", "bad_request", "embedding_types has %q, but vectors are float here", t)
		}
	}
	switch q.truncate {
	case "", "END", "NONE":
	default:
		return a, wrongParam("truncate", "bad_request", "truncate is %q, but texts are cut at their END or NONE", q.truncate)
	}
	if a.prompt, err = promptOf("input_type", q.purpose, a.model.Prompt); err != nil {
		return a, err
	}
	if q.dims != nil {
		if a.dims = *q.dims; a.dims < 1 {
			return a, wrongParam("output_dimension", "dimensions_not_supported", "output_dimension is %d, want what the model has", a.dims)
		}
	}
	a.param, a.texts, a.bytes, a.tooLong = "texts", q.texts, q.bytes, http.StatusBadRequest
	a.truncate = q.truncate == "END" || q.truncate == "" // Cohere's default
	return a, nil
}

// A cohereAnswer is what stands around the vectors: by types or by themselves, with the texts.
type cohereAnswer struct {
	typed bool
	texts []string
}

func (c cohereAnswer) frame(v *vectors, w *bufio.Writer) {
	_, _ = fmt.Fprintf(w, `{"id":%q,"embeddings":`, "embedfleet")
	if c.typed {
		_, _ = w.WriteString(`{"float":`)
	}
	teiFrame(v, w)
	if c.typed {
		_ = w.WriteByte('}')
	}
	kind := "embeddings_floats"
	if c.typed {
		kind = "embeddings_by_type"
	}
	_, _ = w.WriteString(`,"texts":[`)
	for i, text := range c.texts {
		if i > 0 {
			_ = w.WriteByte(',')
		}
		b := quoted(text)
		_, _ = w.Write(b)
	}
	_, _ = fmt.Fprintf(w, `],"response_type":%q,"meta":{"api_version":{"version":"2"},"billed_units":{"input_tokens":%d}}}`, kind, v.tokens)
}
