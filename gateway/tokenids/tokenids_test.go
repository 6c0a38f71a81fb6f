package tokenids_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/gateway/tokenids"
)

// TestText: ids by OpenAI's tiktoken 0.12.
func TestText(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		vocabulary string
		ids        []uint32
		want, err  string
	}{
		{tokenids.CL100K, []uint32{9906, 1917}, "Hello world", ""},
		{tokenids.O200K, []uint32{13225, 2375}, "Hello world", ""},
		{tokenids.CL100K, nil, "", ""},
		{tokenids.CL100K, []uint32{9906, 100256}, "", "is none of cl100k_base, which has 0 to 100255"},
		{tokenids.CL100K, []uint32{9906, 100257}, "", "is none of"}, // <|endoftext|>
		{tokenids.O200K, []uint32{199998}, "", "is none of o200k_base, which has 0 to 199997"},
		{"p50k", []uint32{1}, "", "no vocabulary"},
	} {
		got, err := tokenids.Text(tt.vocabulary, tt.ids, 1<<20)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s %v: %q, %v, want %q, %q", tt.vocabulary, tt.ids, got, err, tt.want, tt.err)
		}
	}
	if _, err := tokenids.Text(tokenids.CL100K, []uint32{9906, 1917}, 5); err == nil {
		t.Error("a text beyond the bound came back")
	}
}

// TestCutWithinACharacter: ids 0 to 255 are the single bytes, in an order of their own.
func TestCutWithinACharacter(t *testing.T) {
	t.Parallel()
	single := map[byte]uint32{}
	for id := range uint32(256) {
		for b := range 256 {
			text, err := tokenids.Text(tokenids.CL100K, []uint32{id}, 9)
			if err == nil && text == string([]byte{byte(b)}) {
				single[byte(b)] = id
			}
		}
	}
	if len(single) != 128 {
		t.Fatalf("%d bytes of ASCII have an id of their own, want 128", len(single))
	}
	hangul := []byte("가나")
	all := map[byte]uint32{}
	for id := range uint32(256) { // a byte that is no character by itself is found between two that make one of it
		for _, b := range hangul {
			if _, ok := all[b]; !ok && lone(t, id, b) {
				all[b] = id
			}
		}
	}
	ids := make([]uint32, len(hangul))
	for i, b := range hangul {
		id, ok := all[b]
		if !ok {
			t.Fatalf("no id for byte %x", b)
		}
		ids[i] = id
	}
	for cut, want := range map[[2]int]string{{0, 6}: "가나", {0, 5}: "가", {0, 4}: "가", {1, 6}: "나", {2, 6}: "나", {1, 5}: "", {0, 3}: "가"} {
		if got, err := tokenids.Text(tokenids.CL100K, ids[cut[0]:cut[1]], 99); got != want || err != nil {
			t.Errorf("%v: %q, %v, want %q", cut, got, err, want)
		}
	}
	bad := []uint32{single['a'], ids[1], single['b']}
	if got, err := tokenids.Text(tokenids.CL100K, bad, 99); err == nil {
		t.Errorf("broken UTF-8 came back as %q", got)
	}
}

// lone reports whether id is the single byte b: tiktoken's order of single bytes is the printable ones first, as in
// GPT-2's byte encoder.
func lone(t *testing.T, id uint32, b byte) bool {
	t.Helper()
	var order []byte
	for c := range 256 {
		if c >= '!' && c <= '~' || c >= 0xA1 && c <= 0xAC || c >= 0xAE {
			order = append(order, byte(c))
		}
	}
	for c := range 256 {
		if !bytes.Contains(order, []byte{byte(c)}) {
			order = append(order, byte(c))
		}
	}
	return order[id] == b
}
