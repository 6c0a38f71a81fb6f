package redis

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/vector"
)

const (
	// answerTTL is how long an answer waits to be fetched.
	answerTTL = 60 * time.Second

	// awaitSlice is the longest that one BLPOP blocks, since the driver does not interrupt a command that
	// is under way when its context is cancelled. It must stay below the driver's read timeout (3 s).
	awaitSlice = time.Second
)

// leaveAnswer replaces whatever answer was left before.
//
// KEYS  1 list  ARGV  1 answer  2 milliseconds that it is kept
const leaveAnswer = "redis.call('DEL', KEYS[1]) redis.call('RPUSH', KEYS[1], ARGV[1]) redis.call('PEXPIRE', KEYS[1], ARGV[2])"

// Answer is [Store.AnswerMany] of one: e, or failure if it is not nil.
func (s *Store) Answer(ctx context.Context, id string, e vector.Embedding, failure error) error {
	return s.AnswerMany(ctx, []vector.Answer{{ID: id, Embedding: e, Failure: failure}})[0]
}

// AnswerMany leaves the outcomes of queries under their ids, each for one [Store.Await] within the next minute, in one
// round trip. An answer that was left before is replaced.
func (s *Store) AnswerMany(ctx context.Context, list []vector.Answer) []error {
	errs, cmds := make([]error, len(list)), make([]*goredis.Cmd, len(list))
	pipe := s.client.Pipeline()
	for i, a := range list {
		b, err := encodeAnswer(a.Embedding, a.Failure)
		if err != nil {
			errs[i] = err
			continue
		}
		cmds[i] = pipe.Eval(ctx, leaveAnswer, []string{answerKey(a.ID)}, b, answerTTL.Milliseconds())
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for i, cmd := range cmds {
		if cmd == nil {
			continue
		}
		if err := cmd.Err(); err != nil && !errors.Is(err, goredis.Nil) {
			errs[i] = fmt.Errorf("leaving the answer to query %s: %w", list[i].ID, err)
		}
	}
	return errs
}

// Await waits until the answer to query id is there or ctx ends (after a cancellation up to a second
// longer), and fetches it: a second Await finds nothing. A query that was refused for good is a [*store.RefusedError]. Await holds a connection of the
// pool while it waits.
func (s *Store) Await(ctx context.Context, id string) (vector.Embedding, error) {
	for {
		if err := ctx.Err(); err != nil {
			return vector.Embedding{}, fmt.Errorf("waiting for the answer to query %s: %w", id, err)
		}
		reply, err := s.pop(ctx, answerKey(id))
		switch {
		case errors.Is(err, goredis.Nil): // nothing yet
		case err != nil:
			return vector.Embedding{}, fmt.Errorf("waiting for the answer to query %s: %w", id, err)
		case len(reply) != 2:
			return vector.Embedding{}, fmt.Errorf("answer to query %s: BLPOP returned %d values, want 2", id, len(reply))
		default:
			return decodeAnswer(id, []byte(reply[1]))
		}
	}
}

// An Outcome is the answer to a query, or why there is none: a [*store.RefusedError], or one that can't be read.
type Outcome struct {
	Embedding vector.Embedding
	Err       error
}

// Collect looks for the answers to queries and leaves them where they are, until they expire. What is not there yet is not in
// the map. One round trip.
func (s *Store) Collect(ctx context.Context, ids []string) (map[string]Outcome, error) {
	cmds := make([]*goredis.StringCmd, len(ids))
	_, err := s.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
		for i, id := range ids {
			cmds[i] = p.LIndex(ctx, answerKey(id), 0)
		}
		return nil
	})
	if err != nil && !errors.Is(err, goredis.Nil) {
		return nil, fmt.Errorf("looking for the answers to %d queries: %w", len(ids), err)
	}
	outcomes := make(map[string]Outcome)
	for i, cmd := range cmds {
		b, err := cmd.Bytes()
		if errors.Is(err, goredis.Nil) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("looking for the answer to query %s: %w", ids[i], err)
		}
		var o Outcome
		o.Embedding, o.Err = decodeAnswer(ids[i], b)
		outcomes[ids[i]] = o
	}
	return outcomes, nil
}

// pop waits a moment for an element of a list, and returns the list's key and the element. The driver's own
// BLPop rounds to whole seconds, too coarse for an asker with a deadline; Redis takes fractions since 6.0.
func (s *Store) pop(ctx context.Context, key string) ([]string, error) {
	wait := awaitSlice
	if deadline, ok := ctx.Deadline(); ok {
		wait = max(time.Millisecond, min(wait, time.Until(deadline))) // 0 would mean for ever
	}
	cmd := goredis.NewStringSliceCmd(ctx, "blpop", key, wait.Seconds())
	if err := s.client.Process(ctx, cmd); err != nil {
		return nil, err
	}
	return cmd.Val(), nil
}

// decodeAnswer reads what encodeAnswer writes.
func decodeAnswer(id string, b []byte) (vector.Embedding, error) {
	line, blob, ok := bytes.Cut(b, []byte("\n"))
	if !ok {
		return vector.Embedding{}, fmt.Errorf("answer to query %s has no first line", id)
	}
	var head answerHead
	if err := json.Unmarshal(line, &head); err != nil {
		return vector.Embedding{}, fmt.Errorf("reading the answer to query %s: %w", id, err)
	}
	if head.Error != "" {
		return vector.Embedding{}, &store.RefusedError{Reason: head.Code, Message: head.Error}
	}
	v, err := vector.Parse(blob)
	if err != nil {
		return vector.Embedding{}, fmt.Errorf("reading the answer to query %s: %w", id, err)
	}
	return vector.Embedding{Vector: v, Tokens: head.Tokens, Truncated: head.Truncated, TokensIn: head.TokensIn, Space: head.Space}, nil
}
