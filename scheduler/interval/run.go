package interval

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// call makes the HTTP call; any status of 2xx is a success.
func (r *Runner) call(ctx context.Context, fill func(string) string) ([]byte, error) {
	method := r.conf.Method
	switch {
	case method == "" && r.conf.Body != "":
		method = http.MethodPost
	case method == "":
		method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, method, fill(r.conf.URL), strings.NewReader(fill(r.conf.Body)))
	if err != nil {
		return nil, errors.New("calling: the address can't be used")
	}
	req.Header.Set("User-Agent", r.parts.Agent)
	for name, value := range r.conf.Headers {
		req.Header.Set(name, value)
	}
	resp, err := r.parts.HTTP.Do(req)
	if outer, ok := errors.AsType[*url.Error](err); ok {
		err = outer.Err // without the address, which may hold a key
	}
	if err != nil {
		return nil, fmt.Errorf("calling: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, fmt.Errorf("calling: HTTP %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	out, err := io.ReadAll(io.LimitReader(resp.Body, maxOutput+1))
	if err == nil && len(out) > maxOutput {
		err = fmt.Errorf("calling: the answer is longer than %d bytes", maxOutput)
	}
	return out, err
}

// command runs the program in a group of its own, which is killed as a whole when the time is up: what a script
// started must not outlive its slot. It sees none of this process's variables but those that are named.
func (r *Runner) command(ctx context.Context, fill func(string) string) ([]byte, error) {
	argv := make([]string, len(r.conf.Command))
	for i, arg := range r.conf.Command {
		argv[i] = fill(arg)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...) //nolint:gosec // what the operator wrote into the file of sources
	out, said := &bounded{limit: maxOutput}, &tail{}
	cmd.Stdout, cmd.Stderr = out, said
	for _, name := range append([]string{"PATH", "HOME", "LANG", "TZ"}, r.conf.Env...) {
		if value, ok := r.parts.Getenv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left behind; mostly there is nobody
	}
	switch {
	case out.over:
		return nil, fmt.Errorf("running %s: it wrote more than %d bytes", argv[0], maxOutput)
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("running %s: %w", argv[0], context.Cause(ctx))
	case err != nil && len(said.last()) > 0:
		return nil, fmt.Errorf("running %s: %w, it says %q", argv[0], err, said.last())
	case err != nil:
		return nil, fmt.Errorf("running %s: %w", argv[0], err)
	}
	return out.kept.Bytes(), nil
}

// bounded keeps what is written up to a limit and fails beyond it. The buffer is not embedded: it would be read into
// past Write.
type bounded struct {
	kept  bytes.Buffer
	limit int
	over  bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.kept.Len()+len(p) > b.limit {
		b.over = true
		return 0, errors.New("too much")
	}
	return b.kept.Write(p)
}

// tail keeps the end of what is written.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if n := len(t.b) - 4*maxSaid; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

// last returns the last line that is not empty.
func (t *tail) last() string {
	lines := strings.Split(strings.TrimSpace(strings.ToValidUTF8(string(t.b), "?")), "\n")
	line := strings.TrimSpace(lines[len(lines)-1])
	return strings.ToValidUTF8(line[:min(len(line), maxSaid)], "")
}
