package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/embedfleet/embedfleet/cmd/internal/fleet"
	"github.com/embedfleet/embedfleet/cmd/internal/term"
	"github.com/embedfleet/embedfleet/intake"
	"github.com/embedfleet/embedfleet/internal/smaps"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/tasks"
)

const (
	// bootRatio is what a prepared boot may take of an unprepared one.
	bootRatio = 1.0 / 3
	// addedRatio and addedBytes bound what one more worker adds: the larger of the two.
	addedRatio = 0.25
	addedBytes = 80 << 20
	// bootLimit is when a worker is given up.
	bootLimit = 5 * time.Minute
)

// A runningWorker is a worker process that the memory bench has started.
type runningWorker struct {
	cmd    *exec.Cmd
	probes string
	ready  time.Duration // from the start of the process to the first 200 of /readyz
}

// memory measures what boots and further workers cost: unprepared and prepared boots in turn, each in a cache
// of its own, then n workers side by side, at rest and after work.
func (b *bench) memory(ctx context.Context, n int) (err error) {
	if b.dir, err = os.MkdirTemp("", "embedfleet-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	addr, stop, err := startRedis(ctx, b.dir)
	if err != nil {
		return err
	}
	defer stop()
	conn, err := queue.Parse("redis://" + addr)
	if err != nil {
		return err
	}
	f, err := openFleet(ctx, conn)
	if err != nil {
		return err
	}
	defer f.Close()
	boots, err := b.boots(ctx, addr)
	if err != nil {
		return err
	}
	workers, err := b.sideBySide(ctx, f, addr, n)
	if err != nil {
		return err
	}
	return b.memoryReport(boots, workers)
}

// boots are the times to ready of a round's boots, by kind.
type boots struct{ unprepared, prepared []measure }

// boots starts workers alone: with nothing prepared, then with all of it. The second boot after a preparation
// counts, since the first reads what it was given once more to be sure of it; that is a boot of its own kind.
func (b *bench) boots(ctx context.Context, addr string) (out boots, err error) {
	for round := range b.rounds {
		if err := os.RemoveAll(b.memoryCache()); err != nil {
			return out, err
		}
		var took [3]time.Duration
		for i := range took {
			if took[i], err = b.bootOnce(ctx, addr); err != nil {
				return out, err
			}
		}
		fmt.Printf("round %d  ready in %.2f s unprepared, %.2f s the first time after, %.2f s prepared\n",
			round+1, took[0].Seconds(), took[1].Seconds(), took[2].Seconds())
		out.unprepared = append(out.unprepared, measure{Seconds: took[0].Seconds()})
		out.prepared = append(out.prepared, measure{Seconds: took[2].Seconds()})
	}
	return out, nil
}

// memoryCache is the cache of prepared graphs of this bench alone.
func (b *bench) memoryCache() string { return filepath.Join(b.dir, "cache") }

func (b *bench) bootOnce(ctx context.Context, addr string) (time.Duration, error) {
	w, err := b.startWorker(ctx, addr)
	if err != nil {
		return 0, err
	}
	return w.ready, w.stop()
}

// startWorker starts a worker and returns when it is ready.
func (b *bench) startWorker(ctx context.Context, addr string) (*runningWorker, error) {
	probes, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	w := &runningWorker{probes: probes}
	w.cmd = exec.CommandContext(ctx, b.worker, "--model", b.model, "--alias", alias, "--redis-url", "redis://"+addr,
		"--onnxruntime", b.library, "--cache", b.memoryCache(), "--http", probes, "--log-level", "warn")
	w.cmd.Stderr = os.Stderr
	begun := time.Now()
	if err := w.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting a worker: %w", err)
	}
	for time.Since(begun) < bootLimit {
		if isReady(ctx, probes) {
			w.ready = time.Since(begun)
			return w, nil
		}
		time.Sleep(2 * time.Millisecond)
	}
	return nil, errors.Join(fmt.Errorf("a worker was not ready within %v", bootLimit), w.stop())
}

