package checkpoint

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// file returns a safetensors file with this header and data.
func file(header string, data []byte) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), data...)
}

func parse(b []byte) (map[string]Tensor, error) {
	return Header(bytes.NewReader(b), int64(len(b)), "model.safetensors")
}

func TestHeader(t *testing.T) {
	t.Parallel()
	const header = `{"__metadata__":{"format":"pt"},` +
		`"b":{"dtype":"F16","shape":[2,1],"data_offsets":[8,12]},` +
		`"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},` +
		`"none":{"dtype":"F32","shape":[0,3],"data_offsets":[8,8]}}   `
	got, err := parse(file(header, make([]byte, 12)))
	if err != nil {
		t.Fatal(err)
	}
	if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, []string{"a", "b", "none"}) {
		t.Errorf("tensors %q, want a, b, none", names)
	}
	b := got["b"]
	if want := int64(8 + len(header) + 8); b.Offset != want || b.Size != 4 || b.Len() != 2 || b.File != "model.safetensors" {
		t.Errorf("tensor b is %+v, want 2 elements in 4 bytes at %d", b, want)
	}
}

func TestHeaderRefuses(t *testing.T) {
	t.Parallel()
	one := func(entry string) string { return `{"a":` + entry + `}` }
	for name, tc := range map[string]struct {
		file []byte
		want string
	}{
		"empty":           {nil, "the file has 0 bytes"},
		"huge header":     {append([]byte("\x00\x00\x00\x00\x00\x00\x00\x80"), "{}"...), "at most 16777216 are allowed"},
		"cut in header":   {file(`{"a":{}}`, nil)[:12], "the header wants 8 bytes, the file has 4 left"},
		"not JSON":        {file("hello", nil), "not a JSON object"},
		"a list":          {file("[]", nil), "not a JSON object"},
		"unfinished":      {file(`{"a":`, nil), `entry of tensor "a"`},
		"no closing":      {file(`{`, nil), "reading the header"},
		"twice":           {file(`{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}`, nil), `"a" is in the header twice`},
		"cut in data":     {file(one(`{"dtype":"F32","shape":[3],"data_offsets":[0,12]}`), make([]byte, 5)), `tensor "a" wants bytes 63 to 75, the file has 68`},
		"unknown format":  {file(one(`{"dtype":"F5","shape":[1],"data_offsets":[0,4]}`), make([]byte, 4)), `unknown number format "F5"`},
		"wrong size":      {file(one(`{"dtype":"F32","shape":[2,2],"data_offsets":[0,4]}`), make([]byte, 4)), `wants 16 bytes, its entry has 4`},
		"overflow":        {file(one(`{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}`), nil), "impossible shape"},
		"negative shape":  {file(one(`{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}`), make([]byte, 4)), "impossible shape"},
		"backwards":       {file(one(`{"dtype":"F32","shape":[0],"data_offsets":[4,0]}`), nil), "impossible"},
		"far away":        {file(one(`{"dtype":"F32","shape":[0],"data_offsets":[9223372036854775807,9223372036854775807]}`), nil), "impossible"},
		"too many bytes":  {file(one(`{"dtype":"U8","shape":[1],"data_offsets":[0,1]}`), make([]byte, 3)), `2 bytes behind tensor "a"`},
		"hole":            {file(one(`{"dtype":"U8","shape":[1],"data_offsets":[2,3]}`), make([]byte, 3)), `2 bytes before tensor "a"`},
		"overlap":         {file(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, make([]byte, 3)), `inside tensor "a"`},
		"metadata broken": {file(`{"__metadata__":}`, nil), "the header's metadata"},
		"two objects":     {file(`{}{}`, nil), "behind its JSON object"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := parse(tc.file); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			} else if strings.Contains(err.Error(), "\n") {
				t.Errorf("error of several lines: %q", err)
			}
		})
	}
}

// FuzzHeader demands of any bytes that what is accepted can be read, every element of it.
func FuzzHeader(f *testing.F) {
	f.Add(file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, make([]byte, 8)))
	f.Add(file(`{"a":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]},"b":{"dtype":"F16","shape":[],"data_offsets":[4,6]}}`, make([]byte, 6)))
	f.Add(file(`{"__metadata__":{"x":"y"}}`, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		tensors, err := parse(b)
		if err != nil {
			return
		}
		for name, tensor := range tensors {
			if name != tensor.Name {
				t.Errorf("tensor %q is called %q", name, tensor.Name)
			}
			if _, _, err := converter(tensor.DType); err != nil {
				continue
			}
			if err := tensor.Read(make([]float32, tensor.Len()), bytes.NewReader(b), 0); err != nil {
				t.Error(fmt.Errorf("accepted, but %w", err))
			}
		}
	})
}
