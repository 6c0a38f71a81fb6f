package embedder

import (
	"errors"
	"fmt"
	"time"
)

// The errors that callers branch on. ErrEmpty and ErrTooLong are Permanent: the same text fails again
// everywhere. ErrOverloaded is Overloaded: the same text succeeds later, and its caller did nothing wrong.
// ErrClosed is neither: another process can do the work. ErrDeviceMemory is wrapped by the error of a [Model]
// whose device is out of memory; a [Manager] then goes on with the next device, if there is one.
var (
	ErrEmpty        error = &fault{text: "text has nothing a model could read", permanent: true}
	ErrTooLong      error = &fault{text: "text is too long", permanent: true}
	ErrOverloaded   error = &fault{text: "embedder is overloaded", overloaded: true}
	ErrClosed             = errors.New("embedder is closed")
	ErrDeviceMemory       = errors.New("the device is out of memory")
)

// A fault is an error that says what it means for a retry.
type fault struct {
	text       string
	permanent  bool
	overloaded bool
}

func (f *fault) Error() string    { return f.text }
func (f *fault) Permanent() bool  { return f.permanent }
func (f *fault) Overloaded() bool { return f.overloaded }

// An OverloadError is an [ErrOverloaded] with the figures of the moment.
type OverloadError struct {
	What       string        // which bound was met, as "texts waiting"
	Count      int           // how many there were
	Limit      int           // how many there may be
	RetryAfter time.Duration // when there is likely to be room; 0 if unknown
}

func (e *OverloadError) Error() string {
	s := fmt.Sprintf("%v: %d %s, limit %d", ErrOverloaded, e.Count, e.What, e.Limit)
	if e.RetryAfter > 0 {
		s += fmt.Sprintf(", try again in %v", e.RetryAfter)
	}
	return s
}

// Unwrap makes errors.Is(err, ErrOverloaded) hold and carries its behaviour.
func (e *OverloadError) Unwrap() error { return ErrOverloaded }

// A badVectorError says that the model answered a text with something that is no vector. Running the same
// text again gives the same, so it is Permanent.
type badVectorError struct{ err error }

func (e *badVectorError) Error() string   { return "model gave an unusable vector: " + e.err.Error() }
func (e *badVectorError) Unwrap() error   { return e.err }
func (e *badVectorError) Permanent() bool { return true }
func (e *badVectorError) Code() string    { return "bad_vector" }

// A textError says that the model failed for a text alone while it worked for others: the text is to blame,
// and another run would fail as well, so it is Permanent.
type textError struct{ err error }

func (e *textError) Error() string   { return "the model fails for this text alone: " + e.err.Error() }
func (e *textError) Unwrap() error   { return e.err }
func (e *textError) Permanent() bool { return true }
func (e *textError) Code() string    { return "model_fails" }
