package tasks_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden pins the bytes on the wire: workers and producers of different releases, and of other
// languages, meet in them. A change here needs a new version of the payload.
func TestGolden(t *testing.T) {
	t.Parallel()
	golden := vector.Document{
		ID:          "dart:20220103000001",
		Text:        "삼성전자 매출액 <30%> & \"변경\"\n\u2028\t\x01",
		Title:       "제목",
		Source:      "dart",
		URL:         "https://example.com/?a=1&b=2",
		PublishedAt: time.Date(2022, 1, 3, 12, 30, 0, 5, time.FixedZone("KST", 9*3600)),
		StockCodes:  []string{"005930"},
		Fields:      map[string]string{"b": "2", "a": "1"},
	}
	task, err := tasks.New("minilm", tasks.Live, golden, &tasks.Options{Version: 1641180600000000000})
	if err != nil {
		t.Fatal(err)
	}
	checkGolden(t, "embed_v1.json", task.Payload)
	p, err := tasks.DecodeDocument(task.Payload)
	golden.PublishedAt = golden.PublishedAt.UTC()
	if err != nil || !reflect.DeepEqual(p.Document, golden) {
		t.Errorf("decoded %+v, %v, want %+v", p.Document, err, golden)
	}
	task, err = tasks.New("minilm", tasks.Live, doc("only what is needed"), &tasks.Options{Version: 1})
	if err != nil {
		t.Fatal(err)
	}
	checkGolden(t, "embed_v1_small.json", task.Payload)
}

// TestGoldenQuery reads only, since a query carries the time.
func TestGoldenQuery(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join("testdata", "query_v1.json"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := tasks.DecodeQuery(bytes.TrimSpace(b))
	want := tasks.QueryPayload{Model: "minilm", Text: "비슷한 공시", ExpiresAt: time.Date(2022, 1, 3, 3, 30, 30, 0, time.UTC)}
	if err != nil || !reflect.DeepEqual(p, want) {
		t.Errorf("decoded %+v, %v, want %+v", p, err, want)
	}
}

// TestGoldenPrompt: a query that names its prompt is of version 2, which workers of the last release set aside.
func TestGoldenPrompt(t *testing.T) {
	t.Parallel()
	task, err := tasks.NewQuery("minilm", "비슷한 공시", &tasks.Options{Prompt: tasks.AsDocument, Lane: tasks.Backfill})
	if err != nil || task.Lane != tasks.Backfill || !task.Expires.IsZero() {
		t.Fatal(task, err)
	}
	checkGolden(t, "query_v2.json", task.Payload)
	if p, err := tasks.DecodeQuery(task.Payload); err != nil || p.Prompt != tasks.AsDocument {
		t.Errorf("decoded %+v, %v", p, err)
	}
	for payload, want := range map[string]string{
		`{"v":1,"model":"m","text":"a","prompt":"none"}`: "knows no prompt",
		`{"v":2,"model":"m","text":"a","prompt":"no"}`:   "prompt: is",
		`{"v":3,"model":"m","text":"a"}`:                 "version 3",
	} {
		if _, err := tasks.DecodeQuery([]byte(payload)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", payload, err, want)
		}
	}
	if _, err := tasks.NewQuery("m", "a", &tasks.Options{Prompt: "passage"}); err == nil {
		t.Error("an unknown prompt was accepted")
	}
}

func checkGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want = bytes.TrimSuffix(want, []byte("\n")); !bytes.Equal(got, want) {
		t.Errorf("%s:\n got %s\nwant %s", name, got, want)
	}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	const document = `"document":{"id":"d","text":"t"}`
	for name, tt := range map[string]struct {
		payload string
		want    string // of the error, "" if there is none
		code    string
		outcome tasks.Outcome
	}{
		"good":            {`{"v":1,"model":"m","version":1,` + document + `}`, "", "done", tasks.Done},
		"newer version":   {`{"v":2,"model":"m","texts":["t"]}`, "payload has version 2, this worker knows 1 only", "unknown_version", tasks.Newer},
		"newer, same":     {`{"v":2,"model":"m","version":1,` + document + `}`, "payload has version 2", "unknown_version", tasks.Newer},
		"no version":      {`{"model":"m","version":1,` + document + `}`, "v is 0, want 1", "bad_payload", tasks.Permanent},
		"version 0":       {`{"v":0,"model":"m"}`, "v is 0, want 1", "bad_payload", tasks.Permanent},
		"version -1":      {`{"v":-1}`, "v is -1, want 1", "bad_payload", tasks.Permanent},
		"text version":    {`{"v":"1"}`, "cannot unmarshal", "bad_payload", tasks.Permanent},
		"unknown field":   {`{"v":1,"model":"m","version":1,"lane":"x",` + document + `}`, `unknown field "lane"`, "bad_payload", tasks.Permanent},
		"unknown nested":  {`{"v":1,"model":"m","version":1,"document":{"id":"d","text":"t","x":1}}`, `unknown field "x"`, "bad_payload", tasks.Permanent},
		"two values":      {`{"v":1,"model":"m","version":1,` + document + `}{}`, "more than one JSON value", "bad_payload", tasks.Permanent},
		"no JSON":         {`{"v":1,"text":"secret" secret}`, "not JSON from byte 24 on", "bad_payload", tasks.Permanent},
		"nothing":         {``, "EOF", "bad_payload", tasks.Permanent},
		"cut":             {`{"v":1,"model":"m`, "unexpected EOF", "bad_payload", tasks.Permanent},
		"an array":        {`[]`, "cannot unmarshal array", "bad_payload", tasks.Permanent},
		"not UTF-8":       {"{\"v\":1,\"model\":\"\xff\"}", "not UTF-8", "bad_payload", tasks.Permanent},
		"bad time":        {`{"v":1,"model":"m","version":1,"document":{"id":"d","text":"t","published_at":"now"}}`, "parsing time", "bad_payload", tasks.Permanent},
		"empty text":      {`{"v":1,"model":"m","version":1,"document":{"id":"d","text":""}}`, "text: has no character", "invalid_empty", tasks.Permanent},
		"NUL text":        {`{"v":1,"model":"m","version":1,"document":{"id":"d","text":"a\u0000"}}`, "text: has a NUL at byte 1", "invalid_nul_byte", tasks.Permanent},
		"bad alias":       {`{"v":1,"model":"{m}","version":1,` + document + `}`, "model:", "invalid_bad_syntax", tasks.Permanent},
		"no doc version":  {`{"v":1,"model":"m",` + document + `}`, "version: is 0", "invalid_out_of_range", tasks.Permanent},
		"not a frame":     {"\x28\xb5\x2f\xfdjunk", "decompressing", "bad_payload", tasks.Permanent},
		"decomposed text": {`{"v":1,"model":"m","version":1,"document":{"id":"d","text":"\u1112\u1161"}}`, "", "done", tasks.Done},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := tasks.DecodeDocument([]byte(tt.payload))
			if got := tasks.Classify(err); got != tt.outcome {
				t.Errorf("outcome %s, want %s", got, tt.outcome)
			}
			if got := tasks.Code(err); got != tt.code {
				t.Errorf("code %q, want %q", got, tt.code)
			}
			if tt.want == "" && (err != nil || strings.ContainsRune(p.Document.Text, '\u1112')) {
				t.Errorf("DecodeDocument = %+v, %v", p, err)
			}
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret")) {
				t.Errorf("error %v, want %q, and no text in it", err, tt.want)
			}
		})
	}
}

