package model

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/embedfleet/embedfleet/embedder/internal/onnxpb"
)

// far is what is added to the score of a token that may not be seen. Twice it is still a number, and its weight is 0
// beside any real score's.
const far = -1e30

// An attention is what the layers' attentions have in common, computed once in a run. Names are "" for what is not
// there.
type attention struct {
	// lengths is how many rows each text has, [batch]: the rows are packed, and mask and bias not needed.
	lengths string

	mask  string    // [batch, sequence] int32, 1 for tokens
	bias  [2]string // added to the scores, [1, heads or 1, sequence, sequence]: of layers that see all, and of local ones
	rope  [2]rotation
	index string // [sequence, sequence], DeBERTa's row of the table for each pair
	rows  string // [2 * buckets, hidden], that table, normalised
}

// A rotation is the cosines and sines of positions, [sequence, width of a head / 2].
type rotation struct{ cos, sin string }

// A reach is what the layers of a kind see.
type reach int

const (
	everywhere reach = iota
	near             // within the window
)

const (
	bucketsT5  = "t5"
	bucketsLog = "log"

	// t5Buckets is how many buckets modeling_mpnet.py makes, whatever config.json says of the table's rows.
	t5Buckets = 32
)

// prepareAttention emits what the attentions of all layers read.
func (e *encoder) prepareAttention(lengths string) attention {
	a := attention{lengths: lengths}
	if lengths == "" {
		a.mask = e.cast("mask", inputMask, onnxpb.Int32)
	}
	if e.net.Rope.Theta == 0 && e.net.Local == nil && e.net.Buckets.Kind == "" {
		return a // as BERT's; causal is an attribute
	}
	positions := e.node("positions", "Range", []string{e.int(0), e.sequence(), e.int(1)})
	if e.net.Rope.Theta > 0 {
		a.rope[everywhere] = e.rotation("rope", positions, e.net.Rope)
		a.rope[near] = a.rope[everywhere]
		if e.net.LocalRope.Theta > 0 {
			a.rope[near] = e.rotation("rope/local", positions, e.net.LocalRope)
		}
	}
	if e.net.Local == nil && e.net.Buckets.Kind == "" || lengths != "" {
		return a
	}
	// How far each token, a row, is behind each other, a column.
	distance := e.node("distance", "Sub", []string{
		e.unsqueeze("positions/column", positions, 1), e.unsqueeze("positions/row", positions, 0),
	})
	if e.net.Local != nil {
		a.bias[near] = e.window(distance)
	}
	switch e.net.Buckets.Kind {
	case bucketsT5:
		table := e.param("relative/table", rows{t: e.weights.relative, width: e.net.Heads}, e.net.Buckets.Count, e.net.Heads)
		byPair := e.node("relative", "Gather", []string{table, e.bucketOf(distance)}) // [sequence, sequence, heads]
		byHead := e.node("relative/heads", "Transpose", []string{byPair}, onnxpb.Ints("perm", 2, 0, 1))
		a.bias[everywhere] = e.unsqueeze("relative/bias", byHead, 0)
	case bucketsLog:
		table := e.param("relative/table", rows{t: e.weights.relative, width: e.net.Hidden}, 2*e.net.Buckets.Count, e.net.Hidden)
		a.rows, a.index = e.norm("relative/norm", e.weights.relativeNorm, table), e.bucketOf(distance)
	}
	return a
}

// window emits the bias that hides what is further away than the window.
func (e *encoder) window(distance string) string {
	away := e.node("window/distance", "Abs", []string{distance})
	out := e.node("window/out", "Greater", []string{away, e.int(int64(e.net.Window))})
	bias := e.node("window/bias", "Where", []string{out, e.float(far), e.float(0)})
	return e.unsqueeze("window", bias, 0, 1)
}

// rotation emits the angles' cosines and sines. The frequencies are rounded to float32 where transformers rounds
// them: a difference in the last bit grows with the position.
func (e *encoder) rotation(name, positions string, r rope) rotation {
	half := e.net.HeadDim / 2
	var raw []byte
	for i := range half {
		exponent := float32(2*i) / float32(e.net.HeadDim)
		frequency := 1 / float32(math.Pow(r.Theta, float64(exponent)))
		if r.Factor != 0 {
			frequency *= float32(r.Factor)
		}
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(frequency))
	}
	frequencies := e.constant(name, onnxpb.Tensor{Type: onnxpb.Float32, Dims: []int64{1, int64(half)}, Raw: raw})
	column := e.unsqueeze(name+"/column", e.cast(name+"/float", positions, onnxpb.Float32), 1)
	angles := e.node(name+"/angles", "Mul", []string{column, frequencies})
	return rotation{e.node(name+"/cos", "Cos", []string{angles}), e.node(name+"/sin", "Sin", []string{angles})}
}

