package boot

import (
	"fmt"
	"path/filepath"
)

// Cache returns the folder where set-up and workers keep what they fetched and prepared:
// $EMBEDFLEET_CACHE, else embedfleet under $XDG_CACHE_HOME, else under ~/.cache. It is the rule of
// scripts/setup.sh.
func Cache(getenv Getenv) (string, error) {
	if dir, ok := getenv("EMBEDFLEET_CACHE"); ok && dir != "" {
		return filepath.Abs(dir)
	}
	if dir, ok := getenv("XDG_CACHE_HOME"); ok && dir != "" {
		return filepath.Join(dir, "embedfleet"), nil
	}
	home, ok := getenv("HOME")
	if !ok || home == "" {
		return "", fmt.Errorf("%w: no cache folder: set EMBEDFLEET_CACHE or HOME", ErrUsage)
	}
	return filepath.Join(home, ".cache", "embedfleet"), nil
}
