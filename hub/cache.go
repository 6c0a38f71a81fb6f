package hub

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// A cache is one repository's part of the cache folder. Its methods build every path below it, and are the
// only place that does; names that come from the hub were checked by checkPath, isCommit and parseDigest
// before they get here.
type cache struct {
	root  string // CACHE/models--ORG--NAME
	locks string // CACHE/.locks/models--ORG--NAME
}

// newCache places a repository inside the cache folder dir. The two dashes stand for the id's slash, which is
// why an id may hold no two dashes of its own.
func newCache(dir, repo string) cache {
	name := "models--" + strings.ReplaceAll(repo, "/", "--")
	return cache{root: filepath.Join(dir, name), locks: filepath.Join(dir, ".locks", name)}
}

// blob is where a file's bytes are once they are whole and right; incomplete where they gather.
func (c cache) blob(d digest) string       { return filepath.Join(c.root, "blobs", string(d)) }
func (c cache) incomplete(d digest) string { return c.blob(d) + ".incomplete" }

// lockFile guards a blob. It lies outside the repository's folder, so that removing that folder to free its
// space never takes a lock from under a program that holds it.
func (c cache) lockFile(d digest) string { return filepath.Join(c.locks, string(d)+".lock") }

// ref is the file that holds a branch's or tag's commit: 40 digits, no newline. A name with slashes, like a
// pull request's refs/pr/1, is a path of its own below refs.
func (c cache) ref(rev string) string { return filepath.Join(c.root, "refs", filepath.FromSlash(rev)) }

// snapshot is the folder of a commit, there or not.
func (c cache) snapshot(commit string) Snapshot {
	return Snapshot{Dir: filepath.Join(c.root, "snapshots", commit), Commit: commit}
}

// marker is the empty file that says a commit has no file of that name. huggingface_hub writes one when a
// file it asked for was answered with 404.
func (c cache) marker(commit, name string) string {
	return filepath.Join(c.root, ".no_exist", commit, filepath.FromSlash(name))
}

// lookup finds a complete snapshot of a revision without asking anyone, or says what is missing of it. The
// error is made to follow "the cache cannot serve this:". A branch or tag is believed to be where it was when
// it was last fetched.
func (c cache) lookup(rev string, weights func([]byte) error) (Snapshot, error) {
	commit := rev
	if !isCommit(rev) {
		b, err := os.ReadFile(c.ref(rev))
		if errors.Is(err, fs.ErrNotExist) {
			return Snapshot{}, errors.New("it was never fetched")
		}
		if err != nil {
			return Snapshot{}, fmt.Errorf("reading the revision's commit: %w", err)
		}
		commit = strings.TrimSpace(string(b))
	}
	if !isCommit(commit) {
		return Snapshot{}, fmt.Errorf("%s holds %.60q, which is not a commit", c.ref(rev), commit)
	}
	s := c.snapshot(commit)
	return s, complete(s.Dir, weights)
}

// unknown returns an optional file of which neither the snapshot nor a .no_exist marker tells whether the
// repository has it, or "". Fetch leaves none; other programs ask only for what they read.
func (c cache) unknown(s Snapshot) string {
	for _, name := range optional {
		if !exists(filepath.Join(s.Dir, name)) && !exists(c.marker(s.Commit, name)) {
			return name
		}
	}
	return ""
}

// complete reports what a snapshot's folder lacks to be loaded. Blobs are whole by construction, so that
// the links lead somewhere is all there is to check. The same check ends a fetch, where it finds a repository
// whose own files contradict each other (an index that names a shard nobody uploaded).
func complete(dir string, weights func([]byte) error) error {
	has := func(name string) bool { return exists(filepath.Join(dir, filepath.FromSlash(name))) }
	if !exists(dir) {
		return errors.New("it was never fetched")
	}
	if err := missing(has); err != nil {
		return err
	}
	if err := needsGraph(dir, has, weights); err != nil {
		return err
	}
	need, err := listed(dir, has)
	if err != nil {
		return err
	}
	for _, name := range need {
		if !has(name) {
			return fmt.Errorf("%s is missing in %s", name, dir)
		}
	}
	return nil
}

