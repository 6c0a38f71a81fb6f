package gateway

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/embedfleet/embedfleet/gateway/batch"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// Batches is the desk of the Batch API.
type Batches = *batch.Desk

// The bounds of a file's life after its creation, as OpenAI's, and its life by default.
const (
	shortestLife = time.Hour
	longestLife  = 30 * 24 * time.Hour
)

// batchEndpoint is what a batch may ask for.
const batchEndpoint = "/v1/embeddings"

// routeBatches are files and batches, as OpenAI's.
func (g *gateway) routeBatches(mux *http.ServeMux) {
	g.handle(mux, "/v1/files", methods{http.MethodPost: {read: g.upload, limit: batch.MaxFileBytes + maxBody, streamed: true}, http.MethodGet: {read: g.files}})
	g.handle(mux, "/v1/files/{file}", methods{http.MethodGet: {read: g.file}, http.MethodDelete: {read: g.deleteFile}})
	g.handle(mux, "/v1/files/{file}/content", methods{http.MethodGet: {read: g.content}})
	g.handle(mux, "/v1/batches", methods{http.MethodPost: {read: g.createBatch}, http.MethodGet: {read: g.listBatches}})
	g.handle(mux, "/v1/batches/{batch}", methods{http.MethodGet: {read: g.batch}})
	g.handle(mux, "/v1/batches/{batch}/cancel", methods{http.MethodPost: {read: g.cancelBatch}})
}

type fileAnswer struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Bytes   int64  `json:"bytes"`
	Created int64  `json:"created_at"`
	Expires *int64 `json:"expires_at,omitempty"`
	Name    string `json:"filename"`
	Purpose string `json:"purpose"`
	Status  string `json:"status"`
}

func newFileAnswer(f batch.File) fileAnswer {
	return fileAnswer{f.ID, "file", f.Bytes, f.Created.Unix(), seconds(f.Expires), f.Name, f.Purpose, "processed"}
}

// seconds is a time in Unix seconds, nil for none.
func seconds(t time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	n := t.Unix()
	return &n
}

// upload is POST /v1/files: a form of several parts, of which the file is kept while it comes.
func (g *gateway) upload(r *http.Request) (job, error) {
	if err := noParams(r); err != nil {
		return job{}, err
	}
	parts, err := r.MultipartReader()
	if err != nil {
		return job{}, badRequest("reading the form: %v: want multipart/form-data with purpose and file", err)
	}
	u := &uploading{g: g, owner: callerOf(r.Context()).name, form: map[string]string{}}
	if err := u.read(r.Context(), parts); err != nil {
		u.drop(r.Context())
		return job{}, err
	}
	return light(func(context.Context) (any, error) { return newFileAnswer(u.file), nil })
}

// An uploading is a form that is read.
type uploading struct {
	g     *gateway
	owner string
	form  map[string]string
	file  batch.File
}

func (u *uploading) read(ctx context.Context, parts *multipart.Reader) error {
	for {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return formError(err)
		}
		if part.FormName() == "file" {
			err = u.keep(ctx, part)
		} else {
			err = u.field(part)
		}
		if err != nil {
			return err
		}
	}
	if u.file.ID == "" {
		return wrongParam("file", "bad_request", "file is missing")
	}
	if p := u.form["purpose"]; p != batch.PurposeBatch {
		return wrongParam("purpose", "bad_request", "purpose is %q, want %s", p, batch.PurposeBatch)
	}
	expires, err := u.expires()
	if err != nil || expires.Equal(u.file.Expires) {
		return err
	}
	u.file.Expires = expires
	return u.g.Batches.Renew(ctx, u.file)
}

func (u *uploading) keep(ctx context.Context, part *multipart.Part) (err error) {
	if u.file.ID != "" {
		return wrongParam("file", "bad_request", "there are several files")
	}
	name := part.FileName()
	if !validUTF8(name) || len(name) > 512 {
		return wrongParam("file", "bad_request", "the file's name is not UTF-8, or longer than 512 bytes")
	}
	u.file, err = u.g.Batches.Upload(ctx, u.owner, cmp.Or(name, "upload.jsonl"), time.Now().Add(longestLife).UTC().Truncate(time.Second), part)
	return uploadError(err)
}

func (u *uploading) field(part *multipart.Part) error {
	name := part.FormName()
	if !slices.Contains([]string{"purpose", "expires_after[anchor]", "expires_after[seconds]"}, name) {
		return wrongParam(name, "unknown_field", "there is no field %q here", name)
	}
	value, err := io.ReadAll(io.LimitReader(part, 256))
	u.form[name] = string(value)
	return uploadError(err)
}

