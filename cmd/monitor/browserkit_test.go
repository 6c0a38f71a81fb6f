package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/cmd/internal/fleet"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/registry"
)

const (
	alias = "minilm"
	// patience bounds every wait for something that should be there at once; a loaded machine needs more.
	patience = 30 * time.Second
)

// chromium returns the browser: CHROMIUM, or the first that is in PATH. Without one it skips the test.
func chromium(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a fleet and a browser; not in -short")
	}
	if path := os.Getenv("CHROMIUM"); path != "" {
		return path
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("no Chromium in PATH, and CHROMIUM names none: install the system's package chromium")
	return ""
}

// axe returns the accessibility checker that set-up brought, or "".
func axe(t *testing.T) string {
	t.Helper()
	cache, err := boot.Cache(os.LookupEnv)
	if err != nil {
		t.Fatal(err)
	}
	found, _ := filepath.Glob(filepath.Join(cache, "axe-core", "*", "axe.min.js")) // the pattern is valid
	if len(found) == 0 {
		return ""
	}
	script, err := os.ReadFile(slices.Max(found))
	if err != nil {
		t.Fatal(err)
	}
	return string(script)
}

// A stage is a real fleet with its page and a browser before it.
type stage struct {
	t       *testing.T
	redis   *testkit.Server
	fleet   *fleet.Fleet
	binary  string          // of the worker
	base    string          // the page's address
	browser context.Context //nolint:containedctx // chromedp keeps the browser in its context
	shots   string          // folder of the screenshots
	axe     string
}

func newStage(t *testing.T) *stage {
	t.Helper()
	path := chromium(t)
	s := &stage{t: t, redis: testkit.RedisServer(t), axe: axe(t), shots: filepath.Join(testkit.Root(t), "bin", "screenshots")}
	conn, err := queue.Parse(s.redis.URL())
	if err != nil {
		t.Fatal(err)
	}
	if s.fleet, err = fleet.Open(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.fleet.Close() })
	if err := os.MkdirAll(s.shots, 0o755); err != nil {
		t.Fatal(err)
	}
	s.binary = filepath.Join(t.TempDir(), "worker")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", s.binary, "../worker").CombinedOutput(); err != nil {
		t.Fatalf("building the worker: %v\n%s", err, out)
	}
	s.startMonitor()
	s.startBrowser(path)
	return s
}

// startWorker starts a worker process with the default model. Kill it, or it is killed with the test.
func (s *stage) startWorker(name string) *os.Process {
	s.t.Helper()
	var out bytes.Buffer
	cmd := exec.CommandContext(context.WithoutCancel(s.t.Context()), s.binary, "--redis-url", s.redis.URL(), "--alias", alias,
		"--model", testkit.DefaultModel(s.t), "--onnxruntime", testkit.ONNXRuntime(s.t), "--http", "127.0.0.1:0", "--runners", "1", "--concurrency", "64")
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if s.t.Failed() {
			s.t.Logf("%s:\n%s", name, &out)
		}
	})
	return cmd.Process
}

// awaitWorkers waits until n workers serve.
func (s *stage) awaitWorkers(n int) []registry.Worker {
	s.t.Helper()
	var serving []registry.Worker
	s.eventually(fmt.Sprintf("%d workers serve", n), func() bool {
		list, err := s.fleet.Workers.List(s.t.Context())
		serving = slices.DeleteFunc(list, func(w registry.Worker) bool { return !w.Serving() })
		return err == nil && len(serving) == n
	})
	return serving
}

