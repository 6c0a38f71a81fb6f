package onnxpb

import (
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// A Span is bytes of a data file beside a graph.
type Span struct{ Offset, Length int64 }

// prepackedKey begins the keys of ONNX Runtime's own entries of external_data, which say where the forms of a
// weight lie that its kernels like: "KERNEL|offset;length;checksum", with three more numbers for each further
// block (onnxruntime, core/framework/tensor_external_data_info.cc).
const prepackedKey = "prepacked"

// Move returns the ModelProto b with every place outside of it put through move, which is also how to list them.
// It is for graphs whose weights lie outside: b is held in memory, and again.
func Move(b []byte, move func(Span) (Span, error)) ([]byte, error) {
	m := mover{move: move}
	return m.message(b, inModel, 0)
}

// A place says what a message is, which decides what its fields are.
type place int

const (
	elsewhere place = iota
	inModel
	inGraph
	inNode
	inAttribute
	inSparse
	inTensor
)

// within says where messages with external data lie below each other; see [File] for the same in files.
var within = map[place]map[protowire.Number]place{
	inModel:     {modelGraph: inGraph},
	inGraph:     {graphNode: inNode, graphInitializer: inTensor, graphSparse: inSparse},
	inNode:      {5: inAttribute},
	inAttribute: {5: inTensor, 10: inTensor, 6: inGraph, 11: inGraph},
	inSparse:    {1: inTensor, 2: inTensor},
}

type mover struct{ move func(Span) (Span, error) }

// message copies a message and what is within it.
func (m mover) message(b []byte, at place, depth int) ([]byte, error) {
	if at == inTensor {
		return m.tensor(b)
	}
	if depth > 4*maxDepth {
		return nil, fmt.Errorf("graphs are nested deeper than %d", maxDepth)
	}
	out := make([]byte, 0, len(b)+len(b)/16)
	err := eachRaw(b, func(num protowire.Number, raw, msg []byte) error {
		inner := within[at][num]
		if inner == elsewhere || msg == nil {
			out = append(out, raw...)
			return nil
		}
		moved, err := m.message(msg, inner, depth+1)
		out = appendMessage(out, num, moved)
		return err
	})
	return out, err
}

// tensor copies a tensor with the entries of its external_data (13: key 1, value 2) moved.
func (m mover) tensor(b []byte) ([]byte, error) {
	var span Span
	out := make([]byte, 0, len(b)+32)
	outside := false
	err := eachRaw(b, func(num protowire.Number, raw, msg []byte) error {
		if num != 13 {
			out = append(out, raw...)
			return nil
		}
		key, value, err := entry(msg)
		switch {
		case err != nil:
		case key == "offset":
			span.Offset, err = strconv.ParseInt(value, 10, 64)
		case key == "length":
			span.Length, err = strconv.ParseInt(value, 10, 64)
			outside = true
		case strings.HasPrefix(key, prepackedKey):
			if value, err = m.prepacked(value); err == nil {
				out = appendEntry(out, key, value)
			}
		default:
			out = append(out, raw...)
		}
		return err
	})
	if err != nil || !outside {
		return out, err
	}
	if span, err = m.move(span); err != nil {
		return nil, err
	}
	out = appendEntry(out, "offset", strconv.FormatInt(span.Offset, 10))
	return appendEntry(out, "length", strconv.FormatInt(span.Length, 10)), nil
}

// prepacked moves the blocks of one entry.
func (m mover) prepacked(value string) (string, error) {
	bar := strings.LastIndexByte(value, '|')
	numbers := strings.Split(value[bar+1:], ";")
	if bar < 0 || len(numbers)%3 != 0 {
		return "", fmt.Errorf("a weight's prepacked form %.80q is not KERNEL|offset;length;checksum", value)
	}
	for i := 0; i < len(numbers); i += 3 {
		offset, err := strconv.ParseInt(numbers[i], 10, 64)
		if err != nil {
			return "", fmt.Errorf("a weight's prepacked form %.80q: %w", value, err)
		}
		length, err := strconv.ParseInt(numbers[i+1], 10, 64)
		if err != nil {
			return "", fmt.Errorf("a weight's prepacked form %.80q: %w", value, err)
		}
		span, err := m.move(Span{offset, length})
		if err != nil {
			return "", err
		}
		numbers[i], numbers[i+1] = strconv.FormatInt(span.Offset, 10), strconv.FormatInt(span.Length, 10)
	}
	return value[:bar+1] + strings.Join(numbers, ";"), nil
}

// eachRaw calls visit with each field of a message: with all its bytes, and its value if that has a length.
func eachRaw(b []byte, visit func(num protowire.Number, raw, msg []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeField(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		var msg []byte
		if typ == protowire.BytesType {
			_, _, tag := protowire.ConsumeTag(b)
			msg, _ = protowire.ConsumeBytes(b[tag:])
		}
		if err := visit(num, b[:n], msg); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// entry reads a StringStringEntryProto.
func entry(b []byte) (key, value string, err error) {
	err = eachField(b, func(num protowire.Number, _ uint64, msg []byte) error {
		switch num {
		case 1:
			key = string(msg)
		case 2:
			value = string(msg)
		}
		return nil
	})
	return key, value, err
}

func appendEntry(b []byte, key, value string) []byte {
	return appendMessage(b, 13, appendString(appendString(nil, 1, key), 2, value))
}
