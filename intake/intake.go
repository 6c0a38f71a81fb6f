// Package intake reads documents from files and streams: plain text, JSON Lines, CSV. Each comes with the
// line it began on, and a line that can't be read is an item of its own with its error, so that a bad line
// never stops the rest. It does not judge what a text says; that is the tasks room's affair.
package intake

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/embedfleet/embedfleet/vector"
)

// MaxLine bounds one line (of CSV: one record) in bytes. It lies well above the largest text a task may
// carry, so that the refusal a producer sees is the one about texts.
const MaxLine = 8 << 20

// A Format is a way to write documents down.
type Format string

// The formats. Auto takes the file's ending, and for a stream without one looks at the first byte.
const (
	Auto  Format = "auto"
	Text  Format = "txt"   // one text a line
	JSONL Format = "jsonl" // one document a line, the fields of vector.Document; a bare JSON string is a text
	CSV   Format = "csv"   // a header names the columns: text and any of id, title, source, url, published_at, stock_codes; others become fields
)

// Formats lists the words a user may choose from.
var Formats = []string{string(Auto), string(Text), string(JSONL), string(CSV)}

// An Item is one document, or the reason why there is none.
type Item struct {
	Line int // where it begins, from 1
	Doc  vector.Document
	Err  error // a *LineError, or the reader's own, which is the last
}

// A LineError says why a line holds no document. Reading it again gives the same.
type LineError struct{ Err error }

func (e *LineError) Error() string { return e.Err.Error() }

func (e *LineError) Unwrap() error { return e.Err }

// Permanent marks the error as one that a retry will not mend.
func (e *LineError) Permanent() bool { return true }

// Code is a bounded word for scripts.
func (e *LineError) Code() string { return "unreadable_line" }

// asLine marks err as the line's.
func asLine(err error) error {
	if err == nil {
		return nil
	}
	return &LineError{err}
}

var errLong = fmt.Errorf("line is longer than %d bytes", MaxLine)

// ForFile returns the format that a file's ending stands for, [Auto] if it says nothing.
func ForFile(name string) Format {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".txt", ".text":
		return Text
	case ".jsonl", ".ndjson", ".json":
		return JSONL
	case ".csv":
		return CSV
	}
	return Auto
}

// Read yields the documents of r in order. Blank lines are passed over. An error of r itself ends the
// sequence with an item whose Err is not nil.
func Read(r io.Reader, format Format) iter.Seq[Item] {
	// Nothing is read before somebody asks for the first item: the reader may be a pipe that has nothing yet.
	return func(yield func(Item) bool) {
		br := bufio.NewReaderSize(r, 64<<10)
		skipMark(br)
		if format == Auto {
			format = sniff(br)
		}
		items := each(br, func(line []byte) (vector.Document, error) { return ForText(string(line)), nil })
		switch format {
		case JSONL:
			items = each(br, parseJSON)
		case CSV:
			items = readCSV(br)
		}
		items(yield)
	}
}

// ForText returns a document for a bare text: its id is drawn from the text, so that the same text is the
// same document.
func ForText(text string) vector.Document {
	return vector.Document{ID: TextID(text), Text: text}
}

// TextID is the id of a document that has none of its own: "text:" and the first 16 bytes of the text's
// SHA-256 in hex.
func TextID(text string) string { return "text:" + vector.TextHash(text)[:hex.EncodedLen(16)] }

// skipMark passes over a byte order mark, as spreadsheet programs write it. It reads no further than it must:
// what a slow pipe has brought so far is to be had at once.
func skipMark(br *bufio.Reader) {
	if b, err := br.Peek(1); err != nil || b[0] != 0xef {
		return
	}
	if b, err := br.Peek(3); err == nil && bytes.Equal(b, []byte("\xef\xbb\xbf")) {
		_, _ = br.Discard(3)
	}
}

// sniff looks at the first character that is not white space, and reads no further.
func sniff(br *bufio.Reader) Format {
	for n := 1; n <= 512; n++ {
		b, err := br.Peek(n)
		if err != nil {
			break
		}
		switch b[n-1] {
		case ' ', '\t', '\r', '\n':
		case '{':
			return JSONL
		default:
			return Text
		}
	}
	return Text
}

// each yields one item for each line that is not blank.
func each(br *bufio.Reader, parse func([]byte) (vector.Document, error)) iter.Seq[Item] {
	return func(yield func(Item) bool) {
		for n := 1; ; n++ {
			line, err := readLine(br)
			if errors.Is(err, io.EOF) {
				return
			}
			if err == nil && len(bytes.TrimSpace(line)) == 0 {
				continue
			}
			item := Item{Line: n, Err: err}
			if err == nil {
				item.Err = valid(line)
			}
			if item.Err == nil {
				item.Doc, item.Err = parse(line)
			}
			broken := err != nil && !errors.Is(err, errLong)
			if !broken {
				item.Err = asLine(item.Err)
			}
			if !yield(item) || broken {
				return
			}
		}
	}
}

// valid refuses bytes that are not UTF-8 here, because a JSON decoder would replace them without a word. Texts
// in UTF-16 may pass for UTF-8 but for their NULs, which nobody can embed.
func valid(line []byte) error {
	if isUTF16(line) {
		return errors.New("the file begins with the mark of UTF-16, want UTF-8; convert it first, as by iconv -f UTF-16 -t UTF-8")
	}
	if i := bytes.IndexByte(line, 0); i >= 0 {
		return fmt.Errorf("byte %d of the line is NUL, as in UTF-16, want UTF-8; convert the file first, as by iconv -f UTF-16LE -t UTF-8", i+1)
	}
	if utf8.Valid(line) {
		return nil
	}
	for i := 0; i < len(line); {
		r, n := utf8.DecodeRune(line[i:])
		if r == utf8.RuneError && n == 1 {
			return fmt.Errorf("byte %d of the line (0x%02x) is not UTF-8; convert the file first, CP949 is the usual source", i+1, line[i])
		}
		i += n
	}
	return nil
}

// isUTF16 tells by the byte order mark that a file in UTF-16 begins with.
func isUTF16(line []byte) bool {
	return bytes.HasPrefix(line, []byte{0xff, 0xfe}) || bytes.HasPrefix(line, []byte{0xfe, 0xff})
}

// readLine returns the next line without its end, or errLong after skipping one that is too long.
func readLine(br *bufio.Reader) ([]byte, error) {
	var line []byte
	long := false
	for {
		part, err := br.ReadSlice('\n')
		if long = long || len(line)+len(part) > MaxLine; !long {
			line = append(line, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && (len(line) > 0 || long):
		case err != nil:
			return nil, err
		}
		if long {
			return nil, errLong
		}
		return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r")), nil
	}
}
