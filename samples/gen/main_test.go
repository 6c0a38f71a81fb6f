package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestReproducible makes the samples again and compares them with those that ship.
func TestReproducible(t *testing.T) {
	t.Parallel()
	const data = "../../../shared/data"
	if _, err := os.Stat(data); err != nil {
		t.Skipf("the shared data folder is not beside this checkout: %v", err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "gen"), 0o755); err != nil {
		t.Fatal(err)
	}
	notes, err := os.ReadFile("notes.txt")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "gen", "notes.txt"), notes, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(data, dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dart.jsonl", "news.jsonl", "english.jsonl"} {
		want, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs from what the generator makes: run go generate", name)
		}
	}
}

func TestClean(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"가상<b>전자</b>, &quot;깜짝&quot; R&amp;D":      `가상전자, "깜짝" R&D`,
		"&lt;b&gt;가&lt;/b&gt; &amp;amp;  나":        "가 & 나",
		"(서울=연합) 홍길동 기자 = 가상에너지가 <br/>\n합병을 결정했다.": "가상에너지가 합병을 결정했다.",
		"3 &lt; 4": "3 < 4",
		"":         "",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestPubDate(t *testing.T) {
	t.Parallel()
	want := time.Date(2026, 10, 7, 14, 40, 0, 0, kst)
	for _, in := range []string{
		"Wed, 07 Oct 2026 14:40:00 +0900", "Wed, 07 Oct 2026 14:40:00 +09:00", "Wed, 07 Oct 2026 14:40:00 KST",
		"Wed, 07 Oct 2026 05:40:00 GMT", "2026-10-07 14:40:00", "20261007144000+0900",
	} {
		if got, err := pubDate(in); err != nil || !got.Equal(want) {
			t.Errorf("pubDate(%q) = %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "Wed, 07 10 2026 09:03:00", "yesterday"} {
		if got, err := pubDate(in); err == nil {
			t.Errorf("pubDate(%q) = %v", in, got)
		}
	}
}
