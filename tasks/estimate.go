package tasks

import "unicode/utf8"

// Bytes of UTF-8 that make a token, by script, fitted to the vocabulary of XLM-RoBERTa, which multilingual-e5 and bge-m3
// read with. Of the filings, the news and the English sentences in samples, of KorSTS and KLUE-NLI, and of STS-B in
// English and Japanese, each as a whole, the estimate is within a fifth of that vocabulary's count; of nine in ten of
// their sentences (Japanese: about four in five) it is within a third. Other vocabularies differ: a Korean one (KLUE's) makes
// half as many tokens again of English; an English one (all-MiniLM-L6-v2) makes an eighth fewer of English and, since it
// takes Hangul to pieces, twice as many of Korean.
const (
	bytesPerWordToken   = 4.0 // ASCII letters and white space
	bytesPerDigitToken  = 1.5 // ASCII digits and punctuation
	bytesPerHangulToken = 4.2 // Hangul syllables, 3 bytes each
	bytesPerOtherToken  = 4.0 // everything else: kana and Han are 3 bytes each
)

// EstimateTokens returns about how many tokens a model reads of a text: at least 2, since every model frames a text.
// It reads every byte once and allocates nothing.
func EstimateTokens(text string) int {
	var word, digit, hangul, other int
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case c < utf8.RuneSelf && (c|0x20 >= 'a' && c|0x20 <= 'z' || c <= ' '):
			word++
			i++
		case c < utf8.RuneSelf:
			digit++
			i++
		case c >= 0xEA && c <= 0xED && i+2 < len(text): // U+A000 to U+DFFF, of which Hangul is nearly all
			hangul += 3
			i += 3
		default:
			other++
			i++
		}
	}
	n := float64(word)/bytesPerWordToken + float64(digit)/bytesPerDigitToken +
		float64(hangul)/bytesPerHangulToken + float64(other)/bytesPerOtherToken
	return 2 + int(n)
}
