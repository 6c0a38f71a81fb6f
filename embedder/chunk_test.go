package embedder

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

// A countTokenizer makes as many tokens as count says, between a start and an end token, and keeps the
// bytes it was given on record.
type countTokenizer struct {
	count func(text string) int
	bytes *int
}

func (c countTokenizer) Encode(dst []int32, text string, max int) ([]int32, bool) {
	if c.bytes != nil {
		*c.bytes += len(text)
	}
	n := c.count(text)
	dst = append(dst, make([]int32, min(n, max-2)+2)...)
	return dst, n > max-2
}

// The tokenizers of these tests.
var (
	perWord = countTokenizer{count: func(s string) int { return len(strings.Fields(s)) }}
	perRune = countTokenizer{count: func(s string) int { return utf8.RuneCountInString(strings.TrimSpace(s)) }}
	// crowded makes more of a text than of its parts, as none should and some do at borders.
	crowded = countTokenizer{count: func(s string) int { n := len(strings.Fields(s)); return n + n/6 }}
	// collapsing makes one token of a long word, as WordPiece does.
	collapsing = countTokenizer{count: func(s string) int {
		n := 0
		for w := range strings.FieldsSeq(s) {
			if n++; len(w) <= 100 {
				n += len(w) / 4
			}
		}
		return n
	}}
)

func newTestChunker(t testing.TB, tok Tokenizer, max int, prompt string, opts Options) *chunker {
	t.Helper()
	enc, err := newEncoder(tok, Settings{MaxTokens: max}, prompt)
	if err != nil {
		t.Fatal(err)
	}
	return newChunker(enc, opts.withDefaults())
}

// checkWindows fails unless windows cover text in order, at rune borders, each within max tokens.
func checkWindows(t testing.TB, c *chunker, text string, windows []window) {
	t.Helper()
	covered, last := 0, -1
	for i, w := range windows {
		switch {
		case w.start > covered || w.start <= last || w.end <= covered:
			t.Fatalf("window %d is %d to %d after one from %d to %d: gap or no progress", i, w.start, w.end, last, covered)
		case !runeBorder(text, w.start) || !runeBorder(text, w.end):
			t.Fatalf("window %d is %d to %d: inside a rune", i, w.start, w.end)
		case len(w.ids) <= c.enc.bare:
			t.Fatalf("window %d, %q, has no tokens", i, text[w.start:w.end])
		case len(w.ids) > c.enc.max:
			t.Fatalf("window %d has %d tokens of %d", i, len(w.ids), c.enc.max)
		}
		covered, last = w.end, w.start
	}
	if covered != len(text) {
		t.Fatalf("windows end at %d, the text at %d", covered, len(text))
	}
}

// runeBorder reports whether no valid rune of s lies across i.
func runeBorder(s string, i int) bool {
	for j := max(0, i-utf8.UTFMax+1); j < i; j++ {
		if r, n := utf8.DecodeRuneInString(s[j:]); r != utf8.RuneError && j+n > i {
			return false
		}
	}
	return true
}

