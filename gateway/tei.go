package gateway

import (
	"bufio"
	"context"
	"net/http"

	"github.com/embedfleet/embedfleet/tasks"
)

// plain is what texts are embedded under where nothing else is asked for, as text-embeddings-inference does it.
func plain(*Model) string { return tasks.AsIs }

// A teiRequest is the body of POST /embed.
type teiRequest struct {
	inputs    inputs
	truncate  *bool
	normalize *bool
	direction string
	prompt    string
	dims      *int
}

func (q *teiRequest) members() members {
	return members{
		"inputs": q.inputs.field, "truncate": into(&q.truncate), "normalize": into(&q.normalize),
		"truncation_direction": into(&q.direction), "prompt_name": into(&q.prompt), "dimensions": into(&q.dims),
	}
}

// teiEmbed is text-embeddings-inference's POST /embed: the vectors and nothing else, under no prompt unless one is named.
func (g *gateway) teiEmbed(r *http.Request) (job, error) {
	p := readParams(r, "model")
	if p.err != nil {
		return job{}, p.err
	}
	var q teiRequest
	if err := readObject(r.Body, q.members()); err != nil {
		return job{}, err
	}
	m, err := g.model(p.text("model"))
	if err != nil {
		return job{}, err
	}
	if q.direction != "" && q.direction != "Right" && q.direction != "right" {
		return job{}, wrongParam("truncation_direction", "bad_request", "truncation_direction is %q, but texts are cut at their end (Right) here", q.direction)
	}
	a := ask{model: m, param: "inputs", tooLong: http.StatusUnprocessableEntity, truncate: m.Truncate, own: q.normalize != nil && !*q.normalize}
	if q.truncate != nil {
		a.truncate = *q.truncate
	}
	if q.dims != nil {
		if a.dims = *q.dims; a.dims < 1 {
			return job{}, wrongParam("dimensions", "dimensions_not_supported", "dimensions is %d, want what the model has", a.dims)
		}
	}
	if a.prompt, err = promptOf("prompt_name", q.prompt, tasks.AsIs); err != nil {
		return job{}, err
	}
	if a.texts, err = q.inputs.decoded("inputs", m); err != nil {
		return job{}, err
	}
	a.bytes = q.inputs.bytes
	return g.job(a, func(v *vectors) any {
		v.frame = teiFrame
		return v
	})
}

func teiFrame(v *vectors, w *bufio.Writer) {
	sep := byte('[')
	for i := range v.list {
		_ = w.WriteByte(sep)
		v.number(w, i)
		sep = ','
	}
	_ = w.WriteByte(']')
}

// A teiInfo is text-embeddings-inference's GET /info, as far as a gateway, which has no model, knows it.
type teiInfo struct {
	ModelID       string         `json:"model_id"`
	ModelSHA      *string        `json:"model_sha"`
	ModelDtype    string         `json:"model_dtype"`
	ModelType     map[string]any `json:"model_type"`
	MaxConcurrent int            `json:"max_concurrent_requests"`
	MaxInput      *int           `json:"max_input_length"`
	MaxBatch      int            `json:"max_client_batch_size"`
	AutoTruncate  bool           `json:"auto_truncate"`
	Version       string         `json:"version"`
}

// teiInfoOf is GET /info.
func (g *gateway) teiInfoOf(r *http.Request) (job, error) {
	p := readParams(r, "model")
	if p.err != nil {
		return job{}, p.err
	}
	name := p.text("model")
	if name == "" {
		name = g.Models[0].Alias
	}
	m, err := g.model(name)
	if err != nil {
		return job{}, err
	}
	return light(func(context.Context) (any, error) {
		return teiInfo{
			ModelID: m.Alias, ModelDtype: "float32", ModelType: map[string]any{"embedding": map[string]any{}},
			MaxConcurrent: g.opts.Requests, MaxBatch: maxInputs, AutoTruncate: m.Truncate, Version: g.opts.Version,
		}, nil
	})
}

// health is text-embeddings-inference's GET /health: nothing, if there is nothing to say.
func (g *gateway) health(context.Context) (any, error) {
	if g.opts.Ready != nil {
		if err := g.opts.Ready(); err != nil {
			return nil, overloaded("not ready: %v", err)
		}
	}
	return finished(nil), nil
}