func (u *uploading) expires() (time.Time, error) {
	anchor, s := u.form["expires_after[anchor]"], u.form["expires_after[seconds]"]
	if anchor == "" && s == "" {
		return u.file.Expires, nil
	}
	n, err := strconv.Atoi(s)
	if anchor != "created_at" || err != nil || n < int(shortestLife/time.Second) || n > int(longestLife/time.Second) {
		return time.Time{}, wrongParam("expires_after", "bad_request", "expires_after is %s seconds after %s, want %d to %d after created_at", s, anchor, int(shortestLife/time.Second), int(longestLife/time.Second))
	}
	return u.file.Created.Add(time.Duration(n) * time.Second), nil
}

// drop forgets the file of a form that is refused.
func (u *uploading) drop(ctx context.Context) {
	if u.file.ID == "" {
		return
	}
	if err := u.g.Batches.DeleteFile(context.WithoutCancel(ctx), u.owner, u.file.ID); err != nil {
		u.g.log.WarnContext(ctx, "file of a refused form was not deleted", "file", u.file.ID, "err", err)
	}
}

// formError is what is wrong with a form, or with the line over which it comes.
func formError(err error) error {
	err = uploadError(err)
	_, tooLarge := errors.AsType[*http.MaxBytesError](err)
	if _, own := errors.AsType[*requestError](err); own || tooLarge {
		return err
	}
	return badRequest("reading the form: %v", err)
}

func uploadError(err error) error {
	if err == nil {
		return nil
	}
	if large, ok := errors.AsType[*batch.TooLargeError](err); ok {
		return &requestError{status: http.StatusRequestEntityTooLarge, code: "too_large", param: "file", message: large.Error()}
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return badRequest("reading the form: it ends too early")
	}
	return err
}

// A page of a list, as OpenAI's.
type page[T any] struct {
	Object  string  `json:"object"`
	Data    []T     `json:"data"`
	FirstID *string `json:"first_id"`
	LastID  *string `json:"last_id"`
	HasMore bool    `json:"has_more"`
}

// paged cuts a page out of all, the latest first: what comes after an id, at most limit.
func paged[S, T any](all []S, p *params, limit int, id func(S) string, answer func(S) T) (page[T], error) {
	if after := p.text("after"); after != "" {
		i := slices.IndexFunc(all, func(s S) bool { return id(s) == after })
		if i < 0 {
			return page[T]{}, &requestError{status: http.StatusNotFound, code: "not_found", param: "after", message: fmt.Sprintf("after is %q, which is none of the list", after)}
		}
		all = all[i+1:]
	}
	a := page[T]{Object: "list", Data: make([]T, 0, min(limit, len(all))), HasMore: len(all) > limit}
	for _, s := range all[:min(limit, len(all))] {
		a.Data = append(a.Data, answer(s))
		name := id(s)
		if a.LastID = &name; a.FirstID == nil {
			a.FirstID = &name
		}
	}
	return a, nil
}

func (g *gateway) files(r *http.Request) (job, error) {
	p := readParams(r, "purpose", "limit", "after", "order")
	limit, order, purpose := p.number("limit", 10_000, 1, 10_000), p.choice("order", "desc", "asc"), p.text("purpose")
	if p.err != nil {
		return job{}, p.err
	}
	return light(func(ctx context.Context) (any, error) {
		all, err := g.Batches.Files(ctx, callerOf(ctx).name)
		if err != nil {
			return nil, err
		}
		if order == "asc" {
			slices.Reverse(all)
		}
		all = slices.DeleteFunc(all, func(f batch.File) bool { return purpose != "" && f.Purpose != purpose })
		return paged(all, p, limit, func(f batch.File) string { return f.ID }, newFileAnswer)
	})
}

func (g *gateway) file(r *http.Request) (job, error) {
	if err := noParams(r); err != nil {
		return job{}, err
	}
	return light(func(ctx context.Context) (any, error) {
		f, err := g.Batches.File(ctx, callerOf(ctx).name, r.PathValue("file"))
		if err != nil {
			return nil, err
		}
		return newFileAnswer(f), nil
	})
}

