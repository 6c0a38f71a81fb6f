package vector_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/vector"
)

func TestArithmetic(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		v, w              vector.Vector
		dot, norm, cosine float64 // norm is v's
	}{
		"empty":      {vector.Vector{}, vector.Vector{}, 0, 0, 0},
		"unit":       {vector.Vector{1, 0}, vector.Vector{1, 0}, 1, 1, 1},
		"orthogonal": {vector.Vector{1, 0}, vector.Vector{0, 2}, 0, 1, 0},
		"opposite":   {vector.Vector{3, 4}, vector.Vector{-3, -4}, -25, 5, -1},
		"length":     {vector.Vector{3, 4}, vector.Vector{6, 8}, 50, 5, 1},
		"zero":       {vector.Vector{0, 0}, vector.Vector{1, 1}, 0, 0, 0},
		// A float32 sum would lose the ones beside 2^24.
		"float64 sum": {vector.Vector{4096, 1, 1}, vector.Vector{4096, 1, 1}, 16777218, math.Sqrt(16777218), 1},
	} {
		if got := tt.v.Dot(tt.w); got != tt.dot {
			t.Errorf("%s: Dot = %v, want %v", name, got, tt.dot)
		}
		if got := tt.v.Norm(); got != tt.norm {
			t.Errorf("%s: Norm = %v, want %v", name, got, tt.norm)
		}
		if got := tt.v.Cosine(tt.w); math.Abs(got-tt.cosine) > 1e-15 {
			t.Errorf("%s: Cosine = %v, want %v", name, got, tt.cosine)
		}
	}
}

func TestDotPanicsOnTwoSpaces(t *testing.T) {
	t.Parallel()
	defer func() {
		if v := recover(); v != "vector: inner product of 2 and 3 dimensions" {
			t.Errorf("recovered %v", v)
		}
	}()
	vector.Vector{1, 0}.Dot(vector.Vector{1, 0, 0})
	t.Error("Dot of two dimensions returned")
}

func TestCheck(t *testing.T) {
	t.Parallel()
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	for name, tt := range map[string]struct {
		v    vector.Vector
		dim  int
		unit bool
		want string // of the error, "" if there is none
	}{
		"good":             {vector.Vector{0.6, 0.8}, 2, true, ""},
		"any length":       {vector.Vector{3, 4}, 2, false, ""},
		"too short":        {vector.Vector{1}, 2, true, "vector has 1 dimensions, the model has 2"},
		"too long":         {vector.Vector{1, 0, 0}, 2, true, "vector has 3 dimensions, the model has 2"},
		"NaN":              {vector.Vector{1, nan}, 2, false, "vector value 1 is NaN"},
		"infinite":         {vector.Vector{inf, 1}, 2, false, "vector value 0 is -Inf"},
		"zero":             {vector.Vector{0, 0}, 2, true, "vector has length 0.000000"},
		"just in range":    {vector.Vector{1.0009}, 1, true, ""},
		"just too long":    {vector.Vector{1.0011}, 1, true, "vector has length 1.001100, normalised ones lie within 1 ± 0.001"},
		"just too short":   {vector.Vector{0.9989}, 1, true, "vector has length 0.998900"},
		"a square too big": {vector.Vector{math.MaxFloat32}, 1, true, "normalised ones"}, // finite in float64
	} {
		check := vector.Vector.Check
		if tt.unit {
			check = vector.Vector.CheckUnit
		}
		err := check(tt.v, tt.dim)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// golden is what testdata/vector_v1.hex holds; numpy reads it with dtype "<f4".
var golden = vector.Vector{1, -2, 0.5, 0, float32(math.Copysign(0, -1)), math.MaxFloat32, math.SmallestNonzeroFloat32}

// TestGoldenBytes pins the byte form: Redis and PostgreSQL hold vectors in it for years.
func TestGoldenBytes(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/vector_v1.hex")
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	if got := golden.Bytes(); !bytes.Equal(got, want) {
		t.Errorf("bytes\n     %x\nwant %x", got, want)
	}
	if got, err := vector.Parse(want); err != nil || !slices.Equal(got, golden) {
		t.Errorf("Parse = %v, %v, want %v", got, err, golden)
	}
	if got := golden.AppendBytes([]byte("x")); !bytes.Equal(got, append([]byte("x"), want...)) {
		t.Errorf("AppendBytes after x = %x", got)
	}
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 3, 5, 1535} {
		if v, err := vector.Parse(make([]byte, n)); !errors.Is(err, vector.ErrBytes) || v != nil {
			t.Errorf("Parse of %d bytes = %v, %v, want ErrBytes", n, v, err)
		}
	}
}

// FuzzParse checks that whatever is read is written back bit for bit, NaNs with their payload included.
func FuzzParse(f *testing.F) {
	f.Add(golden.Bytes())
	f.Add([]byte{})
	f.Add([]byte{1, 2, 3})
	f.Add([]byte{0x01, 0x00, 0xa0, 0x7f}) // a signalling NaN
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := vector.Parse(b)
		if (err == nil) != (len(b) > 0 && len(b)%4 == 0) {
			t.Fatalf("Parse of %d bytes: %v", len(b), err)
		}
		if err == nil && (len(v) != len(b)/4 || !bytes.Equal(v.Bytes(), b)) {
			t.Errorf("%x came back as %x", b, v.Bytes())
		}
	})
}

func BenchmarkDot(b *testing.B) {
	v, w := make(vector.Vector, 384), make(vector.Vector, 384)
	var sum float64
	for b.Loop() {
		sum += v.Dot(w)
	}
	if sum != 0 {
		b.Error(sum)
	}
}
