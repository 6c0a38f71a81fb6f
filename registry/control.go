package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/tasks"
)

// Bounds of [Settings]; the worker's flags have the same.
const (
	MaxConcurrency   = 4096
	MaxAccess        = 1 << 20
	MinAccessTimeout = time.Millisecond
	MaxAccessTimeout = 24 * time.Hour
)

const (
	// lookEvery is how often a worker looks for orders; it has them within twice that.
	lookEvery = time.Second
	// orderTTL is how long the orders for one worker outlive it, if it can't take them along.
	orderTTL = time.Hour

	revisionKey = "embedfleet:settings:revision"
)

// Settings are what can be changed of a running worker. A zero field means "as it is" where they are
// delivered; where a worker announces them, nothing is zero.
type Settings struct {
	Concurrency   int     `json:"concurrency,omitempty"`            // documents leased at once, 1 to [MaxConcurrency]
	MaxAccess     int     `json:"max_access,omitempty"`             // callers inside the model at once, 1 to [MaxAccess]
	AccessTimeout Seconds `json:"access_timeout_seconds,omitempty"` // of the wait for access, 1 ms to 24 h
}

// Check lists every field that is out of its bounds and not zero.
func (s Settings) Check() error {
	var errs []error
	bounded := func(name string, v, limit int) {
		if v < 0 || v > limit {
			errs = append(errs, fmt.Errorf("%s %d, want 1 to %d", name, v, limit))
		}
	}
	bounded("concurrency", s.Concurrency, MaxConcurrency)
	bounded("max access", s.MaxAccess, MaxAccess)
	if t := time.Duration(s.AccessTimeout); t != 0 && (t < MinAccessTimeout || t > MaxAccessTimeout) {
		errs = append(errs, fmt.Errorf("access timeout %v, want %v to %v", t, MinAccessTimeout, MaxAccessTimeout))
	}
	return errors.Join(errs...)
}

// String names the fields that are set, for people.
func (s Settings) String() string {
	var parts []string
	if s.Concurrency != 0 {
		parts = append(parts, fmt.Sprint("concurrency ", s.Concurrency))
	}
	if s.MaxAccess != 0 {
		parts = append(parts, fmt.Sprint("max access ", s.MaxAccess))
	}
	if s.AccessTimeout != 0 {
		parts = append(parts, fmt.Sprint("access timeout ", s.AccessTimeout))
	}
	return strings.Join(parts, ", ")
}

// Over returns s with its zero fields filled in from base.
func (s Settings) Over(base Settings) Settings {
	if s.Concurrency == 0 {
		s.Concurrency = base.Concurrency
	}
	if s.MaxAccess == 0 {
		s.MaxAccess = base.MaxAccess
	}
	if s.AccessTimeout == 0 {
		s.AccessTimeout = base.AccessTimeout
	}
	return s
}

// Seconds is a duration that JSON shows in seconds.
type Seconds time.Duration

func (s Seconds) String() string { return time.Duration(s).String() }

// MarshalJSON writes a number of seconds.
func (s Seconds) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(s).Seconds()) }

// UnmarshalJSON reads it.
func (s *Seconds) UnmarshalJSON(b []byte) error {
	var v float64
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	*s = Seconds(v * float64(time.Second))
	return nil
}

// A Target is whom an order is for: one worker, or every worker of a model, those to come included.
// Exactly one of the two is set.
type Target struct {
	Worker string // its id
	Model  string // alias
}

func (t Target) key() (string, error) {
	switch {
	case t.Worker != "" && t.Model == "" && !strings.ContainsAny(t.Worker, " \n"):
		return "embedfleet:settings:worker:" + t.Worker, nil
	case t.Model != "" && t.Worker == "":
		return "embedfleet:settings:model:" + t.Model, tasks.CheckModel(t.Model)
	default:
		return "", errors.New("want one worker or one model")
	}
}

// An Order is what a worker was told: by its own orders and its model's, field by field the later one.
type Order struct {
	Settings       // zero fields were never set
	Revision int64 // of the latest order; rises with every one in the fleet
	Drain    bool  // finish what is in hand and end, for good
	By       string
}

// Control changes running workers. Orders lie in Redis until the worker looks, which it does every second.
// Each is an [Event].
type Control struct {
	rdb    redis.UniversalClient
	events *Events
}

// NewControl returns it. The Redis client is the caller's.
func NewControl(rdb redis.UniversalClient) *Control {
	return &Control{rdb: rdb, events: NewEvents(rdb)}
}

// Set orders settings and returns the order's revision. A field that is out of bounds changes nothing. by is
// whoever asked for it.
//
// What is set for a model is kept: workers of the model that start later take it over their flags. What is
// set for one worker ends with its process.
func (c *Control) Set(ctx context.Context, t Target, s Settings, by string) (int64, error) {
	if s == (Settings{}) {
		return 0, errors.New("changing settings: none is given")
	}
	if err := s.Check(); err != nil {
		return 0, fmt.Errorf("changing settings: %w", err)
	}
	values := map[string]string{}
	if s.Concurrency != 0 {
		values["concurrency"] = strconv.Itoa(s.Concurrency)
	}
	if s.MaxAccess != 0 {
		values["max_access"] = strconv.Itoa(s.MaxAccess)
	}
	if s.AccessTimeout != 0 {
		values["access_timeout"] = s.AccessTimeout.String()
	}
	revision, err := c.order(ctx, t, values, by)
	if err != nil {
		return 0, fmt.Errorf("changing settings: %w", err)
	}
	return revision, c.events.Append(ctx, Event{What: EventSettings, Who: by, Model: t.Model, About: t.Worker, Text: s.String()})
}

