package gateway

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/embedfleet/embedfleet/gateway/batch"
	"github.com/embedfleet/embedfleet/search"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/tasks"
)

// A requestError is an error with a status and a code of its own.
type requestError struct {
	status  int
	code    string
	message string
	param   string        // the field that is wrong, if one is
	after   time.Duration // when to try again, 0 if that is of no use
}

func (e *requestError) Error() string { return e.message }

func badRequest(format string, args ...any) error {
	return &requestError{status: http.StatusBadRequest, code: "bad_request", message: fmt.Sprintf(format, args...)}
}

// wrongParam is a bad request that names its field.
func wrongParam(param, code, format string, args ...any) error {
	return &requestError{status: http.StatusBadRequest, code: code, param: param, message: fmt.Sprintf(format, args...)}
}

// soon is when to come back to a fleet that gives no better answer.
const soon = 2 * time.Second

// describe is the table for this gateway, which knows when what stands behind it is away.
func (g *gateway) describe(err error) *requestError {
	e := describe(err)
	if e.status == http.StatusInternalServerError && g.opts.Unavailable != nil && g.opts.Unavailable(err) {
		return &requestError{status: http.StatusServiceUnavailable, code: "unavailable", message: "the queue or the store is away: try again", after: soon}
	}
	return e
}

// describe is the one table from error to status. An error that knows when there will be room says so by
// RetryAfter: that is "too many requests", by the rate at which the lane is drained.
func describe(err error) *requestError {
	var (
		own        *requestError
		tooLarge   *http.MaxBytesError
		full       interface{ RetryAfter() time.Duration }
		invalid    *tasks.InvalidError
		filter     *store.FilterError
		permanent  interface{ Permanent() bool }
		overloaded interface{ Overloaded() bool }
	)
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &tooLarge):
		return &requestError{status: http.StatusRequestEntityTooLarge, code: "too_large", message: fmt.Sprintf("the body is larger than %d bytes", tooLarge.Limit)}
	case errors.As(err, &filter):
		return &requestError{status: http.StatusBadRequest, code: "bad_filter", param: "filter", message: err.Error()}
	case errors.Is(err, store.ErrNotFound), errors.Is(err, batch.ErrNotFound):
		return &requestError{status: http.StatusNotFound, code: "not_found", message: err.Error()}
	case errors.Is(err, search.ErrNoAnswer):
		return &requestError{status: http.StatusServiceUnavailable, code: "no_worker", message: err.Error(), after: soon}
	case errors.As(err, &full):
		return &requestError{status: http.StatusTooManyRequests, code: "no_room", message: err.Error(), after: max(time.Second, full.RetryAfter())}
	case errors.As(err, &overloaded) && overloaded.Overloaded():
		return &requestError{status: http.StatusServiceUnavailable, code: "overloaded", message: err.Error(), after: soon}
	case errors.As(err, &invalid):
		return &requestError{status: http.StatusBadRequest, code: invalid.Code(), param: invalid.Field, message: err.Error()}
	case errors.As(err, &permanent) && permanent.Permanent():
		return &requestError{status: http.StatusUnprocessableEntity, code: "invalid", message: err.Error()}
	case errors.Is(err, context.Canceled):
		return &requestError{status: 499, code: "cancelled", message: "the caller went away"} // nginx's number; nobody reads it
	default:
		return &requestError{status: http.StatusInternalServerError, code: "internal", message: "the request failed; the server's log says why"}
	}
}

// kind is what OpenAI's clients know as the error's type.
func (e *requestError) kind() string {
	switch {
	case e.status == http.StatusTooManyRequests:
		return "rate_limit_error"
	case e.status == http.StatusUnauthorized:
		return "authentication_error"
	case e.status >= http.StatusInternalServerError:
		return "server_error"
	default:
		return "invalid_request_error"
	}
}

// An errorAnswer is the body of an error as OpenAI's interface has it.
type errorAnswer struct {
	Error errorBody `json:"error"`
}

type errorBody struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"` // null if no field is to blame
	Code    string  `json:"code"`
}

func (e *requestError) openAI() any {
	body := errorBody{Message: e.message, Type: e.kind(), Code: e.code}
	if e.param != "" {
		body.Param = &e.param
	}
	return errorAnswer{body}
}

// A teiError is the body of an error as text-embeddings-inference has it.
type teiError struct {
	Error string `json:"error"`
	Type  string `json:"error_type"`
}

func (e *requestError) tei() any {
	kind := "Backend"
	switch {
	case e.status == http.StatusTooManyRequests || e.code == "overloaded":
		kind = "Overloaded"
	case e.status < http.StatusInternalServerError:
		kind = "Validation"
	}
	return teiError{e.message, kind}
}

// headers tells clients when to come back, in whole seconds as HTTP has it.
func (e *requestError) headers(h http.Header) {
	if e.after > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.after.Seconds()))))
	}
}
