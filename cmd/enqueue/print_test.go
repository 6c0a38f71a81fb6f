package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

// TestUnwrittenAnswer: whoever redirects the answers to a file must learn that they are not in it.
func TestUnwrittenAnswer(t *testing.T) {
	t.Parallel()
	url := testkit.RedisServer(t).URL()
	var errs bytes.Buffer
	status := run(t.Context(), []string{"status", "--json", "--redis-url", url}, streams{
		in: strings.NewReader(""), out: fullDisk{}, err: &errs, getenv: func(string) (string, bool) { return "", false },
	})
	expect(t, status, 1, errs.String(), "enqueue: writing the answer: no space left on device")
}
