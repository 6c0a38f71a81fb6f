package intake

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"reflect"

	"github.com/embedfleet/embedfleet/vector"
)

// explain says in a user's words what a decoder found.
func explain(err error) error {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		field := wrong.Field
		if field == "" {
			field = "the line"
		}
		return fmt.Errorf("reading JSON: %s is a %s, want %s", field, wrong.Value, describeKind(wrong))
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("reading JSON: the line ends inside the object; want one whole object a line")
	}
	return fmt.Errorf("reading JSON: %w", err)
}

func describeKind(e *json.UnmarshalTypeError) string {
	switch e.Type.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Struct:
		return "one object a line, like {\"id\":...,\"text\":...}"
	case reflect.Slice:
		return "a list of strings"
	case reflect.Map:
		return "an object of strings"
	default:
		return "a " + e.Type.String()
	}
}

// parseJSON reads one line of JSON Lines. Unknown names are refused: a misspelt "txet" would otherwise be
// an empty document, and a producer's own fields have a place under "fields".
func parseJSON(line []byte) (vector.Document, error) {
	if t := bytes.TrimSpace(line); t[0] == '"' {
		var text string
		if err := json.Unmarshal(t, &text); err != nil {
			return vector.Document{}, explain(err)
		}
		return ForText(text), nil
	}
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	var doc vector.Document
	if err := dec.Decode(&doc); err != nil {
		return vector.Document{}, explain(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return vector.Document{}, errors.New("reading JSON: more than one value on the line")
	}
	if doc.ID == "" {
		doc.ID = TextID(doc.Text)
	}
	return doc, nil
}

// ReadTexts yields the texts of JSON lines that hold one under "text", whatever else they hold. It is for
// filters, which look at nothing but the text; [Read] is for documents, whose every field counts.
func ReadTexts(r io.Reader) iter.Seq[Item] {
	return each(bufio.NewReaderSize(r, 64<<10), func(line []byte) (vector.Document, error) {
		var in struct {
			Text *string `json:"text"`
		}
		if err := json.Unmarshal(line, &in); err != nil {
			return vector.Document{}, explain(err)
		}
		if in.Text == nil {
			return vector.Document{}, errors.New(`reading JSON: no "text"`)
		}
		return vector.Document{Text: *in.Text}, nil
	})
}
