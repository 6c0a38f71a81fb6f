package hub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const weightsName = "model.safetensors"

func blobs(t *testing.T, opts *Options) []string {
	t.Helper()
	return tree(t, filepath.Join(opts.CacheDir, "models--acme--tiny", "blobs"))
}

func TestBrokenTransferIsResumed(t *testing.T) {
	t.Parallel()
	h := newFakeHub(t, model())
	h.cut[weightsName] = 300_000
	checkSnapshot(t, mustFetch(t, h.options(t)), h.files, wanted)
	got := h.requests("GET /" + weightsName)
	if len(got) != 2 || !strings.HasSuffix(got[1], `bytes=300000- if "the-storage-has-its-own-tag"`) {
		t.Errorf("requests %q, want the second to go on at 300000", got)
	}
}

func TestResumeByAnotherRun(t *testing.T) {
	t.Parallel()
	h := newFakeHub(t, model())
	opts := h.options(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	opts.Progress = func(p Progress) {
		if p.File == weightsName && p.Done > 400_000 {
			cancel()
		}
	}
	if _, err := Fetch(ctx, repo, opts); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled fetch: %v", err)
	}
	partial := sha256Hex(h.files[weightsName]) + ".incomplete"
	if got := blobs(t, opts); !slices.Contains(got, partial) {
		t.Fatalf("blobs after the cancelled fetch: %q", got)
	}
	root := filepath.Join(opts.CacheDir, "models--acme--tiny")
	for _, dir := range []string{"refs", "snapshots", ".no_exist"} {
		if got := tree(t, filepath.Join(root, dir)); len(got) != 0 {
			t.Errorf("cancelled fetch left %s: %q", dir, got)
		}
	}
	st, err := os.Stat(filepath.Join(root, "blobs", partial))
	if err != nil {
		t.Fatal(err)
	}
	opts.Progress = nil
	checkSnapshot(t, mustFetch(t, opts), h.files, wanted)
	got := h.requests("GET /" + weightsName)
	if want := fmt.Sprintf("bytes=%d-", st.Size()); !strings.HasSuffix(got[len(got)-1], want) {
		t.Errorf("last request %q, want %s", got[len(got)-1], want)
	}
	if got := blobs(t, opts); slices.Contains(got, partial) {
		t.Errorf("blobs in the end: %q", got)
	}
}

// TestPartials puts something in the partial file's place and checks that the fetch ends well regardless.
func TestPartials(t *testing.T) {
	t.Parallel()
	whole := model()[weightsName]
	for _, tt := range []struct {
		name, partial string
		noRange       bool
		cut           int
		requests      int // for the weights
	}{
		{name: "half", partial: whole[:len(whole)/2], requests: 1},
		{name: "half, server ignores ranges", partial: whole[:len(whole)/2], noRange: true, requests: 1},
		{name: "half, server ignores ranges and breaks", partial: whole[:len(whole)/2], noRange: true, cut: 100_000, requests: 2},
		{name: "all, only not renamed", partial: whole, requests: 0},
		{name: "wrong bytes", partial: "garbage", requests: 2},
		{name: "wrong bytes, all of them", partial: strings.Repeat("x", len(whole)), requests: 1},
		{name: "too long", partial: whole + "more", requests: 1},
		{name: "empty", requests: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := newFakeHub(t, model())
			h.noRange = tt.noRange
			if tt.cut > 0 {
				h.cut[weightsName] = tt.cut
			}
			opts := h.options(t)
			write(t, filepath.Join(opts.CacheDir, "models--acme--tiny", "blobs", sha256Hex(whole)+".incomplete"), tt.partial)
			checkSnapshot(t, mustFetch(t, opts), h.files, wanted)
			if got := h.requests("GET /" + weightsName); len(got) != tt.requests {
				t.Errorf("%d requests %q, want %d", len(got), got, tt.requests)
			}
		})
	}
}

func TestWrongContent(t *testing.T) {
	t.Parallel()
	whole := model()[weightsName]
	other := strings.Replace(whole, "weights", "Weights", 1)
	config := model()["config.json"]
	for _, tt := range []struct {
		name, file, sent string
		want             []string
	}{
		{"large file", weightsName, other, []string{weightsName, "SHA-256", sha256Hex(whole), sha256Hex(other)}},
		{"small file", "config.json", strings.ToUpper(config), []string{"config.json", "git SHA-1", gitHex(config), gitHex(strings.ToUpper(config))}},
		{"too long", weightsName, whole + "more", []string{weightsName, "more than the 800000 bytes"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := newFakeHub(t, model())
			h.swap[tt.file] = tt.sent
			opts := h.options(t)
			_, err := Fetch(t.Context(), repo, opts)
			if err == nil {
				t.Fatal("wrong bytes were taken")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error lacks %q: %v", want, err)
				}
			}
			wrong := gitHex(h.files[tt.file])
			if large(tt.file) {
				wrong = sha256Hex(h.files[tt.file])
			}
			for _, name := range blobs(t, opts) {
				if strings.HasPrefix(name, wrong) {
					t.Errorf("%s is still there", name)
				}
			}
			if got := tree(t, filepath.Join(opts.CacheDir, "models--acme--tiny", "snapshots")); len(got) != 0 {
				t.Errorf("a snapshot appeared: %q", got)
			}
		})
	}
}

