// Package ledger is what the gateway must remember, in Redis: files, batches with the answers of their lines, and what callers
// took. It owns the keys below. Any number of gateways work on one Redis; each write is one command or one script.
//
//	ef:files                    zset    file id -> Unix ms of its creation
//	ef:{file:<id>}:meta         string  JSON of batch.File
//	ef:{file:<id>}:pieces       hash    number -> zstd of a piece of what is in it; TTL 1 h until the file exists
//	ef:batches                  zset    batch id -> Unix ms of its creation
//	ef:batches:active           set     ids of batches that are not over
//	ef:{batch:<id>}:meta        string  JSON of batch.Batch, without its state
//	ef:{batch:<id>}:state       hash    status, total, done, failed, faults, output, errors, at:<status> (Unix ms)
//	ef:{batch:<id>}:lines       hash    line -> "a" (answer) or "e" (error) and zstd of the line
//	ef:{batch:<id>}:lease       string  who drives it, TTL
//	ef:{usage}:<minute|day>:<n> hash    <caller>:<requests|texts|tokens> -> count; n is Unix time / 60 or / 86400; TTL two of them
//
// Files of answers and batches that are over are kept for [Keep].
package ledger

import (
	"context"
	_ "embed" // the scripts
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/klauspost/compress/zstd"
	goredis "github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/gateway/batch"
)

// Keep is how long answers are kept after a batch was created.
const Keep = 30 * 24 * time.Hour

// unborn is how long pieces of a file that does not exist yet are kept.
const unborn = time.Hour

//go:embed move.lua
var moveSource string

//go:embed record.lua
var recordSource string

//go:embed lease.lua
var leaseSource string

//go:embed take.lua
var takeSource string

// A Ledger keeps files, batches and counts. It is safe for concurrent use.
type Ledger struct {
	rdb                       goredis.UniversalClient
	move, record, lease, take *goredis.Script
	enc                       *zstd.Encoder
	dec                       *zstd.Decoder
}

// New returns a ledger. The Redis client is the caller's.
func New(rdb goredis.UniversalClient) *Ledger {
	enc, _ := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true)) // these options are valid
	dec, _ := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(1<<28))
	return &Ledger{
		rdb: rdb, move: goredis.NewScript(moveSource), record: goredis.NewScript(recordSource),
		lease: goredis.NewScript(leaseSource), take: goredis.NewScript(takeSource), enc: enc, dec: dec,
	}
}

const (
	filesKey   = "ef:files"
	batchesKey = "ef:batches"
	activeKey  = "ef:batches:active"
)

func fileKey(id, what string) string  { return "ef:{file:" + id + "}:" + what }
func batchKey(id, what string) string { return "ef:{batch:" + id + "}:" + what }

// PutFile makes f exist.
func (l *Ledger) PutFile(ctx context.Context, f batch.File) error {
	b, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("writing file %s: %w", f.ID, err)
	}
	_, err = l.rdb.Pipelined(ctx, func(p goredis.Pipeliner) error {
		p.Set(ctx, fileKey(f.ID, "meta"), b, 0)
		p.Persist(ctx, fileKey(f.ID, "pieces"))
		expires := f.Expires
		if expires.IsZero() && f.Batch != "" {
			expires = f.Created.Add(Keep)
		}
		if !expires.IsZero() {
			p.PExpireAt(ctx, fileKey(f.ID, "meta"), expires)
			p.PExpireAt(ctx, fileKey(f.ID, "pieces"), expires)
		}
		p.ZAdd(ctx, filesKey, goredis.Z{Score: float64(f.Created.UnixMilli()), Member: f.ID})
		return nil
	})
	if err != nil {
		return fmt.Errorf("writing file %s: %w", f.ID, err)
	}
	return nil
}

// File returns what is known of a file.
func (l *Ledger) File(ctx context.Context, id string) (f batch.File, err error) {
	return f, l.get(ctx, fileKey(id, "meta"), "file", id, &f)
}

// get reads a key of JSON.
func (l *Ledger) get(ctx context.Context, key, what, id string, v any) error {
	b, err := l.rdb.Get(ctx, key).Bytes()
	if errors.Is(err, goredis.Nil) {
		return fmt.Errorf("%s %q: %w", what, id, batch.ErrNotFound)
	}
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return fmt.Errorf("reading %s %q: %w", what, id, err)
	}
	return nil
}

// DeleteFile deletes f and what is in it. Answers stay with their batch, out of reach.
func (l *Ledger) DeleteFile(ctx context.Context, f batch.File) error {
	_, err := l.rdb.Pipelined(ctx, func(p goredis.Pipeliner) error {
		p.Del(ctx, fileKey(f.ID, "meta"), fileKey(f.ID, "pieces"))
		p.ZRem(ctx, filesKey, f.ID)
		return nil
	})
	if err != nil {
		return fmt.Errorf("deleting file %s: %w", f.ID, err)
	}
	return nil
}

