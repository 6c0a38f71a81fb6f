package tasks_test

import (
	"errors"
	"math"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// doc returns a document that New accepts.
func doc(text string) vector.Document { return vector.Document{ID: "dart:1", Text: text} }

func TestNew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		task, err := tasks.New("minilm", tasks.Live, doc("a text"), nil)
		if err != nil {
			t.Fatal(err)
		}
		p, err := tasks.DecodeDocument(task.Payload)
		if err != nil {
			t.Fatal(err)
		}
		want := tasks.DocumentPayload{Model: "minilm", Version: time.Now().UnixNano(), Document: doc("a text")}
		if !reflect.DeepEqual(p, want) {
			t.Errorf("payload %+v, want %+v", p, want)
		}
		if task.Kind != tasks.EmbedDocument || task.Model != "minilm" || task.Lane != tasks.Live {
			t.Errorf("task %+v", task)
		}
	})
}

// TestID pins the id, which producers in other languages compute by the rule in doc.go. The digits are
// what this prints:
//
//	python3 -c 'import hashlib, struct
//	parts = ["embedfleet/task/v1", "minilm", "dart:1", hashlib.sha256(b"a text").hexdigest()]
//	b = b"".join(struct.pack(">Q", len(p)) + p.encode() for p in parts)
//	print(hashlib.sha256(b).hexdigest()[:32])'
func TestID(t *testing.T) {
	t.Parallel()
	const want = "d9909c953df52e347202b49686510e72"
	ids := make(map[string]string)
	for name, tt := range map[string]struct {
		alias string
		lane  tasks.Lane
		doc   vector.Document
		opts  *tasks.Options
		same  bool
	}{
		"as it is":       {"minilm", tasks.Live, doc("a text"), nil, true},
		"other lane":     {"minilm", tasks.Backfill, doc("a text"), nil, true},
		"other version":  {"minilm", tasks.Live, doc("a text"), &tasks.Options{Version: 7}, true},
		"other title":    {"minilm", tasks.Live, vector.Document{ID: "dart:1", Text: "a text", Title: "x"}, nil, true},
		"other model":    {"minilm2", tasks.Live, doc("a text"), nil, false},
		"other document": {"minilm", tasks.Live, vector.Document{ID: "dart:2", Text: "a text"}, nil, false},
		"other text":     {"minilm", tasks.Live, doc("a text."), nil, false},
		"shifted border": {"minilmd", tasks.Live, vector.Document{ID: "art:1", Text: "a text"}, nil, false},
	} {
		task, err := tasks.New(tt.alias, tt.lane, tt.doc, tt.opts)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if (task.ID == want) != tt.same {
			t.Errorf("%s: id %s, want %s: %v", name, task.ID, want, tt.same)
		}
		if other, ok := ids[task.ID]; ok && !tt.same {
			t.Errorf("%s has the id of %s", name, other)
		}
		ids[task.ID] = name
	}
}