func TestTruncated(t *testing.T) {
	t.Parallel()
	h := newFakeHub(t, model())
	h.short[weightsName] = 1000
	opts := h.options(t)
	_, err := Fetch(t.Context(), repo, opts)
	if err == nil || !strings.Contains(err.Error(), "model.safetensors: got 1000 of 800000 bytes") {
		t.Fatalf("error = %v", err)
	}
	if n := len(h.requests("GET /" + weightsName)); n != 6 { // each brings the same bytes, so each counts as a failure
		t.Errorf("%d requests", n)
	}
}

func TestDamagedBlobIsReplaced(t *testing.T) {
	t.Parallel()
	h := newFakeHub(t, model())
	opts := h.options(t)
	write(t, filepath.Join(opts.CacheDir, "models--acme--tiny", "blobs", sha256Hex(h.files[weightsName])), "short")
	checkSnapshot(t, mustFetch(t, opts), h.files, wanted)
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	h := newFakeHub(t, model())
	h.busy = 3
	opts := h.options(t)
	var pauses []time.Duration
	opts.wait = func(_ context.Context, d time.Duration) error {
		pauses = append(pauses, d)
		return nil
	}
	mustFetch(t, opts)
	if want := []time.Duration{7 * time.Second, 7 * time.Second, 7 * time.Second}; !slices.Equal(pauses, want) {
		t.Errorf("pauses %v, want %v", pauses, want)
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]time.Duration{1: 1e9, 2: 2e9, 5: 16e9, 6: 30e9, 60: 30e9} {
		if got := backoff(n); got < want*8/10 || got > want*12/10 {
			t.Errorf("backoff(%d) = %v, want about %v", n, got, want)
		}
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"": 0, "0": 0, "120": 2 * time.Minute, "-1": 0, "soon": 0,
		now.Add(time.Hour).Format(http.TimeFormat):  time.Hour,
		now.Add(-time.Hour).Format(http.TimeFormat): 0,
	} {
		if got := retryAfter(&http.Response{Header: http.Header{"Retry-After": {header}}}, now); got != want {
			t.Errorf("Retry-After %q = %v, want %v", header, got, want)
		}
	}
}

func TestTooLongPause(t *testing.T) {
	t.Parallel()
	c := &client{tries: 5, opts: Options{wait: sleep}}
	err := c.retry(t.Context(), func(context.Context) error {
		return &transientError{err: errors.New("busy"), after: time.Hour}
	})
	if err == nil || !strings.Contains(err.Error(), "come back in 1h0m0s") {
		t.Errorf("error = %v", err)
	}
}

// TestStall has a server that goes silent in the middle of a body.
func TestStall(t *testing.T) {
	t.Parallel()
	h := newFakeHub(t, model())
	inner := h.cdn.Config.Handler
	silent := true
	h.cdn.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !silent {
			inner.ServeHTTP(w, r)
			return
		}
		silent = false
		w.Header().Set("Content-Length", fmt.Sprint(len(h.files[weightsName])))
		_, _ = w.Write([]byte(h.files[weightsName][:200_000]))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	opts := h.options(t)
	opts.stall = 300 * time.Millisecond
	checkSnapshot(t, mustFetch(t, opts), h.files, wanted)
	if got := h.requests("GET /" + weightsName); len(got) != 1 || !strings.Contains(got[0], "bytes=200000-") {
		t.Errorf("requests after the silent one: %q", got)
	}
}

// TestErrorsHideSignedAddress checks that an address that opens a file isn't written to logs.
func TestErrorsHideSignedAddress(t *testing.T) {
	t.Parallel()
	h := newFakeHub(t, model())
	opts := h.options(t)
	h.cdn.Close()
	_, err := Fetch(t.Context(), repo, opts)
	if err == nil || !strings.Contains(err.Error(), weightsName) || strings.Contains(err.Error(), "signature") {
		t.Errorf("error = %v", err)
	}
}
