package redis

import (
	"context"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/coalesce"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/vector"
)

// documentSource is what the scripts that change documents have in common.
//
//go:embed lib/document.lua
var documentSource string

//go:embed put.lua
var putSource string

//go:embed refresh.lua
var refreshSource string

//go:embed delete.lua
var deleteSource string

//go:embed claim.lua
var claimSource string

// A Store reads and writes by the key schema of this package. It is safe for concurrent use, and keeps
// nothing in memory but the digests of its scripts: any number of them may work on one Redis.
//
// Errors of Redis itself come wrapped and are worth a retry. Whether a write that failed so was persisted
// is unknown, and need not be known: it may just be repeated.
type Store struct {
	client                      goredis.UniversalClient
	put, refresh, delete, claim *goredis.Script
	writes                      *coalesce.Group[*write]
}

// New returns a store on client, which stays the caller's to close.
func New(client goredis.UniversalClient) *Store {
	s := &Store{
		client:  client,
		put:     goredis.NewScript(documentSource + putSource),
		refresh: goredis.NewScript(documentSource + refreshSource),
		delete:  goredis.NewScript(documentSource + deleteSource),
		claim:   goredis.NewScript(claimSource),
	}
	s.writes = coalesce.New(writesPerTrip, coalesce.Patience{Linger: lingerWrites, Yield: true}, s.run)
	return s
}

// Put stores rec, all of it or nothing, and reports whether it wrote: not if the document is there in a
// higher version, or this very record is. It needs one round trip. A record of another space than the one
// the alias writes is refused with a [*store.SpaceError]; an alias that writes none yet gets rec's.
func (s *Store) Put(ctx context.Context, rec vector.Record) (bool, error) {
	w, err := s.putOf(rec)
	if err != nil {
		return false, err
	}
	s.share(ctx, w)
	if w.err != nil {
		return false, fmt.Errorf("putting document %q: %w", rec.Document.ID, w.err)
	}
	return w.yes, nil
}

// putOf returns the part that rec has in a run of put.lua.
func (s *Store) putOf(rec vector.Record) (*write, error) {
	m, err := encodeMeta(rec.Document)
	if err != nil {
		return nil, err
	}
	chunks, vectors, err := encodeChunks(rec)
	if err != nil {
		return nil, err
	}
	return &write{err: errNotRun, script: s.put, rec: rec, args: []any{
		rec.Version, rec.TextHash, rec.Document.Text, m, chunks, vectors, len(rec.Chunks), rec.Tokens(), rec.Document.ID,
	}}, nil
}

// Refresh reports whether rec needs no embedding: the store has the vectors of its text in its space, or a
// higher version of the document. In the first case rec's version and metadata are taken over if they are
// newer. rec's chunks are not looked at. One round trip; refusals as in [Store.Put].
func (s *Store) Refresh(ctx context.Context, rec vector.Record) (bool, error) {
	w, err := s.refreshOf(rec)
	if err != nil {
		return false, err
	}
	s.share(ctx, w)
	if w.err != nil {
		return false, fmt.Errorf("refreshing document %q: %w", rec.Document.ID, w.err)
	}
	return w.yes, nil
}

// RefreshMany is [Store.Refresh] for many records in one round trip, for producers that skip what is
// stored. The answers are in the records' order; after an error there are none, and the call may be
// repeated.
func (s *Store) RefreshMany(ctx context.Context, recs []vector.Record) ([]bool, error) {
	writes := make([]*write, len(recs))
	for i, rec := range recs {
		var err error
		if writes[i], err = s.refreshOf(rec); err != nil {
			return nil, err
		}
	}
	s.run(ctx, writes)
	current := make([]bool, len(recs))
	for i, w := range writes {
		if w.err != nil {
			return nil, fmt.Errorf("refreshing %d documents: document %q: %w", len(recs), recs[i].Document.ID, w.err)
		}
		current[i] = w.yes
	}
	return current, nil
}

// PutMany is [Store.Put] for many records, which share their round trip with others that come at the same time; answers and errors are in the records' order.
func (s *Store) PutMany(ctx context.Context, recs []vector.Record) (stored []bool, errs []error) {
	stored, errs = make([]bool, len(recs)), make([]error, len(recs))
	var writes []*write
	var indexes []int // of their records
	for i, rec := range recs {
		w, err := s.putOf(rec)
		if err != nil {
			errs[i] = err
			continue
		}
		writes, indexes = append(writes, w), append(indexes, i)
	}
	s.share(ctx, writes...)
	for n, w := range writes {
		stored[indexes[n]] = w.yes
		if w.err != nil {
			errs[indexes[n]] = fmt.Errorf("putting document %q: %w", w.rec.Document.ID, w.err)
		}
	}
	return stored, errs
}

