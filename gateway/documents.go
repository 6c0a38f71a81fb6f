package gateway

import (
	"net/http"

	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// A documentsRequest is the body of POST /v1/documents.
type documentsRequest struct {
	Documents []vector.Document `json:"documents"`
	Lane      tasks.Lane        `json:"lane"` // live by default, or backfill
}

// A documentsAnswer says of each document what became of it, in their order.
type documentsAnswer struct {
	Accepted int               `json:"accepted"`
	Refused  int               `json:"refused"`
	Receipts []documentReceipt `json:"receipts"`
}

type documentReceipt struct {
	ID    string `json:"id"`              // the document's
	Task  string `json:"task,omitempty"`  // the task's
	State string `json:"state"`           // enqueued, pending, … or refused, full
	Error string `json:"error,omitempty"` // of refused and full
}

// handIn enqueues documents. One that is refused stops nobody else; if none is accepted the request fails with the
// first reason. Handing a document in again is harmless.
func (g *gateway) handIn(r *http.Request) (any, error) {
	var q documentsRequest
	if err := decodeStrictly(r, &q); err != nil {
		return nil, err
	}
	if q.Lane == "" {
		q.Lane = tasks.Live
	}
	if q.Lane != tasks.Live && q.Lane != tasks.Backfill {
		return nil, wrongParam("lane", "bad_request", "lane is %q, want %s or %s", q.Lane, tasks.Live, tasks.Backfill)
	}
	if len(q.Documents) == 0 || len(q.Documents) > maxInputs {
		return nil, wrongParam("documents", "bad_request", "there are %d documents, want 1 to %d", len(q.Documents), maxInputs)
	}
	return g.enqueue(r, q)
}

func (g *gateway) enqueue(r *http.Request, q documentsRequest) (any, error) {
	a := documentsAnswer{Receipts: make([]documentReceipt, len(q.Documents))}
	var list []tasks.Task
	var places []int // of the tasks, among the documents
	var first error
	refuse := func(i int, state string, err error) {
		a.Receipts[i].State, a.Receipts[i].Error = state, err.Error()
		a.Refused++
		if first == nil {
			first = err
		}
	}
	for i, doc := range q.Documents {
		a.Receipts[i].ID = doc.ID
		t, err := tasks.New(g.Model, q.Lane, doc, nil)
		if err != nil {
			refuse(i, "refused", err)
			continue
		}
		list, places = append(list, t), append(places, i)
	}
	receipts, err := g.Queue.Enqueue(r.Context(), list)
	if err != nil {
		return nil, err
	}
	for n, receipt := range receipts {
		i := places[n]
		a.Receipts[i].Task, a.Receipts[i].State = list[n].ID, receipt.State
		if receipt.Err != nil {
			refuse(i, receipt.State, receipt.Err)
			continue
		}
		a.Accepted++
	}
	if a.Accepted == 0 {
		return nil, first
	}
	return a, nil
}

// document answers what the store holds of one.
func (g *gateway) document(r *http.Request) (any, error) {
	rec, err := g.Documents.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	answer := NewDocumentAnswer(rec)
	if r.URL.Query().Get("vectors") != "true" {
		answer = answer.WithoutVectors()
	}
	return answer, nil
}
