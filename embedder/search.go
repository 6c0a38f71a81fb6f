package embedder

import (
	"context"
	"errors"
	"math/bits"
)

// A search looks for the texts that make a batch fail. It halves what has failed, level by level, and
// answers every part that works at once, so that a bad text costs its neighbours some calls and nothing
// else.
//
// Two bounds keep it from making a bad thing worse. If both halves fail, a row that can't be at fault is
// run: if that fails too, the engine is, and the search ends after three calls. And the calls are counted:
// enough for two bad texts wherever they are, 4 log2 n and one. What is still unclear then fails with the
// batch's own error, which is worth a retry, in other company.
type search struct {
	e      *Engine
	ctx    context.Context //nolint:containedctx // a search is within one call
	batch  *batch
	cause  error // of the batch
	calls  int   // that may still be made
	works  bool  // the engine has answered something since the batch failed
	failed []suspect
}

// A suspect is rows that failed together.
type suspect struct {
	rows []*entry
	err  error
}

// search answers the rows of a batch that failed with cause.
func (e *Engine) search(ctx context.Context, b *batch, cause error) {
	n := len(b.entries)
	s := &search{e: e, ctx: ctx, batch: b, cause: cause, calls: 4*bits.Len(uint(n-1)) + 1}
	if n == 1 || !s.goesOn(cause) {
		e.reject(b, b.entries, cause)
		return
	}
	e.mu.Lock()
	e.divided++
	e.mu.Unlock()
	e.opts.Logger.Warn("searching the failed batch for the text that makes it fail", "texts", n, "err", cause)
	s.failed = []suspect{{b.entries, cause}}
	for len(s.failed) > 0 {
		next := s.failed[0]
		s.failed = s.failed[1:]
		s.examine(next)
	}
}

// goesOn reports whether an error may be due to a text: not if nobody waits any more, the engine closes, or
// memory is short, which is nobody's fault though long texts meet it first.
func (s *search) goesOn(err error) bool {
	return s.ctx.Err() == nil && !errors.Is(err, ErrDeviceMemory)
}

// examine gives a verdict on a suspect, or divides it.
func (s *search) examine(x suspect) {
	switch {
	case s.ctx.Err() != nil:
		s.e.reject(s.batch, x.rows, context.Cause(s.ctx))
	case !s.goesOn(x.err):
		s.e.reject(s.batch, x.rows, x.err)
	case len(x.rows) == 1 && s.works:
		s.e.reject(s.batch, x.rows, &textError{x.err})
	case len(x.rows) == 1 || s.calls < 2:
		s.e.reject(s.batch, x.rows, s.cause)
	default:
		half := (len(x.rows) + 1) / 2
		s.try(x.rows[:half])
		s.try(x.rows[half:])
		if !s.works && s.goesOn(s.cause) {
			s.probe()
		}
	}
}

// try runs a part; what fails is a suspect of its own.
func (s *search) try(rows []*entry) {
	if rows = s.e.waiting(rows); len(rows) == 0 {
		return
	}
	s.calls--
	if err := s.e.try(s.ctx, s.batch, rows); err != nil {
		s.failed = append(s.failed, suspect{rows, err})
		return
	}
	s.works = true
}

// probe finds out whether the engine works at all; if not, no text is to blame and the search is over.
func (s *search) probe() {
	if s.e.probe != nil {
		s.calls--
		info := RunInfo{Texts: 1, Tokens: len(s.e.probe), Padded: len(s.e.probe)}
		_, err := s.e.call(s.ctx, Batch{Rows: [][]int32{s.e.probe}}, nil, &info)
		s.e.opts.Observer.Ran(info)
		s.works = err == nil
	}
	if !s.works {
		s.calls = 0
	}
}

// waiting returns the rows whose callers still wait for them.
func (e *Engine) waiting(rows []*entry) []*entry {
	e.mu.Lock()
	defer e.mu.Unlock()
	var still []*entry
	for _, en := range rows {
		if !en.call.over {
			still = append(still, en)
		}
	}
	return still
}
