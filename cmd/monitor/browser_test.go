package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"golang.org/x/sync/errgroup"

	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/samples"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// TestBrowser shows the real fleet in a real browser: Redis, two workers with the default model, the monitor. The
// parts are in one test because the fleet is the expensive thing; they run in this order, each on what the one
// before left. Every tab fails the test for an error in its console and for a request to another host. Screenshots
// are left in bin/screenshots.
func TestBrowser(t *testing.T) {
	s := newStage(t)
	processes := map[int]interface{ Kill() error }{}
	for _, name := range []string{"worker 1", "worker 2"} {
		p := s.startWorker(name)
		processes[p.Pid] = p
	}
	ann := s.person(t)
	t.Run("sign in", func(t *testing.T) { s.signIn(t, ann) })
	t.Run("viewer", s.viewerLooksOnly)
	t.Run("forgery", func(t *testing.T) { s.forgery(t, ann) })
	s.awaitWorkers(len(processes))
	t.Run("drain", func(t *testing.T) { s.drain(t, ann) })
	t.Run("search", func(t *testing.T) { s.search(t, ann) })
	t.Run("map", func(t *testing.T) { s.drawMap(t, ann) })
	t.Run("dead letter", func(t *testing.T) { s.deadLetter(t, ann) })
	t.Run("queues", func(t *testing.T) { s.queues(t, ann) })
	t.Run("looks", func(t *testing.T) { s.looks(t, ann) })
	t.Run("waiting texts", func(t *testing.T) { s.waitingTexts(t, ann) })
	t.Run("killed worker", func(t *testing.T) {
		victim := s.awaitWorkers(len(processes))[0]
		s.killed(t, ann, victim, processes[victim.PID].Kill)
	})
	t.Run("ten thousand documents", func(t *testing.T) { s.tenThousand(t, ann) })
}

// signIn is the way in: asked for, refused, let in, and brought where one wanted to go.
func (s *stage) signIn(t *testing.T, ann *tab) {
	ann.expect("401") // the wrong password
	ann.open("/search")
	if at := js[string](ann, "location.pathname"); at != "/login" {
		t.Fatalf("a stranger is at %s", at)
	}
	s.shoot(ann, "login-1400-light")
	ann.fill("#name", operator)
	ann.fill("#password", "wrong"+kb.Enter)
	ann.until(`document.querySelector('[role="alert"]') && document.querySelector("#name").value === ` + quoted(operator))
	if js[bool](ann, `document.body.innerText.includes("Fleet")`) {
		t.Error("a wrong password shows pages")
	}
	ann.fill("#password", operatorPassword)
	ann.click("main form button")
	ann.until(`location.pathname === "/search" && document.querySelector("#q")`)
	if cookie := js[string](ann, "document.cookie"); cookie != "" {
		t.Errorf("scripts can read the session: %q", cookie)
	}
}

// enter signs a person in.
func (s *stage) enter(t *testing.T, name, password string) *tab {
	t.Helper()
	b := s.person(t)
	b.open("/")
	b.fill("#name", name)
	b.fill("#password", password+kb.Enter)
	b.until(`document.querySelector("#verdict")`)
	return b
}

// post sends a form as a script of the page would, and returns the status.
func post(b *tab, address, body string) int {
	b.t.Helper()
	return js[int](b, fmt.Sprintf(`fetch(%s, {method: "POST", redirect: "manual", headers: {"Content-Type": "application/x-www-form-urlencoded"}, body: %s}).then(r => r.status)`,
		quoted(address), quoted(body)))
}

// pause is the order to pause a lane, as its form sends it.
const pause = "do=pause-lane&model=" + alias + "&lane=live&reason=forged"

