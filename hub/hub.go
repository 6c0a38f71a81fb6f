package hub

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// DefaultEndpoint is where repositories are looked for if [Options] names no other hub or mirror.
const DefaultEndpoint = "https://huggingface.co"

// Options tell where to fetch from and where to keep it. The zero value and nil mean the public hub, no
// token, revision main, and huggingface_hub's own cache folder in the user's home.
type Options struct {
	Endpoint string // base URL of the hub, HF_ENDPOINT
	Token    string // HF_TOKEN; sent to Endpoint's scheme, host and port and nowhere else
	CacheDir string // HF_HUB_CACHE, or HF_HOME + "/hub"
	Revision string // branch, tag or commit; default "main"
	Offline  bool   // use the cache or fail, never the network (HF_HUB_OFFLINE)

	// Weights reports why a loader can't use the weights of a repository with this config.json, or nil. It then needs
	// an exported graph (onnx/model.onnx) instead, which is fetched in the place of the weights. A nil function: any.
	Weights func(config []byte) error

	Client   *http.Client // its Transport is used; default http.DefaultTransport's behaviour
	Logger   *slog.Logger // default: silent
	Progress func(Progress)

	// Tests shorten or replace these.
	wait  func(context.Context, time.Duration) error
	free  func(dir string) (uint64, error)
	stall time.Duration // a transfer that brings no byte for so long is broken off and resumed
	tries int           // of one request in a row without a new byte
}

// Progress is a point of a running fetch. It is reported from the goroutine that called [Fetch], often, so
// the receiver must be quick.
type Progress struct {
	File  string // path in the repository
	Done  int64  // bytes here already, over all files of the fetch
	Total int64  // bytes of all files of the fetch
}

// A Snapshot is a repository at one commit, complete on disk.
type Snapshot struct {
	Dir    string // absolute, holds config.json
	Commit string // 40 hex digits
}

// withDefaults returns a copy in which every field can be used. It touches neither disk nor network.
func (o *Options) withDefaults() (Options, error) {
	var d Options
	if o != nil {
		d = *o
	}
	if d.Endpoint == "" {
		d.Endpoint = DefaultEndpoint
	}
	if d.Revision == "" {
		d.Revision = "main"
	}
	if d.CacheDir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return d, fmt.Errorf("finding a cache folder: %w: set HF_HUB_CACHE", err)
		}
		d.CacheDir = filepath.Join(home, ".cache", "huggingface", "hub")
	}
	dir, err := filepath.Abs(d.CacheDir)
	if err != nil {
		return d, fmt.Errorf("finding the cache folder %s: %w", d.CacheDir, err)
	}
	d.CacheDir = dir
	if d.Client == nil {
		d.Client = &http.Client{}
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	if d.Progress == nil {
		d.Progress = func(Progress) {}
	}
	d.hooks()
	return d, nil
}

// hooks fills what only tests set.
func (o *Options) hooks() {
	if o.wait == nil {
		o.wait = sleep
	}
	if o.free == nil {
		o.free = freeBytes
	}
	if o.stall == 0 {
		o.stall = time.Minute
	}
	if o.tries == 0 {
		o.tries = 6
	}
}

// Fetch brings the files of repo ("org/name") that a loader needs into the cache and returns their folder.
// What is there already is not fetched again; another process that fetches the same repository is joined.
//
// If the revision is a commit that is complete in the cache, or the options say offline, or the hub can't
// be reached, the cache alone answers. Every error says in one line what is wrong and what to do. When ctx
// ends, a begun transfer is kept and the next Fetch resumes it.
func Fetch(ctx context.Context, repo string, opts *Options) (Snapshot, error) {
	o, err := opts.withDefaults()
	if err != nil {
		return Snapshot{}, err
	}
	if err := checkRepo(repo); err != nil {
		return Snapshot{}, err
	}
	if err := checkRevision(o.Revision); err != nil {
		return Snapshot{}, err
	}
	f := &fetcher{repo: repo, opts: o, cache: newCache(o.CacheDir, repo)}
	snap, err := f.fetch(ctx)
	if err != nil {
		return Snapshot{}, fmt.Errorf("fetching %s: %w", repo, err)
	}
	return snap, nil
}

// A fetcher is one call of [Fetch].
type fetcher struct {
	repo  string
	opts  Options
	cache cache
}

// fetch decides who answers: the cache alone, the hub, or the cache in the hub's place. Only a hub that cannot
// be reached is replaced; one that says no (a repository gone private, a revision deleted) is believed.
func (f *fetcher) fetch(ctx context.Context) (Snapshot, error) {
	cached, absent := f.cache.lookup(f.opts.Revision, f.opts.Weights)
	if f.opts.Offline {
		if absent != nil {
			return Snapshot{}, fmt.Errorf("offline, and the cache %s cannot serve revision %s: %w", f.opts.CacheDir, f.opts.Revision, absent)
		}
		f.warnUnknown(cached)
		return cached, nil
	}
	if absent == nil && isCommit(f.opts.Revision) && f.cache.unknown(cached) == "" {
		return cached, nil // a commit never changes, so there is nothing to ask
	}
	tries := listTries
	if absent == nil {
		tries = 1 // the cache can answer, so a machine without network need not wait
	}
	snap, err := f.fetchOnline(ctx, tries)
	if _, down := errors.AsType[*transientError](err); down && absent == nil && ctx.Err() == nil {
		f.opts.Logger.Warn("hub cannot be reached, using the cached snapshot", "repo", f.repo, "commit", cached.Commit, "err", err)
		f.warnUnknown(cached)
		return cached, nil
	}
	return snap, err
}