func (g *gateway) deleteFile(r *http.Request) (job, error) {
	if err := noParams(r); err != nil {
		return job{}, err
	}
	return light(func(ctx context.Context) (any, error) {
		id := r.PathValue("file")
		if err := g.Batches.DeleteFile(ctx, callerOf(ctx).name, id); err != nil {
			return nil, err
		}
		return map[string]any{"id": id, "object": "file", "deleted": true}, nil
	})
}

func (g *gateway) content(r *http.Request) (job, error) {
	if err := noParams(r); err != nil {
		return job{}, err
	}
	return light(func(ctx context.Context) (any, error) {
		f, err := g.Batches.File(ctx, callerOf(ctx).name, r.PathValue("file"))
		if err != nil {
			return nil, err
		}
		return &fileContent{g.Batches, f}, nil
	})
}

// fileContent is what is in a file, as an answer.
type fileContent struct {
	desk Batches
	file batch.File
}

func (c *fileContent) size() int64  { return freeBytes } // what is read ahead, whatever the file has
func (c *fileContent) kind() string { return "application/octet-stream" }
func (c *fileContent) write(ctx context.Context, w *bufio.Writer) error {
	return c.desk.Write(ctx, c.file, w)
}

// createBatch is POST /v1/batches.
func (g *gateway) createBatch(r *http.Request) (job, error) {
	if err := noParams(r); err != nil {
		return job{}, err
	}
	b := batch.Batch{Owner: callerOf(r.Context()).name}
	err := readObject(r.Body, members{
		"input_file_id": into(&b.Input), "endpoint": into(&b.Endpoint), "completion_window": into(&b.Window), "metadata": into(&b.Metadata),
	})
	switch {
	case err != nil:
		return job{}, err
	case b.Endpoint != batchEndpoint:
		return job{}, wrongParam("endpoint", "bad_request", "endpoint is %q, want %s", b.Endpoint, batchEndpoint)
	case b.Window != "24h":
		return job{}, wrongParam("completion_window", "bad_request", "completion_window is %q, want 24h", b.Window)
	case b.Input == "":
		return job{}, wrongParam("input_file_id", "bad_request", "input_file_id is missing")
	case len(b.Metadata) > 16:
		return job{}, wrongParam("metadata", "bad_request", "metadata has %d pairs, want 16 at most", len(b.Metadata))
	}
	for k, v := range b.Metadata {
		if len(k) > 64 || len(v) > 512 {
			return job{}, wrongParam("metadata", "bad_request", "metadata has a key of more than 64 bytes, or a value of more than 512")
		}
	}
	return light(func(ctx context.Context) (any, error) {
		made, err := g.Batches.Create(ctx, b)
		if errors.Is(err, batch.ErrNotFound) {
			return nil, wrongParam("input_file_id", "bad_request", "input_file_id: there is no file %q for batches", b.Input)
		}
		if err != nil {
			return nil, err
		}
		return newBatchAnswer(made), nil
	})
}

func (g *gateway) listBatches(r *http.Request) (job, error) {
	p := readParams(r, "limit", "after")
	limit := p.number("limit", 20, 1, 100)
	if p.err != nil {
		return job{}, p.err
	}
	return light(func(ctx context.Context) (any, error) {
		all, err := g.Batches.Batches(ctx, callerOf(ctx).name)
		if err != nil {
			return nil, err
		}
		return paged(all, p, limit, func(b batch.Batch) string { return b.ID }, newBatchAnswer)
	})
}

func (g *gateway) batch(r *http.Request) (job, error) {
	if err := noParams(r); err != nil {
		return job{}, err
	}
	return light(func(ctx context.Context) (any, error) {
		b, err := g.Batches.Batch(ctx, callerOf(ctx).name, r.PathValue("batch"))
		if err != nil {
			return nil, err
		}
		return newBatchAnswer(b), nil
	})
}

func (g *gateway) cancelBatch(r *http.Request) (job, error) {
	if err := noParams(r); err != nil {
		return job{}, err
	}
	return light(func(ctx context.Context) (any, error) {
		b, moved, err := g.Batches.Cancel(ctx, callerOf(ctx).name, r.PathValue("batch"))
		if err != nil {
			return nil, err
		}
		if !moved {
			return nil, &requestError{status: http.StatusConflict, code: "conflict", message: fmt.Sprintf("the batch is %s, which can't be cancelled", b.Status)}
		}
		return newBatchAnswer(b), nil
	})
}

