package gateway

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// An embeddingsRequest is the body of POST /v1/embeddings.
type embeddingsRequest struct {
	model, format, purpose, prompt string
	input                          inputs
	dims                           *int
	truncate                       *bool
}

func (q *embeddingsRequest) members() members {
	return members{
		"model": into(&q.model), "input": q.input.field, "encoding_format": into(&q.format), "dimensions": into(&q.dims),
		"input_type": into(&q.purpose), "prompt_name": into(&q.prompt), "truncate": into(&q.truncate), "user": ignored,
	}
}

// ask checks what was asked. Without a purpose the model's settings say what texts are embedded under.
func (g *gateway) ask(q *embeddingsRequest, byDefault func(*Model) string) (a ask, err error) {
	if a.model, err = g.model(q.model); err != nil {
		return a, err
	}
	if q.format != "" && q.format != "float" && q.format != "base64" {
		return a, wrongParam("encoding_format", "bad_request", "encoding_format is %q, want float or base64", q.format)
	}
	if q.dims != nil {
		if a.dims = *q.dims; a.dims < 1 {
			return a, wrongParam("dimensions", "dimensions_not_supported", "dimensions is %d, want what the model has", a.dims)
		}
	}
	if q.purpose != "" && q.prompt != "" {
		return a, wrongParam("prompt_name", "bad_request", "both input_type and prompt_name are there, which mean the same")
	}
	a.prompt, err = promptOf("input_type", q.purpose, byDefault(a.model))
	if err == nil {
		a.prompt, err = promptOf("prompt_name", q.prompt, a.prompt)
	}
	if err != nil {
		return a, err
	}
	a.param, a.tooLong, a.truncate = "input", http.StatusBadRequest, a.model.Truncate
	if q.truncate != nil {
		a.truncate = *q.truncate
	}
	a.texts, err = q.input.decoded("input", a.model)
	a.bytes = q.input.bytes
	return a, err
}

// embeddings is OpenAI's POST /v1/embeddings.
func (g *gateway) embeddings(byDefault func(*Model) string) func(r *http.Request) (job, error) {
	return func(r *http.Request) (job, error) {
		var q embeddingsRequest
		if err := noParams(r); err != nil {
			return job{}, err
		}
		if err := readObject(r.Body, q.members()); err != nil {
			return job{}, err
		}
		a, err := g.ask(&q, byDefault)
		if err != nil {
			return job{}, err
		}
		return g.job(a, func(v *vectors) any {
			v.frame, v.base64 = openAIFrame, q.format == "base64"
			return v
		})
	}
}

// openAIFrame writes OpenAI's answer.
func openAIFrame(v *vectors, w *bufio.Writer) {
	_, _ = w.WriteString(`{"object":"list","data":[`)
	for i := range v.list {
		if i > 0 {
			_ = w.WriteByte(',')
		}
		_, _ = fmt.Fprintf(w, `{"object":"embedding","index":%d,"embedding":`, i)
		v.number(w, i)
		_ = w.WriteByte('}')
	}
	name := quoted(v.model)
	_, _ = fmt.Fprintf(w, `],"model":%s,"usage":{"prompt_tokens":%d,"total_tokens":%d}}`, name, v.tokens, v.tokens)
}

// noParams refuses query parameters where there are none.
func noParams(r *http.Request) error { return readParams(r).err }

// model returns the model of a name; while there is one only, it need not be named.
func (g *gateway) model(name string) (*Model, error) {
	if name == "" {
		if len(g.Models) == 1 {
			return &g.Models[0], nil
		}
		return nil, wrongParam("model", "model_required", "model is missing, want one of %s", g.aliases())
	}
	i := slices.IndexFunc(g.Models, func(m Model) bool { return m.Alias == name })
	if i < 0 {
		return nil, &requestError{
			status: http.StatusNotFound, code: "model_not_found", param: "model",
			message: fmt.Sprintf("model %q is not served here, but %s", name, g.aliases()),
		}
	}
	return &g.Models[i], nil
}

func (g *gateway) aliases() string {
	var names []string
	for _, m := range g.Models {
		names = append(names, fmt.Sprintf("%q", m.Alias))
	}
	return strings.Join(names, ", ")
}

type modelAnswer struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

// models is OpenAI's GET /v1/models.
func (g *gateway) models(context.Context) (any, error) {
	list := make([]modelAnswer, 0, len(g.Models))
	for _, m := range g.Models {
		list = append(list, modelAnswer{m.Alias, "model", 0, "embedfleet"})
	}
	return map[string]any{"object": "list", "data": list}, nil
}

// oneModel is OpenAI's GET /v1/models/{id}.
func (g *gateway) oneModel(r *http.Request) (job, error) {
	if err := noParams(r); err != nil {
		return job{}, err
	}
	m, err := g.model(r.PathValue("id"))
	if err != nil {
		return job{}, err
	}
	return light(func(context.Context) (any, error) { return modelAnswer{m.Alias, "model", 0, "embedfleet"}, nil })
}
