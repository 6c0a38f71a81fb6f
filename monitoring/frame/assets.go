package frame

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

// assets are the static files, in memory, with a digest in their address: a new release's are other addresses,
// so that browsers may keep them for ever.
type assets struct {
	files map[string]asset
}

type asset struct {
	content []byte
	url     string
}

func readAssets(rooms map[string]fs.FS) (*assets, error) {
	a := &assets{files: map[string]asset{}}
	for room, files := range rooms {
		err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			content, err := fs.ReadFile(files, name)
			if err != nil {
				return err
			}
			full := path.Join(room, name)
			a.files[full] = asset{content, fmt.Sprintf("/static/%s?v=%.6x", full, sha256.Sum256(content))}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("reading the static files of %s: %w", room, err)
		}
	}
	return a, nil
}

// url is the address of an asset, for templates.
func (a *assets) url(name string) (string, error) {
	file, ok := a.files[name]
	if !ok {
		return "", fmt.Errorf("there is no static file %s", name)
	}
	return file.url, nil
}

// Static serves the static files below /static/.
func (f *Frame) Static() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		file, ok := f.assets.files[strings.TrimPrefix(r.URL.Path, "/static/")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if "/static/"+strings.TrimPrefix(file.url, "/static/") == r.URL.RequestURI() {
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		}
		http.ServeContent(w, r, r.URL.Path, time.Time{}, bytes.NewReader(file.content))
	})
}
