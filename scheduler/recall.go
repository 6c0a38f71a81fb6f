package scheduler

import (
	"encoding/json"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

// A Recall is what one part of a source, a feed say, brought lately: by document id, what it said. By it an item
// that is there as before is told from one whose text has changed, without asking anybody. Losing it costs that
// changes of the moment are missed, never an item.
type Recall map[string]Memo

// A Memo is what is remembered of an item.
type Memo struct {
	Text string `json:"x"`           // the first digits of the text's hash
	Name string `json:"n,omitempty"` // a further name of the item
	At   int64  `json:"t"`           // when it was there last, Unix seconds
}

const (
	// recallFor is how long an item is remembered after it was there last; at most recallItems are.
	recallFor   = 48 * time.Hour
	recallItems = 2000
)

// ReadRecall reads what [Recall.Text] wrote. What can't be read is nothing.
func ReadRecall(text string) Recall {
	r := Recall{}
	if json.Unmarshal([]byte(text), &r) != nil || r == nil {
		return Recall{}
	}
	return r
}

// Text is r in the form that is kept.
func (r Recall) Text() string {
	b, err := json.Marshal(r)
	if err != nil {
		return "" // strings and numbers always marshal
	}
	return string(b)
}

// Compare reports whether an item was there, and whether it said something else then.
func (r Recall) Compare(id, text string) (there, changed bool) {
	memo, there := r[id]
	return there, there && memo.Text != textDigits(text)
}

// Note remembers an item as it is now.
func (r Recall) Note(id, text, name string, now time.Time) {
	r[id] = Memo{Text: textDigits(text), Name: name, At: now.Unix()}
}

// Trim forgets what was not there for long, and the oldest beyond what is kept.
func (r Recall) Trim(now time.Time) {
	limit := now.Add(-recallFor).Unix()
	for ; ; limit += int64(time.Hour / time.Second) {
		for id, memo := range r {
			if memo.At < limit {
				delete(r, id)
			}
		}
		if len(r) <= recallItems || limit > now.Unix() {
			return
		}
	}
}

func textDigits(text string) string { return vector.TextHash(text)[:16] }
