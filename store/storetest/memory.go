package storetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/vector"
)

// ErrInjected is what a write fails with that was told to.
var ErrInjected = errors.New("injected fault")

// A Fault is a way for a write to fail.
type Fault string

// The two faults. A caller cannot tell them apart, so it must do right by both.
const (
	NotPersisted Fault = "failed and not persisted"
	Persisted    Fault = "failed but persisted"
)

// A Memory is a store in memory, for tests. It is safe for concurrent use. Its answers never expire.
type Memory struct {
	mu      sync.Mutex
	fault   Fault // of the next write, "" for none
	aliases map[string]*alias
	answers map[string]chan answer // of one place each
}

// An alias is what is stored under one.
type alias struct {
	space   vector.Space
	seq     int64
	docs    map[string]vector.Record
	changed map[string]int64 // document id -> number of its last change
	gone    map[string]int64 // document id -> version up to which it was deleted
	stats   map[vector.Space]store.Stats
}

type answer struct {
	embedding vector.Embedding
	failure   error
}

var _ Store = (*Memory)(nil)

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{aliases: make(map[string]*alias), answers: make(map[string]chan answer)}
}

// FailNext makes the next write fail with [ErrInjected], in the way of f.
func (m *Memory) FailNext(f Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = f
}

// write runs f, which is all of a write, or what a fault leaves of it.
func (m *Memory) write(ctx context.Context, f func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	fault := m.fault
	m.fault = ""
	switch fault {
	case NotPersisted:
		return ErrInjected
	case Persisted:
		return errors.Join(ErrInjected, f())
	default:
		return f()
	}
}

// aliasLocked returns what is stored under name.
func (m *Memory) aliasLocked(name string) *alias {
	a := m.aliases[name]
	if a == nil {
		a = &alias{
			docs:    make(map[string]vector.Record),
			changed: make(map[string]int64),
			gone:    make(map[string]int64),
			stats:   make(map[vector.Space]store.Stats),
		}
		m.aliases[name] = a
	}
	return a
}

// Put is the method of Store.
func (m *Memory) Put(ctx context.Context, rec vector.Record) (stored bool, err error) {
	stores, errs := m.PutMany(ctx, []vector.Record{rec})
	return stores[0], errs[0]
}

// PutMany is the method of Store.
func (m *Memory) PutMany(ctx context.Context, recs []vector.Record) (stored []bool, errs []error) {
	stored, errs = make([]bool, len(recs)), make([]error, len(recs))
	err := m.write(ctx, func() error {
		for i, rec := range recs {
			stored[i], errs[i] = m.putLocked(rec)
		}
		return nil
	})
	for i := range recs {
		if errs[i] = errors.Join(errs[i], err); errs[i] != nil {
			stored[i] = false
		}
	}
	return stored, errs
}

func (m *Memory) putLocked(rec vector.Record) (stored bool, err error) {
	if len(rec.Chunks) == 0 {
		return false, fmt.Errorf("document %q has no vectors", rec.Document.ID)
	}
	a := m.aliasLocked(rec.Model)
	if err := a.refuse(rec); err != nil {
		return false, err
	}
	if old, ok := a.docs[rec.Document.ID]; ok && !replaces(rec, old) {
		return false, nil
	}
	if rec.Version <= a.gone[rec.Document.ID] {
		return false, nil
	}
	delete(a.gone, rec.Document.ID)
	a.space = rec.Space
	a.set(rec)
	return true, nil
}

// replaces reports whether rec is to take the place of old.
func replaces(rec, old vector.Record) bool {
	if rec.Version != old.Version {
		return rec.Version > old.Version
	}
	return rec.Space != old.Space || rec.TextHash > old.TextHash
}

// Refresh is the method of Store.
func (m *Memory) Refresh(ctx context.Context, rec vector.Record) (current bool, err error) {
	err = m.write(ctx, func() error {
		current, err = m.aliasLocked(rec.Model).refresh(rec)
		return err
	})
	return current && err == nil, err
}

