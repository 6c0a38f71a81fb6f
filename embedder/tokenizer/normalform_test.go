package tokenizer

import (
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// TestStable checks, by the tables, that stable characters are: each stays itself, starts a sequence, and
// composes with nothing before it.
func TestStable(t *testing.T) {
	t.Parallel()
	second := map[rune]bool{}
	for _, c := range compositions {
		second[c.second] = true
	}
	r := new(run)
	for name, f := range normalForms {
		for c := range rune(utf8.MaxRune + 1) {
			if !f.stable(c) {
				continue
			}
			if got := string(f.segment(r, nil, string(c))); got != string(c) || orderOf(c) != 0 || second[c] {
				t.Errorf("%s: %U is not stable: it becomes %q", name, c, got)
			}
		}
	}
}

// TestNormalFormsAgree compares with golang.org/x/text where its younger Unicode knows no more than ours: texts
// of characters that both have.
func TestNormalFormsAgree(t *testing.T) {
	t.Parallel()
	forms := map[string]norm.Form{"NFC": norm.NFC, "NFD": norm.NFD, "NFKC": norm.NFKC, "NFKD": norm.NFKD}
	r := new(run)
	for _, s := range []string{
		"", "a", "é", "e\u0301", "e\u0323\u0301", "e\u0301\u0323", "\u0301e", "q\u0323\u0307 q\u0307\u0323", "가각힣", "\u1100\u1161\u11a8", "가\u11a8",
		"각\u11a8", "\u1100\u1161\u11a7", "ｶﾞｱ", "がカ\u3099", "Å\u212b", "ﬁﬂﬆ①㍿㎏", "\u0344", "\u0f73\u0f71", "ẛ̣", "ß½²", "שׁ\u05b0", strings.Repeat("e\u0323\u0301", 50),
		"A\u0300\u0301\u0302\u0327\u0328", "\u0958\u093c", "株式会社 テスト １２３", "a\u0300b\u0301 c", "한\u0301", "\u2260\u226f\u0338=\u0338", "ﷺ",
	} {
		for name, form := range forms {
			if got, want := string(normalForms[name].apply(r, nil, s)), form.String(s); got != want {
				t.Errorf("%s of %+q: got %+q, want %+q", name, s, got, want)
			}
		}
	}
}
