package hub

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// wanted are the files of model() that a fetch brings.
var wanted = []string{
	"1_Pooling/config.json", "config.json", "model.safetensors", "modules.json", "tokenizer.json", "tokenizer_config.json",
}

func mustFetch(t *testing.T, opts *Options) Snapshot {
	t.Helper()
	snap, err := Fetch(t.Context(), repo, opts)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// checkSnapshot compares a snapshot's files with the fake's, byte for byte.
func checkSnapshot(t *testing.T, snap Snapshot, files map[string]string, names []string) {
	t.Helper()
	if got := tree(t, snap.Dir); !slices.Equal(got, names) {
		t.Errorf("snapshot holds %q, want %q", got, names)
	}
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(snap.Dir, name))
		if err != nil {
			t.Error(err)
		} else if string(b) != files[name] {
			t.Errorf("%s has other bytes than the hub's", name)
		}
	}
}

// tree lists what is below dir and is no folder, sorted.
func tree(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, name)
			names = append(names, filepath.ToSlash(rel))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestFetchLayout(t *testing.T) {
	t.Parallel()
	h := newFakeHub(t, model())
	opts := h.options(t)
	var last Progress
	opts.Progress = func(p Progress) {
		if p.Done < last.Done || p.Done > p.Total {
			t.Errorf("progress went from %+v to %+v", last, p)
		}
		last = p
	}
	snap := mustFetch(t, opts)
	checkSnapshot(t, snap, h.files, wanted)
	if last.Done != last.Total || last.Total < int64(len(h.files["model.safetensors"])) {
		t.Errorf("progress ended at %+v", last)
	}

	root := filepath.Join(opts.CacheDir, "models--acme--tiny")
	if want := filepath.Join(root, "snapshots", commit); snap.Dir != want || snap.Commit != commit {
		t.Errorf("snapshot = %+v, want %s", snap, want)
	}
	if b, err := os.ReadFile(filepath.Join(root, "refs", "main")); err != nil || string(b) != commit {
		t.Errorf("refs/main = %q, %v", b, err)
	}
	for name, target := range map[string]string{
		"model.safetensors":     "../../blobs/" + sha256Hex(h.files["model.safetensors"]),
		"1_Pooling/config.json": "../../../blobs/" + gitHex(h.files["1_Pooling/config.json"]),
	} {
		if got, err := os.Readlink(filepath.Join(snap.Dir, name)); err != nil || got != target {
			t.Errorf("%s links to %q, %v, want %q", name, got, err, target)
		}
	}
	if got := tree(t, filepath.Join(root, ".no_exist", commit)); !slices.Equal(got,
		[]string{"config_sentence_transformers.json", "sentence_bert_config.json", "special_tokens_map.json"}) {
		t.Errorf("marked as absent: %q", got)
	}
	if blobs := tree(t, filepath.Join(root, "blobs")); len(blobs) != len(wanted) {
		t.Errorf("blobs: %q", blobs)
	}
}

// TestFetchGraphInstead asks for a model whose weights the loader has no use for: it gets the exported graph, and not a
// byte of the weights. A cache that has only these can't serve it offline.
func TestFetchGraphInstead(t *testing.T) {
	t.Parallel()
	h := newFakeHub(t, model())
	opts := h.options(t)
	mustFetch(t, opts) // the weights
	opts.Offline = true
	opts.Weights = func(config []byte) error {
		if string(config) != h.files["config.json"] {
			t.Errorf("config.json is %q", config)
		}
		return errors.New("architecture bert is not known")
	}
	if _, err := Fetch(t.Context(), repo, opts); err == nil || !strings.Contains(err.Error(), "architecture bert is not known, and there is no onnx/model.onnx") {
		t.Errorf("offline: %v, want it to miss the graph", err)
	}
	opts.Offline = false
	snap := mustFetch(t, opts)
	if b, err := os.ReadFile(filepath.Join(snap.Dir, "onnx", "model.onnx")); err != nil || string(b) != "graph" {
		t.Errorf("the graph is %q, %v", b, err)
	}
	if n := len(h.requests("model.safetensors")); n != 2 { // the hub's redirect and the storage's answer, of the first fetch
		t.Errorf("%d requests for the weights, want those of the first fetch only", n)
	}
	delete(h.files, "onnx/model.onnx")
	opts.CacheDir = t.TempDir()
	if _, err := Fetch(t.Context(), repo, opts); err == nil || !strings.Contains(err.Error(), "and there is no onnx/model.onnx") {
		t.Errorf("without a graph: %v", err)
	}
}