// RefreshMany is the method of Store.
func (m *Memory) RefreshMany(ctx context.Context, recs []vector.Record) ([]bool, error) {
	current := make([]bool, len(recs))
	err := m.write(ctx, func() (err error) {
		for i, rec := range recs {
			if current[i], err = m.aliasLocked(rec.Model).refresh(rec); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || len(recs) == 0 {
		return nil, err
	}
	return current, nil
}

func (a *alias) refresh(rec vector.Record) (bool, error) {
	if err := a.refuse(rec); err != nil {
		return false, err
	}
	old, ok := a.docs[rec.Document.ID]
	switch {
	case rec.Version <= a.gone[rec.Document.ID]:
		return true, nil
	case !ok:
		return false, nil
	case old.Version > rec.Version:
		return true, nil
	case old.Space != rec.Space || old.TextHash != rec.TextHash:
		return false, nil
	case old.Version < rec.Version:
		rec.Chunks = old.Chunks
		rec.Document.Text = old.Document.Text
		a.docs[rec.Document.ID] = rec
		a.touch(rec.Document.ID)
	}
	return true, nil
}

// Delete is the method of Store.
func (m *Memory) Delete(ctx context.Context, alias, id string, version int64) (deleted bool, err error) {
	if version == 0 {
		version = time.Now().UnixNano()
	}
	err = m.write(ctx, func() error {
		a := m.aliasLocked(alias)
		rec, ok := a.docs[id]
		if ok && rec.Version > version {
			return nil
		}
		a.gone[id] = max(a.gone[id], version)
		if ok {
			a.count(rec, -1)
			delete(a.docs, id)
			a.touch(id)
			deleted = true
		}
		return nil
	})
	return deleted && err == nil, err
}

// ClaimSpace is the method of Store.
func (m *Memory) ClaimSpace(ctx context.Context, alias string, space vector.Space, mode store.ClaimMode) error {
	return m.write(ctx, func() error {
		a := m.aliasLocked(alias)
		if mode != store.ReEmbed {
			if err := a.refuse(vector.Record{Model: alias, Space: space}); err != nil {
				return err
			}
		}
		a.space = space
		return nil
	})
}

// Space is the method of Store.
func (m *Memory) Space(_ context.Context, alias string) (vector.Space, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.aliasLocked(alias).space, nil
}

// Get is the method of Store.
func (m *Memory) Get(_ context.Context, alias, id string) (vector.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	rec, ok := m.aliasLocked(alias).docs[id]
	if !ok {
		return vector.Record{}, fmt.Errorf("%w: %q under alias %q", store.ErrNotFound, id, alias)
	}
	return rec, nil
}

// Stats is the method of Store.
func (m *Memory) Stats(_ context.Context, alias string) (map[vector.Space]store.Stats, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.aliasLocked(alias).stats), nil
}

// Changes is the method of Store.
func (m *Memory) Changes(_ context.Context, c store.Cursor) (store.Changes, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.aliasLocked(c.Model)
	out := store.Changes{Last: a.seq}
	for id, seq := range a.changed {
		if seq <= c.Seq {
			continue
		}
		ch := store.Change{Seq: seq, ID: id}
		if rec, ok := a.docs[id]; ok && rec.Space == c.Space {
			ch.Record = &rec
		}
		out.Items = append(out.Items, ch)
	}
	slices.SortFunc(out.Items, func(x, y store.Change) int { return cmp.Compare(x.Seq, y.Seq) })
	out.Items = out.Items[:min(max(1, c.Limit), len(out.Items))]
	return out, nil
}

// refuse returns an error if a writes another space than rec's.
func (a *alias) refuse(rec vector.Record) error {
	if a.space != "" && a.space != rec.Space {
		return &store.SpaceError{Model: rec.Model, Current: a.space, Wanted: rec.Space}
	}
	return nil
}

func (a *alias) set(rec vector.Record) {
	if old, ok := a.docs[rec.Document.ID]; ok {
		a.count(old, -1)
	}
	a.docs[rec.Document.ID] = rec
	a.touch(rec.Document.ID)
	a.count(rec, 1)
	st := a.stats[rec.Space]
	st.TextsTotal++
	st.TokensTotal += int64(rec.Tokens())
	a.stats[rec.Space] = st
}

// touch gives a document the next number.
func (a *alias) touch(id string) {
	a.seq++
	a.changed[id] = a.seq
}

// count adds rec to what is stored now, sign times.
func (a *alias) count(rec vector.Record, sign int64) {
	st := a.stats[rec.Space]
	st.Documents += sign
	st.Chunks += sign * int64(len(rec.Chunks))
	st.Tokens += sign * int64(rec.Tokens())
	a.stats[rec.Space] = st
}

// Answer is the method of Store.
func (m *Memory) Answer(ctx context.Context, id string, e vector.Embedding, failure error) error {
	return m.write(ctx, func() error {
		box := m.boxLocked(id)
		select {
		case <-box: // an earlier answer gives way
		default:
		}
		box <- answer{e, failure}
		return nil
	})
}

// Await is the method of Store.
func (m *Memory) Await(ctx context.Context, id string) (vector.Embedding, error) {
	m.mu.Lock()
	box := m.boxLocked(id)
	m.mu.Unlock()
	select {
	case <-ctx.Done():
		return vector.Embedding{}, fmt.Errorf("waiting for the answer to query %s: %w", id, ctx.Err())
	case a := <-box:
		if a.failure == nil {
			return a.embedding, nil
		}
		refused := &store.RefusedError{Message: a.failure.Error()}
		var c interface{ Code() string }
		if errors.As(a.failure, &c) {
			refused.Reason = c.Code()
		}
		return vector.Embedding{}, refused
	}
}

// boxLocked returns where the answer to query id is left.
func (m *Memory) boxLocked(id string) chan answer {
	box := m.answers[id]
	if box == nil {
		box = make(chan answer, 1)
		m.answers[id] = box
	}
	return box
}

// AnswerMany is Answer for each.
func (m *Memory) AnswerMany(ctx context.Context, list []vector.Answer) []error {
	errs := make([]error, len(list))
	for i, a := range list {
		errs[i] = m.Answer(ctx, a.ID, a.Embedding, a.Failure)
	}
	return errs
}
