package tokenizer

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestTablesArePinned fails if any character's properties change, whoever changed them. Another digest means
// other ids for some text: the vectors of such a build belong to another space than the stored ones.
func TestTablesArePinned(t *testing.T) {
	t.Parallel()
	h := sha256.New()
	var b []byte
	for r := range rune(0x110000) {
		word := uint8(0)
		if isWord(r) {
			word = 1
		}
		b = append(b[:0], bertProps(r), textProps(r), word, classOf(r))
		b = append(append(b, decompose(r)...), 0)
		h.Write(append(appendLower(b, r), 0))
	}
	const want = "8ea4086b8fe5e2ec2203673b70f264cf2b6331a63c4fa2b2ac6a045843e53e30"
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != want {
		t.Errorf("the tables have digest %s, want %s", got, want)
	}
}

// TestProps are the places where Hugging Face's tables differ from Go's, or from what one would expect.
func TestProps(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		r        rune
		bit      uint8
		want     bool
		whatItIs string
	}{
		{0, bertDrop, true, "NUL"},
		{0xfffd, bertDrop, true, "the replacement character"},
		{'\t', bertDrop, false, "a tab, a control by category"},
		{'\t', bertSpace, true, "a tab"},
		{0xa0, bertSpace, true, "a no-break space"},
		{0x3000, bertSpace, true, "an ideographic space"},
		{0x200b, bertSpace, false, "a zero-width space, a format character"},
		{0x200b, bertDrop, true, "a zero-width space"},
		{0x1c, bertSpace, false, "a file separator, white space to Python but not to Rust"},
		{0x8e2, bertDrop, false, "younger than the table of categories"},
		{0xe000, bertDrop, true, "private use"},
		{'$', bertPunct, true, "a symbol, but of ASCII"},
		{0x20a9, bertPunct, false, "the won sign, a symbol"},
		{0x3002, bertPunct, true, "an ideographic full stop"},
		{0x2e43, bertPunct, false, "younger than the table of categories"},
		{0x166d, bertPunct, true, "punctuation when the table was made"},
		{0x1734, bertNonspacing, true, "nonspacing when the table was made"},
		{0x898, bertNonspacing, false, "younger than the table of categories"},
		{0x2b820, bertCJK, false, "where the block starts, but not Hugging Face's list"},
		{0x2b920, bertCJK, true, "where Hugging Face's list starts"},
		{0x3400, bertCJK, true, "Extension A"},
		{0xac00, bertCJK, false, "Hangul"},
		{0x16ea0, bertLower, true, "a capital of Unicode 17"},
		{0x11938, bertDecompose, false, "younger than the table of decompositions"},
	} {
		if got := bertProps(c.r)&c.bit != 0; got != c.want {
			t.Errorf("U+%04X, %s: bit %08b is %t", c.r, c.whatItIs, c.bit, got)
		}
	}
}

func TestAppendLower(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ from, want string }{
		{"A", "a"}, {"ß", "ß"}, {"ẞ", "ß"}, {"İ", "i\u0307"}, {"Σ", "σ"}, {"Ǆ", "ǆ"}, {"ǅ", "ǆ"}, {"ǆ", "ǆ"},
		{"Ā", "ā"}, {"ā", "ā"}, {"Ａ", "ａ"}, {"Ⅷ", "ⅷ"}, {"가", "가"}, {"Ა", "ა"}, {"\U00010d50", "\U00010d70"},
	} {
		var got []byte
		for _, r := range c.from {
			got = appendLower(got, r)
		}
		if string(got) != c.want {
			t.Errorf("lower case of %q is %q, want %q", c.from, got, c.want)
		}
	}
}

// TestFold checks decomposition, stripping and canonical order beyond what everyday cases reach.
func TestFold(t *testing.T) {
	t.Parallel()
	b := newBERT(bertOptions{strip: true, lower: true}, wordPiece{maxChars: 100})
	for _, c := range []struct{ from, want string }{
		{"É", "e"}, {"e\u0301\u0327", "e"}, {"ﬁ", "ﬁ"}, {"각", "\u1100\u1161\u11a8"}, {"가", "\u1100\u1161"},
		{"\uf90a", "金"}, {"\u2260", "="}, {"\u1e69", "s"},
		// Two musical marks (216 and 220) and Hangul's tone marks (224), written in falling order.
		{"a\u302e\U0001d16e\U0001d165", "a\U0001d16e\U0001d165\u302e"},
		{"a\u302e\u0301\U0001d165", "a\U0001d165\u302e"}, // across a stripped accent
		{"a\u302e\u0941\U0001d165", "a\u302e\U0001d165"}, // not across a stripped vowel, which is a starter
		{"a\u302eb\U0001d165", "a\u302eb\U0001d165"},     // not across a letter
		{"\U0001d160", "\U0001d158\U0001d165\U0001d16e"},
	} {
		if got := b.normalize(new(run), c.from); got != c.want {
			t.Errorf("%+q becomes %+q, want %+q", c.from, got, c.want)
		}
	}
}