// refreshOf returns the part that rec has in a run of refresh.lua.
func (s *Store) refreshOf(rec vector.Record) (*write, error) {
	m, err := encodeMeta(rec.Document)
	if err != nil {
		return nil, err
	}
	return &write{err: errNotRun, script: s.refresh, rec: rec, args: []any{rec.Version, rec.TextHash, m, rec.Document.ID}}, nil
}

// Get returns what is stored of a document, or an error that wraps [store.ErrNotFound].
func (s *Store) Get(ctx context.Context, alias, id string) (vector.Record, error) {
	values, err := s.client.HMGet(ctx, docKey(alias, id), documentFields[:]...).Result()
	if err != nil {
		return vector.Record{}, fmt.Errorf("reading document %q: %w", id, err)
	}
	fields := byField(values)
	if len(fields) == 0 {
		return vector.Record{}, fmt.Errorf("%w: %q under alias %q", store.ErrNotFound, id, alias)
	}
	return decodeRecord(alias, id, fields)
}

// Delete removes a document up to a version and reports whether it was there. A task for that version or a lower one
// that is still on its way will not bring it back, one for a higher version will. Version 0 stands for now, in
// nanoseconds, which is right for documents whose producers choose no versions.
func (s *Store) Delete(ctx context.Context, alias, id string, version int64) (bool, error) {
	if version == 0 {
		version = time.Now().UnixNano()
	}
	n, err := s.delete.Run(ctx, s.client, documentKeys(alias, id), id, version).Int()
	if err != nil {
		return false, fmt.Errorf("deleting document %q: %w", id, err)
	}
	return n == 1, nil
}

// ClaimSpace makes space the one that alias writes, which a worker does before it takes tasks. If the
// alias writes another, [store.Keep] refuses with a [*store.SpaceError] that names both, and
// [store.ReEmbed] takes over: from then on workers of the old space are refused, and the documents of the
// old space stay readable until they are embedded again.
func (s *Store) ClaimSpace(ctx context.Context, alias string, space vector.Space, mode store.ClaimMode) error {
	current, err := s.claim.Run(ctx, s.client, []string{spaceKey(alias)}, string(space), string(mode)).Text()
	if err != nil {
		return fmt.Errorf("claiming space %s for alias %q: %w", space.Short(), alias, err)
	}
	if current != "" {
		return &store.SpaceError{Model: alias, Current: vector.Space(current), Wanted: space}
	}
	return nil
}

// Space returns the space that alias writes, "" if none yet.
func (s *Store) Space(ctx context.Context, alias string) (vector.Space, error) {
	space, err := s.client.Get(ctx, spaceKey(alias)).Result()
	if err != nil && !errors.Is(err, goredis.Nil) {
		return "", fmt.Errorf("reading the space of alias %q: %w", alias, err)
	}
	return vector.Space(space), nil
}

// Stats returns the counts of every space that has, or had, documents under alias.
func (s *Store) Stats(ctx context.Context, alias string) (map[vector.Space]store.Stats, error) {
	fields, err := s.client.HGetAll(ctx, statsKey(alias)).Result()
	if err != nil {
		return nil, fmt.Errorf("reading the counts of alias %q: %w", alias, err)
	}
	stats := make(map[vector.Space]store.Stats)
	for field, value := range fields {
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("reading %s of key %s: %w", field, statsKey(alias), err)
		}
		space, name, _ := strings.Cut(field, ":")
		st := stats[vector.Space(space)]
		setStat(&st, name, n)
		stats[vector.Space(space)] = st
	}
	return stats, nil
}

// setStat sets the count that is called name in the scripts; one of a later release is passed over.
func setStat(st *store.Stats, name string, n int64) {
	switch name {
	case "docs":
		st.Documents = n
	case "chunks":
		st.Chunks = n
	case "tokens":
		st.Tokens = n
	case "texts_total":
		st.TextsTotal = n
	case "tokens_total":
		st.TokensTotal = n
	}
}