func TestSplit(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		tok     Tokenizer
		max     int
		prompt  string
		overlap int
		text    string
		want    []string
	}{
		{"fits", perWord, 10, "", -1, "One two. Three four.", []string{"One two. Three four."}},
		{"between sentences", perWord, 6, "", -1, "One two. Three four. Five six.", []string{"One two. Three four. ", "Five six."}},
		{"prompt takes room", perWord, 6, "say this: ", -1, "One two. Three four.", []string{"One two. ", "Three four."}},
		{"new lines end sentences", perWord, 6, "", -1, "one two\nthree four\n\nfive six", []string{"one two\nthree four\n\n", "five six"}},
		{"Korean", perWord, 6, "", -1, "주가가 올랐다. 거래량은 줄었다. 끝.", []string{"주가가 올랐다. 거래량은 줄었다. ", "끝."}},
		{"between words", perWord, 5, "", -1, "a b c d e f g", []string{"a b c ", "d e f ", "g"}},
		{"between runes", perRune, 6, "", -1, "abcdefghij", []string{"abcd", "efgh", "ij"}},
		{"a mark stays with its letter", perRune, 6, "", -1, "aaae\u0301bbb", []string{"aaa", "e\u0301bb", "b"}},
		{"overlap by sentence", perWord, 8, "", 2, "A b. C d. E f. G h. I j.", []string{"A b. C d. E f. ", "E f. G h. I j."}},
		{"overlap by words", perWord, 9, "", 2, "a b c d e. F g h i j.", []string{"a b c d e. ", "d e. F g h i j."}},
		{"no room for overlap", perWord, 7, "", 2, "a b c d e. F g h i j.", []string{"a b c d e. ", "F g h i j."}},
		{"overlap of wide spaces", perWord, 7, "", 2, "a\u3000b\u3000c\u3000d\u3000e\u3000f", []string{"a\u3000b\u3000c\u3000d\u3000e\u3000", "d\u3000e\u3000f"}},
		{"white space at both ends", perWord, 4, "", -1, "  a b. c d.  ", []string{"  a b. ", "c d.  "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newTestChunker(t, tt.tok, tt.max, tt.prompt, Options{Overlap: tt.overlap})
			windows, err := c.split(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, w := range windows {
				got = append(got, tt.text[w.start:w.end])
				if w.truncated {
					t.Errorf("%q is truncated", tt.text[w.start:w.end])
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("windows %q, want %q", got, tt.want)
			}
			checkWindows(t, c, tt.text, windows)
		})
	}
}

// TestSplitCrowded checks that a window is made smaller when its tokens are more than those of its pieces.
func TestSplitCrowded(t *testing.T) {
	t.Parallel()
	c := newTestChunker(t, crowded, 66, "", Options{Overlap: 8})
	text := strings.Repeat("one two three four. ", 500)
	windows, err := c.split(text)
	if err != nil {
		t.Fatal(err)
	}
	checkWindows(t, c, text, windows)
	for i, w := range windows {
		if w.truncated {
			t.Errorf("window %d is truncated", i)
		}
		if n := len(w.ids); n < 40 && i < len(windows)-1 {
			t.Errorf("window %d has only %d of 66 tokens", i, n)
		}
	}
}

func TestSplitTooLong(t *testing.T) {
	t.Parallel()
	c := newTestChunker(t, perWord, 10, "", Options{MaxChunks: 3, Overlap: -1})
	if windows, err := c.split(strings.Repeat("a b c d. ", 6)); err != nil || len(windows) != 3 {
		t.Errorf("%d windows, %v; want 3, which are allowed", len(windows), err)
	}
	_, err := c.split(strings.Repeat("a b c d. ", 7))
	if !errors.Is(err, ErrTooLong) || !strings.Contains(err.Error(), "3 chunks of 10 tokens") {
		t.Errorf("err = %v, want ErrTooLong that names the bound", err)
	}
}

// hard are texts that have broken chunkers: by size, by having no borders, or by a border at every step.
func hard(n int) map[string]string {
	return map[string]string{
		"letters":            strings.Repeat("x", n),
		"hangul":             strings.Repeat("가", n),
		"combining marks":    "e" + strings.Repeat("\u0301", n),
		"spaces":             "a" + strings.Repeat(" ", n) + "b",
		"stop and spaces":    "a." + strings.Repeat(" ", n) + "b",
		"stop and brackets":  "a." + strings.Repeat(")", n),
		"stops":              strings.Repeat(".", n),
		"stops and spaces":   strings.Repeat(". ", n/2),
		"stops and letters":  strings.Repeat("a.", n/2),
		"lower-case ends":    strings.Repeat("a. ", n/3),
		"new lines":          strings.Repeat("\n", n) + "x",
		"carriage returns":   strings.Repeat("a\r\n", n/3),
		"broken UTF-8":       strings.Repeat("\xff\xea\xb0", n/3),
		"words":              strings.Repeat("word ", n/5),
		"sentences":          strings.Repeat("All of it is said. 모두 말했다. ", n/40),
		"one word per block": strings.Repeat(strings.Repeat("y", 130)+" ", n/131),
	}
}

// TestSplitIsLinear counts the bytes that are tokenised, which a clock could only guess at: a text four
// times as long may cost four times as much, and no text more than a few times its length.
func TestSplitIsLinear(t *testing.T) {
	t.Parallel()
	for name, tok := range map[string]countTokenizer{"rune": perRune, "word": perWord, "collapsing": collapsing} {
		for kind, text := range hard(20_000) {
			t.Run(name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				var read int
				tok := tok
				tok.bytes = &read
				c := newTestChunker(t, tok, 256, "", Options{MaxChunks: 1 << 20})
				windows, err := c.split(text)
				if err != nil && !errors.Is(err, ErrEmpty) {
					t.Fatal(err)
				}
				if err == nil {
					checkWindows(t, c, text, windows)
				}
				if read > 8*len(text)+10_000 {
					t.Errorf("tokenised %d bytes for a text of %d", read, len(text))
				}
			})
		}
	}
}

