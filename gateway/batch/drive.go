package batch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// maxFaults is how many faults of an input are told.
const maxFaults = 100

// A request is one line of an input.
type request struct {
	CustomID string         `json:"custom_id"`
	Method   string         `json:"method"`
	URL      string         `json:"url"`
	Body     jsontext.Value `json:"body"`
}

// drive takes a batch from whatever status it is in to the end.
func (r *Runner) drive(ctx context.Context, id string) error {
	for ctx.Err() == nil {
		b, err := r.Ledger.Batch(ctx, id)
		if err != nil {
			return err
		}
		switch b.Status {
		case Validating:
			err = r.validate(ctx, b)
		case InProgress:
			err = r.work(ctx, b)
		case Cancelling, Finalizing:
			return r.finish(ctx, b)
		default:
			return nil
		}
		if err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// validate reads the input once: as a whole it is a batch, or it is none.
func (r *Runner) validate(ctx context.Context, b Batch) error {
	file, err := r.Ledger.File(ctx, b.Input)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	var faults []Fault
	total := 0
	ids := map[string]int{}
	if err == nil {
		err = eachRequest(ctx, r.Ledger, file, func(n int, line []byte) error {
			total = n + 1
			if total > MaxLines {
				return &faultError{Fault{"too_many_lines", fmt.Sprintf("there are more than %d lines", MaxLines), total}}
			}
			if f, ok := check(b, line, ids, total); !ok && len(faults) < maxFaults {
				faults = append(faults, f)
			}
			return nil
		})
	}
	var fault *faultError
	switch {
	case errors.As(err, &fault):
		faults = append(faults, fault.fault)
	case errors.Is(err, ErrNotFound):
		faults = append(faults, Fault{Code: "missing_file", Message: "the input file was deleted"})
	case err != nil:
		return err
	case total == 0:
		faults = append(faults, Fault{Code: "empty_file", Message: "the input file has no line"})
	}
	if len(faults) > 0 {
		_, err := r.Ledger.Move(ctx, b.ID, Failed, State{Faults: faults}, Validating)
		return err
	}
	_, err = r.Ledger.Move(ctx, b.ID, InProgress, State{Total: total}, Validating)
	return err
}

// check reports what is wrong with the frame of a line; what is wrong with its body, the line's own answer says.
func check(b Batch, line []byte, ids map[string]int, n int) (Fault, bool) {
	q, err := parse(line)
	if err != nil {
		return Fault{"invalid_json_line", err.Error(), n}, false
	}
	switch first := ids[q.CustomID]; {
	case q.CustomID == "":
		return Fault{"missing_required_parameter", "custom_id is missing", n}, false
	case first > 0:
		return Fault{"duplicate_custom_id", fmt.Sprintf("custom_id %q is that of line %d too", q.CustomID, first), n}, false
	case q.Method != http.MethodPost:
		return Fault{"invalid_method", fmt.Sprintf("method is %q, want POST", q.Method), n}, false
	case q.URL != b.Endpoint:
		return Fault{"invalid_url", fmt.Sprintf("url is %q, want the batch's endpoint %s", q.URL, b.Endpoint), n}, false
	case len(q.Body) == 0 || q.Body.Kind() != '{':
		return Fault{"missing_required_parameter", "body is no object", n}, false
	}
	ids[q.CustomID] = n
	return Fault{}, true
}

// parse reads a line strictly, but for its body.
func parse(line []byte) (request, error) {
	var q request
	err := jsonv2.Unmarshal(line, &q, jsonv2.RejectUnknownMembers(true))
	return q, err
}

// finish makes files of the answers and ends the batch.
func (r *Runner) finish(ctx context.Context, b Batch) error {
	to := Completed
	switch {
	case b.Status == Cancelling:
		to = Cancelled
	case b.Times[Expired] != (time.Time{}) || b.Done+b.Failed < b.Total:
		to = Expired
	}
	sizes := map[string]int64{}
	err := eachLine(ctx, r.Ledger, b, func(l Line) error {
		sizes[l.Kind] += int64(len(l.JSON)) + 1
		return nil
	})
	if err != nil {
		return err
	}
	var change State
	for kind, size := range sizes {
		// The id is the batch's, so that who takes over does not make another file.
		f := File{
			ID: "file-" + kind + "-" + b.ID[len("batch_"):], Owner: b.Owner, Name: b.ID + "_" + kind + ".jsonl", Purpose: PurposeOutput,
			Bytes: size, Batch: b.ID, Kind: kind, Created: time.Now().UTC(),
		}
		if err := r.Ledger.PutFile(ctx, f); err != nil {
			return err
		}
		if kind == Answers {
			change.Output = f.ID
		} else {
			change.Errors = f.ID
		}
	}
	_, err = r.Ledger.Move(ctx, b.ID, to, change, b.Status)
	return err
}

// taskID is the id of the text at a place of a line.
func taskID(batch string, line, place int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "embedfleet/batch/v1 %s %d %d", batch, line, place))
	return hex.EncodeToString(sum[:16])
}

// A lineAnswer is a line of the answer file, as OpenAI's.
type lineAnswer struct {
	ID       string        `json:"id"`
	CustomID string        `json:"custom_id"`
	Response *lineResponse `json:"response"`
	Error    *Fault        `json:"error"`
}

type lineResponse struct {
	Status    int             `json:"status_code"`
	RequestID string          `json:"request_id"`
	Body      json.RawMessage `json:"body"`
}

// answered is the answer to a line that was asked for.
func answered(b Batch, n int, customID string, reply Reply) (Line, error) {
	id := fmt.Sprintf("batch_req_%s_%d", b.ID[len("batch_"):], n)
	text, err := json.Marshal(lineAnswer{id, customID, &lineResponse{reply.Status, id, reply.Body}, nil})
	l := Line{Number: n, Kind: Answers, JSON: text}
	if reply.Status >= 300 {
		l.Kind = Errors
	}
	return l, err
}

// unanswered is the answer to a line that was not asked for in time.
func unanswered(b Batch, n int, customID string) (Line, error) {
	id := fmt.Sprintf("batch_req_%s_%d", b.ID[len("batch_"):], n)
	text, err := json.Marshal(lineAnswer{id, customID, nil, &Fault{Code: "batch_expired", Message: "this request was not done before the batch expired"}})
	return Line{Number: n, Kind: Errors, JSON: text}, err
}