// TestBadInput is the list of inputs that must end in a clear outcome: refused with the field and the
// bound, or accepted.
func TestBadInput(t *testing.T) {
	t.Parallel()
	with := func(change func(*vector.Document)) vector.Document {
		d := doc("a text")
		change(&d)
		return d
	}
	many := make(map[string]string)
	for i := range tasks.MaxFields + 1 {
		many[strings.Repeat("x", i+1)] = ""
	}
	for name, tt := range map[string]struct {
		doc    vector.Document
		want   string // of the error, "" if there is none
		reason tasks.Reason
	}{
		"empty text":       {doc(""), "text: has no character other than white space", tasks.Empty},
		"blank text":       {doc(" \t\r\n\u00a0\u3000"), "text: has no character other than white space", tasks.Empty},
		"NUL byte":         {doc("ab\x00c"), "text: has a NUL at byte 2", tasks.HasNUL},
		"broken UTF-8":     {doc("한\xed\x95"), "text: is not UTF-8 from byte 3 on", tasks.NotUTF8},
		"lone surrogate":   {doc("a\xed\xa0\x80"), "text: is not UTF-8 from byte 1 on", tasks.NotUTF8},
		"UTF-16":           {doc("a\x00b\x00"), "text: has a NUL at byte 1", tasks.HasNUL},
		"2 MB":             {doc(strings.Repeat("a", 2<<20)), "text: has 2097152 bytes, at most 1048576 are accepted: split it", tasks.TooLong},
		"1 MB":             {doc(strings.Repeat("a", 1<<20)), "", ""},
		"replacement char": {doc("\ufffd"), "", ""},
		"combining mark":   {doc("\u0301"), "", ""},
		"100,000 letters":  {doc(strings.Repeat("x", 100_000)), "", ""},
		"NFD Hangul":       {doc("\u1112\u1161\u11ab\u1100\u1173\u11af"), "", ""},
		"control chars":    {doc("a\x01\x1b\x7f"), "", ""},
		"bidi and emoji":   {doc("\u202eabc 👩‍👩‍👧 🇰🇷"), "", ""},

		"no id":         {vector.Document{Text: "x"}, "id: is empty", tasks.Empty},
		"long id":       {vector.Document{ID: strings.Repeat("i", 513), Text: "x"}, "id: has 513 bytes, at most 512 are accepted", tasks.TooLong},
		"id of 512":     {vector.Document{ID: strings.Repeat("i", 512), Text: "x"}, "", ""},
		"id, newline":   {vector.Document{ID: "a\nb", Text: "x"}, "id: has a control character at byte 1", tasks.HasControl},
		"id, C1":        {vector.Document{ID: "a\u0085", Text: "x"}, "id: has a control character at byte 1", tasks.HasControl},
		"id, UTF-8":     {vector.Document{ID: "\xff", Text: "x"}, "id: is not UTF-8 from byte 0 on", tasks.NotUTF8},
		"title, NUL":    {with(func(d *vector.Document) { d.Title = "\x00" }), "title: has a NUL at byte 0", tasks.HasNUL},
		"long title":    {with(func(d *vector.Document) { d.Title = strings.Repeat("t", 5000) }), "title: has 5000 bytes, at most 4096", tasks.TooLong},
		"source, UTF-8": {with(func(d *vector.Document) { d.Source = "\xc0" }), "source: is not UTF-8", tasks.NotUTF8},
		"long URL":      {with(func(d *vector.Document) { d.URL = strings.Repeat("u", 9000) }), "url: has 9000 bytes", tasks.TooLong},
		"year 10000": {with(func(d *vector.Document) { d.PublishedAt = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }),
			"published_at: lies in year 10000, want 1 to 9999", tasks.OutOfRange},
		"empty code":     {with(func(d *vector.Document) { d.StockCodes = []string{"005930", ""} }), "stock_codes[1]: is empty", tasks.Empty},
		"many codes":     {with(func(d *vector.Document) { d.StockCodes = make([]string, 300) }), "stock_codes: has 300 codes, at most 256", tasks.TooMany},
		"many fields":    {with(func(d *vector.Document) { d.Fields = many }), "fields: has 65 fields, at most 64", tasks.TooMany},
		"unnamed field":  {with(func(d *vector.Document) { d.Fields = map[string]string{"": "x"} }), "fields: is empty", tasks.Empty},
		"field's value":  {with(func(d *vector.Document) { d.Fields = map[string]string{"k": "\xff"} }), "fields[k]: is not UTF-8", tasks.NotUTF8},
		"fields, no NUL": {with(func(d *vector.Document) { d.Fields = map[string]string{"k": ""} }), "", ""},
		"fields' size": {with(func(d *vector.Document) {
			v := strings.Repeat("v", tasks.MaxFieldValue)
			d.Fields = map[string]string{"a": v, "b": v, "c": v, "d": v}
		}), "fields: have 65540 bytes together, at most 65536", tasks.TooLong},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			task, err := tasks.New("minilm", tasks.Live, tt.doc, nil)
			if tt.want == "" {
				checkAccepted(t, task, err)
				return
			}
			checkInvalid(t, err, tt.want, tt.reason)
		})
	}
}

// checkAccepted checks that a worker can read what New made.
func checkAccepted(t *testing.T, task tasks.Task, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	if _, err := tasks.DecodeDocument(task.Payload); err != nil {
		t.Errorf("decoding its payload: %v", err)
	}
}

// checkInvalid checks that err is a refusal for a reason.
func checkInvalid(t *testing.T, err error, want string, reason tasks.Reason) {
	t.Helper()
	var invalid *tasks.InvalidError
	if !errors.As(err, &invalid) || !strings.Contains(err.Error(), want) || invalid.Reason != reason {
		t.Fatalf("error %v, want %q for reason %s", err, want, reason)
	}
	if got := tasks.Classify(err); got != tasks.Permanent {
		t.Errorf("outcome %s, want permanent", got)
	}
	if got, want := tasks.Code(err), "invalid_"+string(reason); got != want {
		t.Errorf("code %q, want %q", got, want)
	}
}

