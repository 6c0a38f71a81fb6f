package deploy_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

// marker is in every text of the run, so that a text which strays into a log is seen there.
const marker = "quokkazebra"

// TestTheFleet runs the Compose file: Redis, the preparation of the model, four workers, two schedulers, the
// monitor and the gateway, each by its command, in its environment, after what it depends on. Two hundred texts go
// in, are found, and everything ends in time.
func TestTheFleet(t *testing.T) {
	if testing.Short() {
		t.Skip("starts ten processes with a real model")
	}
	const texts, workers = 200, 4
	feeds, polls := feedFolder(t)
	h := newHost(t, "MODEL=/models/"+filepath.Base(testkit.DefaultModel(t)), "MODELS_DIR="+filepath.Dir(testkit.DefaultModel(t)),
		"WORKERS="+strconv.Itoa(workers), "LOG_LEVEL=debug", "FEEDS=/etc/embedfleet/feeds.json")
	for i, v := range h.project.Services["scheduler"].Volumes {
		h.project.Services["scheduler"].Volumes[i].Source = feeds
		if v.Target != "/etc/embedfleet" {
			t.Fatalf("the scheduler mounts %s", v.Target)
		}
	}
	token := addUser(t, h)

	began := time.Now()
	phase := func(what string) { t.Log(what, "after", time.Since(began).Round(100*time.Millisecond)) }
	h.container("redis", 0).start().healthy()
	prepare := h.container("prepare", 0).start()
	if status := prepare.exits(2 * time.Minute); status != 0 || !strings.Contains(prepare.log.String(), "is prepared in") {
		t.Fatalf("preparing the model: status %d\n%s", status, prepare.log.String())
	}
	phase("model prepared")
	for _, name := range []string{"worker", "scheduler", "monitor", "gateway"} {
		for i := range scale(h, name) {
			h.container(name, i).start()
		}
	}
	for _, c := range h.running {
		if c.service.Name != "prepare" {
			c.healthy()
		}
	}
	h.awaitWorkers()
	phase("all are healthy")

	client := h.find("scheduler", 0)
	out := client.exec(strings.NewReader(corpus(texts)), "enqueue", "--file", "-", "--wait", "--json")
	if n := strings.Count(out, `"state":"enqueued"`); n != texts {
		t.Errorf("%d of %d texts were enqueued: %.400s", n, texts, out)
	}
	status := client.exec(nil, "enqueue", "status", "--json")
	if n := len(regexp.MustCompile(`"state":"(ready|busy)"`).FindAllString(status, -1)); n != workers {
		t.Errorf("%d of %d workers are ready: %s", n, workers, status)
	}
	if m := regexp.MustCompile(`"documents":([0-9]+)`).FindStringSubmatch(status); m == nil || m[1] != "200" && m[1] != "201" {
		t.Errorf("stored are %v, want the texts and perhaps the feed's story", m) // which may be on its way
	}
	hits := client.exec(nil, "enqueue", "search", text(17), "-k", "3", "--json")
	if !strings.Contains(hits, `"t17"`) {
		t.Errorf("text 17 is not among the hits: %s", hits)
	}
	phase("stored and found")
	h.checkMonitor(token)
	h.checkGateway()
	h.checkTicks(polls)
	t.Run("figures", func(t *testing.T) { h.checkFigures(t) })
	h.checkOneCopy()

	phase("checked")
	h.stop()
	phase("stopped")
	h.checkLogs(workers)
}

// corpus is n documents, a line each. Their words differ, so that each is nearest to itself.
func corpus(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{\"id\":\"t%d\",\"text\":%q}\n", i, text(i))
	}
	return b.String()
}

func text(i int) string {
	return fmt.Sprintf("a %s story about subject %d, number %d of them", marker, i, i*i)
}