// Drain orders one worker to finish what it has in hand and to end with status 0, which no supervisor takes
// for a crash.
func (c *Control) Drain(ctx context.Context, worker, by string) (int64, error) {
	revision, err := c.order(ctx, Target{Worker: worker}, map[string]string{"drain": "1"}, by)
	if err != nil {
		return 0, fmt.Errorf("draining worker %s: %w", worker, err)
	}
	return revision, c.events.Append(ctx, Event{What: EventDrain, Who: by, About: worker})
}

// Reset takes back what was set: the target's workers return to what their flags say.
func (c *Control) Reset(ctx context.Context, t Target, by string) (int64, error) {
	revision, err := c.order(ctx, t, map[string]string{"concurrency": "", "max_access": "", "access_timeout": ""}, by)
	if err != nil {
		return 0, fmt.Errorf("taking settings back: %w", err)
	}
	text := "as the workers' flags say"
	return revision, c.events.Append(ctx, Event{What: EventSettings, Who: by, Model: t.Model, About: t.Worker, Text: text})
}

// order writes values, each beside its revision, for the later of two orders must win field by field.
func (c *Control) order(ctx context.Context, t Target, values map[string]string, by string) (int64, error) {
	key, err := t.key()
	if err != nil {
		return 0, err
	}
	revision, err := c.rdb.Incr(ctx, revisionKey).Result()
	if err != nil {
		return 0, err
	}
	fields := map[string]any{"by": by}
	for name, v := range values {
		fields[name] = strconv.FormatInt(revision, 10) + " " + v
	}
	_, err = c.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.HSet(ctx, key, fields)
		if t.Worker != "" {
			pipe.PExpire(ctx, key, orderTTL)
		}
		return nil
	})
	return revision, err
}

// Order returns what a worker of a model was told. The worker's id may be empty.
func (c *Control) Order(ctx context.Context, worker, model string) (Order, error) {
	general, err := Target{Model: model}.key()
	if err != nil {
		return Order{}, fmt.Errorf("reading the orders: %w", err)
	}
	own := "embedfleet:settings:worker:" + worker
	pipe := c.rdb.Pipeline()
	hashes := []*redis.MapStringStringCmd{pipe.HGetAll(ctx, general), pipe.HGetAll(ctx, own)}
	pipe.PExpire(ctx, own, orderTTL)
	if _, err := pipe.Exec(ctx); err != nil {
		return Order{}, fmt.Errorf("reading the orders: %w", err)
	}
	return orderOf(hashes[0].Val(), hashes[1].Val()), nil
}

// orderOf merges hashes; of each field the latest counts. A value that can't be read counts as not set, for
// a newer program may have written it.
func orderOf(hashes ...map[string]string) Order {
	var o Order
	latest := map[string]int64{}
	for _, h := range hashes {
		for name, text := range h {
			number, value, _ := strings.Cut(text, " ")
			revision, err := strconv.ParseInt(number, 10, 64)
			if err != nil || name == "by" || revision <= latest[name] {
				continue
			}
			latest[name] = revision
			if revision > o.Revision {
				o.Revision, o.By = revision, h["by"]
			}
			o.set(name, value)
		}
	}
	return o
}

// set takes a field's value; an empty one takes it back.
func (o *Order) set(name, value string) {
	switch name {
	case "concurrency":
		o.Concurrency, _ = strconv.Atoi(value)
	case "max_access":
		o.MaxAccess, _ = strconv.Atoi(value)
	case "access_timeout":
		d, _ := time.ParseDuration(value)
		o.AccessTimeout = Seconds(d)
	case "drain":
		o.Drain = value == "1"
	}
}

// Follow calls obey with the orders of a worker whenever they change, the first time only if there are any,
// until ctx ends; then it takes the worker's own orders away. It returns nil, for a Redis that is away is
// logged once and tried again. obey is called from one goroutine.
func (c *Control) Follow(ctx context.Context, log *slog.Logger, self Worker, obey func(Order)) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	var last Order
	failing := false
	for ctx.Err() == nil {
		o, err := c.Order(ctx, self.ID, self.Model)
		if err != nil && !failing && ctx.Err() == nil {
			log.Warn("reading the fleet's orders failed", "err", err)
		}
		failing = err != nil
		if err == nil && o != last {
			last = o
			obey(o)
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWrite)
	defer cancel()
	if err := c.rdb.Del(ctx, "embedfleet:settings:worker:"+self.ID).Err(); err != nil {
		log.Warn("taking away the worker's orders failed, they lapse", "in", orderTTL, "err", err)
	}
	return nil
}