// A batchAnswer is a batch, as OpenAI's.
type batchAnswer struct {
	ID         string            `json:"id"`
	Object     string            `json:"object"`
	Endpoint   string            `json:"endpoint"`
	Errors     *page[batchFault] `json:"errors"`
	Input      string            `json:"input_file_id"`
	Window     string            `json:"completion_window"`
	Status     string            `json:"status"`
	Output     *string           `json:"output_file_id"`
	ErrorFile  *string           `json:"error_file_id"`
	Created    int64             `json:"created_at"`
	InProgress *int64            `json:"in_progress_at"`
	Expires    *int64            `json:"expires_at"`
	Finalizing *int64            `json:"finalizing_at"`
	Completed  *int64            `json:"completed_at"`
	Failed     *int64            `json:"failed_at"`
	Expired    *int64            `json:"expired_at"`
	Cancelling *int64            `json:"cancelling_at"`
	Cancelled  *int64            `json:"cancelled_at"`
	Counts     batchCounts       `json:"request_counts"`
	Metadata   map[string]string `json:"metadata"`
}

type batchFault struct {
	Code    string  `json:"code"`
	Message string  `json:"message"`
	Param   *string `json:"param"`
	Line    *int    `json:"line"`
}

type batchCounts struct {
	Total     int `json:"total"`
	Completed int `json:"completed"`
	Failed    int `json:"failed"`
}

func newBatchAnswer(b batch.Batch) batchAnswer {
	at := func(status string) *int64 { return seconds(b.Times[status]) }
	a := batchAnswer{
		ID: b.ID, Object: "batch", Endpoint: b.Endpoint, Input: b.Input, Window: b.Window, Status: b.Status, Created: b.Created.Unix(),
		InProgress: at(batch.InProgress), Expires: seconds(b.Expires), Finalizing: at(batch.Finalizing), Completed: at(batch.Completed),
		Failed: at(batch.Failed), Expired: at(batch.Expired), Cancelling: at(batch.Cancelling), Cancelled: at(batch.Cancelled),
		Counts: batchCounts{b.Total, b.Done, b.Failed}, Metadata: b.Metadata,
	}
	if b.Output != "" {
		a.Output = &b.Output
	}
	if b.Errors != "" {
		a.ErrorFile = &b.Errors
	}
	if len(b.Faults) > 0 {
		a.Errors = &page[batchFault]{Object: "list"}
		for _, f := range b.Faults {
			fault := batchFault{Code: f.Code, Message: f.Message}
			if f.Line > 0 {
				fault.Line = &f.Line
			}
			a.Errors.Data = append(a.Errors.Data, fault)
		}
	}
	return a
}

// lines understands the lines of batches as the same requests by themselves.
type lines struct{ g gateway }

// NewInterpreter returns what understands the lines of batches for models.
func NewInterpreter(models []Model) batch.Interpreter {
	return &lines{gateway{Parts: Parts{Models: models}}}
}

// Interpret is the method of batch.Interpreter.
func (l *lines) Interpret(_ string, body []byte) (*batch.Work, *batch.Reply) {
	var q embeddingsRequest
	err := readObject(bytes.NewReader(body), q.members())
	if err != nil {
		return nil, l.reply(err)
	}
	a, err := l.g.ask(&q, func(m *Model) string { return m.Prompt })
	if err != nil {
		return nil, l.reply(err)
	}
	work := &batch.Work{}
	for i, text := range a.texts {
		t, err := tasks.NewQuery(a.model.Alias, text, &tasks.Options{Timeout: tasks.DocumentTimeout, Prompt: a.prompt, Lane: tasks.Backfill})
		if err != nil {
			return nil, l.reply(fmt.Errorf("input[%d]: %w", i, err))
		}
		work.Tasks = append(work.Tasks, t)
	}
	a.texts = nil
	work.Answer = func(list []vector.Embedding) batch.Reply {
		v, err := a.finish(list)
		if err != nil {
			return *l.reply(err)
		}
		v.frame, v.base64 = openAIFrame, q.format == "base64"
		var b bytes.Buffer
		w := bufio.NewWriter(&b)
		v.frame(v, w)
		_ = w.Flush() // into memory
		return batch.Reply{Status: http.StatusOK, Body: b.Bytes()}
	}
	return work, nil
}

// Refuse is the method of batch.Interpreter.
func (l *lines) Refuse(err error) batch.Reply { return *l.reply(err) }

func (l *lines) reply(err error) *batch.Reply {
	e := describe(err)
	body, err := json.Marshal(e.openAI())
	if err != nil {
		body = []byte(`null`) // of texts: never
	}
	return &batch.Reply{Status: e.status, Body: body}
}
