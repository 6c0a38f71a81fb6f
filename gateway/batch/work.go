package batch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

const (
	// windowTexts is how many texts of a batch wait in the lane at a time: enough to be batched, and few enough that one who
	// takes over has little to do twice.
	windowTexts = 512

	pollEvery    = 100 * time.Millisecond
	lookAgain    = time.Second      // at the batch: is it to be cancelled, has it expired
	enqueueAgain = 20 * time.Second // what has no answer by then, lest a lost task holds the batch up
	roomAgain    = 2 * time.Second  // where the lane has no room
)

// errOver ends the work on a batch that is to be ended.
var errOver = errors.New("the batch is over")

// A shift is the work on one batch by one runner.
type shift struct {
	*Runner
	batch Batch

	open    []*openLine // under way, in the order of their lines
	texts   int         // of these, without an answer
	unsent  []tasks.Task
	again   time.Time // when all that is open is enqueued again
	looked  time.Time // at the batch
	resting time.Time // until when nothing is enqueued
	ready   []Line    // to be recorded
}

// An openLine is a line under way.
type openLine struct {
	n        int
	customID string
	work     *Work
	got      []vector.Embedding
	missing  map[string]int // task id -> its place in the line
	refused  error          // of one of its texts, which is the line's
}

// work answers all lines that have no answer, then moves the batch on.
func (r *Runner) work(ctx context.Context, b Batch) error {
	file, err := r.Ledger.File(ctx, b.Input)
	s := &shift{Runner: r, batch: b, again: time.Now().Add(enqueueAgain)}
	if err == nil {
		err = s.lines(ctx, file)
	}
	switch {
	case errors.Is(err, errOver):
		if cancelErr := s.cancel(ctx); cancelErr != nil {
			return cancelErr
		}
		if time.Now().After(b.Expires) {
			return s.expire(ctx, file)
		}
		return nil // drive sees what it is to be
	case errors.Is(err, ErrNotFound):
		_, err := r.Ledger.Move(ctx, b.ID, Failed, State{Faults: []Fault{{Code: "missing_file", Message: "the input file was deleted"}}}, InProgress)
		return err
	case err != nil:
		return err
	}
	_, err = r.Ledger.Move(ctx, b.ID, Finalizing, State{}, InProgress)
	return err
}

