package embedder_test

import (
	"context"
	"encoding/json"
	"reflect"
	"regexp"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/embedder/embedtest"
)

// TestStatsAsJSON checks that the form other programs read has one way of writing names, seconds for times,
// and loses nothing.
func TestStatsAsJSON(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &loadBench{takes: 1500 * time.Millisecond}
		m := manage(t, b, nil)
		if err := m.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := m.EmbedText(t.Context(), "text"); err != nil {
			t.Fatal(err)
		}
		want := m.Stats()
		want.Refused = []embedder.Refusal{{Device: "cuda", Error: "no driver"}}
		want.LoadError = "none"
		raw, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got embedder.Stats
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Fatal(err)
		}
		got.Since, got.LastCall = got.Since.Local(), got.LastCall.Local()
		want.Since, want.LastCall = want.Since.Local().Round(0), want.LastCall.Local().Round(0)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("read back %+v, want %+v", got, want)
		}
		var fields map[string]any
		if err := json.Unmarshal(raw, &fields); err != nil {
			t.Fatal(err)
		}
		checkNames(t, fields)
		limits, _ := fields["limits"].(map[string]any)
		if fields["load_seconds"] != 1.5 || limits["access_timeout_seconds"] != 30.0 || fields["done"] != 1.0 {
			t.Errorf("load_seconds %v, limits %v, done %v; want 1.5, 30 s of access timeout, 1",
				fields["load_seconds"], limits, fields["done"])
		}
	})
}

var snake = regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)

func checkNames(t *testing.T, fields map[string]any) {
	t.Helper()
	for name, value := range fields {
		if !snake.MatchString(name) {
			t.Errorf("field %q, want snake_case", name)
		}
		if inner, ok := value.(map[string]any); ok {
			checkNames(t, inner)
		}
	}
}

// TestLimitChangeAsJSON checks that what is not named is not changed, and zero is named.
func TestLimitChangeAsJSON(t *testing.T) {
	t.Parallel()
	var change embedder.LimitChange
	if err := json.Unmarshal([]byte(`{"max_access": 16, "max_waiting": 0, "access_timeout_seconds": 0.5}`), &change); err != nil {
		t.Fatal(err)
	}
	want := embedder.LimitChange{MaxAccess: new(16), MaxWaiting: new(0), AccessTimeout: new(embedder.Seconds(500 * time.Millisecond))}
	if !reflect.DeepEqual(change, want) {
		t.Errorf("read %+v, want %+v", change, want)
	}
	if raw, err := json.Marshal(change); err != nil || string(raw) != `{"max_access":16,"max_waiting":0,"access_timeout_seconds":0.5}` {
		t.Errorf("written %s, %v", raw, err)
	}
	for _, bad := range []string{`{"load_timeout_seconds": "20s"}`, `{"max_access": "many"}`} {
		if err := json.Unmarshal([]byte(bad), &change); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
	if err := json.Unmarshal([]byte(`{"max_access": "many"}`), new(embedder.Limits)); err == nil {
		t.Error("limits that are no numbers were read")
	}
}

// measured is a model that tells its memory and counts how often it is asked.
type measured struct {
	*embedtest.Model
	asked int
}

func (m *measured) Memory() embedder.Memory {
	m.asked++
	return embedder.Memory{Weights: embedder.MemoryUse{Shared: int64(m.asked)}}
}

// TestStatsMemory checks that memory, which costs milliseconds to read, is read every thirty seconds at most,
// and that a model which does not tell is named as that.
func TestStatsMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		model := &measured{Model: embedtest.NewModel(34)}
		m, err := embedder.NewManager(func(context.Context, string) (*embedder.Engine, error) {
			return embedder.NewEngine(model, embedtest.Tokenizer{}, settings, nil)
		}, &embedder.ManagerOptions{Slot: new(embedder.Slot)})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close(t.Context())
		if s := m.Stats(); s.Memory != (embedder.Memory{}) {
			t.Errorf("memory before the load: %+v", s.Memory)
		}
		if err := m.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, want := range []int64{1, 1, 2} {
			if got := m.Stats().Memory.Weights.Shared; got != want {
				t.Errorf("reading %d, want %d", got, want)
			}
			time.Sleep(15 * time.Second)
		}
	})
	b := &loadBench{}
	m := manage(t, b, nil)
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := m.Stats().Memory.Unknown; got == "" {
		t.Error("nothing says that the model does not tell")
	}
}
