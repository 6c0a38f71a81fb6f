package scheduler

import (
	"context"
	"errors"
	"time"
)

// A Board is where replicas agree who runs a slot. Each call is one step, all of it or nothing.
//
// The board's clock is the only one that counts: every answer carries its time, and replicas follow it. A
// replica whose own clock is wrong or jumps thus changes nothing. If the board's clock itself goes back by
// more than a minute, slots come by a second time under their old names and are new ones to the board, so
// that crawling goes on instead of standing still until the clock has caught up.
type Board interface {
	// Claim asks for a slot. A granted slot is leased for [LeaseTime].
	Claim(ctx context.Context, c Claim) (Grant, error)
	// Renew makes the lease of a granted slot last [LeaseTime] from now, or wraps [ErrLost].
	Renew(ctx context.Context, g Grant) error
	// Finish ends a granted slot as r says, and the lease. It wraps [ErrLost] if the slot is another's
	// by now; nothing is written then.
	Finish(ctx context.Context, g Grant, r Result) error
}

const (
	// LeaseTime is how long a run is believed to live after it last said so.
	LeaseTime = 30 * time.Second
	renewTime = LeaseTime / 3
	// MaxAttempts bounds the runs of one slot that fail.
	MaxAttempts = 5
)

// ErrLost says that a slot has gone to another replica.
var ErrLost = errors.New("the slot's lease is another's")

// A Claim names a slot and who wants it.
type Claim struct {
	Job, Source string
	Begin, End  time.Time
	Token       string // unique per claim
	// ByHand runs a slot whatever the time, also one that was done and of a paused source, but never beside
	// another run of the job.
	ByHand bool
}

// An Answer is what a board says to a claim.
type Answer string

// The answers.
const (
	Granted   Answer = "granted"   // run it
	Done      Answer = "done"      // somebody did
	Busy      Answer = "busy"      // a run of the job is under way; see Grant.Left and Running
	Paused    Answer = "paused"    // the source is, see Grant.Why
	Exhausted Answer = "exhausted" // it failed too often
	Elsewhen  Answer = "elsewhen"  // by the board's clock the slot is not the current one
)

// A Grant is the answer to a claim. All fields but Answer and Now are of some answers only.
type Grant struct {
	Claim
	Answer  Answer
	Now     time.Time     // the board's
	Attempt int           // from 1
	Since   time.Time     // the beginning of the last slot that succeeded, zero if none did
	Left    time.Duration // of the lease that is in the way
	Same    bool          // the run in the way is of this very slot
	Why     string        // the source is paused
	Place   string        // the board's own name of the slot
}

// A Result says how a run ended. One that only has Released set was given up unharmed, because the process
// stops; another replica may begin at once.
type Result struct {
	Released bool
	Err      error
	Report   Report
	Pause    *PauseError // from Err: the source is not to be asked again for now
}

// A Report counts what a run did, for people.
type Report struct {
	Requests int `json:"requests"`           // made to the source
	Bytes    int `json:"bytes"`              // received
	Items    int `json:"items"`              // seen there
	New      int `json:"new"`                // enqueued
	Updated  int `json:"updated,omitempty"`  // enqueued, a newer text of a document that was enqueued before
	Stored   int `json:"stored,omitempty"`   // unknown here but stored already, so only marked
	Repeated int `json:"repeated,omitempty"` // folded: the same story under another name
	Dropped  int `json:"dropped,omitempty"`  // unusable at the source
	Refused  int `json:"refused,omitempty"`  // by the fleet, for good
	Failed   int `json:"failed,omitempty"`   // parts of the source that did not answer

	// Reasons counts why items were repeated or dropped and parts failed, by "repeated/same_title" and the like.
	Reasons map[string]int `json:"reasons,omitempty"`
	// Brought are the ids of the first new and updated documents, at most [MaxBrought].
	Brought []string `json:"brought,omitempty"`
}

const (
	// MaxBrought bounds the ids in a report.
	MaxBrought = 20
	// maxReasons bounds the reasons in one; what is beyond is counted as "other".
	maxReasons = 40
)

// Add sums up.
func (r *Report) Add(o Report) {
	r.Requests += o.Requests
	r.Bytes += o.Bytes
	r.Items += o.Items
	r.New += o.New
	r.Updated += o.Updated
	r.Stored += o.Stored
	r.Repeated += o.Repeated
	r.Dropped += o.Dropped
	r.Refused += o.Refused
	r.Failed += o.Failed
	for reason, n := range o.Reasons {
		r.because(reason, n)
	}
	r.Brought = append(r.Brought, o.Brought[:min(len(o.Brought), MaxBrought-len(r.Brought))]...)
}

// Repeat counts an item as a repetition.
func (r *Report) Repeat(reason string) {
	r.Repeated++
	r.because("repeated/"+reason, 1)
}

// Drop counts n items as unusable.
func (r *Report) Drop(reason string, n int) {
	if n > 0 {
		r.Dropped += n
		r.because("dropped/"+reason, n)
	}
}

// Fail counts a part of the source that did not answer.
func (r *Report) Fail(reason string) {
	r.Failed++
	r.because("failed/"+reason, 1)
}

// refuse counts an item that the fleet refuses.
func (r *Report) refuse(reason string) {
	r.Refused++
	r.because("refused/"+reason, 1)
}

func (r *Report) because(reason string, n int) {
	if r.Reasons == nil {
		r.Reasons = map[string]int{}
	}
	if _, known := r.Reasons[reason]; !known && len(r.Reasons) >= maxReasons {
		reason = "other"
	}
	r.Reasons[reason] += n
}

func (r *Report) bring(id string) {
	if len(r.Brought) < MaxBrought {
		r.Brought = append(r.Brought, id)
	}
}

// A Progress says how far work on the past came that is done a day at a time.
type Progress struct {
	Next      time.Time // the day to do next
	Documents int       // handed in
	Requests  int
}

// A PauseError ends a run and keeps the source from being asked again: its quota is used up, or its key is
// refused.
type PauseError struct {
	Until  time.Time // zero: until somebody resumes it
	Reason string    // for people, without secrets
}

func (e *PauseError) Error() string {
	if e.Until.IsZero() {
		return "pausing the source until somebody resumes it: " + e.Reason
	}
	return "pausing the source until " + e.Until.Format(time.RFC3339) + ": " + e.Reason
}
