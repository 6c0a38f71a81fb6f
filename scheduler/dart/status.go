package dart

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/scheduler"
)

// A Status is the service's own, in the body of an answer that HTTP calls 200. Messages differ between
// servers and years and are never looked at.
type Status string

// The statuses of the guide.
const (
	OK          Status = "000"
	UnknownKey  Status = "010"
	Suspended   Status = "011"
	BadAddress  Status = "012"
	NoData      Status = "013"
	NoFile      Status = "014"
	OverQuota   Status = "020"
	TooMany     Status = "021" // companies in one call
	BadField    Status = "100"
	BadAccess   Status = "101"
	Maintenance Status = "800"
	Undefined   Status = "900"
	ExpiredKey  Status = "901"
)

// An Action is what a crawler does about a status.
type Action string

// The actions.
const (
	GoOn       Action = "go on"
	Empty      Action = "empty"           // a normal answer: nothing in this window
	Missing    Action = "missing"         // there is no such file and never will be
	StopKey    Action = "stop the key"    // no call with this key until the next Korean day
	StopSource Action = "stop the source" // until a person has looked
	BadRequest Action = "bad request"     // this call will never work
	NextTick   Action = "next tick"       // the service is closed; ask again later
	TryAgain   Action = "try again"       // soon, and not often
)

// Action returns what to do. A status that is not in the guide is treated as undefined errors are.
func (s Status) Action() Action {
	switch s {
	case OK:
		return GoOn
	case NoData:
		return Empty
	case NoFile:
		return Missing
	case OverQuota:
		return StopKey
	case UnknownKey, Suspended, BadAddress, ExpiredKey:
		return StopSource
	case TooMany, BadField, BadAccess:
		return BadRequest
	case Maintenance:
		return NextTick
	default:
		return TryAgain
	}
}

// valid reports whether s has the form of a status: whatever else stands there is not to be repeated.
func (s Status) valid() bool {
	return len(s) == 3 && strings.Trim(string(s), "0123456789") == ""
}

// meaning says it for people.
func (s Status) meaning() string {
	switch s {
	case UnknownKey:
		return "the key is not registered"
	case Suspended:
		return "the key is suspended"
	case BadAddress:
		return "this host's address is not allowed for the key"
	case NoData:
		return "no data"
	case NoFile:
		return "no such file"
	case OverQuota:
		return "the key's quota is used up"
	case TooMany:
		return "more than 100 companies in one call"
	case BadField:
		return "a parameter is wrong, or the range is longer than three months"
	case BadAccess:
		return "improper access"
	case Maintenance:
		return "the service is closed for maintenance"
	case ExpiredKey:
		return "the key has expired"
	default:
		return "undefined error"
	}
}

// A StatusError is an answer other than 000.
type StatusError struct {
	Endpoint string
	Status   Status
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s answers status %s: %s", e.Endpoint, e.Status, e.Status.meaning())
}

// An AnswerError is an answer that is none of the service's forms: a page of a firewall or of maintenance,
// half a body, HTTP 5xx. It is worth another try.
type AnswerError struct {
	Endpoint string
	Code     int   // HTTP's
	Bytes    int   // of the body, which is not repeated: it may be anybody's
	Err      error // why it could not be read, or nil
}

func (e *AnswerError) Error() string {
	text := fmt.Sprintf("%s answers HTTP %d with %d bytes that are no data of the service", e.Endpoint, e.Code, e.Bytes)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *AnswerError) Unwrap() error { return e.Err }

// A QuotaError says that no call was made because the key has none left on this day.
type QuotaError struct {
	Made, Limit int // Made is 0 if the service itself said so
	Until       time.Time
}

func (e *QuotaError) Error() string {
	if e.Made == 0 {
		return "OpenDART's quota is used up until " + e.Until.Format(time.RFC3339)
	}
	return fmt.Sprintf("%d calls were made today, %d are allowed until %s", e.Made, e.Limit, e.Until.Format(time.RFC3339))
}

// Pausing turns an error that concerns every call with the key into one that pauses the source.
func Pausing(err error) error {
	var (
		quota  *QuotaError
		status *StatusError
	)
	switch {
	case errors.As(err, &quota):
		return fmt.Errorf("%w: %w", &scheduler.PauseError{Until: quota.Until, Reason: quota.Error()}, err)
	case errors.As(err, &status) && status.Status.Action() == StopSource:
		return fmt.Errorf("%w: %w", &scheduler.PauseError{Reason: status.Error()}, err)
	default:
		return err
	}
}

// day returns the Korean day of t, by which quotas are counted, and the moment the next one begins.
func day(t time.Time) (name string, next time.Time) {
	t = t.In(scheduler.KST)
	y, m, d := t.Date()
	return t.Format("20060102"), time.Date(y, m, d+1, 0, 0, 0, 0, scheduler.KST)
}