// PutPiece keeps a piece of a file.
func (l *Ledger) PutPiece(ctx context.Context, id string, n int, piece []byte) error {
	_, err := l.rdb.Pipelined(ctx, func(p goredis.Pipeliner) error {
		p.HSet(ctx, fileKey(id, "pieces"), strconv.Itoa(n), l.enc.EncodeAll(piece, nil))
		p.PExpire(ctx, fileKey(id, "pieces"), unborn)
		return nil
	})
	return err
}

// Piece returns a piece of a file.
func (l *Ledger) Piece(ctx context.Context, id string, n int) ([]byte, error) {
	b, err := l.rdb.HGet(ctx, fileKey(id, "pieces"), strconv.Itoa(n)).Bytes()
	if errors.Is(err, goredis.Nil) {
		return nil, fmt.Errorf("piece %d of file %q: %w", n, id, batch.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	return l.dec.DecodeAll(b, nil)
}

// Files returns all files, the latest first. Those that expired are forgotten.
func (l *Ledger) Files(ctx context.Context) ([]batch.File, error) {
	var list []batch.File
	err := l.all(ctx, filesKey, func(id string) error {
		f, err := l.File(ctx, id)
		if err == nil {
			list = append(list, f)
		}
		return err
	})
	return list, err
}

// all calls f with the ids of a set, the latest first, and forgets those of which nothing is left.
func (l *Ledger) all(ctx context.Context, key string, f func(id string) error) error {
	ids, err := l.rdb.ZRevRange(ctx, key, 0, -1).Result()
	if err != nil {
		return fmt.Errorf("reading %s: %w", key, err)
	}
	for _, id := range ids {
		err := f(id)
		if errors.Is(err, batch.ErrNotFound) {
			err = l.rdb.ZRem(ctx, key, id).Err()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// PutBatch makes b exist, in the status it has. It is active last, so that nobody drives half of it.
func (l *Ledger) PutBatch(ctx context.Context, b batch.Batch) error {
	text, err := json.Marshal(b)
	if err != nil {
		return fmt.Errorf("writing batch %s: %w", b.ID, err)
	}
	end := b.Created.Add(Keep)
	_, err = l.rdb.Pipelined(ctx, func(p goredis.Pipeliner) error {
		p.Set(ctx, batchKey(b.ID, "meta"), text, 0)
		p.PExpireAt(ctx, batchKey(b.ID, "meta"), end)
		p.HSet(ctx, batchKey(b.ID, "state"), "status", b.Status)
		p.PExpireAt(ctx, batchKey(b.ID, "state"), end)
		return nil
	})
	if err == nil {
		_, err = l.rdb.Pipelined(ctx, func(p goredis.Pipeliner) error {
			p.ZAdd(ctx, batchesKey, goredis.Z{Score: float64(b.Created.UnixMilli()), Member: b.ID})
			p.SAdd(ctx, activeKey, b.ID)
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("writing batch %s: %w", b.ID, err)
	}
	return nil
}

// Batch returns what is known of a batch.
func (l *Ledger) Batch(ctx context.Context, id string) (b batch.Batch, err error) {
	if err := l.get(ctx, batchKey(id, "meta"), "batch", id, &b); err != nil {
		return b, err
	}
	fields, err := l.rdb.HGetAll(ctx, batchKey(id, "state")).Result()
	if err == nil {
		b.State, err = readState(fields)
	}
	if err != nil {
		return b, fmt.Errorf("reading batch %q: %w", id, err)
	}
	return b, nil
}

func readState(fields map[string]string) (s batch.State, err error) {
	s = batch.State{Status: fields["status"], Output: fields["output"], Errors: fields["errors"], Times: map[string]time.Time{}}
	for name, n := range map[string]*int{"total": &s.Total, "done": &s.Done, "failed": &s.Failed} {
		if v := fields[name]; v != "" {
			if *n, err = strconv.Atoi(v); err != nil {
				return s, err
			}
		}
	}
	for field, v := range fields {
		if len(field) > 3 && field[:3] == "at:" {
			ms, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				return s, err
			}
			s.Times[field[3:]] = time.UnixMilli(ms).UTC()
		}
	}
	if v := fields["faults"]; v != "" {
		err = json.Unmarshal([]byte(v), &s.Faults)
	}
	return s, err
}

// Batches returns all batches, the latest first. Those that expired are forgotten.
func (l *Ledger) Batches(ctx context.Context) ([]batch.Batch, error) {
	var list []batch.Batch
	err := l.all(ctx, batchesKey, func(id string) error {
		b, err := l.Batch(ctx, id)
		if err == nil {
			list = append(list, b)
		}
		return err
	})
	return list, err
}

// over are the statuses in which nothing is left to do.
var over = []string{batch.Failed, batch.Completed, batch.Expired, batch.Cancelled}

// Move moves a batch on if it is in one of the statuses of from.
func (l *Ledger) Move(ctx context.Context, id, to string, change batch.State, from ...string) (bool, error) {
	fields := []any{"status", to, "at:" + to, time.Now().UnixMilli()}
	if change.Total > 0 {
		fields = append(fields, "total", change.Total)
	}
	if len(change.Faults) > 0 {
		b, err := json.Marshal(change.Faults)
		if err != nil {
			return false, err
		}
		fields = append(fields, "faults", b)
	}
	if change.Output != "" {
		fields = append(fields, "output", change.Output)
	}
	if change.Errors != "" {
		fields = append(fields, "errors", change.Errors)
	}
	for status, t := range change.Times {
		fields = append(fields, "at:"+status, t.UnixMilli())
	}
	args := []any{len(from)}
	for _, status := range from {
		args = append(args, status)
	}
	moved, err := l.move.Run(ctx, l.rdb, []string{batchKey(id, "state")}, append(args, fields...)...).Int()
	if err != nil {
		return false, fmt.Errorf("moving batch %s to %s: %w", id, to, err)
	}
	if moved == 1 && slices.Contains(over, to) {
		// If this is lost, the next who looks finds that it is over.
		if err := l.rdb.SRem(ctx, activeKey, id).Err(); err != nil {
			return true, err
		}
	}
	return moved == 1, nil
}

// Active returns the batches that are not over, and takes those off the list that are.
func (l *Ledger) Active(ctx context.Context) ([]string, error) {
	ids, err := l.rdb.SMembers(ctx, activeKey).Result()
	if err != nil {
		return nil, fmt.Errorf("reading active batches: %w", err)
	}
	slices.Sort(ids)
	active := ids[:0]
	for _, id := range ids {
		status, err := l.rdb.HGet(ctx, batchKey(id, "state"), "status").Result()
		if err != nil && !errors.Is(err, goredis.Nil) {
			return nil, err
		}
		if status == "" || slices.Contains(over, status) {
			if err := l.rdb.SRem(ctx, activeKey, id).Err(); err != nil {
				return nil, err
			}
			continue
		}
		active = append(active, id)
	}
	return active, nil
}

// Lease makes owner the one who drives a batch for d.
func (l *Ledger) Lease(ctx context.Context, id, owner string, d time.Duration) (bool, error) {
	n, err := l.lease.Run(ctx, l.rdb, []string{batchKey(id, "lease")}, owner, d.Milliseconds()).Int()
	if err != nil {
		return false, fmt.Errorf("leasing batch %s: %w", id, err)
	}
	return n == 1, nil
}

// Record keeps the answers of lines that have none.
func (l *Ledger) Record(ctx context.Context, id string, lines []batch.Line) error {
	args := make([]any, 0, 1+2*len(lines))
	args = append(args, time.Now().Add(Keep).UnixMilli())
	for _, line := range lines {
		mark := byte('a')
		if line.Kind == batch.Errors {
			mark = 'e'
		}
		args = append(args, line.Number, l.enc.EncodeAll(line.JSON, []byte{mark}))
	}
	if err := l.record.Run(ctx, l.rdb, []string{batchKey(id, "lines"), batchKey(id, "state")}, args...).Err(); err != nil {
		return fmt.Errorf("recording %d lines of batch %s: %w", len(lines), id, err)
	}
	return nil
}

func lineFields(first, count int) []string {
	fields := make([]string, count)
	for i := range fields {
		fields[i] = strconv.Itoa(first + i)
	}
	return fields
}

// Lines returns the answers of lines.
func (l *Ledger) Lines(ctx context.Context, id string, first, count int) ([]batch.Line, error) {
	values, err := l.rdb.HMGet(ctx, batchKey(id, "lines"), lineFields(first, count)...).Result()
	if err != nil {
		return nil, fmt.Errorf("reading lines of batch %s: %w", id, err)
	}
	var lines []batch.Line
	for i, v := range values {
		s, ok := v.(string)
		if !ok || s == "" {
			continue
		}
		line := batch.Line{Number: first + i, Kind: batch.Answers}
		if s[0] == 'e' {
			line.Kind = batch.Errors
		}
		if line.JSON, err = l.dec.DecodeAll([]byte(s[1:]), nil); err != nil {
			return nil, fmt.Errorf("reading line %d of batch %s: %w", first+i, id, err)
		}
		lines = append(lines, line)
	}
	return lines, nil
}

// Have tells which lines have an answer.
func (l *Ledger) Have(ctx context.Context, id string, first, count int) ([]bool, error) {
	cmds := make([]*goredis.BoolCmd, count)
	_, err := l.rdb.Pipelined(ctx, func(p goredis.Pipeliner) error {
		for i, field := range lineFields(first, count) {
			cmds[i] = p.HExists(ctx, batchKey(id, "lines"), field)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking for lines of batch %s: %w", id, err)
	}
	have := make([]bool, count)
	for i, cmd := range cmds {
		have[i] = cmd.Val()
	}
	return have, nil
}
