package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestHalf compares all 65,536 half precision numbers with the definition of IEEE 754.
func TestHalf(t *testing.T) {
	t.Parallel()
	for i := range 1 << 16 {
		h := uint16(i)
		sign, exp, frac := 1-2*float64(h>>15), int(h>>10)&31, float64(h&1023)
		want := sign * math.Ldexp(1+frac/1024, exp-15)
		switch {
		case exp == 0:
			want = sign * math.Ldexp(frac/1024, -14)
		case exp == 31 && frac == 0:
			want = math.Inf(int(sign))
		case exp == 31:
			want = math.NaN()
		}
		got := float64(half(h))
		if got != want && !(math.IsNaN(got) && math.IsNaN(want)) {
			t.Fatalf("half %#04x is %v, want %v", h, got, want)
		}
		if !math.IsNaN(want) && math.Signbit(got) != (h>>15 == 1) {
			t.Fatalf("half %#04x has the wrong sign", h)
		}
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	want := []float32{0, 1, -2.5, 0.375, float32(math.Inf(1)), 1024}
	encode := map[DType]func([]byte, float32) []byte{
		F32: func(b []byte, v float32) []byte { return binary.LittleEndian.AppendUint32(b, math.Float32bits(v)) },
		BF16: func(b []byte, v float32) []byte {
			return binary.LittleEndian.AppendUint16(b, uint16(math.Float32bits(v)>>16))
		},
	}
	for dtype, enc := range encode {
		data := []byte("head")
		for _, v := range want {
			data = enc(data, v)
		}
		tensor := Tensor{Name: "x", DType: dtype, Shape: []int{6}, Offset: 4, Size: int64(len(data) - 4)}
		got := make([]float32, 6)
		if err := tensor.Read(got, bytes.NewReader(data), 0); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v, want %v", dtype, got, err, want)
		}
		if err := tensor.Read(got[:2], bytes.NewReader(data), 3); err != nil || !slices.Equal(got[:2], want[3:5]) {
			t.Errorf("%s from 3 on: %v, %v, want %v", dtype, got[:2], err, want[3:5])
		}
		if err := tensor.Read(got[:2], bytes.NewReader(data), 5); err == nil {
			t.Errorf("%s: read an element behind the last", dtype)
		}
		if err := tensor.Read(got, bytes.NewReader(data[:len(data)-1]), 0); err == nil {
			t.Errorf("%s: read from a file that was cut since", dtype)
		}
	}
	whole := Tensor{Name: "ids", DType: "I64", Shape: []int{1}, Size: 8}
	if err := whole.Read(make([]float32, 1), bytes.NewReader(make([]byte, 8)), 0); err == nil || !strings.Contains(err.Error(), "I64") {
		t.Errorf("reading I64: %v, want a refusal that names it", err)
	}
}

// TestReadLong reads a tensor of several chunks, whose last is not whole.
func TestReadLong(t *testing.T) {
	t.Parallel()
	n := chunk/4*2 + 77
	data := make([]byte, 4*n)
	for i := range n {
		binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(float32(i)))
	}
	got := make([]float32, n)
	if err := (Tensor{Name: "x", DType: F32, Shape: []int{n}, Size: int64(4 * n)}).Read(got, bytes.NewReader(data), 0); err != nil {
		t.Fatal(err)
	}
	for i, v := range got {
		if v != float32(i) {
			t.Fatalf("element %d is %v", i, v)
		}
	}
}

// folder writes files into a new folder.
func folder(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFindShards(t *testing.T) {
	t.Parallel()
	tensor := func(name string, v float32) []byte {
		return file(`{"`+name+`":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, binary.LittleEndian.AppendUint32(nil, math.Float32bits(v)))
	}
	s, err := Find(folder(t, map[string][]byte{
		"model.safetensors.index.json": []byte(`{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}`),
		"1.safetensors":                tensor("a", 1), "2.safetensors": tensor("b", 2),
	}))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"1.safetensors", "2.safetensors"}; !slices.Equal(s.Files, want) {
		t.Errorf("files %q, want %q", s.Files, want)
	}
	r := s.NewReader()
	defer r.Close()
	for name, want := range map[string]float32{"a": 1, "b": 2} {
		var got [1]float32
		if err := r.Read(got[:], s.Tensors[name], 0); err != nil || got[0] != want {
			t.Errorf("tensor %s is %v, %v, want %v", name, got[0], err, want)
		}
	}
}

func TestFindRefuses(t *testing.T) {
	t.Parallel()
	index := func(s string) map[string][]byte {
		return map[string][]byte{"model.safetensors.index.json": []byte(s), "1.safetensors": file(`{"b":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}`, nil)}
	}
	for want, files := range map[string]map[string][]byte{
		"model.safetensors: the file has 0 bytes": {SingleFile: nil},
		"unexpected end of JSON":                  index(`{`),
		"weight_map is empty":                     index(`{}`),
		"outside the folder":                      index(`{"weight_map":{"a":"../1.safetensors"}}`),
		"2.safetensors: no such file":             index(`{"weight_map":{"a":"2.safetensors"}}`),
		`tensor "a" is not in 1.safetensors`:      index(`{"weight_map":{"a":"1.safetensors"}}`),
	} {
		if _, err := Find(folder(t, files)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	if _, err := Find(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty folder gave %v, want fs.ErrNotExist", err)
	}
}