// TestClusters has one text for each rule of UAX #29, its clusters set apart by bars.
func TestClusters(t *testing.T) {
	t.Parallel()
	for _, want := range []string{
		"a|b", "\r\n|\n|\r", "a|\r\n|b", "\x01|\u0301", // GB3 to GB5
		"\u1100\u1161\u11a8|\u1100", "\u1100\u1100\uac00\u11a8", "\uac01\u11a8|\u1161", // GB6 to GB8
		"e\u0301\u0301|f", "a\u200d|b", "\u0e01\u0e33|a", "\u0600a|b", // GB9, 9a, 9b
		"\u0915\u094d\u0915|\u0915", "\u0915\u093c\u094d\u200d\u0915", "\u0915|\u0915", "a\u094d|\u0915", // GB9c
		"\u0915\u0301\u0301|\u0915",
		"👨\u200d👩\u200d👧|👦", "👨🏻\u200d👩", "\u00a9\u200d\u00ae", "a\u200d|👩", "👨\u200d\u200d|👩", // GB11
		"🇰🇷|🇯🇵|🇺", "a|🇰🇷|b", // GB12, GB13
	} {
		text := strings.ReplaceAll(want, "|", "")
		var got []string
		for rest := text; rest != ""; {
			n := clusterSize(rest)
			got = append(got, rest[:n])
			rest = rest[n:]
		}
		if s := strings.Join(got, "|"); s != want {
			t.Errorf("clusters are %+q, want %+q", s, want)
		}
	}
}

// TestSimpleBorders checks the short cut against the rules, for every pair of classes.
func TestSimpleBorders(t *testing.T) {
	t.Parallel()
	for before := range textGrapheme + 1 {
		for after := range textGrapheme + 1 {
			var c clusters
			c.next(before)
			if simple(before, after) && !c.next(after) {
				t.Errorf("classes %d and %d are taken for apart, but are joined", before, after)
			}
		}
	}
}

func TestByteWord(t *testing.T) {
	t.Parallel()
	for _, want := range []string{
		"Hello| world|!", "it|'s|'ll|'|LL", " '|re|'re", "x|\n\n| y", "x|\n|y", "a| | b", "a|   ", " \n",
		"a| |\t|b", "a|\u00a0|b", "a| |\u00a0|b", "1½|st", "가나| 다|1|,| 2|...",
	} {
		text := strings.ReplaceAll(want, "|", "")
		var got []string
		for rest := text; rest != ""; {
			n := byteWord(rest)
			got = append(got, rest[:n])
			rest = rest[n:]
		}
		if s := strings.Join(got, "|"); s != want {
			t.Errorf("words of %q are %q, want %q", text, s, want)
		}
	}
}

// TestParseScore has numbers that serde_json reads one unit off, which Go's parser would not.
func TestParseScore(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		want float64
	}{
		{"0", 0}, {"-1", -1}, {"-3.4635426998138428", -(34635426998138428 / 1e16)}, {"1e3", 1000}, {"2.5E-1", 0.25},
		{"-12.5e+1", -125}, {"0.1", 0.1}, {"123456789012345678901234567890", 12345678901234567890 * 1e10}, {"1e-400", 0},
	} {
		if got, err := parseScore([]byte(c.text)); err != nil || got != c.want {
			t.Errorf("%s is read as %v, %v, want %v", c.text, got, err, c.want)
		}
	}
	for _, bad := range []string{"", "-", "x", "1.2.3", "1e", "1ex", "1e999", "true"} {
		if got, err := parseScore([]byte(bad)); err == nil {
			t.Errorf("%q is read as %v", bad, got)
		}
	}
}

func TestCollapse(t *testing.T) {
	t.Parallel()
	for from, want := range map[string]string{"": "", "a b": "a b", "  ": " ", "a   b  c ": "a b c ", "   a": " a"} {
		if got := collapse([]byte(from)); string(got) != want {
			t.Errorf("%q becomes %q, want %q", from, got, want)
		}
	}
}

func TestTrie(t *testing.T) {
	t.Parallel()
	var pieces []piece
	for i := range int32(3000) {
		pieces = append(pieces, piece{token: fmt.Sprintf("%x", i*i), id: i})
	}
	pieces = append(pieces, piece{token: "가", id: 3000}, piece{token: "가나", id: 3001}, piece{token: "", id: 3002})
	pieces = slices.CompactFunc(pieces, func(a, b piece) bool { return a.token == b.token })
	tr := newTrie(pieces)
	for _, p := range pieces {
		if got, ok := tr.lookup(p.token); p.token != "" && (!ok || got != p.id) {
			t.Errorf("%q is %d, %t, want %d", p.token, got, ok, p.id)
		}
	}
	for _, absent := range []string{"", "g", "가나다", "\xff", "0 "} {
		if got, ok := tr.lookup(absent); ok {
			t.Errorf("%q is %d, want none", absent, got)
		}
	}
	if id, n := tr.longest(root, string("가나다")); id != 3001 || n != 6 {
		t.Errorf("longest piece is %d with %d bytes, want 3001 with 6", id, n)
	}
}

// TestMergeHeap checks that the heap gives back what it got, in order.
func TestMergeHeap(t *testing.T) {
	t.Parallel()
	var h mergeHeap
	var want []uint64
	x := uint64(1)
	for range 1000 {
		x = x*6364136223846793005 + 1442695040888963407
		h.push(x >> 50)
		want = append(want, x>>50)
	}
	slices.Sort(want)
	for i, w := range want {
		if got := h.pop(); got != w {
			t.Fatalf("element %d is %d, want %d", i, got, w)
		}
	}
}
