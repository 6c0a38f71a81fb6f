package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// maxWait is how long a caller may wait for tasks in one request.
const maxWait = 5 * time.Minute

// A documentsRequest is the body of POST /v1/documents. A document that can't be read is an error in its place.
type documentsRequest struct {
	model string
	lane  tasks.Lane // live by default, or backfill
	wait  int        // seconds for which to wait until all are stored
	docs  []handedIn
	bytes int64
}

type handedIn struct {
	doc vector.Document
	err error
}

func (q *documentsRequest) members() members {
	return members{
		"model": into(&q.model), "lane": into(&q.lane), "wait": into(&q.wait),
		"documents": func(name string, r *reading) error {
			return r.list(name, maxInputs, func(i int) error {
				raw, err := r.ReadValue()
				if err != nil {
					return broken(err)
				}
				var h handedIn
				h.err = strictly(fmt.Sprintf("documents[%d]", i), raw, r.InputOffset()-int64(len(raw)), &h.doc)
				if h.err != nil {
					h.doc = vector.Document{ID: idOf(raw)} // so that its receipt can be told
				} else if h.err = checkID(h.doc.ID); h.err == nil {
					q.bytes += int64(len(h.doc.Text))
				}
				q.docs = append(q.docs, h)
				return nil
			})
		},
	}
}

// idOf returns the id of a document that can't be read as a whole, "" if that can't be read either.
func idOf(raw jsontext.Value) string {
	var only struct {
		ID string `json:"id"`
	}
	_ = lenient(raw, &only)
	return only.ID
}

// checkID refuses ids that no address can have.
func checkID(id string) error {
	if id == "." || id == ".." {
		return wrongParam("id", "invalid_id", "id is %q, which is a way in an address and not a name", id)
	}
	return nil
}

// A documentsAnswer says of each document what became of it, in their order.
type documentsAnswer struct {
	Accepted int               `json:"accepted"`
	Refused  int               `json:"refused"`
	Receipts []documentReceipt `json:"receipts"`
}

type documentReceipt struct {
	Index int    `json:"index"`           // in the request
	ID    string `json:"id"`              // the document's
	Task  string `json:"task,omitempty"`  // the task's
	State string `json:"state"`           // enqueued, pending, … or refused, full; done or dead if it was waited for
	Error string `json:"error,omitempty"` // of refused, full and dead
}

// handIn enqueues documents. One that is refused, or can't even be read, stops nobody else; if none is accepted the request
// fails with the first reason. Handing a document in again is harmless.
func (g *gateway) handIn(r *http.Request) (job, error) {
	var q documentsRequest
	if err := noParams(r); err != nil {
		return job{}, err
	}
	if err := readObject(r.Body, q.members()); err != nil {
		return job{}, err
	}
	m, err := g.model(q.model)
	if err != nil {
		return job{}, err
	}
	if q.lane == "" {
		q.lane = tasks.Live
	}
	if q.lane != tasks.Live && q.lane != tasks.Backfill {
		return job{}, wrongParam("lane", "bad_request", "lane is %q, want %s or %s", q.lane, tasks.Live, tasks.Backfill)
	}
	if q.wait < 0 || q.wait > int(maxWait/time.Second) {
		return job{}, wrongParam("wait", "bad_request", "wait is %d, want 0 to %d seconds", q.wait, int(maxWait/time.Second))
	}
	if len(q.docs) == 0 {
		return job{}, wrongParam("documents", "bad_request", "there are 0 documents, want 1 to %d", maxInputs)
	}
	return job{texts: len(q.docs), bytes: q.bytes, light: q.wait > 0, run: func(ctx context.Context) (any, error) { return g.enqueue(ctx, m, &q) }}, nil
}

func (g *gateway) enqueue(ctx context.Context, m *Model, q *documentsRequest) (any, error) {
	a := &documentsAnswer{Receipts: make([]documentReceipt, len(q.docs))}
	var list []tasks.Task
	var places []int // of the tasks, among the documents
	var first error
	refuse := func(i int, state string, err error) {
		a.Receipts[i].State, a.Receipts[i].Error = state, err.Error()
		a.Refused++
		if first == nil {
			first = fmt.Errorf("documents[%d]: %w", i, err)
		}
	}
	for i := range q.docs {
		h := &q.docs[i]
		a.Receipts[i] = documentReceipt{Index: i, ID: h.doc.ID}
		t, err := tasks.Task{}, h.err
		if err == nil {
			t, err = tasks.New(m.Alias, q.lane, h.doc, nil)
		}
		h.doc = vector.Document{} // its task has it now
		if err != nil {
			refuse(i, "refused", err)
			continue
		}
		list, places = append(list, t), append(places, i)
	}
	receipts, err := g.Queue.Enqueue(ctx, list)
	if err != nil {
		return nil, err
	}
	for n, receipt := range receipts {
		i := places[n]
		a.Receipts[i].Task, a.Receipts[i].State = receipt.ID, receipt.State
		if receipt.Err != nil {
			refuse(i, receipt.State, receipt.Err)
			continue
		}
		a.Accepted++
	}
	if a.Accepted == 0 {
		return nil, first
	}
	if q.wait > 0 {
		err = g.await(ctx, m, q, a)
	}
	return a, err
}

// await waits for the accepted of a, as long as was asked for.
func (g *gateway) await(ctx context.Context, m *Model, q *documentsRequest, a *documentsAnswer) error {
	var ids []string
	var places []int
	for i, r := range a.Receipts {
		if r.Error == "" {
			ids, places = append(ids, r.Task), append(places, i)
		}
	}
	waiting, cancel := context.WithTimeout(ctx, time.Duration(q.wait)*time.Second)
	defer cancel()
	states, err := g.Waiter.Wait(waiting, m.Alias, q.lane, ids)
	if err != nil {
		return fmt.Errorf("waiting for %d tasks: %w", len(ids), err)
	}
	for n, s := range states {
		if s.State != waitingState {
			a.Receipts[places[n]].State, a.Receipts[places[n]].Error = s.State, s.Error
		}
	}
	return nil
}

