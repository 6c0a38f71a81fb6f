package checkpoint

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"
)

// A DType is a tensor's number format, in the words of safetensors.
type DType string

// The formats that [Tensor.Read] can turn into float32 without loss.
const (
	F32  DType = "F32"
	F16  DType = "F16"
	BF16 DType = "BF16"
)

// bytesOf gives the bytes of one element, and 0 for a format that we have not heard of.
func bytesOf(t DType) int64 {
	switch t {
	case "BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3":
		return 1
	case F16, BF16, "I16", "U16":
		return 2
	case F32, "I32", "U32":
		return 4
	case "F64", "I64", "U64":
		return 8
	}
	return 0
}

// A Tensor says where in its file a tensor lies and how to read it.
type Tensor struct {
	Name   string
	File   string // as the caller named it
	DType  DType
	Shape  []int
	Offset int64 // of the first byte, from the start of the file
	Size   int64 // bytes

	stride []int // in elements, where they do not lie one behind the other; of a view in a .bin
}

// Len returns the number of elements.
func (t Tensor) Len() int { return int(t.Size / bytesOf(t.DType)) }

// Rows returns count of a tensor's rows, its first dimension, as a tensor. Of the zero value it returns that.
func (t Tensor) Rows(from, count int) Tensor {
	if len(t.Shape) == 0 {
		return t
	}
	width := t.Size / int64(max(1, t.Shape[0])) // bytes of a row
	step := width
	if t.stride != nil {
		step = int64(t.stride[0]) * bytesOf(t.DType)
	}
	t.Shape = append([]int{count}, t.Shape[1:]...)
	t.Offset += int64(from) * step
	t.Size = int64(count) * width
	return t
}

// chunk is how many bytes of a file are held while they are being converted.
const chunk = 1 << 18

// Read converts len(dst) elements of t, beginning with element from, to float32. The conversion is exact
// for [F32], [F16] and [BF16]; any other format is an error. r must be the file whose header named t.
func (t Tensor) Read(dst []float32, r io.ReaderAt, from int) error {
	convert, width, err := converter(t.DType)
	if err != nil {
		return fmt.Errorf("tensor %q: %w", t.Name, err)
	}
	if from < 0 || from > t.Len() || len(dst) > t.Len()-from {
		return fmt.Errorf("tensor %q has %d elements, asked for %d from %d on", t.Name, t.Len(), len(dst), from)
	}
	if t.stride != nil {
		return t.gather(dst, r, from, convert, width)
	}
	// ReadAt and not a mapping: a file that is cut while it is mapped ends the process with SIGBUS.
	buf := make([]byte, min(chunk, len(dst)*width))
	at := t.Offset + int64(from*width)
	for len(dst) > 0 {
		n := min(len(dst), len(buf)/width)
		if got, err := r.ReadAt(buf[:n*width], at); got < n*width { // a full read may come with io.EOF
			return fmt.Errorf("reading tensor %q at byte %d: %w", t.Name, at, err)
		}
		convert(dst[:n], buf)
		dst = dst[n:]
		at += int64(n * width)
	}
	return nil
}

// maxScattered bounds what is read to gather the elements of a view that do not lie together.
const maxScattered = 256 << 20

// gather is Read of a view with strides: all bytes between the first element wanted and the last are read once.
func (t Tensor) gather(dst []float32, r io.ReaderAt, from int, convert func([]float32, []byte), width int) error {
	if len(dst) == 0 {
		return nil
	}
	places := make([]int64, len(dst)) // of each element, in elements
	first, last := int64(math.MaxInt64), int64(0)
	for i := range places {
		rest := from + i
		for d, n := range slices.Backward(t.Shape) {
			places[i] += int64(rest%n) * int64(t.stride[d])
			rest /= n
		}
		first, last = min(first, places[i]), max(last, places[i])
	}
	if (last-first+1)*int64(width) > maxScattered {
		return fmt.Errorf("tensor %q lies scattered over more than %d bytes: save it contiguous", t.Name, maxScattered)
	}
	buf := make([]byte, (last-first+1)*int64(width))
	at := t.Offset + first*int64(width)
	if got, err := r.ReadAt(buf, at); got < len(buf) {
		return fmt.Errorf("reading tensor %q at byte %d: %w", t.Name, at, err)
	}
	for i, p := range places {
		convert(dst[i:i+1], buf[(p-first)*int64(width):])
	}
	return nil
}

// converter returns how to convert a format and how many bytes an element of it has.
func converter(t DType) (convert func(dst []float32, src []byte), width int, err error) {
	switch t {
	case F32:
		return fromF32, 4, nil
	case F16:
		return fromF16, 2, nil
	case BF16:
		return fromBF16, 2, nil
	}
	return nil, 0, fmt.Errorf("its number format %s is none of F32, F16, BF16", t)
}

func fromF32(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

// fromBF16 converts bfloat16, which is the upper half of a float32.
func fromBF16(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
	}
}

func fromF16(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = half(binary.LittleEndian.Uint16(src[2*i:]))
	}
}

// half returns the value of an IEEE 754 binary16: 1 sign bit, 5 of exponent with bias 15, 10 of fraction.
func half(h uint16) float32 {
	sign := uint32(h>>15) << 31
	exp, frac := uint32(h>>10)&0x1f, uint32(h)&0x3ff
	switch exp {
	case 0: // zero and the subnormals: frac x 2^-24, exact in float32
		v := float32(frac) * 0x1p-24
		return math.Float32frombits(sign | math.Float32bits(v))
	case 0x1f: // infinity and NaN keep their fraction
		return math.Float32frombits(sign | 0xff<<23 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+127-15)<<23 | frac<<13)
}
