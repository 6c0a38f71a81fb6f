package hub

import (
	"context"
	"crypto/sha1" //nolint:gosec // git names its blobs so; large files have SHA-256
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/internal/filelock"
)

// A transfer brings one file's bytes into its blob. Other processes that want the same blob wait at its lock.
type transfer struct {
	client *client
	commit string
	file   file
	cache  cache
	report func(have int64)

	// The state of the run. Out, have and sum go together: have bytes are in out and in sum, and the next
	// write appends to both. After every failed request that still holds, and the next one goes on there.
	out  *os.File
	have int64 // bytes written to out, equal to its offset
	sum  hash.Hash
	peak int64  // most bytes there ever were: only more than that is progress
	etag string // strong tag of the server that sends the bytes, of this run
}

// run returns when the blob is there and right, or the snapshot holds the file in another way. What it leaves on an error is the .incomplete file, unless
// its content is known to be wrong.
func (t *transfer) run(ctx context.Context) error {
	if t.done() {
		return nil
	}
	lock, err := t.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Release()
	if t.done() { // whoever held the lock has brought it
		return nil
	}
	name := t.cache.incomplete(t.file.digest)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("making the blobs folder: %w", err)
	}
	t.out, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("opening the partial file: %w", err)
	}
	defer t.out.Close()
	resumed, err := t.rehash()
	if err != nil {
		return err
	}
	err = t.fill(ctx)
	if _, wrong := errors.AsType[*digestError](err); wrong && resumed {
		// The bytes of an earlier run may have been bad: once more, all of it.
		if err = t.restart(); err == nil {
			err = t.fill(ctx)
		}
	}
	return t.finish(name, err)
}

// lock takes the blob's lock, which is where huggingface_hub has it: both may fetch into one cache.
func (t *transfer) lock(ctx context.Context) (*filelock.Lock, error) {
	name := t.cache.lockFile(t.file.digest)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, fmt.Errorf("making the locks folder: %w", err)
	}
	return filelock.Acquire(ctx, name)
}

// done reports whether the file is there. A blob of another size can only be damage and goes away.
func (t *transfer) done() bool {
	if t.cache.has(t.commit, t.file) {
		return true
	}
	name := t.cache.blob(t.file.digest)
	st, err := os.Stat(name)
	if err != nil {
		return false
	}
	if st.Size() == t.file.size {
		return true
	}
	_ = os.Remove(name)
	return false
}

// rehash takes over what an earlier run has left, and reports whether it was anything. The bytes are read once
// more to bring the sum to where it was: at some hundred MB/s that costs far less than fetching them. What is
// longer than the file can be is thrown away.
func (t *transfer) rehash() (bool, error) {
	t.sum = t.file.digest.hash(t.file.size)
	n, err := io.Copy(t.sum, t.out)
	if err != nil {
		return false, fmt.Errorf("reading the partial file: %w", err)
	}
	if n > t.file.size {
		return false, t.restart()
	}
	t.have, t.peak = n, n
	t.report(n)
	return n > 0, nil
}

// restart forgets all bytes. The peak stays: bytes that come a second time are no progress.
func (t *transfer) restart() error {
	t.sum, t.have = t.file.digest.hash(t.file.size), 0
	if err := t.out.Truncate(0); err != nil {
		return fmt.Errorf("emptying the partial file: %w", err)
	}
	if _, err := t.out.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("emptying the partial file: %w", err)
	}
	return nil
}

// fill requests the missing bytes until all are there, then compares the digest. A digest that is wrong is
// not tried again here: a mirror that serves other bytes serves them every time.
func (t *transfer) fill(ctx context.Context) error {
	if t.have < t.file.size {
		if err := t.client.retry(ctx, t.request); err != nil {
			return err
		}
	}
	if got := hex.EncodeToString(t.sum.Sum(nil)); got != string(t.file.digest) {
		return &digestError{want: t.file.digest, got: got}
	}
	return nil
}

// request asks once for the bytes from t.have on and writes what comes. It succeeds when all have come and the
// server has nothing more to say; it asks for one byte beyond the end to know. There is no limit on the whole
// time, which for gigabytes depends on the line, only on the time without any byte.
func (t *transfer) request(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(t.client.opts.stall, func() { cancel(errStalled) })
	defer stalled.Stop()

	resp, err := t.client.send(ctx, http.MethodGet, t.client.address(t.commit, t.file.path), t.header())
	if err != nil {
		return t.why(ctx, err)
	}
	defer resp.Body.Close()
	if err := t.accept(resp); err != nil {
		return err
	}
	for {
		n, err := io.CopyN(io.MultiWriter(t.out, t.sum), resp.Body, min(1<<18, t.file.size-t.have+1))
		stalled.Reset(t.client.opts.stall)
		t.have += n
		t.report(min(t.have, t.file.size))
		switch {
		case t.have > t.file.size:
			return fmt.Errorf("the server sends more than the %d bytes that the hub lists", t.file.size)
		case errors.Is(err, io.EOF) && t.have == t.file.size:
			return nil
		case err != nil:
			return t.why(ctx, err)
		case ctx.Err() != nil: // the body's reader may go on for a while with what it has buffered
			return t.why(ctx, ctx.Err())
		}
	}
}

