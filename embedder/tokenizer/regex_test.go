package tokenizer

import (
	"strings"
	"testing"
	"time"
)

// matches returns what an expression finds in a text, one after the other.
func matches(re *regex, s string) (found []string) {
	r := new(run)
	for at := 0; ; {
		start, end, _ := re.find(r, s, at)
		if start < 0 {
			return found
		}
		found = append(found, s[start:end])
		at = end
	}
}

// TestRegex has what Oniguruma finds, as Split of Hugging Face's tokenizers shows it.
func TestRegex(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ pattern, text, want string }{
		{`a|ab`, "abab", "a|a"}, // the first alternative, not the longest
		{`ab|a`, "aba", "ab|a"},
		{`a+?b?`, "aab", "a|ab"},
		{`a*?b`, "aab", "aab"},
		{`(a|b)+c`, "abcab", "abc"},
		{`a{2}`, "aaaaa", "aa|aa"},
		{`a{,2}b`, "aaab", "aab"},
		{`a{2,}`, "aaa", "aaa"},
		{`\p{N}{1,3}+`, "123456", "123456"}, // Ruby: repeated, not possessive
		{`\p{N}{1,3}`, "123456", "123|456"},
		{`a++b|a`, "aaab", "aaab"},
		{`a++a|b`, "aaab", "b"}, // gives nothing back
		{`a?+a|b`, "aab", "aa|b"},
		{`a?+ab`, "aab", "aab"},
		{`a*+b`, "aab", "aab"},
		{`\s+(?!\S)|\s`, "a  b ", " | | "},
		{`\s+(?=b)`, "a  b  c", "  "},
		{`\s+$`, "a  \nb  \nc ", "  |  | "},
		{`\s+\z`, "a  b  ", "  "},
		{`\Aa`, "aaa", "a"},
		{`.`, "a\nb", "a|b"},
		{`(?i:s|k)`, "sSſkK\u212a", "s|S|ſ|k|K|\u212a"},
		{`(?i:[k-m])n`, "KnLN", "Kn"},
		{`[^\r\n\p{L}]+`, "a1 !\nb", "1 !"},
		{`[\p{Lu}\p{Lt}]\p{Ll}*`, "AbCdǅe", "Ab|Cd|ǅe"},
		{`\P{L}\p{^L}`, "ab12", "12"},
		{`[a-c-]+`, "a-d", "a-"},
		{`[a[bc]]+`, "abcd", "abc"},
		{`[]a]`, "", ""},
		{`\x41\u0042\x{43}`, "ABC", "ABC"},
		{`a{b`, "a{b", "a{b"},
		{`\p{Hangul}+|\p{Han}+`, "한국韓國a", "한국|韓國"},
		{`\w+`, "a_1가 \u0301-", "a_1가|\u0301"},
		{`\d\D`, "1a٣b", "1a|٣b"},
		{`x+y|x`, strings.Repeat("x", 100), strings.TrimSuffix(strings.Repeat("x|", 100), "|")},
		{`x+y|z`, strings.Repeat("x", 100) + "z", "z"},
	} {
		re, err := newRegex(c.pattern)
		if err != nil {
			if c.text != "" {
				t.Errorf("%s: %v", c.pattern, err)
			}
			continue
		}
		if got := strings.Join(matches(re, c.text), "|"); got != c.want {
			t.Errorf("%s in %q: got %q, want %q", c.pattern, c.text, got, c.want)
		}
	}
}

func TestRegexRefuses(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string]string{
		``: "matching nothing", `a*`: "matching nothing", `(?!a)`: "matching nothing",
		`(a`: "a ) is missing", `a)`: "a ) too many", `[a`: "a ] is missing", `a\`: "ends with a backslash", `[]a]`: "an empty class",
		`(?<=a)b`: "the group (?<= is not supported", `(?<n>a)`: "the group (?<n", `(?>a)`: "the group (?>a", `(?m:a)`: "the group (?m:",
		`(a)\1`: `\1 is not supported`, `\bfoo`: `\b is not supported`, `\Ga`: `\G is not supported`, `\hx`: `\h is not supported`,
		`^a`: "'^' is not supported", `*a`: "'*' is not supported", `(?!ab)c`: "further ahead than one", `(?=a|bc)d`: "further ahead than one",
		`(ab)++`: "a possessive group", `(a*)*b`: "repeating what may be empty", `a{3,2}`: "{3,2} is not supported", `a{999}`: "{999,999} is not supported",
		`a{2}?`: "an interval followed by ?", `[a&&b]`: `"&&" in a class`, `[[:alpha:]]`: `"[:" in a class`, `[b-a]`: "runs backwards",
		`\p{Klingon}`: `the property "Klingon"`, `\pL`: `\p without a property in braces`, `\p{C}`: `the property "C"`,
		`(?i:ss)`: "a single character may stand for it", `(?i:é)`: "other than ASCII", `(?i:[^a])`: "a negated class",
		`\xFF`: `\xFF is not supported`, "\xff": "not UTF-8", `((((a{200}){200}){200}){200})`: "too large",
		strings.Repeat("(", 60) + "a":                     "nested too deep",
		`(a|b|c|d)(a|b)?(x|y|z)*((a{1,50}b){1,50}c){1,9}`: "too large",
	} {
		_, err := newRegex(pattern)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.40q: error is %v, want one line with %q", pattern, err, want)
		}
	}
}

// TestRegexIsLinear searches where trying one start after another would take minutes.
func TestRegexIsLinear(t *testing.T) {
	t.Parallel()
	text := strings.Repeat(" ", 300_000) + "x"
	for _, pattern := range []string{` +\z`, `\s+$`, ` +y`, `( | )+y`, `\s+(?!\S)|\s+`, `[^\r\n\p{L}\p{N}]?\p{L}+|\s*[\r\n]+|\s+(?!\S)|\s+`} {
		re, err := newRegex(pattern)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		matches(re, text)
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%s: %v for %d bytes", pattern, took, len(text))
		}
	}
}

// TestPatience checks that a search finds the same whichever way it looks.
func TestPatience(t *testing.T) {
	t.Parallel()
	r := new(run)
	texts := []string{"", "a", "  \n x", strings.Repeat(" ", 200) + "\n\nab12", "it's 'S  \r\n!?\u3000가1234 \u0301", strings.Repeat("ab", 70) + "c"}
	for _, pattern := range []string{`\s+$`, `(ab)+c`, `a|ab`, `\A +| +\z`, `'(?i:[sdmt]|ll|ve|re)|\p{L}++|\p{N}{1,3}|\s++$|\s*[\r\n]|\s+(?!\S)|\s`} {
		re, err := newRegex(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range texts {
			for at := range len(s) + 1 {
				if at < len(s) && s[at] >= 0x80 {
					continue
				}
				start, end, _ := re.find(r, s, at)
				if a, b := re.search(r, s, at); a != start || b != end {
					t.Errorf("%s in %q from %d: found %d to %d, searched %d to %d", pattern, s, at, start, end, a, b)
				}
			}
		}
	}
}