// viewerLooksOnly: nothing to click, and no way around that.
func (s *stage) viewerLooksOnly(t *testing.T) {
	bob := s.enter(t, viewer, viewerPassword)
	bob.expect("403", "405")
	bob.until(`document.querySelector("#workers tbody tr")`)
	if n := js[int](bob, `document.querySelectorAll('a[href^="/act"], form[action^="/act"]').length`); n > 0 {
		t.Errorf("a viewer is offered %d orders", n)
	}
	bob.open("/act?" + pause)
	if said := bob.text("main"); !strings.Contains(said, "viewer") {
		t.Errorf("the page of an order says to a viewer: %s", said)
	}
	if status := post(bob, "/act", pause); status != http.StatusForbidden {
		t.Errorf("a viewer's order: %d", status)
	}
	if status := post(bob, "/queues/api/queues/embed:"+alias+":live:pause", ""); status != http.StatusMethodNotAllowed {
		t.Errorf("a viewer's order to asynq: %d", status)
	}
	s.notPaused(t, tasks.Live)
}

// forgery: an operator's session without its token, and another site's form, change nothing.
func (s *stage) forgery(t *testing.T, ann *tab) {
	b := s.beside(t, ann)
	b.expect("403")
	b.open("/")
	if status := post(b, "/act", pause); status != http.StatusForbidden {
		t.Errorf("an order without the token: %d", status)
	}
	if status := post(b, "/act", pause+"&csrf=0123456789abcdef"); status != http.StatusForbidden {
		t.Errorf("an order with a wrong token: %d", status)
	}
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<form method="post" action="%s/act?%s"><button>Win</button></form><script>document.forms[0].submit()</script>`, s.base, pause)
	}))
	defer evil.Close()
	b.expect(evil.URL)
	b.do(chromedp.Navigate(evil.URL))
	b.until(`document.body.innerText.includes("another site")`)
	s.notPaused(t, tasks.Live)
}

func (s *stage) notPaused(t *testing.T, lane tasks.Lane) {
	t.Helper()
	if s.lane(t, lane).Paused {
		t.Errorf("lane %s is paused", lane)
	}
}

// lane reads a lane from Redis.
func (s *stage) lane(t *testing.T, lane tasks.Lane) queue.LaneStatus {
	t.Helper()
	list, err := s.fleet.Lanes.Status(t.Context(), alias)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(list, func(l queue.LaneStatus) bool { return l.Model == alias && l.Lane == lane })
	if i < 0 {
		t.Fatalf("no lane %s in Redis", lane)
	}
	return list[i]
}

// enqueue gives documents to the fleet.
func (s *stage) enqueue(t *testing.T, lane tasks.Lane, docs ...vector.Document) {
	t.Helper()
	batch := make([]tasks.Task, len(docs))
	for i, d := range docs {
		var err error
		if batch[i], err = tasks.New(alias, lane, d, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.fleet.Queue.Enqueue(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
}

// texts are 2,000 documents, the project's samples first.
func texts(t *testing.T) []vector.Document {
	t.Helper()
	docs, err := samples.Documents()
	if err != nil {
		t.Fatal(err)
	}
	for i := len(docs); i < 2000; i++ {
		docs = append(docs, vector.Document{
			ID: fmt.Sprintf("wire:%d", i), Source: "wire", Title: fmt.Sprintf("Report %d of the harbour", i),
			Text: fmt.Sprintf("Ship %d left the harbour of town %d with %d tons of grain on board.", i, i%17, i%29),
		})
	}
	return docs
}

// A moment is what Redis said of a lane at a time.
type moment struct {
	at              time.Time
	pending, active int64
}

// A history is what Redis said of a lane, time after time.
type history struct {
	mu      sync.Mutex
	moments []moment
}

// keep reads the lane until stop is called.
func (s *stage) keep(t *testing.T, lane tasks.Lane) (h *history, stop func()) {
	h = &history{}
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			l, err := s.fleet.Lanes.Status(t.Context(), alias)
			if err != nil {
				t.Errorf("reading the lanes: %v", err)
				return
			}
			h.mu.Lock()
			for _, l := range l {
				if l.Lane == lane {
					h.moments = append(h.moments, moment{time.Now(), l.Pending, l.Active})
				}
			}
			h.mu.Unlock()
			select {
			case <-end:
				return
			case <-time.After(40 * time.Millisecond):
			}
		}
	})
	return h, func() { close(end); wg.Wait() }
}

// freshness is how old a figure on the page may be: two seconds between readings, one between sendings, and what a
// loaded machine adds.
const freshness = 8 * time.Second

// span returns the least and the most that waited within freshness before now.
func (h *history) span() (least, most int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	least, most = 1<<62, -1
	for _, m := range h.moments {
		if time.Since(m.at) < freshness {
			least, most = min(least, m.pending), max(most, m.pending)
		}
	}
	return least, most
}

// figures reads the row of a lane on the fleet page.
func figures(b *tab, lane tasks.Lane) (pending, active int64) {
	b.t.Helper()
	row := js[[]int64](b, fmt.Sprintf(`["pending", "active"].map(f => Number(document.querySelector("#lane-%s-%s [data-field=" + f + "]")?.innerText.replaceAll(",", "") ?? -1))`, alias, lane))
	return row[0], row[1]
}

// cell is a field of a lane's row, as an expression.
func cell(lane tasks.Lane, field string) string {
	return fmt.Sprintf(`document.querySelector("#lane-%s-%s [data-field=%s]")?.innerText.trim()`, alias, lane, field)
}

// drain watches 2,000 texts being embedded: each figure on the page is one that Redis had in the last seconds, and
// with the lane paused, by a click, the page and Redis are equal. The lane is resumed by the keyboard alone.
func (s *stage) drain(t *testing.T, ann *tab) {
	b := s.beside(t, ann)
	b.open("/")
	b.until(`document.querySelector("#live")?.dataset.state === "on"`)
	h, stop := s.keep(t, tasks.Live)
	s.enqueue(t, tasks.Live, texts(t)...)
	seen := map[int64]bool{}
	for begun := time.Now(); time.Since(begun) < patience && len(seen) < 3; time.Sleep(200 * time.Millisecond) {
		pending, _ := figures(b, tasks.Live)
		if least, most := h.span(); pending < least || pending > most {
			t.Errorf("the page shows %d waiting texts; in Redis it were %d to %d in the last %v", pending, least, most, freshness)
		}
		seen[pending] = true
	}
	if len(seen) < 3 { // the fleet needs five seconds for all, and the page is sent new figures every second or two
		t.Errorf("the page showed only %v while 2,000 texts were drained", seen)
	}
	s.shoot(b, "fleet-busy-1400-light")

	b.click("#lane-" + alias + "-live a.act")
	b.until(`document.querySelector("main form button")`)
	b.fill("#reason", "trial by a test")
	b.click("main form button:not(.quiet)")
	b.until(`location.pathname === "/" && ` + cell(tasks.Live, "state") + `.startsWith("paused")`)
	if !s.lane(t, tasks.Live).Paused {
		t.Error("the page says paused, Redis does not")
	}
	stop()
	s.eventually("nothing is in work", func() bool { return s.lane(t, tasks.Live).Active == 0 })
	if s.lane(t, tasks.Live).Pending == 0 { // a fast machine was done already
		s.enqueue(t, tasks.Live, vector.Document{ID: "late:1", Text: "one text more"}, vector.Document{ID: "late:2", Text: "and another"})
	}
	l := s.lane(t, tasks.Live)
	b.until(fmt.Sprintf(`%s === %q && %s === "0"`, cell(tasks.Live, "pending"), grouped(l.Pending), cell(tasks.Live, "active")))
	if !strings.Contains(b.text("#events"), operator) {
		t.Error("the page does not say who paused the lane")
	}

	s.byKeyboard(b, "Resume lane live")
	s.notPaused(t, tasks.Live)
	s.eventually("all texts are stored", func() bool {
		l := s.lane(t, tasks.Live)
		return l.Pending+l.Active+l.Retry+l.Scheduled == 0
	})
	b.until(cell(tasks.Live, "pending") + ` === "0"`)
}

// grouped writes a number as the page does.
func grouped(n int64) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}

// byKeyboard gives the order that a link leads to without a mouse: tab to the link, Enter, tab to the button, Enter.
func (s *stage) byKeyboard(b *tab, link string) {
	b.t.Helper()
	b.do(chromedp.Navigate(s.base + "/"))
	b.until(`document.querySelector("#live")?.dataset.state === "on"`)
	b.do(chromedp.KeyEvent(kb.Tab))
	if first := js[string](b, "document.activeElement.innerText"); !strings.Contains(first, "Skip") {
		b.t.Errorf("the first stop is %q, not the way past the navigation", first)
	}
	b.tabTo(fmt.Sprintf(`document.activeElement.textContent.startsWith(%s)`, quoted(link)))
	b.do(chromedp.KeyEvent(kb.Enter))
	b.until(`location.pathname === "/act" && document.readyState === "complete"`)
	b.tabTo(`document.activeElement.matches("main form button")`)
	b.do(chromedp.KeyEvent(kb.Enter))
	b.until(`location.pathname === "/"`)
}

// tabTo presses Tab until a condition holds. What has the focus must be to be seen.
func (b *tab) tabTo(condition string) {
	b.t.Helper()
	for range 150 {
		b.do(chromedp.KeyEvent(kb.Tab))
		state := js[[]bool](b, `(() => { const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
			return [`+condition+`, e === document.body || (s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2 && r.width > 0 && r.height > 0)]; })()`)
		if !state[1] {
			b.t.Errorf("the focus is not to be seen on %s", js[string](b, "document.activeElement.outerHTML.slice(0, 200)"))
		}
		if state[0] {
			return
		}
	}
	b.t.Fatalf("no way by Tab to: %s", condition)
}

// search finds by a sentence, narrows by a source, and goes on from a document.
func (s *stage) search(t *testing.T, ann *tab) {
	b := s.beside(t, ann)
	b.open("/search")
	q := samples.Queries(samples.En)[0]
	b.fill("#q", q.Text+kb.Enter)
	b.until(`document.querySelectorAll(".list > li").length === 20`)
	first := js[[]string](b, `[...document.querySelectorAll(".list > li")].slice(0, 3).map(li => li.innerText)`)
	if !slices.ContainsFunc(first, func(s string) bool { return strings.Contains(s, q.Expect) }) {
		t.Errorf("%q finds %q, not %q", q.Text, first, q.Expect)
	}
	b.click(`.list > li:first-child .act a`)
	b.until(`new URL(location).searchParams.has("like") && document.querySelectorAll(".list > li").length === 20`)

	b.open("/search?q=" + url.QueryEscape("유상증자") + "&source=dart")
	b.until(`document.querySelectorAll(".list > li").length > 0`)
	if sources := js[[]string](b, `[...document.querySelectorAll(".list .source")].map(e => e.innerText)`); slices.ContainsFunc(sources, func(s string) bool { return s != "dart" }) {
		t.Errorf("filtered by source dart: %v", sources)
	}
	if marks := js[[]string](b, `[...document.querySelectorAll(".list mark")].map(e => e.innerText)`); !slices.Contains(marks, "유상증자") {
		t.Errorf("of the text is marked: %v", marks)
	}
	if links := js[int](b, `document.querySelectorAll('.list h3 a[href^="https://"][rel~="noopener"]').length`); links == 0 {
		t.Error("no filing has a link")
	}
}

// drawMap looks at what is on the canvas, and walks over it by mouse and by keyboard.
func (s *stage) drawMap(t *testing.T, ann *tab) {
	b := s.beside(t, ann)
	b.open("/search")
	counts, err := s.fleet.Status(t.Context(), alias)
	if err != nil {
		t.Fatal(err)
	}
	var stored int64
	for _, space := range counts.Spaces {
		stored += space.Documents
	}
	// The page looks every half a minute for a newer map, which is drawn when the old one is a quarter of a minute old.
	b.within(3*patience, fmt.Sprintf(`document.querySelector("#map-canvas").dataset.drawn === "%d"`, stored))
	painted := js[struct {
		Pixels, Colours int
		X, Y            float64 // of a painted pixel
	}](b, `(() => {
		const c = document.querySelector("#map-canvas"), box = c.getBoundingClientRect();
		const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
		const colours = new Set(); let n = 0, at = 0;
		for (let i = 0; i < d.length; i += 4) if (d[i + 3] > 200) { n++; at ||= i / 4; colours.add(d[i] << 16 | d[i + 1] << 8 | d[i + 2]); }
		const f = box.width / c.width;
		return { Pixels: n, Colours: colours.size, X: box.x + at % c.width * f, Y: box.y + Math.floor(at / c.width) * f };
	})()`)
	if painted.Pixels < 2000 || painted.Colours < 4 {
		t.Errorf("%d pixels of %d colours are painted", painted.Pixels, painted.Colours)
	}
	b.do(chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, painted.X, painted.Y))
	b.until(`!document.querySelector("#map-tip").hidden && document.querySelector("#map-tip").innerText.length > 3`)

	b.do(chromedp.Focus(chromedp.CSS("#map-canvas")), chromedp.KeyEvent(kb.Escape), chromedp.KeyEvent(kb.ArrowRight))
	b.until(`!document.querySelector("#map-tip").hidden`)
	titles := map[string]bool{}
	for _, key := range []string{kb.ArrowRight, kb.ArrowDown, kb.ArrowLeft, kb.ArrowUp, "+", "-", "0", kb.ArrowUp, kb.ArrowRight} {
		b.do(chromedp.KeyEvent(key))
		titles[b.text("#map-tip")] = true
	}
	if len(titles) < 4 {
		t.Errorf("arrow keys showed only %v", titles)
	}
	b.click("#map-legend button")
	b.until(fmt.Sprintf(`Number(document.querySelector("#map-canvas").dataset.drawn) < %d`, stored))
	b.click("#map-legend button")
	b.do(chromedp.Focus(chromedp.CSS("#map-canvas")), chromedp.KeyEvent(kb.ArrowRight), chromedp.KeyEvent(kb.Enter))
	b.until(`new URL(location).searchParams.has("like") && document.querySelectorAll(".list > li").length > 0`)
	b.until(`Number(document.querySelector("#map-canvas").dataset.hits) > 0`)
	t.Logf("drawing %d documents took %s ms", stored, js[string](b, `document.querySelector("#map-canvas").dataset.ms`))
}

// deadLetter lets a payload die that no worker can read, and replays it by a click.
func (s *stage) deadLetter(t *testing.T, ann *tab) {
	b := s.beside(t, ann)
	task, err := tasks.New(alias, tasks.Backfill, vector.Document{ID: "broken:1", Text: "a text", Source: "wire"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	task.Payload = []byte(`{"v":1,"model":"minilm","oops":1}`)
	if _, err := s.fleet.Queue.Enqueue(t.Context(), []tasks.Task{task}); err != nil {
		t.Fatal(err)
	}
	s.eventually("the letter is dead", func() bool { return s.lane(t, tasks.Backfill).Dead == 1 })
	// Workers must not kill it again before somebody has looked.
	if err := s.fleet.Lanes.Pause(t.Context(), alias, tasks.Backfill); err != nil {
		t.Fatal(err)
	}
	b.open("/")
	count := fmt.Sprintf("#lane-%s-backfill [data-field=dead] a", alias)
	b.until(`document.querySelector(` + quoted(count) + `)?.innerText === "1"`)
	b.click(count)
	b.until(`document.querySelectorAll("table.letters tbody tr").length === 1`)
	s.shoot(b, "dead-1400-light")
	b.click(`table.letters a[href*="replay-dead"]`)
	b.until(`location.pathname === "/act" && document.querySelector("main form button")`)
	b.click("main form button")
	b.until(`location.pathname === "/dead" && document.querySelectorAll("table.letters tbody tr").length === 0`)
	if l := s.lane(t, tasks.Backfill); l.Dead != 0 || l.Pending != 1 {
		t.Errorf("after the replay %d letters are dead and %d tasks wait in their lane, want 0 and 1", l.Dead, l.Pending)
	}
}

// queues looks at asynq's own page: it works, shows what a task is about, and offers nothing to click.
func (s *stage) queues(t *testing.T, ann *tab) {
	s.enqueue(t, tasks.Backfill, vector.Document{ID: "shown:1", Title: "A title to see", Text: strings.Repeat("A long text. ", 100), Source: "wire"})
	b := s.beside(t, ann)
	b.open("/queues/")
	b.until(`document.body.innerText.includes("embed:` + alias + `:backfill")`)
	s.shoot(b, "queues-1400-light")
	b.open("/queues/queues/embed:" + alias + ":backfill?status=pending")
	b.until(`document.body.innerText.includes("shown:1")`)
	text := b.text("body")
	for _, want := range []string{`"lane": "backfill"`, `"document": "shown:1"`, "A title to see"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page of the lane does not say %s: %.2000s", want, text)
		}
	}
	if n := js[int](b, `document.querySelectorAll('button[aria-label*="elete" i], button[title*="elete" i], input[type="checkbox"]').length`); n > 0 {
		t.Errorf("%d things to act with on a page that is for reading", n)
	}
	if status := post(b, "/queues/api/queues/embed:"+alias+":live:pause", ""); status != http.StatusMethodNotAllowed {
		t.Errorf("an order to asynq: %d", status)
	}
	b.expect("405")
	if err := s.fleet.Lanes.Resume(t.Context(), alias, tasks.Backfill); err != nil {
		t.Fatal(err)
	}
}

// looks opens each page narrow and wide, dark and light: nothing sticks out, and axe finds nothing serious.
func (s *stage) looks(t *testing.T, ann *tab) {
	if s.axe == "" {
		t.Log("axe-core is not in the cache, so accessibility is not checked: run make setup")
	}
	s.eventually("the letter is dead again", func() bool { return s.lane(t, tasks.Backfill).Dead == 1 })
	for name, address := range map[string]string{
		"fleet": "/?idle=show", "search": "/search?q=a+ship+in+the+harbour", "nothing": "/search?q=x&stock=none",
		"dead": "/dead", "order": "/act?do=set-limits&model=" + alias, "refused": "/nowhere", "login": "/login",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "login" {
				s.lookAt(s.person(t), name, address)
				return
			}
			s.lookAt(s.beside(t, ann), name, address)
		})
	}
}

func (s *stage) lookAt(b *tab, name, address string) {
	b.t.Helper()
	if name == "refused" {
		b.expect("404")
	}
	b.open(address)
	if name == "search" {
		b.until(`document.querySelector("#map-canvas").dataset.drawn`)
	}
	if s.axe != "" {
		js[chromedp.Void](b, s.axe+";void 0")
	}
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int{1400, 390} {
			b.look(width, scheme)
			if wide := js[int](b, "document.documentElement.scrollWidth"); wide > width {
				b.t.Errorf("%s is %d wide in a window of %d", name, wide, width)
			}
			if scheme == "dark" && width == 390 {
				s.shoot(b, fmt.Sprintf("%s-%d-%s", name, width, scheme))
				continue // its colours are those of 1400, its layout that of light
			}
			if found := s.serious(b); len(found) > 0 {
				b.t.Errorf("%s at %d, %s: axe finds\n%s", name, width, scheme, strings.Join(found, "\n"))
			}
			s.shoot(b, fmt.Sprintf("%s-%d-%s", name, width, scheme))
		}
	}
}

// serious returns what axe finds on the page that keeps somebody from using it.
func (s *stage) serious(b *tab) []string {
	b.t.Helper()
	if s.axe == "" {
		return nil
	}
	report := js[struct {
		Passed int
		Found  []string
	}](b, `axe.run(document, {resultTypes: ["violations"]}).then(r => ({
		Passed: r.passes.length,
		Found: r.violations.filter(v => v.impact === "serious" || v.impact === "critical")
			.flatMap(v => v.nodes.map(n => v.id + ": " + n.target.join(" ") + ": " + n.failureSummary)),
	}))`)
	if report.Passed < 5 {
		b.t.Errorf("axe looked at %d rules only", report.Passed)
	}
	return report.Found
}

// killed kills a worker as the kernel does, and waits for the page to tell.
func (s *stage) killed(t *testing.T, ann *tab, victim registry.Worker, kill func() error) {
	b := s.beside(t, ann)
	b.open("/")
	row := "worker-" + victim.ID
	state := fmt.Sprintf(`document.getElementById(%s)?.querySelector("[data-field=state]")?.innerText.trim() ?? "gone"`, quoted(row))
	b.until(`["ready", "busy"].includes(` + state + `)`)
	if err := kill(); err != nil {
		t.Fatal(err)
	}
	took := b.within(10*time.Second, `!["ready", "busy"].includes(`+state+`)`)
	t.Logf("after %.1f s the page says %s", took.Seconds(), js[string](b, state))
	s.shoot(b, "fleet-killed-1400-light")
}

// tenThousand fills the store of another model, past any worker, and draws the largest map.
func (s *stage) tenThousand(t *testing.T, ann *tab) {
	const n, model, space = 10_000, "large", "1010101010101010"
	if err := s.fleet.Store.ClaimSpace(t.Context(), model, space, store.Keep); err != nil {
		t.Fatal(err)
	}
	var writers errgroup.Group
	for w := range 32 {
		writers.Go(func() error {
			chance := rand.New(rand.NewPCG(uint64(w), 0))
			for i := w; i < n; i += 32 {
				if _, err := s.fleet.Store.Put(t.Context(), placed(chance, i, model, space)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := writers.Wait(); err != nil {
		t.Fatal(err)
	}
	task, err := tasks.New(model, tasks.Live, vector.Document{ID: "a", Text: "makes the model known"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.fleet.Queue.Enqueue(t.Context(), []tasks.Task{task}); err != nil {
		t.Fatal(err)
	}
	b := s.beside(t, ann)
	b.expect("404") // until the page's list of models, some seconds old, has it
	s.eventually("the model is known", func() bool {
		b.open("/search?model=" + model)
		return js[bool](b, `document.querySelector("#map-canvas") !== null`)
	})
	b.until(fmt.Sprintf(`document.querySelector("#map-canvas").dataset.drawn === "%d"`, n))
	s.shoot(b, "map-1400-light")
	// Thirty movements of the pointer, each until the picture has followed.
	frame := js[float64](b, `(async () => {
		const c = document.querySelector("#map-canvas"), box = c.getBoundingClientRect(), times = [];
		for (let i = 0; i < 30; i++) {
			c.dispatchEvent(new PointerEvent("pointermove", {clientX: box.x + 200 + 20 * i, clientY: box.y + 100 + 8 * i, pointerType: "mouse"}));
			await new Promise(r => requestAnimationFrame(() => setTimeout(r)));
			times.push(Number(c.dataset.ms));
		}
		return times.sort((a, b) => a - b)[15];
	})()`)
	size := js[[]float64](b, `fetch("/search/map?model=`+model+`").then(r => r.text()).then(t => {
		const sizes = performance.getEntriesByType("resource").filter(e => e.name.includes("/search/map?")).map(e => e.encodedBodySize);
		return [new Blob([t]).size, Math.max(...sizes)];
	})`)
	t.Logf("%d documents: %.0f kB of JSON, %.0f kB on the way, %.1f ms a picture", n, size[0]/1000, size[1]/1000, frame)
	if frame > 100 {
		t.Errorf("a picture takes %.0f ms", frame)
	}
}

// placed is a document of one of nine sources, each around a direction of its own.
func placed(chance *rand.Rand, i int, model string, space vector.Space) vector.Record {
	v := make(vector.Vector, 64)
	for j := range v {
		v[j] = float32(chance.NormFloat64()) / 3
	}
	v[i%9] += 3
	v[9+i%4]++
	length := float32(v.Norm())
	for j := range v {
		v[j] /= length
	}
	text := fmt.Sprintf("주요사항보고서 %d호 (자기주식취득결정) %x", i, chance.Uint64())
	doc := vector.Document{ID: fmt.Sprintf("filing:%014d", i), Text: text, Title: text, Source: fmt.Sprintf("source %d", i%9),
		PublishedAt: time.Date(2022, 1, 3, 0, 0, i, 0, time.UTC)}
	return vector.Record{Document: doc, Model: model, Space: space, TextHash: vector.TextHash(text), Version: 1,
		Chunks: []vector.Chunk{{End: len(text), Embedding: vector.Embedding{Vector: v, Tokens: 9}}}}
}