// eventually waits until a condition holds that the fleet brings about by itself.
func (s *stage) eventually(what string, holds func() bool) {
	s.t.Helper()
	deadline := time.Now().Add(2 * patience)
	for !holds() {
		if time.Now().After(deadline) {
			s.t.Fatalf("not within %v: %s", 2*patience, what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// The people who sign in.
const (
	operator, operatorPassword = "ann", "correct horse battery"
	viewer, viewerPassword     = "bob", "staple staple staple"
)

// users writes the file of users as an operator would make it.
func (s *stage) users() string {
	s.t.Helper()
	var lines bytes.Buffer
	for _, p := range [][3]string{{operator, "operator", operatorPassword}, {viewer, "viewer", viewerPassword}} {
		st := streams{in: strings.NewReader(p[2] + "\n"), out: &lines, err: &bytes.Buffer{}, getenv: nothing}
		if code := run(s.t.Context(), []string{"password", p[0], p[1]}, st); code != 0 {
			s.t.Fatalf("making %s: status %d", p[0], code)
		}
	}
	path := filepath.Join(s.t.TempDir(), "users")
	if err := os.WriteFile(path, lines.Bytes(), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

func nothing(string) (string, bool) { return "", false }

// A notice is a log in which a test waits for an address.
type notice struct {
	mu    sync.Mutex
	text  bytes.Buffer
	found chan string // receives the page's address once
}

var pageAddress = regexp.MustCompile(`msg=serving page=(\S+)`)

func (n *notice) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if m := pageAddress.FindSubmatch(b); m != nil {
		n.found <- string(m[1])
	}
	return n.text.Write(b)
}

func (n *notice) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.String()
}

// startMonitor runs the program itself, in this process so that the race detector watches it.
func (s *stage) startMonitor() {
	s.t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(s.t.Context()))
	logs := &notice{found: make(chan string, 1)}
	args := []string{"--redis-url", s.redis.URL(), "--http", "127.0.0.1:0", "--probes", "127.0.0.1:0", "--users", s.users(), "--log-level", "debug"}
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, args, streams{in: strings.NewReader(""), out: &bytes.Buffer{}, err: logs, getenv: nothing})
	}()
	s.t.Cleanup(func() {
		stop()
		if code := <-ended; code != 0 {
			s.t.Errorf("the monitor ended with status %d", code)
		}
		if s.t.Failed() {
			s.t.Logf("monitor:\n%s", logs)
		}
	})
	select {
	case s.base = <-logs.found:
	case code := <-ended:
		ended <- code
		s.t.Fatalf("the monitor ended with status %d: %s", code, logs)
	}
}

// startBrowser starts a headless browser that reaches this machine only.
func (s *stage) startBrowser(path string) {
	s.t.Helper()
	ctx, end := chromedp.NewExecAllocator(context.WithoutCancel(s.t.Context()),
		chromedp.ExecPath(path), chromedp.Headless, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck, chromedp.DisableGPU,
		chromedp.NoSandbox,                           // as root in a container there is no other way
		chromedp.Flag("disable-dev-shm-usage", true), // containers have little of it
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
		chromedp.Flag("force-color-profile", "srgb"), chromedp.Flag("lang", "en-GB"),
		chromedp.UserDataDir(s.t.TempDir()))
	s.t.Cleanup(end)
	ctx, closeTab := chromedp.NewContext(ctx)
	s.t.Cleanup(closeTab)
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil {
		s.t.Fatalf("starting %s: %v", path, err)
	}
	s.browser = ctx
}

// A tab is a page in the browser, with everything that went wrong in it.
type tab struct {
	t    *testing.T
	ctx  context.Context //nolint:containedctx // as stage.browser
	base string

	mu       sync.Mutex
	problems []string // errors in the console, exceptions, requests to other hosts
	expected []string // parts of problems that the test causes on purpose
}

// person opens a tab with cookies of its own.
func (s *stage) person(t *testing.T) *tab {
	t.Helper()
	return s.tab(s.browser, t, chromedp.WithNewBrowserContext())
}

// beside opens another tab of the same person.
func (s *stage) beside(t *testing.T, other *tab) *tab { return s.tab(other.ctx, t) }

func (s *stage) tab(parent context.Context, t *testing.T, opts ...chromedp.ContextOption) *tab {
	t.Helper()
	b := &tab{t: t, base: s.base}
	ctx, end := chromedp.NewContext(parent, append(opts, chromedp.WithListener(b.listen))...)
	t.Cleanup(end)
	ctx, cancel := context.WithTimeout(ctx, 8*time.Minute)
	t.Cleanup(cancel)
	b.ctx = ctx
	b.do(chromedp.EmulateViewport(1400, 900))
	_, err := chromedp.Call(ctx, network.Enable, network.EnableParams{})
	b.fatal(err)
	t.Cleanup(b.check)
	return b
}

// listen keeps what a page must not do.
func (b *tab) listen(event any) {
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		if e.Type == "error" || e.Type == "warning" || e.Type == "assert" {
			var said []string
			for _, a := range e.Args {
				said = append(said, string(a.Value)+a.Description)
			}
			b.problem("console: " + strings.Join(said, " "))
		}
	case *runtime.EventExceptionThrown:
		b.problem("exception: " + e.ExceptionDetails.Text + " " + e.ExceptionDetails.URL)
	case *log.EventEntryAdded:
		if e.Entry.Level == "error" || e.Entry.Level == "warning" {
			b.problem("log: " + e.Entry.Text + " " + e.Entry.URL)
		}
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(e.Request.URL); err != nil || u.Scheme == "http" && "http://"+u.Host != b.base || u.Scheme == "https" {
			b.problem("request to another host: " + e.Request.URL)
		}
	}
}