var errStalled = errors.New("no byte came for too long")

// header asks for the rest of a begun file. If-Range makes a server that has another version by now send
// all of it; its tag is only known within one run. A tag from the hub's listing would not do: a storage
// server behind the redirect has tags of its own and would start over each time. Without one the digest
// decides in the end, and the commit in the address keeps the bytes from changing.
func (t *transfer) header() http.Header {
	h := http.Header{"Accept-Encoding": {"identity"}} // a compressed body has other offsets
	if t.have > 0 {
		h.Set("Range", fmt.Sprintf("bytes=%d-", t.have))
		if t.etag != "" {
			h.Set("If-Range", t.etag)
		}
	}
	return h
}

// accept looks at an answer's head and puts the file to where its body belongs: behind the bytes that are here
// if the server continues, at the start if it sends all. An answer that fits neither is tried again from the
// start, once per try that retry grants.
func (t *transfer) accept(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusPartialContent:
		start, total, err := contentRange(resp.Header.Get("Content-Range"))
		if err != nil || start != t.have || (total >= 0 && total != t.file.size) {
			err = fmt.Errorf("asked for the bytes from %d of %d, got %q", t.have, t.file.size, resp.Header.Get("Content-Range"))
			return t.again(err)
		}
	case http.StatusOK: // the whole file, whatever was asked
		if err := t.restart(); err != nil {
			return err
		}
	case http.StatusRequestedRangeNotSatisfiable:
		return t.again(errors.New("the server has no bytes beyond what is here"))
	default:
		return t.client.statusError(resp)
	}
	if tag := resp.Header.Get("ETag"); strings.HasPrefix(tag, `"`) {
		t.etag = tag
	}
	return nil
}

// again starts over and marks err for another try.
func (t *transfer) again(err error) error {
	if err := t.restart(); err != nil {
		return err
	}
	return &transientError{err: err}
}

// why tells a broken connection, which is resumed, from a disk that can't be written, which is final. It also
// notes whether the request brought bytes that were never here before: a line that breaks every minute may
// take all day, a server that breaks at the same byte each time may not.
func (t *transfer) why(ctx context.Context, err error) error {
	if _, disk := errors.AsType[*os.PathError](err); disk {
		return fmt.Errorf("writing the partial file: %w", err)
	}
	if errors.Is(context.Cause(ctx), errStalled) {
		err = errStalled
	}
	moved := t.have > t.peak
	t.peak = max(t.peak, t.have)
	return &transientError{err: fmt.Errorf("got %d of %d bytes: %w", t.have, t.file.size, err), moved: moved}
}

// finish gives a right file its name and takes a wrong one away; after any other error the partial file stays.
// The bytes are on disk before the name is, so a power cut can't leave a blob with holes.
func (t *transfer) finish(name string, err error) error {
	if _, wrong := errors.AsType[*digestError](err); wrong || t.have > t.file.size {
		if rm := os.Remove(name); rm != nil {
			return errors.Join(err, rm)
		}
	}
	if err != nil {
		return err
	}
	if err := t.out.Sync(); err != nil {
		return fmt.Errorf("writing the partial file to disk: %w", err)
	}
	if err := os.Rename(name, t.cache.blob(t.file.digest)); err != nil {
		return fmt.Errorf("renaming the partial file: %w", err)
	}
	return nil
}

// A digestError says that a file has all its bytes and they are not the right ones.
type digestError struct {
	want digest
	got  string
}

func (e *digestError) Error() string {
	kind := "SHA-256"
	if len(e.want) == 40 {
		kind = "git SHA-1"
	}
	return fmt.Sprintf("wrong digest: want %s %s, got %s: the file was removed, try again or use another mirror", kind, e.want, e.got)
}

// hash returns what a file of n bytes must be written to for its sum to be d. Git hashes a header with the
// length in front of the content, which is why the size must be known before the first byte.
func (d digest) hash(n int64) hash.Hash {
	if len(d) == 64 {
		return sha256.New()
	}
	h := sha1.New() //nolint:gosec // see the import
	fmt.Fprintf(h, "blob %d\x00", n)
	return h
}

// contentRange reads "bytes START-END/TOTAL" (RFC 9110, 14.4); total is -1 for "*".
func contentRange(s string) (start, total int64, err error) {
	span, size, ok := strings.Cut(strings.TrimPrefix(s, "bytes "), "/")
	if !ok {
		return 0, 0, fmt.Errorf("content range %q", s)
	}
	from, _, _ := strings.Cut(span, "-")
	if start, err = strconv.ParseInt(from, 10, 64); err != nil {
		return 0, 0, fmt.Errorf("content range %q: %w", s, err)
	}
	if size == "*" {
		return start, -1, nil
	}
	if total, err = strconv.ParseInt(size, 10, 64); err != nil {
		return 0, 0, fmt.Errorf("content range %q: %w", s, err)
	}
	return start, total, nil
}
