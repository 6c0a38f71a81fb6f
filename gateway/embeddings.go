package gateway

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/embedfleet/embedfleet/search"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// maxInputs is how many texts one request may have, as OpenAI's.
const maxInputs = 2048

// inputs are a text or a list of them. Token ids are refused: they are of some tokenizer, and nothing says that it
// is the model's.
type inputs []string

// UnmarshalJSON reads either form.
func (in *inputs) UnmarshalJSON(b []byte) error {
	b = bytes.TrimSpace(b)
	var one string
	if err := json.Unmarshal(b, &one); err == nil {
		*in = inputs{one}
		return nil
	}
	var list []json.RawMessage
	if err := json.Unmarshal(b, &list); err != nil {
		return wrongParam("input", "bad_request", "input is neither a text nor a list of texts")
	}
	texts := make(inputs, len(list))
	for i, raw := range list {
		if err := json.Unmarshal(raw, &texts[i]); err != nil || bytes.Equal(raw, []byte("null")) {
			if raw[0] == '[' || raw[0] >= '0' && raw[0] <= '9' {
				return wrongParam("input", "token_ids_not_supported", "input has token ids, which belong to some other tokenizer: send the texts themselves (LangChain: check_embedding_ctx_length=False)")
			}
			return wrongParam("input", "bad_request", "input %d is no text", i)
		}
	}
	*in = texts
	return nil
}

func (in inputs) check() error {
	if len(in) == 0 || len(in) > maxInputs {
		return wrongParam("input", "bad_request", "input has %d texts, want 1 to %d", len(in), maxInputs)
	}
	return nil
}

// An embeddingsRequest is the body of POST /v1/embeddings; other fields of OpenAI's (user) mean nothing here.
type embeddingsRequest struct {
	Model          string `json:"model"`
	Input          inputs `json:"input"`
	EncodingFormat string `json:"encoding_format"`
	Dimensions     *int   `json:"dimensions"`
}

// An embeddingsAnswer is OpenAI's.
type embeddingsAnswer struct {
	Object string          `json:"object"`
	Data   []embeddingItem `json:"data"`
	Model  string          `json:"model"`
	Usage  usage           `json:"usage"`
}

type embeddingItem struct {
	Object    string `json:"object"`
	Index     int    `json:"index"`
	Embedding any    `json:"embedding"` // numbers, or their little-endian float32 bytes in base64
}

type usage struct {
	PromptTokens int `json:"prompt_tokens"`
	TotalTokens  int `json:"total_tokens"`
}

// embeddings is OpenAI's POST /v1/embeddings.
func (g *gateway) embeddings(r *http.Request) (any, error) {
	var q embeddingsRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	if err := g.checkEmbeddings(q); err != nil {
		return nil, err
	}
	list, err := g.vectors(r.Context(), q.Input)
	if err != nil {
		return nil, err
	}
	dim := len(list[0].Vector)
	if q.Dimensions != nil && *q.Dimensions != dim {
		return nil, wrongParam("dimensions", "dimensions_not_supported", "model %s has %d dimensions and was not trained to be cut to %d", g.Model, dim, *q.Dimensions)
	}
	a := embeddingsAnswer{Object: "list", Model: g.Model, Data: make([]embeddingItem, len(list))}
	for i, e := range list {
		if e.Truncated {
			return nil, wrongParam("input", "context_length_exceeded", "input %d is longer than model %s reads; POST /v1/documents cuts long texts into chunks", i, g.Model)
		}
		a.Data[i] = embeddingItem{Object: "embedding", Index: i, Embedding: e.Vector}
		if q.EncodingFormat == "base64" {
			a.Data[i].Embedding = base64.StdEncoding.EncodeToString(e.Vector.Bytes())
		}
		a.Usage.PromptTokens += e.Tokens
	}
	a.Usage.TotalTokens = a.Usage.PromptTokens
	return a, nil
}