// bucketOf emits the row of the table of relative positions for each pair of tokens, [sequence, sequence].
func (e *encoder) bucketOf(distance string) string {
	last := e.net.Positions - 1
	var raw []byte
	for d := -last; d <= last; d++ {
		raw = binary.LittleEndian.AppendUint64(raw, uint64(e.net.Buckets.row(d)))
	}
	list := e.constant("buckets", onnxpb.Tensor{Type: onnxpb.Int64, Dims: []int64{int64(2*last + 1)}, Raw: raw})
	return e.node("bucket", "Gather", []string{list, e.node("distance/index", "Add", []string{distance, e.int(int64(last))})})
}

// row returns the row for a token that is d behind another, in the float32 arithmetic of transformers: MPNet's
// relative_position_bucket, and DeBERTa's make_log_bucket_position.
func (b buckets) row(d int) int {
	away := max(d, -d)
	if b.Kind == bucketsT5 {
		half := t5Buckets / 2
		row, exact := 0, half/2
		if d < 0 {
			row = half
		}
		if away < exact {
			return row + away
		}
		log := float32(math.Log(float64(float32(away) / float32(exact))))
		scaled := log / float32(math.Log(float64(b.Limit)/float64(exact))) * float32(half-exact)
		return row + min(exact+int(scaled), half-1)
	}
	middle := b.Count / 2
	if away > middle && b.Count < b.Limit {
		ratio := float32(math.Log(float64(float32(away)/float32(middle)))) / float32(math.Log(float64(float32(b.Limit-1)/float32(middle))))
		log := int(math.Ceil(float64(ratio*float32(middle-1)))) + middle
		if d < 0 {
			log = -log
		}
		d = log
	}
	return min(max(d+b.Count, 0), 2*b.Count-1)
}

// attention emits the attention of all heads. Padding as a key weighs the lowest float32, which is what
// transformers adds to its scores; as a query it makes rows that nobody reads.
func (e *encoder) attention(name string, l layer, x string, a attention, kind reach) string {
	if a.lengths != "" {
		return e.attend(name, l, x, a, kind)
	}
	var in []string
	bias := ""
	if a.rope[kind].cos == "" && !l.queryNorm.there() && a.rows == "" {
		// The operator adds the biases.
		in = []string{
			e.product(name+"/query", l.name+"/attention/query", x, l.query), e.product(name+"/key", l.name+"/attention/key", x, l.key),
			e.product(name+"/value", l.name+"/attention/value", x, l.value),
		}
		bias = e.biases(l.name+"/attention/bias", l.query, l.key, l.value)
	} else {
		in = []string{
			e.turned(name+"/query", l.name+"/attention/query", x, l.query, l.queryNorm, a.rope[kind], e.net.Heads),
			e.spread(name+"/key", e.turned(name+"/key", l.name+"/attention/key", x, l.key, l.keyNorm, a.rope[kind], e.net.KeyHeads)),
			e.spread(name+"/value", e.linear(name+"/value", l.name+"/attention/value", x, l.value)),
		}
	}
	scoreBias := a.bias[kind]
	if a.rows != "" {
		scoreBias = e.disentangled(name, l, in[0], in[1], a)
	}
	in = append(in, bias, a.mask, scoreBias)
	attrs := []onnxpb.Attr{onnxpb.Int("num_heads", int64(e.net.Heads)), onnxpb.Float("mask_filter_value", -math.MaxFloat32)}
	if e.net.ScoreScale != 0 {
		attrs = append(attrs, onnxpb.Float("scale", float32(e.net.ScoreScale)))
	}
	if e.net.Causal {
		attrs = append(attrs, onnxpb.Int("unidirectional", 1))
	}
	for in[len(in)-1] == "" {
		in = in[:len(in)-1]
	}
	heads := e.contribNode(name+"/heads", contrib, "MultiHeadAttention", in, attrs...)
	return e.linear(name+"/out", l.name+"/attention/out", heads, l.attention)
}

// projected emits a query or a key, [batch, sequence, heads * width] or of packed rows [T, heads * width], with each
// head normalised. Dims are the dimensions before the last, 0 for each, as Reshape keeps them.
func (e *encoder) projected(name, constants, x string, l linear, n norm, heads int, dims ...int64) string {
	x = e.linear(name, constants, x, l)
	if !n.there() {
		return x
	}
	width := int64(e.net.HeadDim)
	split := append(slices.Clone(dims), int64(heads), width)
	joined := append(slices.Clone(dims), int64(heads)*width)
	x = e.node(name+"/split", "Reshape", []string{x, e.ints(split...)})
	x = e.normOf(name+"/norm", constants+"/norm", n, x)
	return e.node(name+"/joined", "Reshape", []string{x, e.ints(joined...)})
}