// lines takes up line by line and waits while the window is full.
func (s *shift) lines(ctx context.Context, file File) error {
	err := s.without(ctx, file, func(n int, line []byte) error {
		if err := s.begin(n, line); err != nil {
			return err
		}
		for s.texts >= windowTexts || len(s.ready) >= linesAtOnce {
			if err := s.step(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	for err == nil && (len(s.open) > 0 || len(s.ready) > 0) {
		err = s.step(ctx)
	}
	return err
}

// without calls f with the lines that have no answer yet.
func (s *shift) without(ctx context.Context, file File, f func(n int, line []byte) error) error {
	var have []bool
	first := 0
	return eachRequest(ctx, s.Ledger, file, func(n int, line []byte) error {
		if n >= first+len(have) {
			var err error
			first = n
			if have, err = s.Ledger.Have(ctx, s.batch.ID, first, 4*linesAtOnce); err != nil {
				return err
			}
		}
		if have[n-first] {
			return nil
		}
		return f(n, line)
	})
}

// begin takes up a line: its tasks are to be sent, or it has its answer at once.
func (s *shift) begin(n int, line []byte) error {
	q, err := parse(line)
	if err != nil {
		return err // it was none when the batch was validated
	}
	work, reply := s.Interpreter.Interpret(s.batch.Endpoint, q.Body)
	if reply != nil {
		return s.done(n, q.CustomID, *reply)
	}
	o := &openLine{n: n, customID: q.CustomID, work: work, got: make([]vector.Embedding, len(work.Tasks)), missing: make(map[string]int, len(work.Tasks))}
	for i := range work.Tasks {
		work.Tasks[i].ID = taskID(s.batch.ID, n, i)
		o.missing[work.Tasks[i].ID] = i
	}
	s.open = append(s.open, o)
	s.texts += len(work.Tasks)
	s.unsent = append(s.unsent, work.Tasks...)
	return nil
}

func (s *shift) done(n int, customID string, reply Reply) error {
	l, err := answered(s.batch, n, customID, reply)
	if err != nil {
		return fmt.Errorf("writing the answer to line %d: %w", n+1, err)
	}
	s.ready = append(s.ready, l)
	return nil
}

// step sends what is to be sent, collects what is answered, and records what is done. It takes a moment if nothing
// came.
func (s *shift) step(ctx context.Context) error {
	if err := s.look(ctx); err != nil {
		return err
	}
	if err := s.send(ctx); err != nil {
		return err
	}
	came, err := s.collect(ctx)
	if err != nil {
		return err
	}
	if len(s.ready) > 0 {
		if err := s.Ledger.Record(ctx, s.batch.ID, s.ready); err != nil {
			return err
		}
		s.ready, came = nil, true
	}
	if came {
		return nil
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(pollEvery):
		return nil
	}
}

// look asks now and then whether the batch is to go on.
func (s *shift) look(ctx context.Context) error {
	if time.Since(s.looked) < lookAgain {
		return nil
	}
	s.looked = time.Now()
	b, err := s.Ledger.Batch(ctx, s.batch.ID)
	if err != nil {
		return err
	}
	if b.Status != InProgress || time.Now().After(b.Expires) {
		return errOver
	}
	return nil
}

// send enqueues what was not sent, and all that is open now and then.
func (s *shift) send(ctx context.Context) error {
	now := time.Now()
	repeated := now.After(s.again)
	if repeated {
		s.again = now.Add(enqueueAgain)
		s.unsent = s.openTasks()
	}
	if len(s.unsent) == 0 || now.Before(s.resting) {
		return nil
	}
	receipts, err := s.Queue.Enqueue(ctx, s.unsent)
	if err != nil {
		return err
	}
	var rest []tasks.Task
	for i, receipt := range receipts {
		switch {
		case receipt.Full:
			rest = append(rest, s.unsent[i])
		case receipt.Err != nil:
			s.settle(s.unsent[i].ID, Outcome{Err: receipt.Err})
		}
	}
	if s.unsent = rest; len(rest) > 0 {
		s.resting = now.Add(roomAgain)
	}
	return nil
}

// openTasks are the tasks of which there is no answer.
func (s *shift) openTasks() (list []tasks.Task) {
	for _, o := range s.open {
		for _, t := range o.work.Tasks {
			if _, ok := o.missing[t.ID]; ok {
				list = append(list, t)
			}
		}
	}
	return list
}

// collect fetches answers, and answers the lines that have all of theirs. It reports whether any came.
func (s *shift) collect(ctx context.Context) (bool, error) {
	open := s.openTasks()
	for list := range slices.Chunk(open, windowTexts) {
		ids := make([]string, len(list))
		for i, t := range list {
			ids[i] = t.ID
		}
		outcomes, err := s.Answers.Collect(ctx, ids)
		if err != nil {
			return false, err
		}
		for id, outcome := range outcomes {
			s.settle(id, outcome)
		}
	}
	var err error
	before := len(s.open)
	s.open = slices.DeleteFunc(s.open, func(o *openLine) bool {
		if err != nil || len(o.missing) > 0 {
			return false
		}
		if o.refused != nil {
			err = s.done(o.n, o.customID, s.Interpreter.Refuse(o.refused))
		} else {
			err = s.done(o.n, o.customID, o.work.Answer(o.got))
		}
		return true
	})
	return len(s.open) < before, err
}

// settle gives an outcome to its line. The first refusal of a text is the line's, whose other texts nobody waits for then.
func (s *shift) settle(id string, outcome Outcome) {
	for _, o := range s.open {
		place, ok := o.missing[id]
		if !ok {
			continue
		}
		if outcome.Err != nil {
			o.refused = outcome.Err
			s.texts -= len(o.missing)
			clear(o.missing)
			return
		}
		o.got[place] = outcome.Embedding
		delete(o.missing, id)
		s.texts--
		return
	}
}

// cancel ends the tasks that are under way.
func (s *shift) cancel(ctx context.Context) error {
	if open := s.openTasks(); len(open) > 0 {
		return s.Queue.Cancel(ctx, open)
	}
	return nil
}

// expire writes an error for each line that was not done in time.
func (s *shift) expire(ctx context.Context, file File) error {
	var lines []Line
	record := func() error {
		defer func() { lines = nil }()
		return s.Ledger.Record(ctx, s.batch.ID, lines)
	}
	err := s.without(ctx, file, func(n int, line []byte) error {
		q, err := parse(line)
		if err != nil {
			return err
		}
		l, err := unanswered(s.batch, n, q.CustomID)
		if err != nil {
			return err
		}
		if lines = append(lines, l); len(lines) == linesAtOnce {
			return record()
		}
		return nil
	})
	if err == nil && len(lines) > 0 {
		err = record()
	}
	if err != nil {
		return err
	}
	_, err = s.Ledger.Move(ctx, s.batch.ID, Finalizing, State{Times: map[string]time.Time{Expired: time.Now()}}, InProgress)
	return err
}