// warnUnknown speaks up when a snapshot that another program made may lack files that the repository has:
// without modules.json, say, a loader would pool in another way, which no later check can see.
func (f *fetcher) warnUnknown(s Snapshot) {
	if name := f.cache.unknown(s); name != "" {
		f.opts.Logger.Warn("cached snapshot may lack a file, fetch once with network to be sure",
			"repo", f.repo, "commit", s.Commit, "file", name)
	}
}

// listTries is how often the hub is asked for a repository's files. It is less than for a transfer, since
// nothing is lost by giving up before the first byte and a person may be waiting for the answer.
const listTries = 4

// fetchOnline asks the hub for the revision's files, at most so many times, and brings them.
func (f *fetcher) fetchOnline(ctx context.Context, tries int) (Snapshot, error) {
	c, err := newClient(f.repo, f.opts)
	if err != nil {
		return Snapshot{}, err
	}
	asking := *c
	asking.tries = min(c.tries, tries)
	info, err := asking.revision(ctx, f.opts.Revision)
	if err != nil {
		return Snapshot{}, err
	}
	unusable, err := f.judge(ctx, c, info)
	if err != nil {
		return Snapshot{}, err
	}
	files, err := plan(info.files, unusable)
	if err != nil {
		return Snapshot{}, fmt.Errorf("commit %s: %w", info.commit, err)
	}
	if err := f.download(ctx, c, info.commit, files); err != nil {
		return Snapshot{}, err
	}
	snap, err := f.cache.publish(info, files, f.opts.Weights)
	if err != nil {
		return Snapshot{}, err
	}
	return snap, f.cache.writeRef(f.opts.Revision, info.commit)
}

// judge fetches config.json, if the loader wants to see it, and returns why the weights are of no use to it. That
// costs one small file, and may save gigabytes of the wrong form.
func (f *fetcher) judge(ctx context.Context, c *client, info revision) (unusable, err error) {
	i := slices.IndexFunc(info.files, func(fl file) bool { return fl.path == configFile })
	if f.opts.Weights == nil || i < 0 {
		return nil, nil
	}
	config := info.files[i : i+1]
	quiet := *f // who looks at the progress sees that of the whole
	quiet.opts.Progress = func(Progress) {}
	if err := quiet.download(ctx, c, info.commit, config); err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(f.cache.blob(config[0].digest))
	if errors.Is(err, fs.ErrNotExist) { // a cache that was copied without links has the file in its place
		raw, err = os.ReadFile(filepath.Join(f.cache.snapshot(info.commit).Dir, configFile))
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", configFile, err)
	}
	return f.opts.Weights(raw), nil
}

// download brings every blob that is missing, in the files' order and one at a time: nearly all bytes are in
// one file, so nothing is won by more connections. It asks for the space of all before the first.
func (f *fetcher) download(ctx context.Context, c *client, commit string, files []file) error {
	p := Progress{}
	for i := range files {
		if err := c.identify(ctx, commit, &files[i]); err != nil {
			return err
		}
		p.Total += files[i].size
	}
	if err := f.checkSpace(commit, files); err != nil {
		return err
	}
	for _, fl := range files {
		p.File = fl.path
		before := p.Done
		t := transfer{client: c, commit: commit, file: fl, cache: f.cache, report: func(n int64) {
			p.Done = before + n
			f.opts.Progress(p)
		}}
		if err := t.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", fl.path, err)
		}
		p.Done = before + fl.size
		f.opts.Progress(p)
	}
	return nil
}

// checkSpace refuses to begin what the disk cannot hold, which is kinder than a full disk an hour later. That
// the free space can't be told is no reason to refuse.
func (f *fetcher) checkSpace(commit string, files []file) error {
	var need int64
	for _, fl := range files {
		need += max(0, fl.size-f.cache.present(commit, fl))
	}
	free, err := f.opts.free(f.opts.CacheDir)
	if err != nil {
		f.opts.Logger.Debug("free space unknown", "dir", f.opts.CacheDir, "err", err)
		free = math.MaxInt64
	}
	if need <= 0 || uint64(need) <= free {
		return nil
	}
	return fmt.Errorf("%s more are needed in %s and %s are free: free some space or set HF_HUB_CACHE to another disk",
		size(need), f.opts.CacheDir, size(int64(min(free, math.MaxInt64))))
}

// size writes a number of bytes in decimal units, as disks are sold.
func size(n int64) string {
	units := []string{"kB", "MB", "GB", "TB"}
	v, unit := float64(n), "bytes"
	for _, u := range units {
		if v < 1000 {
			break
		}
		v, unit = v/1000, u
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") + " " + unit
}