// needsGraph reports that a folder whose weights are of no use has no graph. Fetched by another program, or by one that
// knew more or fewer architectures, it may have the one without the other.
func needsGraph(dir string, has func(string) bool, weights func([]byte) error) error {
	if weights == nil || slices.ContainsFunc(graphs, has) {
		return nil
	}
	raw, err := os.ReadFile(filepath.Join(dir, configFile))
	if err != nil {
		return fmt.Errorf("reading %s: %w", configFile, err)
	}
	if unusable := weights(raw); unusable != nil {
		return fmt.Errorf("%w, and there is no onnx/model.onnx in %s", unusable, dir)
	}
	return nil
}

// listed names the files that other files of the folder refer to, and the weights: the shards of an index, the
// folders of modules.json, the one file of a form, or any other safetensors file of the root. It fails if there are no weights at all.
func listed(dir string, has func(string) bool) ([]string, error) {
	modules, err := moduleConfigs(dir, has)
	if err != nil {
		return nil, err
	}
	for _, f := range forms {
		if has(f.single) {
			return append(modules, f.single), nil
		}
		if has(f.index) {
			shards, err := readShards(filepath.Join(dir, f.index))
			return append(modules, shards...), err
		}
	}
	loose, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", dir, err)
	}
	if len(loose) == 0 && !slices.ContainsFunc(graphs, has) {
		return nil, fmt.Errorf("no weights in %s", dir)
	}
	for _, name := range loose {
		modules = append(modules, filepath.Base(name)) // a link, which may lead nowhere
	}
	return modules, nil
}

// readShards returns the files that an index spreads the tensors over, each once. The index is a
// stranger's, so a name that leaves the folder is refused here and not left to whoever opens it.
func readShards(name string) ([]string, error) {
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := readJSON(name, &index); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var shards []string
	for _, shard := range index.WeightMap {
		if !seen[shard] {
			seen[shard] = true
			shards = append(shards, shard)
		}
	}
	for _, shard := range shards {
		if err := checkPath(shard); err != nil {
			return nil, err
		}
	}
	return shards, nil
}

// moduleConfigs returns the config.json of every module in modules.json that has one: all but the
// normalising one, whose folder is empty, and the network at the root.
func moduleConfigs(dir string, has func(string) bool) ([]string, error) {
	if !has("modules.json") {
		return nil, nil
	}
	var modules []struct {
		Path string `json:"path"`
		Type string `json:"type"`
	}
	if err := readJSON(filepath.Join(dir, "modules.json"), &modules); err != nil {
		return nil, err
	}
	var configs []string
	for _, m := range modules {
		if m.Path == "" || strings.HasSuffix(m.Type, ".Normalize") {
			continue
		}
		name := path.Join(m.Path, "config.json")
		if err := checkPath(name); err != nil {
			return nil, err
		}
		configs = append(configs, name)
	}
	return configs, nil
}

// readJSON decodes a small file of a snapshot. The error names the whole path where the content is wrong,
// because that is the file to look at or to remove.
func readJSON(name string, v any) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("reading %s: %w", filepath.Base(name), err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	return nil
}

// exists reports whether name leads to something, through links. That it can't be told counts as no: the
// attempt to use the file will then say why.
func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// has reports whether a snapshot holds a file in the right size, as a link or as a plain file. Digests were
// compared when the bytes came; hashing gigabytes again at each start would cost more than it finds.
func (c cache) has(commit string, f file) bool {
	st, err := os.Stat(filepath.Join(c.snapshot(commit).Dir, filepath.FromSlash(f.path)))
	return err == nil && st.Size() == f.size
}

// present returns how many of a file's bytes are on disk, finished or not, for judging how much space the
// rest will take.
func (c cache) present(commit string, f file) int64 {
	if c.has(commit, f) {
		return f.size
	}
	for _, name := range []string{c.blob(f.digest), c.incomplete(f.digest)} {
		if st, err := os.Stat(name); err == nil {
			return st.Size()
		}
	}
	return 0
}