// feedFolder is a folder with a list of one feed, whose server counts how often it is asked.
func feedFolder(t *testing.T) (string, func() int) {
	t.Helper()
	asked := make(chan struct{}, 1000)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		w.Header().Set("Content-Type", "application/rss+xml")
		_, _ = io.WriteString(w, `<rss version="2.0"><channel><title>f</title><item><title>A `+marker+` crosses the road</title>`+
			`<link>https://example.com/1</link><description>It reached the other side</description></item></channel></rss>`)
	}))
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	list := fmt.Sprintf(`[{"name": "f", "url": %q, "private": true}]`, srv.URL+"/feed")
	if err := os.WriteFile(filepath.Join(dir, "feeds.json"), []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, func() int { return len(asked) }
}

// addUser writes a program's token into the secret, as docs/deploy.md tells, and returns it.
func addUser(t *testing.T, h *host) string {
	t.Helper()
	cmd := h.container("monitor", 0).command([]string{"monitor", "token", "test"})
	var token strings.Builder
	cmd.Stderr = &token
	line, err := cmd.Output()
	if err != nil {
		t.Fatal(err, token.String())
	}
	f, err := os.OpenFile(filepath.Join(h.secrets, "monitor_users"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(line); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(token.String())
}

func scale(h *host, service string) int {
	s := h.project.Services[service]
	return s.GetScale()
}

func (h *host) find(service string, replica int) *container {
	i := slices.IndexFunc(h.running, func(c *container) bool { return c.service.Name == service && c.replica == replica })
	return h.running[i]
}

// get fetches a page with a bearer's token, if there is one.
func get(t testing.TB, url, token string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// awaitWorkers waits until every worker takes tasks: their health check is about being alive, which they are while
// they load.
func (h *host) awaitWorkers() {
	h.t.Helper()
	for i := range scale(h, "worker") {
		c := h.find("worker", i)
		for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
			out, err := c.command([]string{"worker", "health", "--ready"}).CombinedOutput()
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				h.t.Fatalf("%s does not get ready: %s\n%s", c.name, out, c.log.String())
			}
		}
	}
}

// checkMonitor looks at the page: closed without a login, and with one it knows the model.
func (h *host) checkMonitor(token string) {
	h.t.Helper()
	page := h.find("monitor", 0).url("8084", "/")
	if code, _ := get(h.t, page, ""); code == http.StatusOK {
		h.t.Error("the monitor lets everybody in")
	}
	if code, body := get(h.t, page, token); code != http.StatusOK || !strings.Contains(body, "minilm") {
		h.t.Errorf("the monitor's page: %d %.500s", code, body)
	}
}

// checkGateway searches by HTTP: not without a token, and with one text 42 is found.
func (h *host) checkGateway() {
	h.t.Helper()
	token, _, _ := strings.Cut(snapshot(h.t, h.secrets)["gateway_tokens"], "\n")
	page := h.find("gateway", 0).url("8090", "/v1/search?k=3&q="+url.QueryEscape(text(42)))
	if code, _ := get(h.t, page, ""); code != http.StatusUnauthorized {
		h.t.Errorf("the gateway answers %d without a token", code)
	}
	if code, body := get(h.t, page, token); code != http.StatusOK || !strings.Contains(body, `"t42"`) {
		h.t.Errorf("the gateway's search: %d %.500s", code, body)
	}
}

// checkTicks waits until a slot was run. Of two schedulers one runs it, so the feed was asked once, unless the run
// lasts beyond the next slot's beginning.
func (h *host) checkTicks(polls func() int) {
	h.t.Helper()
	ran := regexp.MustCompile(`crawl_runs_total\{job="news",outcome="done"\} ([0-9]+)`)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		total := 0
		for i := range scale(h, "scheduler") {
			_, body := get(h.t, h.find("scheduler", i).url("8083", "/metrics"), "")
			if m := ran.FindStringSubmatch(body); m != nil {
				n, _ := strconv.Atoi(m[1])
				total += n
			}
		}
		switch {
		case total > 0 && polls() == total:
			return
		case time.Now().After(deadline):
			h.t.Errorf("%d runs of the two schedulers, and the feed was asked %d times", total, polls())
			return
		}
	}
}