func TestFetchAgainAsksOnlyForTheListing(t *testing.T) {
	t.Parallel()
	h := newFakeHub(t, model())
	opts := h.options(t)
	mustFetch(t, opts)
	before := len(h.requests(""))
	mustFetch(t, opts)
	if got := h.requests("")[before:]; len(got) != 1 || !strings.HasPrefix(got[0], "GET /api/models/") {
		t.Errorf("second fetch made requests %q", got)
	}
}

func TestRevisions(t *testing.T) {
	t.Parallel()
	h := newFakeHub(t, model())
	opts := h.options(t)
	opts.Revision = "refs/pr/1"
	snap := mustFetch(t, opts)
	if b, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(snap.Dir)), "refs", "refs", "pr", "1")); err != nil || string(b) != commit {
		t.Errorf("refs/refs/pr/1 = %q, %v", b, err)
	}

	// A commit that is complete needs no network, and leaves no ref.
	before := len(h.requests(""))
	opts.Revision = commit
	if again := mustFetch(t, opts); again != snap {
		t.Errorf("pinned = %+v, want %+v", again, snap)
	}
	if got := h.requests("")[before:]; len(got) != 0 {
		t.Errorf("pinned fetch made requests %q", got)
	}

	opts.Revision = "v9"
	if _, err := Fetch(t.Context(), repo, opts); err == nil || !strings.Contains(err.Error(), "not this revision") {
		t.Errorf("unknown revision: %v", err)
	}
}

// TestBranchMoves checks that a new commit shares the old one's unchanged blobs.
func TestBranchMoves(t *testing.T) {
	t.Parallel()
	h := newFakeHub(t, model())
	opts := h.options(t)
	old := mustFetch(t, opts)
	next := newFakeHub(t, model())
	next.commit = strings.Repeat("f", 40)
	next.files["config.json"] = `{"model_type":"roberta"}`
	opts.Endpoint = next.hub.URL
	snap := mustFetch(t, opts)
	if snap.Commit != next.commit || snap.Dir == old.Dir {
		t.Errorf("snapshot = %+v after the branch moved", snap)
	}
	checkSnapshot(t, snap, next.files, wanted)
	if got := next.requests("resolve"); len(got) != 1 || !strings.HasSuffix(got[0], "/config.json") {
		t.Errorf("fetched %q, want only what changed", got)
	}
}

