package hub

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// What the hub accepts as a repository's id and git as a revision's name, narrowed to what is safe as part of
// a path and of an address. Neither may begin with a dot, a dash or a slash.
var (
	repoPattern     = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)?$`)
	revisionPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+/-]*$`)
	hexPattern      = regexp.MustCompile(`^[0-9a-f]+$`)
)

// Parse splits what a user may write, "org/name" or "org/name@revision", and checks both halves. Revision
// is empty if none was written.
func Parse(s string) (repo, revision string, err error) {
	repo, revision, pinned := strings.Cut(s, "@")
	if err := checkRepo(repo); err != nil {
		return "", "", err
	}
	if !pinned {
		return repo, "", nil
	}
	return repo, revision, checkRevision(revision)
}

// checkRepo refuses what the hub would never accept as an id, since the id becomes a folder's name. "--" is
// the cache layout's separator and therefore forbidden inside a name, by the hub too.
func checkRepo(repo string) error {
	if len(repo) > 96 || !repoPattern.MatchString(repo) || strings.Contains(repo, "--") || strings.Contains(repo, "..") {
		return fmt.Errorf("%q is not a Hugging Face repository id: want org/name", repo)
	}
	return nil
}

// checkRevision refuses what cannot be a branch, tag or commit and would leave the refs folder.
func checkRevision(rev string) error {
	if len(rev) > 200 || !revisionPattern.MatchString(rev) || path.Clean(rev) != rev || strings.Contains(rev, "..") {
		return fmt.Errorf("%q is not a revision: want a branch, a tag or a commit", rev)
	}
	return nil
}

// checkPath refuses a file name that would leave the snapshot's folder, on this system or another (a backslash
// and a drive's colon are letters here and separators elsewhere; caches travel on shared disks). The whole
// repository is refused for one such name: nobody uploads it by mistake.
func checkPath(name string) error {
	if !filepath.IsLocal(name) || path.Clean(name) != name || strings.ContainsAny(name, "\\\x00:") {
		return fmt.Errorf("the repository lists a file %q, which would leave its folder: not fetching from it", name)
	}
	return nil
}

// isCommit reports whether a revision is a whole commit hash, which names the same files for ever. A shortened
// one is treated as a name and resolved by the hub.
func isCommit(rev string) bool { return len(rev) == 40 && hexPattern.MatchString(rev) }

// A digest names a blob: 64 hex digits are the SHA-256 of the bytes (large files), 40 the SHA-1 that git
// gives the file (all others).
type digest string

var errDigest = errors.New("want 40 or 64 hex digits")

// parseDigest checks that s can be a digest, and with it that s is safe as a file's name.
func parseDigest(s string) (digest, error) {
	if (len(s) != 40 && len(s) != 64) || !hexPattern.MatchString(s) {
		return "", fmt.Errorf("digest %q: %w", s, errDigest)
	}
	return digest(s), nil
}
