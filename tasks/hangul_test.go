package tasks_test

import (
	"strings"
	"testing"

	"golang.org/x/text/unicode/norm"

	"github.com/embedfleet/embedfleet/tasks"
)

func TestComposeHangul(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ in, want string }{
		"nothing":                 {"", ""},
		"ASCII":                   {"abc", "abc"},
		"composed":                {"삼성전자", "삼성전자"},
		"lead + vowel":            {"\u1100\u1161", "가"},
		"lead + vowel + tail":     {"\u1112\u1161\u11ab", "한"},
		"syllable + tail":         {"하\u11ab", "한"},
		"syllable with tail":      {"한\u11ab", "한\u11ab"},
		"last of all":             {"\u1112\u1175\u11c2", "힣"},
		"lone lead":               {"\u1100 a", "\u1100 a"},
		"lone vowel":              {"\u1161", "\u1161"},
		"lone tail":               {"\u11a8", "\u11a8"},
		"no tail at 11A7":         {"가\u11a7", "가\u11a7"},
		"two leads":               {"\u1100\u1100\u1161", "\u1100가"},
		"old lead":                {"\u1113\u1161", "\u1113\u1161"},
		"old vowel":               {"\u1100\u1176", "\u1100\u1176"},
		"old tail":                {"가\u11c3", "가\u11c3"},
		"compatibility jamo":      {"ㄱㅏ ㅋㅋ ㆍ", "ㄱㅏ ㅋㅋ ㆍ"},
		"compatibility ideograph": {"\uf90a \uf967", "\uf90a \uf967"},
		"Latin marks":             {"e\u0301", "e\u0301"},
		"lone mark":               {"\u0301", "\u0301"},
		"mark between":            {"\u1100\u0301\u1161", "\u1100\u0301\u1161"},
		"Georgian, also E1":       {"\u10d0\u1e00", "\u10d0\u1e00"},
		"mixed":                   {"A \u1109\u1161\u11b7성 e\u0301 \u1161", "A 삼성 e\u0301 \u1161"},
		"cut at the end":          {"가\u1100", "가\u1100"},
	} {
		if got := tasks.ComposeHangul(tt.in); got != tt.want {
			t.Errorf("%s: %+q, want %+q", name, got, tt.want)
		}
	}
}

// TestComposeHangulAll takes every syllable apart by Unicode's own tables.
func TestComposeHangulAll(t *testing.T) {
	t.Parallel()
	var all strings.Builder
	for r := '가'; r <= '힣'; r++ {
		all.WriteRune(r)
	}
	if got := tasks.ComposeHangul(norm.NFD.String(all.String())); got != all.String() {
		t.Error("some of the 11,172 syllables do not come back")
	}
}

// FuzzComposeHangul compares with Unicode's NFC, which does the same on texts of nothing but Hangul.
func FuzzComposeHangul(f *testing.F) {
	f.Add("\u1112\u1161\u11ab한하\u11abㅏ")
	f.Add("\u1100\u1100\u1161\u11a7\u11a8")
	f.Fuzz(func(t *testing.T, s string) {
		hangul := strings.Map(func(r rune) rune {
			if 0x1100 <= r && r <= 0x11FF || 0xAC00 <= r && r <= 0xD7A3 || r == ' ' {
				return r
			}
			return -1
		}, s)
		got := tasks.ComposeHangul(hangul)
		if want := norm.NFC.String(hangul); got != want {
			t.Errorf("ComposeHangul(%+q) = %+q, want %+q", hangul, got, want)
		}
		if again := tasks.ComposeHangul(got); again != got {
			t.Errorf("twice: %+q, once: %+q", again, got)
		}
	})
}

func BenchmarkComposeHangul(b *testing.B) {
	for name, s := range map[string]string{
		"composed":   strings.Repeat("삼성전자 매출액 ", 20),
		"decomposed": norm.NFD.String(strings.Repeat("삼성전자 매출액 ", 20)),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(s)))
			for b.Loop() {
				tasks.ComposeHangul(s)
			}
		})
	}
}