func isReady(ctx context.Context, address string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", http.NoBody)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false // it does not listen yet
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func (w *runningWorker) stop() error {
	if err := w.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := w.cmd.Wait(); err != nil {
		return fmt.Errorf("stopping a worker: %w", err)
	}
	return nil
}

// A memoryRow is a worker's line in the table.
type memoryRow struct {
	ready time.Duration
	added int64     // to the sum of all by its start, at rest
	rest  smaps.Use // with all workers running
	work  smaps.Use // with all workers running, after work
}

// A fleetMemory is what n workers take.
type fleetMemory struct {
	rows      []memoryRow
	aloneRest int64 // the first one alone
	aloneWork int64
	allWork   int64
}

// sideBySide starts n workers one after the other. The first one does some work alone, then all together.
func (b *bench) sideBySide(ctx context.Context, f *fleet.Fleet, addr string, n int) (out fleetMemory, err error) {
	var workers []*runningWorker
	defer func() {
		for _, w := range workers {
			err = errors.Join(err, w.stop())
		}
	}()
	total := int64(0)
	for i := range n {
		w, err := b.startWorker(ctx, addr)
		if err != nil {
			return out, err
		}
		workers = append(workers, w)
		uses, sum, err := measureWorkers(workers)
		if err != nil {
			return out, err
		}
		out.rows = append(out.rows, memoryRow{ready: w.ready, added: sum - total})
		if i == 0 {
			out.aloneRest = sum
			if out.aloneWork, err = b.workAlone(ctx, f, workers); err != nil {
				return out, err
			}
			_, sum, err = measureWorkers(workers)
			if err != nil {
				return out, err
			}
		}
		total = sum
		for j, use := range uses {
			out.rows[j].rest = use
		}
	}
	if err := b.work(ctx, f, n); err != nil {
		return out, err
	}
	uses, sum, err := measureWorkers(workers)
	for j, use := range uses {
		out.rows[j].work = use
	}
	out.allWork = sum
	return out, err
}

func (b *bench) workAlone(ctx context.Context, f *fleet.Fleet, workers []*runningWorker) (int64, error) {
	if err := b.work(ctx, f, 1); err != nil {
		return 0, err
	}
	_, sum, err := measureWorkers(workers)
	return sum, err
}

// measureWorkers returns each worker's memory and the sum of their shares.
func measureWorkers(workers []*runningWorker) (uses []smaps.Use, sum int64, err error) {
	for _, w := range workers {
		use, err := smaps.Process(w.cmd.Process.Pid)
		if err != nil {
			return nil, 0, err
		}
		uses = append(uses, use)
		sum += use.Proportional
	}
	return uses, sum, nil
}

// work lets the workers embed texts of all lengths, enough for each of n to get its share, and waits.
func (b *bench) work(ctx context.Context, f *fleet.Fleet, n int) error {
	texts, err := makeTexts(200 * (n + 1))
	if err != nil {
		return err
	}
	list := make([]tasks.Task, len(texts))
	for i, text := range texts {
		if list[i], err = tasks.New(alias, tasks.Live, intake.ForText(fmt.Sprintf("%s (%d workers)", text, n)), nil); err != nil {
			return err
		}
	}
	stored := func() (total int64, err error) {
		spaces, err := f.Store.Stats(ctx, alias)
		for _, s := range spaces {
			total += s.Documents
		}
		return total, err
	}
	before, err := stored()
	if err != nil {
		return err
	}
	if _, err := f.Queue.Enqueue(ctx, list); err != nil {
		return err
	}
	for begun := time.Now(); time.Since(begun) < bootLimit; time.Sleep(20 * time.Millisecond) {
		now, err := stored()
		if err != nil {
			return err
		}
		if now >= before+int64(len(list)) {
			return nil
		}
	}
	return fmt.Errorf("%d texts were not stored within %v", len(list), bootLimit)
}

// memoryReport prints the tables and adds the figures to the file.
func (b *bench) memoryReport(times boots, m fleetMemory) error {
	mb := func(bytes int64) string { return fmt.Sprintf("%.1f", float64(bytes)/(1<<20)) }
	var rows [][]string
	for i, r := range m.rows {
		rows = append(rows, []string{
			fmt.Sprint(i + 1), fmt.Sprintf("%.2f", r.ready.Seconds()), mb(r.added),
			mb(r.rest.Proportional), mb(r.rest.Private), mb(r.rest.Shared),
			mb(r.work.Proportional), mb(r.work.Private), mb(r.work.Shared),
		})
	}
	fmt.Printf("\n%d workers of %s, MB; at rest when all were ready, and after they had embedded texts of all lengths\n", len(m.rows), filepath.Base(b.model))
	header := []string{"WORKER", "READY S", "ADDED", "PSS", "PRIVATE", "SHARED", "PSS WORK", "PRIVATE", "SHARED"}
	if err := term.Table(os.Stdout, header, make([]int, len(header)), rows); err != nil {
		return err
	}
	figures, lines := memoryFigures(times, m)
	fmt.Println()
	if err := term.Table(os.Stdout, []string{"FIGURE", "", "AGAINST", "", "RATIO", "AT MOST", ""}, make([]int, 7), lines); err != nil {
		return err
	}
	return addFigures(b.out, figures)
}

// memoryFigures are the figures of the file and the lines of the table of promises.
func memoryFigures(times boots, m fleetMemory) (map[string]figure, [][]string) {
	seconds := func(m measure) float64 { return m.Seconds }
	ratios := make([]measure, len(times.prepared))
	for i := range ratios {
		ratios[i].Seconds = times.prepared[i].Seconds / times.unprepared[i].Seconds
	}
	const mb = 1 << 20
	worst := slices.MaxFunc(m.rows[1:], func(x, y memoryRow) int { return int(x.added - y.added) }).added
	worked := (m.allWork - m.aloneWork) / int64(len(m.rows)-1)
	prepared, unprepared, ratio := median(times.prepared, seconds), median(times.unprepared, seconds), median(ratios, seconds)
	figures := map[string]figure{
		"boot_unprepared":     {Median: unprepared, Unit: "s"},
		"boot_prepared":       {Median: prepared, Unit: "s", RatioTo: "boot_unprepared", Ratio: ratio},
		"memory_first":        {Median: float64(m.aloneRest) / mb, Unit: "MB PSS"},
		"memory_first_worked": {Median: float64(m.aloneWork) / mb, Unit: "MB PSS"},
		"memory_added": {Median: float64(worst) / mb, Unit: "MB PSS", RatioTo: "memory_first",
			Ratio: float64(worst) / float64(m.aloneRest)},
		"memory_added_worked": {Median: float64(worked) / mb, Unit: "MB PSS", RatioTo: "memory_first_worked",
			Ratio: float64(worked) / float64(m.aloneWork)},
	}
	line := func(name string, value float64, unit, against string, to, most float64) []string {
		verdict := "reached"
		if value/to > most {
			verdict = "MISSED"
		}
		return []string{name, fmt.Sprintf("%.2f %s", value, unit), against, fmt.Sprintf("%.2f %s", to, unit),
			fmt.Sprintf("%.2f", value/to), fmt.Sprintf("%.2f", most), verdict}
	}
	allowed := func(first int64) float64 { return max(addedRatio, float64(addedBytes)/float64(first)) }
	lines := [][]string{
		line("boot, prepared", prepared, "s", "unprepared", unprepared, bootRatio),
		line("one more worker, at rest", float64(worst)/mb, "MB", "the first alone", float64(m.aloneRest)/mb, allowed(m.aloneRest)),
		line("one more worker, after work", float64(worked)/mb, "MB", "the first alone", float64(m.aloneWork)/mb, allowed(m.aloneWork)),
	}
	return figures, lines
}