// waitingState is the state of a task that is neither done nor dead.
const waitingState = "waiting"

// task is GET /v1/tasks/{id}: how one task stands, at once or when it is over.
func (g *gateway) task(r *http.Request) (job, error) {
	p := readParams(r, "model", "lane", "wait")
	lane, wait := tasks.Lane(p.choice("lane", string(tasks.Live), string(tasks.Backfill))), p.seconds("wait", maxWait)
	if p.err != nil {
		return job{}, p.err
	}
	m, err := g.model(p.text("model"))
	if err != nil {
		return job{}, err
	}
	return light(func(ctx context.Context) (any, error) {
		waiting, cancel := context.WithTimeout(ctx, max(wait, 10*time.Millisecond))
		defer cancel()
		states, err := g.Waiter.Wait(waiting, m.Alias, lane, []string{r.PathValue("id")})
		if err != nil {
			return nil, err
		}
		return states[0], nil
	})
}

// document answers what the store holds of one.
func (g *gateway) document(r *http.Request) (job, error) {
	p := readParams(r, "model", "vectors")
	withVectors := p.yes("vectors")
	m, err := g.modelOf(p)
	if err != nil {
		return job{}, err
	}
	return light(func(ctx context.Context) (any, error) {
		// A document has up to a few megabytes of vectors, and more as text: few at a time are made ready, whatever the
		// places for other work.
		select {
		case g.large <- struct{}{}:
			defer func() { <-g.large }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		rec, err := m.Documents.Get(ctx, r.PathValue("id"))
		if err != nil {
			return nil, err
		}
		answer := NewDocumentAnswer(rec)
		if !withVectors {
			answer = answer.WithoutVectors()
		}
		b, err := json.Marshal(answer)
		return finished(append(b, '\n')), err
	})
}

// modelOf returns the model that the parameters name, or what is wrong with them.
func (g *gateway) modelOf(p *params) (*Model, error) {
	if p.err != nil {
		return nil, p.err
	}
	return g.model(p.text("model"))
}

// remove is DELETE /v1/documents/{id}: the document, its chunks and vectors go, and searches forget it at once.
func (g *gateway) remove(r *http.Request) (job, error) {
	m, err := g.modelOf(readParams(r, "model"))
	if err != nil {
		return job{}, err
	}
	return light(func(ctx context.Context) (any, error) {
		id := r.PathValue("id")
		deleted, err := m.Documents.Delete(ctx, id, 0)
		if err != nil {
			return nil, err
		}
		return map[string]any{"id": id, "object": "document", "deleted": deleted}, nil
	})
}

// A change is the body of PATCH /v1/documents/{id}: what is there takes the place of what is stored, null empties it. A text
// is handed in instead, since it needs new vectors.
type change struct {
	title, source, url jsontext.Value
	published, codes   jsontext.Value
	fields             jsontext.Value
}

func (c *change) members() members {
	return members{
		"title": into(&c.title), "source": into(&c.source), "url": into(&c.url), "published_at": into(&c.published),
		"stock_codes": into(&c.codes), "fields": into(&c.fields),
	}
}

// update is PATCH /v1/documents/{id}.
func (g *gateway) update(r *http.Request) (job, error) {
	m, err := g.modelOf(readParams(r, "model"))
	if err != nil {
		return job{}, err
	}
	var c change
	if err := readObject(r.Body, c.members()); err != nil {
		return job{}, err
	}
	if err := c.apply(&vector.Document{}); err != nil {
		return job{}, err
	}
	return light(func(ctx context.Context) (any, error) {
		rec, err := m.Documents.Get(ctx, r.PathValue("id"))
		if err != nil {
			return nil, err
		}
		if err := c.apply(&rec.Document); err != nil {
			return nil, err
		}
		if _, err := tasks.New(m.Alias, tasks.Live, rec.Document, nil); err != nil { // the same bounds as at first
			return nil, err
		}
		rec.Version = max(rec.Version+1, time.Now().UnixNano())
		same, err := m.Documents.Update(ctx, rec)
		if err != nil {
			return nil, err
		}
		if !same {
			return nil, &requestError{status: http.StatusConflict, code: "conflict", message: "the document's text changed, or it was deleted, at the same time: look at it again"}
		}
		return NewDocumentAnswer(rec).WithoutVectors(), nil
	})
}

func (c *change) apply(d *vector.Document) error {
	for _, f := range []struct {
		name string
		raw  jsontext.Value
		v    any
	}{
		{"title", c.title, &d.Title},
		{"source", c.source, &d.Source},
		{"url", c.url, &d.URL},
		{"published_at", c.published, &d.PublishedAt},
		{"stock_codes", c.codes, &d.StockCodes},
	} {
		if f.raw != nil {
			if err := strictly(f.name, f.raw, 0, f.v); err != nil {
				return err
			}
		}
	}
	if c.fields == nil {
		return nil
	}
	if isNull(c.fields) {
		d.Fields = nil
		return nil
	}
	var fields map[string]*string // null takes one away
	if err := strictly("fields", c.fields, 0, &fields); err != nil {
		return err
	}
	merged := make(map[string]string, len(d.Fields)+len(fields))
	maps.Copy(merged, d.Fields)
	for name, v := range fields {
		if v == nil {
			delete(merged, name)
		} else {
			merged[name] = *v
		}
	}
	d.Fields = merged
	return nil
}
