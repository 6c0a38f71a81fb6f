package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/embedfleet/embedfleet/internal/supervise"
)

// Restarts remember across starts how often this worker crashed, in a file, for supervisors that restart
// without counting, as container engines do. What did not end in order is known at the next start.
type restarts struct {
	path string

	Running bool        `json:"running"` // it has not ended in order since it was last started
	Crashes int         `json:"crashes"` // ever
	Recent  []time.Time `json:"recent"`  // when those of the last ten minutes were noticed
	Last    string      `json:"last"`    // the last error that it could still tell
}

// openRestarts reads the file and notes this start in it. Without a path it remembers nothing.
func openRestarts(path string) (*restarts, error) {
	r := &restarts{path: path}
	if path == "" {
		return r, nil
	}
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, r)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the restart file %s: %w; remove it to count anew", path, err)
	}
	now := time.Now()
	if r.Running {
		r.Crashes++
		r.Recent = append(r.Recent, now)
	}
	r.Recent = supervise.Recent(r.Recent, now.Add(-supervise.Window))
	r.Running = true
	return r, r.save()
}

// gaveUp returns why the worker should not try again, nil if it may.
func (r *restarts) gaveUp() error {
	if len(r.Recent) < supervise.Crashes {
		return nil
	}
	last := ""
	if r.Last != "" {
		last = "; its last word: " + r.Last
	}
	return fmt.Errorf("%d crashes in %v, not trying again before it is stopped and started%s", len(r.Recent), supervise.Window, last)
}

// end notes how the worker ends: in order, after which its crashes are forgiven, or by an error.
func (r *restarts) end(err error) error {
	if err != nil {
		r.Last = err.Error()
	} else {
		r.Running, r.Recent, r.Last = false, nil, ""
	}
	return r.save()
}

// save replaces the file in one step: a crash in the middle must not leave half of it.
func (r *restarts) save() error {
	if r.path == "" {
		return nil
	}
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("writing the restart file: %w", err)
	}
	part := filepath.Join(filepath.Dir(r.path), "."+filepath.Base(r.path)+".partial")
	if err = os.WriteFile(part, b, 0o600); err == nil {
		err = os.Rename(part, r.path)
	}
	if err != nil {
		return fmt.Errorf("writing the restart file: %w", err)
	}
	return nil
}