func TestNewRefusesTheRest(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		alias string
		lane  tasks.Lane
		opts  *tasks.Options
		want  string
	}{
		"no alias":           {"", tasks.Live, nil, "model: is empty"},
		"braces":             {"a{b}", tasks.Live, nil, `model: "a{b}" has '{' at byte 1`},
		"colon":              {"a:b", tasks.Live, nil, "at byte 1"},
		"capital":            {"MiniLM", tasks.Live, nil, "at byte 0"},
		"dash first":         {"-a", tasks.Live, nil, "at byte 0"},
		"Korean":             {"모델", tasks.Live, nil, "at byte 0"},
		"long alias":         {strings.Repeat("a", 65), tasks.Live, nil, "has 65 bytes, at most 64"},
		"no lane":            {"minilm", "", nil, `lane: there is no lane ""`},
		"unknown lane":       {"minilm", "fast", nil, "want one of [query live backfill quarantine]"},
		"negative version":   {"minilm", tasks.Live, &tasks.Options{Version: -1}, "version: is -1, want 1 to 9223372036854775807"},
		"half a second":      {"minilm", tasks.Live, &tasks.Options{Timeout: 500 * time.Millisecond}, "timeout: is 500ms, want whole seconds"},
		"a second and a bit": {"minilm", tasks.Live, &tasks.Options{Timeout: 1900 * time.Millisecond}, "timeout: is 1.9s"},
		"negative timeout":   {"minilm", tasks.Live, &tasks.Options{Timeout: -time.Second}, "timeout: is -1s"},
	} {
		_, err := tasks.New(tt.alias, tt.lane, doc("x"), tt.opts)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	for _, alias := range []string{"a", "0", "bge-m3", "kr_sbert.v40k", strings.Repeat("a", 64)} {
		if err := tasks.CheckModel(alias); err != nil {
			t.Errorf("CheckModel(%q): %v", alias, err)
		}
	}
}

// TestNewComposes checks that the two ways to write a Hangul text are one task with one text.
func TestNewComposes(t *testing.T) {
	t.Parallel()
	nfc, err1 := tasks.New("minilm", tasks.Live, doc("삼성전자 金"), nil)
	nfd, err2 := tasks.New("minilm", tasks.Live, doc("\u1109\u1161\u11b7\u1109\u1165\u11bc\u110c\u1165\u11ab\u110c\u1161 \uf90a"), nil)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	p, err := tasks.DecodeDocument(nfd.Payload)
	if want := "삼성전자 \uf90a"; err != nil || p.Document.Text != want {
		t.Errorf("text is %q, %v, want %q: Hangul composed, the compatibility ideograph as it was", p.Document.Text, err, want)
	}
	if nfc.ID == nfd.ID {
		t.Error("the ids are equal, though one text has a compatibility ideograph")
	}
	hangul, err := tasks.New("minilm", tasks.Live, doc("삼성전자 \uf90a"), nil)
	if err != nil || hangul.ID != nfd.ID {
		t.Errorf("ids %s and %s, want equal ones", hangul.ID, nfd.ID)
	}
}

func TestTimeouts(t *testing.T) {
	t.Parallel()
	for bytes, want := range map[int]time.Duration{
		1:       2 * time.Minute,
		2048:    2*time.Minute + time.Second,
		1 << 20: 2*time.Minute + 512*time.Second,
	} {
		task, err := tasks.New("minilm", tasks.Live, doc(strings.Repeat("a", bytes)), nil)
		if err != nil || task.Timeout != want {
			t.Errorf("timeout of %d bytes is %v, %v, want %v", bytes, task.Timeout, err, want)
		}
	}
	opts := &tasks.Options{Timeout: time.Second, Version: math.MaxInt64}
	task, err := tasks.New("minilm", tasks.Live, doc("a"), opts)
	if err != nil || task.Timeout != time.Second {
		t.Errorf("timeout %v, %v, want the one asked for", task.Timeout, err)
	}
}

func TestNewQuery(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, err := tasks.NewQuery("minilm", "\u1112\u1161\u11ab", nil)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := tasks.NewQuery("minilm", "한", nil)
		if hex := regexp.MustCompile("^[0-9a-f]{32}$"); !hex.MatchString(a.ID) || a.ID == b.ID {
			t.Errorf("ids %q and %q, want 32 random hex digits each", a.ID, b.ID)
		}
		if a.Kind != tasks.EmbedQuery || a.Lane != tasks.Query || a.Model != "minilm" || a.Timeout != 30*time.Second {
			t.Errorf("task %+v", a)
		}
		p, err := tasks.DecodeQuery(a.Payload)
		want := tasks.QueryPayload{Model: "minilm", Text: "한", ExpiresAt: time.Now().Add(30 * time.Second).UTC()}
		if err != nil || !reflect.DeepEqual(p, want) {
			t.Errorf("payload %+v, %v, want %+v", p, err, want)
		}
	})
	_, err := tasks.NewQuery("minilm", " ", nil)
	checkInvalid(t, err, "text: has no character", tasks.Empty)
	if _, err := tasks.NewQuery("", "x", nil); err == nil {
		t.Error("a query without a model was accepted")
	}
	if _, err := tasks.NewQuery("minilm", "x", &tasks.Options{Timeout: 1}); err == nil {
		t.Error("a timeout of 1ns was accepted")
	}
}