func TestOffline(t *testing.T) {
	t.Parallel()
	h := newFakeHub(t, model())
	opts := h.options(t)
	off := *opts
	off.Offline = true
	if _, err := Fetch(t.Context(), repo, &off); err == nil || !strings.Contains(err.Error(), "never fetched") {
		t.Errorf("offline with an empty cache: %v", err)
	}
	snap := mustFetch(t, opts)
	before := len(h.requests(""))
	if got := mustFetch(t, &off); got != snap {
		t.Errorf("offline = %+v, want %+v", got, snap)
	}
	if got := h.requests("")[before:]; len(got) != 0 {
		t.Errorf("offline fetch made requests %q", got)
	}
	if err := os.Remove(filepath.Join(snap.Dir, "1_Pooling", "config.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := Fetch(t.Context(), repo, &off); err == nil || !strings.Contains(err.Error(), "1_Pooling/config.json is missing") {
		t.Errorf("offline with an incomplete snapshot: %v", err)
	}
}

// TestHubDown checks that a snapshot in the cache serves when the hub doesn't, with one request and a word.
func TestHubDown(t *testing.T) {
	t.Parallel()
	h := newFakeHub(t, model())
	opts := h.options(t)
	snap := mustFetch(t, opts)
	down := newFakeHub(t, model())
	down.status = 503
	var log bytes.Buffer
	opts.Endpoint, opts.Logger = down.hub.URL, slog.New(slog.NewTextHandler(&log, nil))
	if got := mustFetch(t, opts); got != snap {
		t.Errorf("with the hub down = %+v, want %+v", got, snap)
	}
	if n := len(down.requests("")); n != 1 || !strings.Contains(log.String(), "using the cached snapshot") {
		t.Errorf("%d requests, log:\n%s", n, &log)
	}
	opts.CacheDir = t.TempDir()
	if _, err := Fetch(t.Context(), repo, opts); err == nil || !strings.Contains(err.Error(), "tried 4 times") {
		t.Errorf("with the hub down and an empty cache: %v", err)
	}
}

// TestForeignSnapshot takes over what a program left that asked for fewer files: offline with a warning,
// online by asking for the rest.
func TestForeignSnapshot(t *testing.T) {
	t.Parallel()
	h := newFakeHub(t, model())
	opts := h.options(t)
	var log bytes.Buffer
	opts.Logger = slog.New(slog.NewTextHandler(&log, nil))
	root := filepath.Join(opts.CacheDir, "models--acme--tiny")
	for _, name := range []string{"config.json", "tokenizer.json", "model.safetensors"} {
		write(t, filepath.Join(root, "snapshots", commit, name), h.files[name])
	}
	write(t, filepath.Join(root, "refs", "main"), commit)

	off := *opts
	off.Offline = true
	mustFetch(t, &off)
	if !strings.Contains(log.String(), "may lack a file") || !strings.Contains(log.String(), "modules.json") {
		t.Errorf("no warning in:\n%s", &log)
	}
	pinned := *opts
	pinned.Revision = commit
	checkSnapshot(t, mustFetch(t, &pinned), h.files, wanted)
	if got := h.requests("model.safetensors"); len(got) != 0 {
		t.Errorf("weights were fetched again: %q", got)
	}
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestConcurrentFetches(t *testing.T) {
	t.Parallel()
	h := newFakeHub(t, model())
	opts := h.options(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			snap, err := Fetch(t.Context(), repo, opts)
			if err != nil {
				t.Error(err)
				return
			}
			checkSnapshot(t, snap, h.files, wanted)
		})
	}
	wg.Wait()
	if got := h.requests("GET /model.safetensors"); len(got) != 1 {
		t.Errorf("weights were fetched %d times: %q", len(got), got)
	}
}

func TestToken(t *testing.T) {
	t.Parallel()
	h := newFakeHub(t, model())
	h.private = true
	opts := h.options(t)
	if _, err := Fetch(t.Context(), repo, opts); err == nil || !strings.Contains(err.Error(), "set HF_TOKEN") {
		t.Errorf("without a token: %v", err)
	}
	opts.Token = token
	mustFetch(t, opts)
	if len(h.requests("GET /model.safetensors")) != 1 || len(h.leaked) != 0 {
		t.Errorf("the token went to the storage server: %q", h.leaked)
	}
}

func TestStatusErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, token, code string
		status            int
		want              string
	}{
		{"401", "", "", 401, "set HF_TOKEN to a token that may read it"},
		{"401 with token", token, "", 401, "did not accept the token"},
		{"403", token, "GatedRepo", 403, "/acme/tiny in a browser and accept its terms"},
		{"404", "", "RepoNotFound", 404, "no such repository"},
		{"404 revision", "", "RevisionNotFound", 404, "not this revision"},
		{"418", "", "", 418, "answered 418 I'm a teapot, which is not understood"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := newFakeHub(t, model())
			h.status, h.code = tt.status, tt.code
			opts := h.options(t)
			opts.Token = tt.token
			_, err := Fetch(t.Context(), repo, opts)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("error = %v, want one line with %q", err, tt.want)
			}
			if strings.Contains(err.Error(), token) {
				t.Errorf("error shows the token: %v", err)
			}
			if n := len(h.requests("")); n != 1 {
				t.Errorf("%d requests, want one: trying again can't help", n)
			}
			if left := tree(t, opts.CacheDir); len(left) != 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// TestListingWithoutBlobs asks file by file when a mirror's listing names no digests.
func TestListingWithoutBlobs(t *testing.T) {
	t.Parallel()
	h := newFakeHub(t, model())
	h.noBlobs = true
	checkSnapshot(t, mustFetch(t, h.options(t)), h.files, wanted)
	if got := h.requests("HEAD"); len(got) != len(wanted) {
		t.Errorf("%d HEAD requests, want %d: %q", len(got), len(wanted), got)
	}
}

func TestDiskFull(t *testing.T) {
	t.Parallel()
	h := newFakeHub(t, model())
	opts := h.options(t)
	opts.free = func(string) (uint64, error) { return 300_000, nil }
	_, err := Fetch(t.Context(), repo, opts)
	if err == nil || !strings.Contains(err.Error(), "800.2 kB more are needed") || !strings.Contains(err.Error(), "300 kB are free") {
		t.Errorf("error = %v", err)
	}
	if left := tree(t, opts.CacheDir); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestRefusedInputs(t *testing.T) {
	t.Parallel()
	h := newFakeHub(t, model())
	for _, id := range []string{"", "/etc", "../x", "a/b/c", "a--b/c", "a/..", "a/b\n", ".a/b", strings.Repeat("a", 97)} {
		if _, err := Fetch(t.Context(), id, h.options(t)); err == nil || !strings.Contains(err.Error(), "repository id") {
			t.Errorf("repository %q: %v", id, err)
		}
	}
	for _, rev := range []string{"../main", "/main", "a//b", "a/../b", "a b", "a?b"} {
		opts := h.options(t)
		opts.Revision = rev
		if _, err := Fetch(t.Context(), repo, opts); err == nil || !strings.Contains(err.Error(), "is not a revision") {
			t.Errorf("revision %q: %v", rev, err)
		}
	}
	opts := h.options(t)
	opts.Endpoint = "huggingface"
	if _, err := Fetch(t.Context(), repo, opts); err == nil || !strings.Contains(err.Error(), "HF_ENDPOINT") {
		t.Errorf("endpoint: %v", err)
	}
	for _, name := range []string{"../config.json", "/etc/passwd", `a\..\b.json`, "a//b"} {
		evil := newFakeHub(t, maps.Clone(h.files))
		evil.files[name] = "x"
		opts := evil.options(t)
		if _, err := Fetch(t.Context(), repo, opts); err == nil || !strings.Contains(err.Error(), "would leave its folder") {
			t.Errorf("file %q: %v", name, err)
		}
		if left := tree(t, opts.CacheDir); len(left) != 0 {
			t.Errorf("file %q left behind: %q", name, left)
		}
	}
	evil := newFakeHub(t, model())
	evil.commit = "../../../../tmp"
	if _, err := Fetch(t.Context(), repo, evil.options(t)); err == nil || !strings.Contains(err.Error(), "40 hex digits") {
		t.Errorf("commit: %v", err)
	}
}

func TestCancelledBeforeStart(t *testing.T) {
	t.Parallel()
	h := newFakeHub(t, model())
	opts := h.options(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Fetch(ctx, repo, opts); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v", err)
	}
	if left := tree(t, opts.CacheDir); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}
