//go:build !linux

package smaps

import (
	"errors"
	"fmt"
	"runtime"
)

// Process returns an error that wraps [errors.ErrUnsupported].
func Process(int) (Use, error) { return Use{}, unsupported() }

// Files returns an error that wraps [errors.ErrUnsupported].
func Files(int, ...string) (Use, error) { return Use{}, unsupported() }

func unsupported() error {
	return fmt.Errorf("%s does not tell private memory from shared: %w", runtime.GOOS, errors.ErrUnsupported)
}