// turned emits a query or a key, projected and rotated.
func (e *encoder) turned(name, constants, x string, l linear, n norm, r rotation, heads int) string {
	x = e.projected(name, constants, x, l, n, heads, 0, 0)
	if r.cos == "" {
		return x
	}
	return e.contribNode(name+"/rotated", contrib, "RotaryEmbedding", []string{x, e.ints(0), r.cos, r.sin}, onnxpb.Int("num_heads", int64(heads)))
}

// spread emits keys or values again for each of the query's heads that read them.
func (e *encoder) spread(name, x string) string {
	group := int64(e.net.Heads / e.net.KeyHeads)
	if group == 1 {
		return x
	}
	keys, width := int64(e.net.KeyHeads), int64(e.net.HeadDim)
	x = e.node(name+"/heads", "Reshape", []string{x, e.ints(0, 0, keys, 1, width)})
	x = e.node(name+"/spread", "Expand", []string{x, e.ints(1, 1, 1, group, 1)})
	return e.node(name+"/all", "Reshape", []string{x, e.ints(0, 0, keys*group*width)})
}

// disentangled emits DeBERTa's bias of the scores, [batch, heads, sequence, sequence]: of each query with the key of
// the pair's relative position, and of each key with its query.
func (e *encoder) disentangled(name string, l layer, query, key string, a attention) string {
	heads := func(name, x string, batch int64, perm ...int64) string {
		x = e.node(name+"/split", "Reshape", []string{x, e.ints(batch, -1, int64(e.net.Heads), int64(e.net.HeadDim))})
		return e.node(name+"/heads", "Transpose", []string{x}, onnxpb.Ints("perm", perm...))
	}
	// part emits x·rowsᵀ and takes from it, for each pair, the row's.
	part := func(name, x, rows string) string {
		scores := e.node(name+"/scores", "MatMul", []string{x, rows})
		index := e.node(name+"/index", "Expand", []string{e.unsqueeze(name+"/pairs", a.index, 0, 1), e.pairs(name, x)})
		return e.node(name, "GatherElements", []string{scores, index}, onnxpb.Int("axis", 3))
	}
	var sum []string
	if e.net.Buckets.ContentToPosition {
		rows := e.linear(name+"/position/key", l.name+"/attention/key", a.rows, l.key)
		queries := e.batchHeads(name+"/c2p/query", query)
		sum = append(sum, part(name+"/c2p", queries, heads(name+"/c2p/rows", rows, 1, 0, 2, 3, 1)))
	}
	if e.net.Buckets.PositionToContent {
		rows := e.linear(name+"/position/query", l.name+"/attention/query", a.rows, l.query)
		keys := e.batchHeads(name+"/p2c/key", key)
		// By key and query: the pair's distance is then the other way round, and so is its row.
		turned := a
		turned.index = e.node(name+"/p2c/turned", "Transpose", []string{a.index}, onnxpb.Ints("perm", 1, 0))
		a = turned
		p := part(name+"/p2c", keys, heads(name+"/p2c/rows", rows, 1, 0, 2, 3, 1))
		sum = append(sum, e.node(name+"/p2c/back", "Transpose", []string{p}, onnxpb.Ints("perm", 0, 1, 3, 2)))
	}
	if len(sum) == 0 {
		return ""
	}
	x := sum[0]
	if len(sum) == 2 {
		x = e.node(name+"/relative", "Add", sum)
	}
	return e.node(name+"/relative/scaled", "Mul", []string{x, e.float(float32(e.net.ScoreScale))})
}

// batchHeads emits x, [batch, sequence, heads * width], as [batch, heads, sequence, width].
func (e *encoder) batchHeads(name, x string) string {
	x = e.node(name+"/split", "Reshape", []string{x, e.ints(0, 0, int64(e.net.Heads), int64(e.net.HeadDim))})
	return e.node(name+"/heads", "Transpose", []string{x}, onnxpb.Ints("perm", 0, 2, 1, 3))
}

// pairs emits the shape [batch, heads, 1, 1] of x, [batch, heads, sequence, width], for pairs of tokens to be spread to.
func (e *encoder) pairs(name, x string) string {
	shape := e.node(name+"/shape", "Shape", []string{x})
	front := e.node(name+"/front", "Slice", []string{shape, e.ints(0), e.ints(2), e.ints(0)})
	return e.node(name+"/spread", "Concat", []string{front, e.ints(1, 1)}, onnxpb.Int("axis", 0))
}
