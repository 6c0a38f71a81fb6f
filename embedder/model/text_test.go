package model

import (
	"reflect"
	"testing"
)

func TestInput(t *testing.T) {
	t.Parallel()
	cased, lowered := &Model{}, &Model{Lowercase: true}
	for in, want := range map[string]string{
		"Query: ÄÖ":   "query: äö",
		"İstanbul":    "i̇stanbul", // i and a combining dot
		"ΟΔΟΣ":        "οδοσ",      // each character alone: no final sigma
		"삼성전자 ABC":    "삼성전자 abc",
		"ǅ Ⅷ Ⓐ":       "ǆ ⅷ ⓐ",
		"ẞ":           "ß",
		"already low": "already low",
	} {
		if got := lowered.Input("", in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
		if got := cased.Input("P: ", in); got != "P: "+in {
			t.Errorf("%q becomes %q without lower case", in, got)
		}
	}
	if got := lowered.Input("Query: ", "A"); got != "query: a" {
		t.Errorf("prompt and text become %q: the prompt is lowered too", got)
	}
}

func TestParsePooling(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]Pooling{
		"mean":                      {Mean},
		"cls+mean":                  {CLS, Mean},
		" max + lasttoken ":         {Max, LastToken},
		"weightedmean":              {WeightedMean},
		"mean_sqrt_len_tokens+mean": {MeanSqrt, Mean},
		"":                          nil,
		"mean+":                     nil,
		"average":                   nil,
		"cls+cls":                   nil,
	} {
		got, err := ParsePooling(s)
		if want == nil {
			if err == nil {
				t.Errorf("%q was read as %v", s, got)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q was read as %v, %v, want %v", s, got, err, want)
		}
	}
}

// TestPoolingConfig reads both forms of 1_Pooling/config.json. In the old one several booleans are
// concatenated in sentence-transformers' order, not in the file's.
func TestPoolingConfig(t *testing.T) {
	t.Parallel()
	for config, want := range map[string]string{
		`{}`: "mean",
		`{"pooling_mode_cls_token":false,"pooling_mode_mean_tokens":false}`:                             "mean",
		`{"pooling_mode_lasttoken":true,"pooling_mode_mean_tokens":true,"pooling_mode_cls_token":true}`: "cls+mean+lasttoken",
		`{"pooling_mode_mean_sqrt_len_tokens":true,"pooling_mode_weightedmean_tokens":true}`:            "mean_sqrt_len_tokens+weightedmean",
		`{"pooling_mode":"lasttoken"}`:                                   "lasttoken",
		`{"pooling_mode":["max","cls"],"pooling_mode_mean_tokens":true}`: "max+cls",
	} {
		dir := copyOf(t, "variants/bert-all", write("1_Pooling/config.json", config))
		if m := mustOpen(t, dir, nil); m.Pooling.String() != want {
			t.Errorf("%s: pooling %s, want %s", config, m.Pooling, want)
		}
	}
}
