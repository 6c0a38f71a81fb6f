// Package samples holds the documents that ship with the project, so that a first run has something to embed
// and to search without a network: one real day of filings and invented news in Korean, sentences and longer
// notes in English. It knows only what a document is. SOURCES.md beside it names each text's origin and
// licence; the files are made by go generate.
package samples

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/embedfleet/embedfleet/vector"
)

//go:generate go run ./gen

//go:embed *.jsonl
var files embed.FS

// A Language names a set of samples, by its ISO 639-1 code.
type Language string

// The languages there are samples in.
const (
	En Language = "en"
	Ko Language = "ko"
)

// A Query is a search to show what the samples are good for.
type Query struct {
	Text   string
	Expect string // part of a sample's text that belongs among the first answers of any fair model
}

// Documents returns all samples, 823 of them, the Korean ones first.
func Documents() ([]vector.Document, error) {
	korean, err := Korean()
	if err != nil {
		return nil, err
	}
	english, err := English()
	return append(korean, english...), err
}

// Korean returns the 502 filings of 3 January 2022, newest first, and 13 invented news items.
func Korean() ([]vector.Document, error) { return read("dart.jsonl", "news.jsonl") }

// English returns 300 sentences of 4 to 18 words and 8 notes of 210 to 314 words. The notes are longer than
// what most sentence models read at once, so they show how a document is cut into chunks.
func English() ([]vector.Document, error) { return read("english.jsonl") }

// Queries returns three searches in a language, or none for another.
func Queries(l Language) []Query {
	switch l {
	case En:
		return []Query{
			{Text: "a pet asleep on the bed", Expect: "cat sleeps on purple sheet"},
			{Text: "is the profit a company reports backed by real money?", Expect: "cash flow statement"},
			{Text: "what happens to a job in the queue if the worker crashes", Expect: "If the worker dies"},
		}
	case Ko:
		return []Query{
			{Text: "대표이사가 바뀐 회사", Expect: "대표이사변경"},
			{Text: "새 주식을 발행해 자금을 조달하는 유상증자", Expect: "유상증자결정"},
			{Text: "반도체 수출이 늘었다는 소식", Expect: "반도체 수출"},
		}
	}
	return nil
}

// read returns the documents of embedded files, in their order.
func read(names ...string) ([]vector.Document, error) {
	var docs []vector.Document
	for _, name := range names {
		b, err := files.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("reading the samples: %w", err)
		}
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.DisallowUnknownFields()
		for {
			var d vector.Document
			err := dec.Decode(&d)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("reading the samples in %s: %w", name, err)
			}
			docs = append(docs, d)
		}
	}
	return docs, nil
}
