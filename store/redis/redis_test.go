package redis_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/store/storetest"
	"github.com/embedfleet/embedfleet/vector"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// clients are the servers that every contract is checked on.
var clients = map[string]func(testing.TB) *goredis.Client{
	"redis-server": testkit.Redis,
	"miniredis": func(t testing.TB) *goredis.Client {
		_, client := testkit.MiniRedis(t)
		return client
	},
}

func TestContract(t *testing.T) {
	t.Parallel()
	for name, connect := range clients {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, func(t *testing.T) storetest.Store { return redis.New(connect(t)) })
		})
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for name, connect := range clients {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.RunFaults(t, func(t *testing.T) (storetest.Store, func(storetest.Fault)) {
				client, hook := connect(t), &faultHook{}
				client.AddHook(hook)
				return redis.New(client), hook.failNext
			})
		})
	}
}

// TestKeySchema reads what Put wrote the way a stranger would who has only doc.go.
func TestKeySchema(t *testing.T) {
	t.Parallel()
	ctx, client := t.Context(), testkit.Redis(t)
	s := redis.New(client)
	rec := storetest.FullRecord("dart:1", "nine char", storetest.Version)
	if _, err := s.Put(ctx, rec); err != nil {
		t.Fatal(err)
	}
	doc, err := client.HGetAll(ctx, "ef:{minilm}:doc:dart:1").Result()
	if err != nil {
		t.Fatal(err)
	}
	vectors := doc["vectors"]
	delete(doc, "vectors")
	want := map[string]string{
		"text": "nine char",
		"meta": `{"title":"삼성전자 <분기보고서> \"1\"","source":"dart","url":"https://example.com/?a=1&b=2",` +
			`"published_at":"2022-01-03T03:30:00.123456789Z","stock_codes":["005930","000660"],` +
			`"fields":{"empty":"","kind":"filing"}}`,
		"text_hash": vector.TextHash("nine char"),
		"version":   "1641180600000000000",
		"space":     string(storetest.SpaceA),
		"chunks":    "[[0,3,3,0],[3,6,3,0],[5,9,4,1]]",
	}
	if fmt.Sprint(doc) != fmt.Sprint(want) {
		t.Errorf("document:\n got %v\nwant %v", doc, want)
	}
	if got := string(rec.Chunks[1].Vector.Bytes()); len(vectors) != 3*8*4 || vectors[32:64] != got {
		t.Errorf("vectors: %d bytes, the second differs from its chunk's", len(vectors))
	}
	keys, err := client.Keys(ctx, "*").Result()
	if err != nil || len(keys) != 5 {
		t.Errorf("keys %v, %v, want the five of the schema", keys, err)
	}
	if score, err := client.ZScore(ctx, "ef:{minilm}:changes", "dart:1").Result(); score != 1 || err != nil {
		t.Errorf("change number %v, %v, want 1", score, err)
	}
}

// TestAnswerExpires checks that an answer nobody fetches goes away.
func TestAnswerExpires(t *testing.T) {
	t.Parallel()
	ctx, client := t.Context(), testkit.Redis(t)
	if err := redis.New(client).Answer(ctx, "q", vector.Embedding{Vector: vector.Vector{1}, Tokens: 3}, nil); err != nil {
		t.Fatal(err)
	}
	if ttl := client.PTTL(ctx, "ef:answer:q").Val(); ttl <= 0 || ttl.Seconds() > 60 {
		t.Errorf("answer lives %v, want up to 60s", ttl)
	}
	if got, want := client.LIndex(ctx, "ef:answer:q", 0).Val(), "{\"tokens\":3}\n\x00\x00\x80\x3f"; got != want {
		t.Errorf("answer is %q, want %q", got, want)
	}
}

// TestCost counts round trips, which is what a fleet on a real network pays for.
func TestCost(t *testing.T) {
	t.Parallel()
	client, hook := testkit.Redis(t), &countHook{}
	s := redis.New(client)
	rec := storetest.FullRecord("d", "some text", storetest.Version)
	recs := make([]vector.Record, 100)
	for i := range recs {
		recs[i] = storetest.Record(fmt.Sprint(i), "text", 1)
	}
	once := func(what string, want int, f func() error) {
		t.Helper()
		if err := f(); err != nil { // the scripts are known after this
			t.Fatalf("%s: %v", what, err)
		}
		before := hook.trips
		if err := f(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got := hook.trips - before; got != want {
			t.Errorf("%s: %d round trips, want %d", what, got, want)
		}
	}
	client.AddHook(hook)
	ctx := t.Context()
	once("Put", 1, func() error { _, err := s.Put(ctx, rec); return err })
	once("Refresh", 1, func() error { _, err := s.Refresh(ctx, rec); return err })
	once("RefreshMany of 100", 1, func() error { _, err := s.RefreshMany(ctx, recs); return err })
	once("PutMany of 100", 1, func() error { _, errs := s.PutMany(ctx, recs); return errors.Join(errs...) })
	once("Get", 1, func() error { _, err := s.Get(ctx, "minilm", "d"); return err })
	answers := make([]vector.Answer, 100)
	for i := range answers {
		answers[i] = vector.Answer{ID: fmt.Sprint(i), Embedding: vector.Embedding{Vector: vector.Vector{1}}}
	}
	once("AnswerMany of 100", 1, func() error { return errors.Join(s.AnswerMany(ctx, answers)...) })
	once("Answer", 1, func() error { return s.Answer(ctx, "q", vector.Embedding{Vector: vector.Vector{1}}, nil) })
}

// TestBroken reads documents that somebody else has damaged.
func TestBroken(t *testing.T) {
	t.Parallel()
	for name, connect := range clients {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := connect(t)
			for _, tt := range []struct{ field, value, want string }{
				{"vectors", "\x00\x00\x80", "field vectors: not a little-endian float32 vector: 3 bytes"},
				{"vectors", "12345678", "field vectors has 2 values for 3 chunks"},
				{"chunks", "[]", "field vectors has 24 values for 0 chunks"},
				{"chunks", "junk", "reading field chunks"},
				{"chunks", "[[1]]", "spans bytes 1 to 0"},
				{"meta", "junk", "reading field meta"},
				{"version", "1.5", "reading field version"},
				{"space", "", "field space is missing"},
			} {
				t.Run(tt.field+" "+tt.value, func(t *testing.T) { testBroken(t, client, tt.field, tt.value, tt.want) })
			}
		})
	}
}

