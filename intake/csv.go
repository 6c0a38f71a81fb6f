package intake

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

// maxRecord bounds the lines of one CSV record. A quote that is never closed is then the fault of the line
// that opened it and not of everything behind.
const maxRecord = 10_000

// readCSV yields one item a record. A record may run over several lines inside quotes.
func readCSV(br *bufio.Reader) iter.Seq[Item] {
	return func(yield func(Item) bool) {
		lines := &lineSource{br: br}
		header, line, err := lines.record()
		if errors.Is(err, io.EOF) {
			return
		}
		columns, err := parseHeader(header, err)
		if err != nil {
			yield(Item{Line: line, Err: lines.mark(err)})
			return
		}
		for {
			row, line, err := lines.record()
			if errors.Is(err, io.EOF) {
				return
			}
			item := Item{Line: line, Err: err}
			if err == nil {
				item.Doc, item.Err = columns.document(row)
			}
			item.Err = lines.mark(item.Err)
			if !yield(item) || lines.broken != nil {
				return
			}
		}
	}
}

type columns []string

func parseHeader(names []string, err error) (columns, error) {
	if err != nil {
		return nil, fmt.Errorf("reading the header: %w", err)
	}
	seen := map[string]bool{}
	for i, name := range names {
		names[i] = strings.ToLower(strings.TrimSpace(name))
		if names[i] == "" || seen[names[i]] {
			return nil, fmt.Errorf("reading the header: column %d is %q, names must be there and differ", i+1, name)
		}
		seen[names[i]] = true
	}
	if !seen["text"] {
		return nil, fmt.Errorf("reading the header: no column is called text, only %s", strings.Join(names, ", "))
	}
	return names, nil
}

func (c columns) document(row []string) (vector.Document, error) {
	var doc vector.Document
	if len(row) != len(c) {
		return doc, fmt.Errorf("%d columns, the header has %d", len(row), len(c))
	}
	for i, value := range row {
		if err := set(&doc, c[i], value); err != nil {
			return doc, err
		}
	}
	if doc.ID == "" {
		doc.ID = TextID(doc.Text)
	}
	return doc, nil
}

func set(doc *vector.Document, column, value string) error {
	switch column {
	case "id":
		doc.ID = value
	case "text":
		doc.Text = value
	case "title":
		doc.Title = value
	case "source":
		doc.Source = value
	case "url":
		doc.URL = value
	case "published_at":
		if value == "" {
			return nil
		}
		at, err := time.Parse(time.RFC3339, value)
		if err != nil {
			return fmt.Errorf("column published_at: %q is not a time like 2026-01-02T15:04:05+09:00", value)
		}
		doc.PublishedAt = at
	case "stock_codes":
		doc.StockCodes = strings.FieldsFunc(value, func(r rune) bool { return r == ';' || r == ',' || r == ' ' })
	default:
		if value == "" {
			return nil
		}
		if doc.Fields == nil {
			doc.Fields = map[string]string{}
		}
		doc.Fields[column] = value
	}
	return nil
}

// A lineSource hands out records; lines that were read to find the end of a record that has none are
// handed out again.
type lineSource struct {
	br     *bufio.Reader
	ahead  [][]byte
	next   int   // number of the next line, from 0
	broken error // br failed for good
}

// mark marks err as the line's, unless it is the reader's own.
func (s *lineSource) mark(err error) error {
	if s.broken != nil {
		return err
	}
	return asLine(err)
}

func (s *lineSource) line() ([]byte, error) {
	s.next++
	if len(s.ahead) > 0 {
		line := s.ahead[0]
		s.ahead = s.ahead[1:]
		return line, nil
	}
	line, err := readLine(s.br)
	if err != nil && !errors.Is(err, errLong) && !errors.Is(err, io.EOF) {
		s.broken = err
	}
	return bytes.Clone(line), err
}

// record returns the next record that is not blank and the line it begins on.
func (s *lineSource) record() ([]string, int, error) {
	for {
		first, err := s.line()
		begin := s.next
		if err != nil {
			return nil, begin, err
		}
		if len(bytes.TrimSpace(first)) == 0 {
			continue
		}
		whole, err := s.whole(first)
		if err != nil {
			return nil, begin, err
		}
		if err := valid(whole); err != nil {
			return nil, begin, err
		}
		r := csv.NewReader(bytes.NewReader(whole))
		r.FieldsPerRecord = -1
		row, err := r.Read()
		if perr := (*csv.ParseError)(nil); errors.As(err, &perr) {
			err = fmt.Errorf("reading CSV: column %d: %w", perr.Column, perr.Err)
		}
		return row, begin, err
	}
}

// whole joins lines to first until its quotes are closed. If they never are, the lines go back.
func (s *lineSource) whole(first []byte) ([]byte, error) {
	whole := first
	quotes := bytes.Count(first, []byte(`"`))
	var taken [][]byte
	for quotes%2 == 1 {
		line, err := s.line()
		size := len(whole) + len(line)
		if err != nil || len(taken) >= maxRecord || size > MaxLine {
			if err == nil {
				taken = append(taken, line)
			} else {
				s.next--
			}
			s.ahead = append(taken, s.ahead...)
			s.next -= len(taken)
			return nil, errors.New(`reading CSV: a quote (") is opened and never closed`)
		}
		taken = append(taken, line)
		whole = append(append(whole, '\n'), line...)
		quotes += bytes.Count(line, []byte(`"`))
	}
	return whole, nil
}