// checkFigures asks every role where Prometheus would, and lints what it says.
func (h *host) checkFigures(t *testing.T) {
	seen := map[string]bool{}
	for job, at := range scrapes(t) {
		service, port := at[0], at[1]
		if h.project.Services[service].Build == nil {
			continue // Prometheus itself
		}
		seen[service] = true
		for i := range scale(h, service) {
			code, body := get(t, h.find(service, i).url(port, "/metrics"), "")
			if code != http.StatusOK || !strings.Contains(body, "embed_build_info{") {
				t.Fatalf("%s: %d %.200s", job, code, body)
			}
			problems, err := promlint.New(strings.NewReader(body)).Lint()
			if err != nil {
				t.Errorf("%s: %v", job, err)
			}
			for _, p := range problems {
				if !foreign(p.Metric) {
					t.Errorf("%s: %s: %s", job, p.Metric, p.Text)
				}
			}
		}
	}
	for name := range ours(h.project) {
		if !seen[name] && name != "prepare" {
			t.Errorf("prometheus.yml does not ask %s", name)
		}
	}
}

// foreign reports whether a series is of Go's runtime or the process collector, whose names are not ours.
func foreign(name string) bool {
	return strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") || strings.HasPrefix(name, "promhttp_")
}

// checkOneCopy looks whether the volume holds one prepared graph, which all workers map.
func (h *host) checkOneCopy() {
	h.t.Helper()
	var prepared []string
	for _, folder := range h.folders {
		found, err := filepath.Glob(filepath.Join(folder, "prepared", "*-ort*", "*"))
		if err != nil {
			h.t.Fatal(err)
		}
		prepared = append(prepared, found...)
	}
	dirs := map[string]bool{}
	for _, file := range prepared {
		dirs[filepath.Dir(file)] = true
	}
	if len(dirs) != 1 {
		h.t.Fatalf("%d prepared graphs, want one: %v", len(dirs), prepared)
	}
	if _, err := os.Stat("/proc/self/maps"); err != nil {
		return // only Linux shows what a process maps
	}
	for dir := range dirs {
		for i := range scale(h, "worker") {
			maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", h.find("worker", i).proc.Pid))
			if err != nil || !strings.Contains(string(maps), dir) {
				h.t.Errorf("worker %d does not map the prepared graph, %v", i, err)
			}
		}
	}
}

// stop ends what runs in the reverse order of its start, as Compose does, each within its patience.
func (h *host) stop() {
	h.t.Helper()
	for _, c := range slices.Backward(h.running) {
		if c.service.Name == "prepare" {
			continue
		}
		began := time.Now()
		c.terminate()
		if status := c.exits(time.Duration(*c.service.StopGracePeriod)); status != 0 {
			h.t.Errorf("%s: status %d\n%s", c.name, status, c.log.String())
		}
		h.t.Log(c.name, "stopped after", time.Since(began).Round(time.Millisecond))
	}
}

// checkLogs reads what the roles wrote at debug: JSON by the line, a line for each batch, and no text.
func (h *host) checkLogs(workers int) {
	h.t.Helper()
	batches := 0
	for _, c := range h.running {
		text := c.log.String()
		if i := strings.Index(text, marker); i >= 0 {
			h.t.Errorf("%s: a text is in the log: ...%s", c.name, text[max(0, i-200):min(len(text), i+40)])
		}
		if c.service.Build == nil || c.service.Name == "prepare" {
			continue // prepare answers a person
		}
		for line := range strings.Lines(text) {
			var entry struct{ Time, Level, Msg string }
			if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Msg == "" || entry.Level == "" {
				h.t.Errorf("%s: no line of JSON: %s", c.name, line)
			}
			if entry.Msg == "batch run" && entry.Level == "DEBUG" {
				batches++
			}
		}
	}
	if batches < workers {
		h.t.Errorf("%d batches in the logs of %d workers", batches, workers)
	}
}
