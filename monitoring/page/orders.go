package page

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/tasks"
)

// An Order is something an operator asks for. Fields that its Do has no use for are empty.
type Order struct {
	Do       string // one of the words below
	By       string // who asks
	Model    string
	Lane     tasks.Lane
	To       tasks.Lane // where waiting texts move
	Worker   string     // id
	Source   string
	Job      string
	Cause    string        // of dead letters
	ID       string        // of a dead letter; of a waiting task or its document
	Reason   string        // for whoever wonders later
	For      time.Duration // a pause; 0 is until resumed
	Settings registry.Settings
}

// What can be asked for.
const (
	PauseLane    = "pause-lane"
	ResumeLane   = "resume-lane"
	SetLimits    = "set-limits"   // of a worker, or of a model's workers
	ResetLimits  = "reset-limits" // to what their flags say
	DrainWorker  = "drain-worker"
	ReplayDead   = "replay-dead"
	DropDead     = "drop-dead"
	PauseSource  = "pause-source"
	ResumeSource = "resume-source"
	RunSlot      = "run-slot"

	CancelWaiting = "cancel-waiting"
	MoveWaiting   = "move-waiting"
	ForgetModel   = "forget-model"
)

const (
	// atOnce is how many orders are carried out side by side, and waiting how many may wait for that.
	atOnce  = 4
	waiting = 16
	// orderTimeout bounds one order: a hundred thousand letters over a slow Redis take minutes.
	orderTimeout = 30 * time.Minute
	// How long the page shows what came of an order.
	showDone   = time.Minute
	showFailed = 15 * time.Minute
	maxShown   = 20
)

// errBusy says that too much was asked for at once.
var errBusy = errors.New("too many orders are under way; try again when one of them is done")

// An errand is an order on its way.
type errand struct {
	Order

	ID    string
	Title string
	Begun time.Time
	Ended time.Time // zero while it is under way
	Said  string    // what came of it, or how far it is
	Bad   bool      // it failed
	done  chan struct{}
}

// orders carries errands out and remembers the latest.
type orders struct {
	log      *slog.Logger
	controls Controls
	observe  func(order, outcome string)
	line     chan *errand

	mu     sync.Mutex
	list   []*errand // the latest first
	count  int64     // of changes
	notify chan struct{}
}

func newOrders(log *slog.Logger, c Controls) *orders {
	return &orders{log: log, controls: c, observe: func(string, string) {}, line: make(chan *errand, waiting), notify: make(chan struct{})}
}

// run carries orders out until ctx ends.
func (o *orders) run(ctx context.Context) error {
	var group sync.WaitGroup
	for range atOnce {
		group.Go(func() {
			for {
				select {
				case e := <-o.line:
					o.carry(ctx, e)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	group.Wait()
	return nil
}

// give takes an order in; its errand's channel is closed at its end.
func (o *orders) give(order Order, title string) (*errand, error) {
	e := &errand{Order: order, ID: rand.Text(), Title: title, Begun: time.Now(), done: make(chan struct{})}
	select {
	case o.line <- e:
	default:
		return nil, errBusy
	}
	o.change(func() {
		o.list = slices.Insert(o.list, 0, e)
		o.list = o.list[:min(len(o.list), maxShown)]
	})
	return e, nil
}

// carry does one errand and writes down what came of it, with who asked.
func (o *orders) carry(ctx context.Context, e *errand) {
	inner, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	said, err := o.controls.Do(inner, e.Order, func(s string) { o.change(func() { e.Said = s }) })
	log := o.log.With("user", e.By, "order", e.Do, "model", e.Model, "lane", e.Lane, "to", e.To, "worker", e.Worker, "source", e.Source,
		"job", e.Job, "cause", e.Cause, "id", e.Order.ID, "reason", e.Reason, "settings", e.Settings.String())
	o.change(func() {
		e.Ended, e.Said, e.Bad = time.Now(), said, err != nil
		if err != nil {
			e.Said = err.Error()
		}
	})
	if err != nil {
		o.observe(e.Do, "failed")
		log.Warn("an operator's order failed", "err", err)
	} else {
		o.observe(e.Do, "done")
		log.Info("an operator's order was carried out", "said", said)
	}
	close(e.done)
}

func (o *orders) change(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f()
	o.count++
	close(o.notify)
	o.notify = make(chan struct{})
}

// number rises with each change.
func (o *orders) number() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.count
}

// changed is closed at the next change.
func (o *orders) changed() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.notify
}

// recent returns copies of what is under way, was just done, or failed lately.
func (o *orders) recent(now time.Time) (list []errand) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.list {
		patience := showDone
		if e.Bad {
			patience = showFailed
		}
		if e.Ended.IsZero() || now.Sub(e.Ended) < patience {
			list = append(list, *e)
		}
	}
	return list
}