// TestCompression checks the border, and that what comes out went in.
func TestCompression(t *testing.T) {
	t.Parallel()
	for _, size := range []int{100, 16_000, 17_000, 300_000} {
		text := strings.Repeat("매출액 또는 손익구조 ", size/28+1)
		task, err := tasks.New("minilm", tasks.Live, doc(text), nil)
		if err != nil {
			t.Fatal(err)
		}
		compressed := task.Payload[0] != '{'
		if want := len(text)+130 > tasks.CompressAbove; compressed != want || len(task.Payload) > tasks.CompressAbove {
			t.Errorf("payload of %d bytes of text has %d bytes, compressed: %v, want %v", len(text), len(task.Payload), compressed, want)
		}
		if p, err := tasks.DecodeDocument(task.Payload); err != nil || p.Document.Text != text {
			t.Errorf("text of %d bytes came back with %d, %v", len(text), len(p.Document.Text), err)
		}
	}
	// The worst case of the JSON form: six bytes for each byte of text.
	worst := strings.Repeat("\x01", tasks.MaxText)
	task, err := tasks.New("minilm", tasks.Live, doc(worst), nil)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := tasks.DecodeDocument(task.Payload); err != nil || p.Document.Text != worst {
		t.Errorf("the longest payload does not come back: %v", err)
	}
}

// TestBomb feeds frames that would decompress to far more than a payload may have.
func TestBomb(t *testing.T) {
	t.Parallel()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	bomb := enc.EncodeAll(make([]byte, 64<<20), nil)
	var stream bytes.Buffer // without a size in the frame's header
	w, err := zstd.NewWriter(&stream)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 32<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	small := enc.EncodeAll(make([]byte, 6<<20), nil)
	for name, payload := range map[string][]byte{
		"one frame":   bomb,
		"a stream":    stream.Bytes(),
		"many frames": bytes.Repeat(small, 10),
	} {
		_, err := tasks.DecodeDocument(payload)
		if !errors.Is(err, zstd.ErrDecoderSizeExceeded) {
			t.Errorf("%s: %v, want that it is too large", name, err)
		}
	}
}

// FuzzDecode checks that no payload panics, and that what is accepted keeps the rules of New: a task made
// of it says the same.
func FuzzDecode(f *testing.F) {
	for _, name := range []string{"embed_v1.json", "embed_v1_small.json", "query_v1.json"} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(bytes.TrimSpace(b))
	}
	task, err := tasks.New("minilm", tasks.Live, doc(strings.Repeat("a long text ", 2000)), nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(task.Payload)
	f.Add([]byte(`{"v":2}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if _, err := tasks.DecodeQuery(payload); err != nil && tasks.Classify(err) == tasks.Done {
			t.Error("an error is called done")
		}
		p, err := tasks.DecodeDocument(payload)
		if err != nil {
			return
		}
		again, err := tasks.New(p.Model, tasks.Live, p.Document, &tasks.Options{Version: p.Version})
		if err != nil {
			t.Fatalf("New refuses what DecodeDocument accepted: %v", err)
		}
		q, err := tasks.DecodeDocument(again.Payload)
		if err != nil || q.Document.Text != p.Document.Text || q.Document.ID != p.Document.ID || q.Version != p.Version {
			t.Fatalf("came back as %+v, %v, was %+v", q, err, p)
		}
	})
}