func (b *tab) problem(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.problems = append(b.problems, what)
}

// expect says which problems the test causes on purpose, by a part of their text.
func (b *tab) expect(parts ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expected = append(b.expected, parts...)
}

// check fails the test for each problem that it did not cause on purpose.
func (b *tab) check() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.problems {
		if !slices.ContainsFunc(b.expected, func(part string) bool { return strings.Contains(p, part) }) {
			b.t.Errorf("in the browser: %s", p)
		}
	}
}

func (b *tab) fatal(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatalf("in the browser: %v", err)
	}
}

func (b *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	b.fatal(chromedp.Do(b.ctx, steps...))
}

// open goes to an address of the page.
func (b *tab) open(address string) {
	b.t.Helper()
	b.do(chromedp.Navigate(b.base + address))
}

// js evaluates an expression to a value of T, waiting for a promise.
func js[T any](b *tab, expression string) T {
	b.t.Helper()
	value, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("in the browser: %s: %v", expression[:min(len(expression), 200)], err)
	}
	return value
}

// until waits until an expression is true. Pages may change meanwhile.
func (b *tab) until(expression string) {
	b.t.Helper()
	b.within(patience, expression)
}

// within is until with a bound, and returns how long it took.
func (b *tab) within(bound time.Duration, expression string) time.Duration {
	b.t.Helper()
	begun := time.Now()
	for {
		ok, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool]("(async () => !!(await ("+expression+")))()", chromedp.EvalAwaitPromise))
		if err == nil && ok {
			return time.Since(begun)
		}
		if time.Since(begun) > bound {
			text, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string]("location.href + '\\n' + document.body.innerText"))
			b.t.Fatalf("not within %v: %s (%v)\nthe page: %.1500s", bound, expression, err, text)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			b.t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// click clicks what a selector finds, as a mouse does.
func (b *tab) click(selector string) {
	b.t.Helper()
	b.do(chromedp.ScrollIntoView(chromedp.CSS(selector)), chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
}

// fill types into a field.
func (b *tab) fill(selector, text string) {
	b.t.Helper()
	b.do(chromedp.WaitVisible(chromedp.CSS(selector)), chromedp.SendKeys(chromedp.CSS(selector), text))
}

// text returns what is to be read in an element, "" if there is none.
func (b *tab) text(selector string) string {
	b.t.Helper()
	return js[string](b, "document.querySelector("+quoted(selector)+")?.innerText ?? ''")
}

func quoted(s string) string {
	q, _ := json.Marshal(s) // a string always can
	return string(q)
}

// look sets the size of the window and the colour scheme.
func (b *tab) look(width int, scheme string) {
	b.t.Helper()
	b.do(chromedp.EmulateViewport(int64(width), 900))
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	b.fatal(err)
}

// shoot writes a screenshot of the whole page.
func (s *stage) shoot(b *tab, name string) {
	b.t.Helper()
	height := min(2400, max(900, js[int64](b, "document.documentElement.scrollHeight")))
	width := js[int64](b, "innerWidth")
	b.do(chromedp.EmulateViewport(width, height))
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	b.fatal(err)
	b.do(chromedp.EmulateViewport(width, 900))
	if err := os.WriteFile(filepath.Join(s.shots, name+".png"), png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}