func (g *gateway) checkEmbeddings(q embeddingsRequest) error {
	if q.Model != g.Model {
		return &requestError{
			status: http.StatusNotFound, code: "model_not_found", param: "model",
			message: fmt.Sprintf("model %q is not served here, but %q", q.Model, g.Model),
		}
	}
	if q.EncodingFormat != "" && q.EncodingFormat != "float" && q.EncodingFormat != "base64" {
		return wrongParam("encoding_format", "bad_request", "encoding_format is %q, want float or base64", q.EncodingFormat)
	}
	if q.Dimensions != nil && *q.Dimensions < 1 {
		return wrongParam("dimensions", "bad_request", "dimensions is %d, want what the model has", *q.Dimensions)
	}
	return q.Input.check()
}

// vectors has texts embedded in the query lane: all of them, or an error that names the one to blame. The tasks are
// in the lane together, so that workers batch them; the answers are fetched one by one.
func (g *gateway) vectors(ctx context.Context, texts []string) ([]vector.Embedding, error) {
	ctx, cancel := context.WithTimeout(ctx, search.DefaultTimeout)
	defer cancel()
	list := make([]tasks.Task, len(texts))
	for i, text := range texts {
		t, err := tasks.NewQuery(g.Model, text, &tasks.Options{Timeout: search.DefaultTimeout})
		if err != nil {
			return nil, fmt.Errorf("input %d: %w", i, err)
		}
		list[i] = t
	}
	receipts, err := g.Queue.Enqueue(ctx, list)
	if err != nil {
		return nil, fmt.Errorf("enqueuing %d texts: %w", len(list), err)
	}
	for i, receipt := range receipts {
		if receipt.Err != nil {
			return nil, fmt.Errorf("enqueuing input %d: %w", i, receipt.Err)
		}
	}
	out := make([]vector.Embedding, len(list))
	for i, t := range list {
		if out[i], err = g.Answers.Await(ctx, t.ID); err != nil {
			return nil, g.noAnswer(i, err)
		}
		if out[i].Space != out[0].Space {
			return nil, &requestError{
				status: http.StatusServiceUnavailable, code: "model_changes", after: soon,
				message: fmt.Sprintf("workers of two models serve %s just now, whose vectors can't be compared", g.Model),
			}
		}
	}
	return out, nil
}

// noAnswer tells a fleet that is late from a text that is wrong.
func (g *gateway) noAnswer(i int, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w within %v: is a worker of model %q running, and is the request not too large for it?", search.ErrNoAnswer, search.DefaultTimeout, g.Model)
	}
	return fmt.Errorf("embedding input %d: %w", i, err)
}

// models is OpenAI's GET /v1/models.
func (g *gateway) models(*http.Request) (any, error) {
	return map[string]any{
		"object": "list",
		"data":   []map[string]any{{"id": g.Model, "object": "model", "created": 0, "owned_by": "embedfleet"}},
	}, nil
}

// A teiRequest is the body of POST /embed.
type teiRequest struct {
	Inputs    inputs `json:"inputs"`
	Truncate  *bool  `json:"truncate"`
	Normalize *bool  `json:"normalize"`
}

// embed is text-embeddings-inference's POST /embed: the vectors and nothing else.
func (g *gateway) embed(r *http.Request) (any, error) {
	var q teiRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	if q.Normalize != nil && !*q.Normalize {
		return nil, wrongParam("normalize", "bad_request", "normalize is false, but vectors have unit length here")
	}
	if err := q.Inputs.check(); err != nil {
		return nil, err
	}
	list, err := g.vectors(r.Context(), q.Inputs)
	if err != nil {
		return nil, err
	}
	out := make([]vector.Vector, len(list))
	for i, e := range list {
		if e.Truncated && (q.Truncate == nil || !*q.Truncate) {
			return nil, &requestError{
				status: http.StatusUnprocessableEntity, code: "context_length_exceeded", param: "inputs",
				message: fmt.Sprintf("input %d is longer than model %s reads; set truncate to have it cut", i, g.Model),
			}
		}
		out[i] = e.Vector
	}
	return out, nil
}
