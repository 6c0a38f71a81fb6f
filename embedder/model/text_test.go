package model

import (
	"reflect"
	"testing"
)

func TestParsePooling(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		s    string
		want Pooling
	}{
		{"mean", Pooling{Mean}},
		{"cls+mean", Pooling{CLS, Mean}},
		{" max + lasttoken ", Pooling{Max, LastToken}},
		{"weightedmean", Pooling{WeightedMean}},
		{"mean_sqrt_len_tokens+mean", Pooling{MeanSqrt, Mean}},
		{"", nil},
		{"mean+", nil},
		{"average", nil},
		{"cls+cls", nil},
	} {
		s, want := tc.s, tc.want
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
