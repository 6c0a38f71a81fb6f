package tasks

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/embedfleet/embedfleet/vector"
)

// The bounds of an input, in bytes unless said. A text beyond MaxText is better split by its producer:
// compressed as it is, it would still ride on every heartbeat of the queue (docs/asynq.md T23).
const (
	MaxText       = 1 << 20
	MaxID         = 512
	MaxModel      = 64
	MaxTitle      = 4 << 10
	MaxSource     = 256
	MaxURL        = 8 << 10
	MaxStockCode  = 64
	MaxStockCodes = 256 // items
	MaxFieldName  = 128
	MaxFieldValue = 16 << 10
	MaxFields     = 64       // items
	MaxFieldsSize = 64 << 10 // names and values together
)

// CheckModel reports why alias cannot name a model: an alias is 1 to [MaxModel] of lower-case letters,
// digits, '-', '_' and '.', beginning with a letter or digit. It becomes part of queue names and Redis
// keys, where braces and colons have a meaning of their own.
func CheckModel(alias string) error {
	if err := checkName("model", alias, MaxModel); err != nil {
		return err
	}
	for i, r := range alias {
		alnum := 'a' <= r && r <= 'z' || '0' <= r && r <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("-_.", r)) {
			return invalid("model", BadSyntax, "%q has %q at byte %d: an alias is of a-z, 0-9, '-', '_' and '.', "+
				"beginning with a letter or digit", alias, r, i)
		}
	}
	return nil
}

// checkLane reports whether l is one of [Lanes].
func checkLane(l Lane) error {
	if !slices.Contains(Lanes, l) {
		return invalid("lane", BadSyntax, "there is no lane %q, want one of %v", l, Lanes)
	}
	return nil
}

// checkText reports why a text cannot be embedded. What a tokenizer makes of odd characters is the model's
// affair; refused is only what has no meaning as a text or cannot travel.
func checkText(text string) error {
	if len(text) > MaxText {
		return invalid("text", TooLong, "has %d bytes, at most %d are accepted: split it", len(text), MaxText)
	}
	if err := checkString("text", text, MaxText); err != nil {
		return err
	}
	if strings.TrimSpace(text) == "" {
		return invalid("text", Empty, "has no character other than white space")
	}
	return nil
}

// checkString accepts up to max bytes of UTF-8 without NUL, none included.
func checkString(field, s string, max int) error {
	if len(s) > max {
		return invalid(field, TooLong, "has %d bytes, at most %d are accepted", len(s), max)
	}
	if i := strings.IndexByte(s, 0); i >= 0 {
		return invalid(field, HasNUL, "has a NUL at byte %d", i)
	}
	if !utf8.ValidString(s) {
		return invalid(field, NotUTF8, "is not UTF-8 from byte %d on", validPrefix(s))
	}
	return nil
}

// checkName accepts 1 to max bytes of UTF-8 without control characters, for what ends up in keys and logs.
func checkName(field, s string, max int) error {
	if s == "" {
		return invalid(field, Empty, "is empty")
	}
	if err := checkString(field, s, max); err != nil {
		return err
	}
	if i := strings.IndexFunc(s, unicode.IsControl); i >= 0 {
		return invalid(field, HasControl, "has a control character at byte %d", i)
	}
	return nil
}

// validPrefix returns the number of bytes before the first that is not UTF-8.
func validPrefix(s string) int {
	for i, r := range s {
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
				return i
			}
		}
	}
	return len(s)
}

// checkDocument reports the first thing wrong with d.
func checkDocument(d vector.Document) error {
	for _, err := range []error{
		checkName("id", d.ID, MaxID),
		checkText(d.Text),
		checkString("title", d.Title, MaxTitle),
		checkString("source", d.Source, MaxSource),
		checkString("url", d.URL, MaxURL),
		checkTime("published_at", d.PublishedAt),
		checkStockCodes(d.StockCodes),
		checkFields(d.Fields),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// checkTime accepts the zero time and the years that RFC 3339 can write.
func checkTime(field string, t time.Time) error {
	if y := t.UTC().Year(); !t.IsZero() && (y < 1 || y > 9999) {
		return invalid(field, OutOfRange, "lies in year %d, want 1 to 9999", y)
	}
	return nil
}

func checkStockCodes(codes []string) error {
	if len(codes) > MaxStockCodes {
		return invalid("stock_codes", TooMany, "has %d codes, at most %d are accepted", len(codes), MaxStockCodes)
	}
	for i, c := range codes {
		if err := checkName(fmt.Sprintf("stock_codes[%d]", i), c, MaxStockCode); err != nil {
			return err
		}
	}
	return nil
}

func checkFields(fields map[string]string) error {
	if len(fields) > MaxFields {
		return invalid("fields", TooMany, "has %d fields, at most %d are accepted", len(fields), MaxFields)
	}
	size := 0
	for name, value := range fields {
		if err := checkName("fields", name, MaxFieldName); err != nil {
			return err
		}
		if err := checkString("fields["+name+"]", value, MaxFieldValue); err != nil {
			return err
		}
		size += len(name) + len(value)
	}
	if size > MaxFieldsSize {
		return invalid("fields", TooLong, "have %d bytes together, at most %d are accepted", size, MaxFieldsSize)
	}
	return nil
}

// checkVersion accepts 1 to the largest int64.
func checkVersion(v int64) error {
	if v < 1 {
		return invalid("version", OutOfRange, "is %d, want 1 to %d", v, int64(math.MaxInt64))
	}
	return nil
}

// checkTimeout accepts whole seconds, at least one: the queue keeps whole seconds and takes what rounds to
// none for half an hour (docs/asynq.md T13).
func checkTimeout(d time.Duration) error {
	if d < time.Second || d%time.Second != 0 {
		return invalid("timeout", OutOfRange, "is %v, want whole seconds and at least 1s", d)
	}
	return nil
}