// TestSentenceEndIsLinear would not end in the test's time if the scan of one sentence were quadratic.
func TestSentenceEndIsLinear(t *testing.T) {
	t.Parallel()
	for kind, text := range hard(1_000_000) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			for rest := text; rest != ""; rest = rest[sentenceEnd(rest):] {
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("took %v for %d bytes", took, len(text))
			}
		})
	}
}

func TestSentenceEnd(t *testing.T) {
	t.Parallel()
	for _, want := range [][]string{
		{"One. ", "Two? ", "Three! ", "Four"},
		{"그는 3.5%로 올렸다. ", "그는 말했다! ", "정말인가? ", "네."},
		{"그는 갔다.", "그녀도 갔다."},
		{"終わりました。", "はい。", "次。"},
		{"He said \"no.\" ", "She left (twice.) ", "Then what?!  ", "Nothing…"},
		{"U.S. economy grew 3.2 percent. ", "J. Smith of example.com agreed, e.g. yesterday."},
		{"title\n", "body. \n\n", "etc.\n", "more"},
		{"line\r\n", "line"},
		{"मैं गया। ", "वह आया।"},
		{"ends here.”  ", "Next"},
		{"v1.2.3-rc.1 and 10.000,50 are one"},
		{"   \n", "x"},
		{"..."},
		{""},
	} {
		text := strings.Join(want, "")
		got := []string{}
		for rest := text; rest != ""; {
			n := sentenceEnd(rest)
			got, rest = append(got, rest[:n]), rest[n:]
		}
		if text == "" {
			got = []string{""}
		}
		if !slices.Equal(got, want) {
			t.Errorf("sentences %q, want %q", got, want)
		}
	}
}

func FuzzSplit(f *testing.F) {
	for _, text := range hard(300) {
		f.Add(text, uint8(20), uint8(5), "")
	}
	f.Add("One two. Three four. 다섯 여섯. 七。", uint8(6), uint8(2), "query: ")
	f.Fuzz(func(t *testing.T, text string, size, overlap uint8, prompt string) {
		for _, tok := range []Tokenizer{perWord, perRune, crowded, collapsing} {
			enc, err := newEncoder(tok, Settings{MaxTokens: int(size)}, prompt)
			if err != nil {
				continue // no room for a text
			}
			c := newChunker(enc, Options{Overlap: int(overlap), MaxChunks: 1 << 20})
			windows, err := c.split(text)
			if err != nil {
				if !errors.Is(err, ErrEmpty) || strings.ContainsFunc(text, unicode.IsLetter) {
					t.Fatalf("%T: %v", tok, err)
				}
				continue
			}
			checkWindows(t, c, text, windows)
		}
	})
}

func TestEncoderEmpty(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		prompt, text string
		empty        bool
	}{
		{"", "x", false},
		{"", " \t\u3000", true},
		{"query: ", "x", false},
		{"query: ", "", true},
	} {
		enc, err := newEncoder(perRune, Settings{MaxTokens: 64}, tt.prompt)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := enc.whole(tt.text); errors.Is(err, ErrEmpty) != tt.empty {
			t.Errorf("prompt %q, text %q: err = %v, want empty: %t", tt.prompt, tt.text, err, tt.empty)
		}
	}
}

// TestEncoderEmptyTokens checks a text of which the tokenizer leaves nothing, as of control characters.
func TestEncoderEmptyTokens(t *testing.T) {
	t.Parallel()
	dropping := countTokenizer{count: func(s string) int { return len(strings.ReplaceAll(s, "\x01", "")) }}
	for _, prompt := range []string{"", "query:"} {
		enc, err := newEncoder(dropping, Settings{MaxTokens: 64}, prompt)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := enc.whole("\x01\x01"); !errors.Is(err, ErrEmpty) {
			t.Errorf("prompt %q: err = %v, want ErrEmpty", prompt, err)
		}
	}
}

func ExampleOverloadError() {
	fmt.Println(&OverloadError{What: "texts waiting", Count: 8192, Limit: 8192, RetryAfter: 3 * time.Second})
	// Output: embedder is overloaded: 8192 texts waiting, limit 8192, try again in 3s
}