func testBroken(t *testing.T, client *goredis.Client, field, value, want string) {
	ctx, s, id := t.Context(), redis.New(client), field+"="+value
	key := "ef:{minilm}:doc:" + id
	rec := storetest.FullRecord(id, "some text", storetest.Version)
	if _, err := s.Put(ctx, rec); err != nil {
		t.Fatal(err)
	}
	damage := client.HSet(ctx, key, field, value).Err
	if value == "" {
		damage = client.HDel(ctx, key, field).Err
	}
	if err := damage(); err != nil {
		t.Fatal(err)
	}
	_, err := s.Get(ctx, "minilm", id)
	if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), key) {
		t.Errorf("Get: %v, want %q and the key", err, want)
	}
	rec.Version++ // a newer text mends it
	if stored, err := s.Put(ctx, rec); !stored || err != nil {
		t.Errorf("Put over it = %v, %v, want true", stored, err)
	}
	if deleted, err := s.Delete(ctx, "minilm", id, 0); !deleted || err != nil {
		t.Errorf("Delete = %v, %v, want true", deleted, err)
	}
}

// TestScripts checks that each script says what it takes and returns, and is broken by a row of
// storetest's faults, whose methods are named here.
func TestScripts(t *testing.T) {
	t.Parallel()
	methods := map[string]string{
		"put.lua": "Put", "refresh.lua": "Refresh", "delete.lua": "Delete", "claim.lua": "ClaimSpace",
	}
	files, err := filepath.Glob("*.lua")
	if err != nil || len(files) != len(methods) {
		t.Errorf("scripts %v, %v, want those of %v", files, err, methods)
	}
	for _, f := range files {
		source, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"-- KEYS[1]", "-- ARGV[1]", "-- Returns "} {
			if !strings.Contains(string(source), want) {
				t.Errorf("%s: the comment on top lacks %q", f, want)
			}
		}
		if methods[f] == "" {
			t.Errorf("%s belongs to no method that storetest breaks", f)
		}
	}
}

// A faultHook breaks the next command, or pipeline of commands, that writes.
type faultHook struct{ fault storetest.Fault }

func (h *faultHook) failNext(f storetest.Fault) { h.fault = f }

func (h *faultHook) DialHook(next goredis.DialHook) goredis.DialHook { return next }

func (h *faultHook) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook {
	return func(ctx context.Context, cmd goredis.Cmder) error {
		return h.process([]goredis.Cmder{cmd}, func() error { return next(ctx, cmd) })
	}
}

func (h *faultHook) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []goredis.Cmder) error {
		return h.process(cmds, func() error { return next(ctx, cmds) })
	}
}

func (h *faultHook) process(cmds []goredis.Cmder, next func() error) error {
	if h.fault == "" || !writes(cmds) {
		return next()
	}
	if h.fault == storetest.Persisted {
		if err := next(); err != nil && !errors.Is(err, goredis.Nil) { // Nil is of a script that returns nothing
			return err // a script the server does not know yet, say: nothing happened
		}
	}
	h.fault = ""
	for _, cmd := range cmds {
		cmd.SetErr(storetest.ErrInjected)
	}
	return storetest.ErrInjected
}

// writes reports whether one of cmds changes the store.
func writes(cmds []goredis.Cmder) bool {
	for _, cmd := range cmds {
		switch cmd.Name() {
		case "eval", "evalsha", "rpush":
			return true
		}
	}
	return false
}

// A countHook counts round trips.
type countHook struct{ trips int }

func (h *countHook) DialHook(next goredis.DialHook) goredis.DialHook { return next }

func (h *countHook) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook {
	return func(ctx context.Context, cmd goredis.Cmder) error {
		h.trips++
		return next(ctx, cmd)
	}
}

func (h *countHook) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []goredis.Cmder) error {
		h.trips++
		return next(ctx, cmds)
	}
}
