package engine_test

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/cmd/internal/engine"
	"github.com/embedfleet/embedfleet/hub"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/vector"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

// serveHub imitates a hub that has one repository, "acme/tiny", with the files of dir.
func serveHub(t *testing.T, dir string) string {
	t.Helper()
	files := map[string][]byte{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files[path], err = os.ReadFile(filepath.Join(dir, path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api/models/acme/tiny/revision/") {
			listing := []map[string]any{}
			for name, content := range files {
				listing = append(listing, sibling(name, content))
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"sha": commit, "siblings": listing})
			return
		}
		content, ok := files[strings.TrimPrefix(r.URL.Path, "/acme/tiny/resolve/"+commit+"/")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(content)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// sibling is a file in the hub's listing: weights have a SHA-256, what git holds itself a git digest.
func sibling(name string, content []byte) map[string]any {
	git := sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(content)), content...))
	s := map[string]any{"rfilename": name, "size": len(content), "blobId": hex.EncodeToString(git[:])}
	if strings.HasSuffix(name, ".safetensors") {
		sum := sha256.Sum256(content)
		s["lfs"] = map[string]any{"sha256": hex.EncodeToString(sum[:]), "size": len(content)}
	}
	return s
}

// TestFromARepositoryToVectors is the way of a model that nobody has on disk yet: fetched, compiled, loaded,
// and its vectors equal to the reference. The second time nothing of it needs the network or is made again.
func TestFromARepositoryToVectors(t *testing.T) {
	folder := filepath.Join(testkit.Root(t), "embedder", "model", "testdata", "bert-mean")
	set := engine.Settings{
		Model: "acme/tiny", Library: testkit.ONNXRuntime(t), Cache: t.TempDir(),
		Hub: hub.Options{Endpoint: serveHub(t, folder), CacheDir: t.TempDir()},
	}
	first := embedReference(t, set, folder)
	set.Hub = hub.Options{Endpoint: "http://127.0.0.1:1", CacheDir: set.Hub.CacheDir, Offline: true}
	if second := embedReference(t, set, folder); second != first {
		t.Errorf("space %s at first, then %s", first, second)
	}
	prepared, err := filepath.Glob(filepath.Join(set.Cache, "prepared", "*.partial"))
	if err != nil || len(prepared) > 0 {
		t.Errorf("left in the cache: %v, %v", prepared, err)
	}
}

func embedReference(t *testing.T, set engine.Settings, folder string) vector.Space {
	t.Helper()
	e, err := engine.Open(t.Context(), testkit.Logger(t), set)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	b, err := os.ReadFile(filepath.Join(folder, "reference.json"))
	if err != nil {
		t.Fatal(err)
	}
	var reference struct {
		Cases []struct {
			Text   string
			Tokens int
			Vector vector.Vector
		}
	}
	if err := json.Unmarshal(b, &reference); err != nil {
		t.Fatal(err)
	}
	texts := make([]string, len(reference.Cases))
	for i, c := range reference.Cases {
		texts[i] = c.Text
	}
	results, err := e.EmbedAll(t.Context(), texts)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range reference.Cases {
		r := results[i]
		if r.Err != nil || r.Tokens != c.Tokens || r.Vector.Cosine(c.Vector) < 0.99999 {
			t.Errorf("text %d: %d tokens, want %d, cosine %.7f, %v", i, r.Tokens, c.Tokens, r.Vector.Cosine(c.Vector), r.Err)
		}
	}
	return e.Space
}

func TestFolderSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "model.safetensors")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for model, want := range map[string]string{
		file:               "is a file",
		"/no/such/folder":  "there is no folder /no/such/folder",
		"./nor/this":       "there is no folder ./nor/this",
		"a b":              "neither a folder nor a repository id",
		"acme/tiny@a..b":   "not a revision",
		"acme/tiny/deeper": "neither a folder nor a repository id",
	} {
		_, err := engine.Folder(t.Context(), testkit.Logger(t), model, hub.Options{Endpoint: "http://127.0.0.1:1"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Folder(%q): %v, want %q", model, err, want)
		}
	}
}
