package sources

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func env(name string) (string, bool) {
	v, ok := map[string]string{"TOKEN": "s3cret"}[name]
	return v, ok
}

const all = `{"sources":[
	{"name":"hankyung","kind":"feed","url":"https://www.hankyung.com/feed/economy"},
	{"name":"closed","kind":"feed","url":"https://a.kr/rss","off":true},
	{"name":"inside","kind":"feed","url":"http://10.0.0.9/rss","private":true},
	{"name":"dart","kind":"dart","listed_only":true,"classes":"YK","quota":9000},
	{"name":"naver","kind":"naver","interface":"hub","queries":["공시"]},
	{"name":"acme","kind":"json-api","every":"10m","url":"https://api.acme.example/v1?key={env:TOKEN}&page={page}","headers":{"Authorization":"Bearer {env:TOKEN}"},
	 "items":"/data","id":"/id","text":["/title","/body"],"pages":{"first":1}},
	{"name":"bars","kind":"interval","cron":["* 9-15 * * 1-5"],"command":["/opt/bars","{slot}"],"gives":"documents"}]}`

func TestParse(t *testing.T) {
	t.Parallel()
	set, err := Parse([]byte(all), env)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(len(set.Feeds), set.Feeds[2].Private, set.DART.Quota, set.Naver.Queries, len(set.JSONAPIs), len(set.Intervals), len(set.Versions))
	if got != "3 true 9000 [공시] 1 1 7" {
		t.Errorf("%s", got)
	}
	if a := set.JSONAPIs[0]; a.URL != "https://api.acme.example/v1?key=s3cret&page={page}" || a.Headers["Authorization"] != "Bearer s3cret" || len(a.Text) != 2 {
		t.Errorf("%+v", a)
	}
	schedule := set.JSONAPIs[0].Schedule("acme", 0, "")
	if next, err := schedule.Next(time.Date(2026, 11, 28, 6, 1, 0, 0, time.UTC), 2); err != nil || next[0].Minute() != 10 || next[1].Sub(next[0]) != 10*time.Minute {
		t.Errorf("%v, %v", next, err)
	}
}

// TestFaultsAreNamed: each fault with the source and the field it is in, and all of them.
func TestFaultsAreNamed(t *testing.T) {
	t.Parallel()
	const api = `"kind":"json-api","url":"http://a/","id":"/a","text":"/b"`
	for entry, want := range map[string]string{
		`{"name":"a","kind":"fed","url":"http://a"}`:                                                "source 1 (a): kind: \"fed\" is none of",
		`{"name":"A b","kind":"feed","url":"http://a/"}`:                                            "name: want small letters",
		`{"name":"a","kind":"feed","url":"http://a/"},{"name":"a","kind":"feed","url":"http://b/"}`: "source 2 (a): name: is used twice",
		`{"name":"a","kind":"feed","url":"ftp://a/"}`:                                               "url: want an http or https address",
		`{"name":"a","kind":"feed","url":"http://a/","every":"1m"}`:                                 "unknown field \"every\"",
		`{"name":"a",` + api + `}`:                                                                  "every, cron: want one of them",
		`{"name":"a",` + api + `,"every":"7m"}`:                                                     "divides an hour",
		`{"name":"a",` + api + `,"every":"90s"}`:                                                    "divides an hour",
		`{"name":"a",` + api + `,"cron":["61 * * * *"]}`:                                            "61 * * * *",
		`{"name":"dart",` + api + `,"every":"1m"}`:                                                  "name of another source",
		`{"name":"a",` + api + `,"every":"1m","headers":{"X":"{env:NOPE}"}}`:                        "the environment has no NOPE",
		`{"name":"a","kind":"interval","every":"1m"}`:                                               "command, url: want one of them",
		`{"name":"a","kind":"dart","classes":"X"}`:                                                  "classes",
		`{"name":"a","kind":"dart"},{"name":"b","kind":"dart"}`:                                     "source 2 (b): kind: there is one of kind dart already",
		`{"name":"a","kind":"naver","interface":"old","queries":["x"]}`:                             "interface: \"old\"",
		`{"name":"a","kind":"naver","interface":"hub"}`:                                             "queries: is missing",
		`3`: "source 1",
	} {
		if _, err := Parse([]byte(`{"sources":[`+entry+`]}`), env); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", entry, err, want)
		}
	}
	_, err := Parse([]byte(`{"sources":[{"name":"a","kind":"feed"},{"name":"b","kind":"x"},{"name":"c","kind":"interval"}]}`), env)
	if n := strings.Count(err.Error(), "\n") + 1; n < 4 {
		t.Errorf("%d faults: %v", n, err)
	}
	for _, text := range []string{"", "[]", `{"source":[]}`, `{"sources":[]} x`} {
		if _, err := Parse([]byte(text), env); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

func TestEvery(t *testing.T) {
	t.Parallel()
	for every, want := range map[string]string{"1m": "*/1 * * * *", "10m": "*/10 * * * *", "1h": "0 * * * *", "60m": "0 * * * *", "6h": "0 */6 * * *", "24h": "0 0 * * *"} {
		timing := Timing{Every: every}
		lines, err := timing.lines()
		if err != nil || lines[0] != want || timing.check() != nil {
			t.Errorf("%s: %v, %v", every, lines, err)
		}
	}
}

// TestTheFileIsReadWhenItChanges and not otherwise; a version that is wrong is told once.
func TestTheFileIsReadWhenItChanges(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "sources.json")
	f := NewFile(name, env)
	if _, _, err := f.Read(); err == nil {
		t.Error("a file that is not there is read")
	}
	at := time.Now().Add(-time.Hour)
	write := func(text string) {
		at = at.Add(time.Minute)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, at, at); err != nil {
			t.Fatal(err)
		}
	}
	write(all)
	if set, changed, err := f.Read(); !changed || err != nil || len(set.Feeds) != 3 {
		t.Errorf("%v, %v", changed, err)
	}
	if _, changed, err := f.Read(); changed || err != nil {
		t.Errorf("unchanged: %v, %v", changed, err)
	}
	write(`{"sources":[`)
	if _, changed, err := f.Read(); !changed || err == nil {
		t.Errorf("broken: %v, %v", changed, err)
	}
	if _, changed, err := f.Read(); changed || err != nil {
		t.Errorf("broken still: %v, %v", changed, err)
	}
	write(`{"sources":[]}`)
	if set, changed, err := f.Read(); !changed || err != nil || len(set.Feeds) != 0 {
		t.Errorf("mended: %v, %v", changed, err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if _, changed, err := f.Read(); !changed || err == nil {
		t.Errorf("gone: %v, %v", changed, err)
	}
	if _, changed, _ := f.Read(); changed {
		t.Error("it is told twice that the file is gone")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(all))
	f.Fuzz(func(_ *testing.T, text []byte) { _, _ = Parse(text, env) })
}
