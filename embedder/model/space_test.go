package model

import (
	"encoding/binary"
	"reflect"
	"testing"

	"github.com/embedfleet/embedfleet/vector"
)

var golden = Identity{
	Weights: "w", Network: "bert layers=2 hidden=16 heads=2 act=gelu eps=1e-12 pad=-1", Tokenizer: "t", Text: "hangul-composed",
	Prompts: Prompts{Query: "query: ", Document: "line\nbreak"}, MaxTokens: 128, Truncated: "right",
	Pooling: Pooling{CLS, Mean}, Normalize: true, Dim: 32, Compiler: 1,
	Runtime: Runtime{Name: "ort1", Provider: "cpu", Precision: "fp32"},
}

// TestSpaceGolden pins the canonical form: stored vectors carry its hash, so it can't change by accident.
func TestSpaceGolden(t *testing.T) {
	t.Parallel()
	const form = `embedfleet-space 1
weights w
network bert layers=2 hidden=16 heads=2 act=gelu eps=1e-12 pad=-1
tokenizer t
text hangul-composed
lowercase false
query-prompt "query: "
document-prompt "line\nbreak"
max-tokens 128
truncated right
pooling cls+mean
normalized true
dim 32
compiler 1
precision fp32
provider cpu
runtime ort1
`
	if got := golden.String(); got != form {
		t.Errorf("canonical form\n%s\nwant\n%s", got, form)
	}
	const space = vector.Space("2d62b6bf90d0fd1197ed1d8446e290ed8fe7b56c1d3592620cb69cfd97e2e0e9")
	if got := golden.Space(); got != space {
		t.Errorf("space %s, want %s", got, space)
	}
	// And of a whole folder, so that the way from files to parts is pinned too.
	const tiny = vector.Space("cdb73fcca3e6c54f9126e770263d0f179b024e14e1a076281ba9c021cbf7cd33")
	if got := mustOpen(t, "testdata/bert-mean", nil).Space(Runtime{Name: "ort1"}); got != tiny {
		t.Errorf("space of bert-mean %s, want %s", got, tiny)
	}
}

// TestSpaceEveryPart changes each part alone. It walks the struct, so a part added later is not forgotten.
func TestSpaceEveryPart(t *testing.T) {
	t.Parallel()
	seen := map[vector.Space]string{golden.Space(): "nothing"}
	var change func(path string, v reflect.Value, whole *Identity)
	change = func(path string, v reflect.Value, whole *Identity) {
		if v.Kind() == reflect.Struct {
			for i := range v.NumField() {
				change(path+"."+v.Type().Field(i).Name, v.Field(i), whole)
			}
			return
		}
		before := reflect.ValueOf(v.Interface())
		switch v.Kind() {
		case reflect.String:
			v.SetString(v.String() + " ")
		case reflect.Bool:
			v.SetBool(!v.Bool())
		case reflect.Int:
			v.SetInt(v.Int() + 1)
		case reflect.Slice:
			v.Set(reflect.ValueOf(Pooling{Mean, CLS}))
		default:
			t.Fatalf("%s: a part of kind %s", path, v.Kind())
		}
		if other, twice := seen[whole.Space()]; twice {
			t.Errorf("changing %s gives the same space as changing %s", path, other)
		}
		seen[whole.Space()] = path
		v.Set(before)
	}
	whole := golden
	change("Identity", reflect.ValueOf(&whole).Elem(), &whole)
	if whole.Space() != golden.Space() || len(seen) < 15 {
		t.Errorf("%d parts were changed and put back", len(seen)-1)
	}
}

// TestSpaceEveryFile changes each file of a folder in a way that changes vectors.
func TestSpaceEveryFile(t *testing.T) {
	t.Parallel()
	run := Runtime{Name: "ort1"}
	seen := map[vector.Space]string{mustOpen(t, "testdata/variants/bert-all", nil).Space(run): "nothing"}
	// Every copy has a Dense module beside it, of the folder's five poolings of 16 dimensions to three.
	dense := func(t *testing.T, dir string) {
		set("2_Dense/config.json", map[string]any{"in_features": 80, "out_features": 3})(t, dir)
		header := `{"linear.weight":{"dtype":"F32","shape":[3,80],"data_offsets":[0,960]},"linear.bias":{"dtype":"F32","shape":[3],"data_offsets":[960,972]}}`
		write("2_Dense/model.safetensors", string(binary.LittleEndian.AppendUint64(nil, uint64(len(header))))+header+string(make([]byte, 972)))(t, dir)
	}
	for name, e := range map[string]edit{
		"epsilon":    config1("layer_norm_eps", 1e-5),
		"activation": config1("hidden_act", "relu"),
		"heads":      config1("num_attention_heads", 4),
		"lower case": set("sentence_bert_config.json", map[string]any{"do_lower_case": true}),
		"length":     set("sentence_bert_config.json", map[string]any{"max_seq_length": 12}),
		"pooling":    set("1_Pooling/config.json", map[string]any{"pooling_mode": "max"}),
		"normalised": write("modules.json", `[{"type":"Transformer"},{"path":"1_Pooling","type":"Pooling"},{"type":"Normalize"}]`),
		"prompt":     write("config_sentence_transformers.json", `{"prompts":{"query":"q"}}`),
		"cut":        write("config_sentence_transformers.json", `{"truncate_dim":8}`),
		"left out":   set("1_Pooling/config.json", map[string]any{"include_prompt": false}),
		"order": write("modules.json", `[{"type":"Transformer"},{"path":"1_Pooling","type":"Pooling"},{"type":"Normalize"},
			{"path":"2_Dense","type":"Dense"}]`),
		"dense": write("modules.json", `[{"type":"Transformer"},{"path":"1_Pooling","type":"Pooling"},{"path":"2_Dense","type":"Dense"}]`),
		"tanh": func(t *testing.T, dir string) {
			write("modules.json", `[{"type":"Transformer"},{"path":"1_Pooling","type":"Pooling"},{"path":"2_Dense","type":"Dense"}]`)(t, dir)
			set("2_Dense/config.json", map[string]any{"activation_function": "torch.nn.modules.linear.Identity"})(t, dir)
		},
		"tokenizer": set("tokenizer.json", map[string]any{"version": "2"}),
		"weights":   flip("model.safetensors", -1),
		"a graph": func(t *testing.T, dir string) {
			remove("model.safetensors")(t, dir)
			write("model.onnx", read(t, "testdata/foreign/sentence/onnx/model.onnx"))(t, dir)
		},
	} {
		space := mustOpen(t, copyOf(t, "variants/bert-all", dense, e), nil).Space(run)
		if other, twice := seen[space]; twice {
			t.Errorf("changing the %s gives the same space as changing the %s", name, other)
		}
		seen[space] = name
	}
	moved := mustOpen(t, copyOf(t, "variants/bert-all", write("README.md", "hello"), config1("torch_dtype", "float32")), nil)
	if seen[moved.Space(run)] != "nothing" {
		t.Error("another place and files that change no vector make another space")
	}
}

func TestTogether(t *testing.T) {
	t.Parallel()
	a, b := File{Name: "a", SHA256: "1"}, File{Name: "b", SHA256: "2"}
	if got := together([]File{a}); got != "1" {
		t.Errorf("digest of one file is %s, want its own", got)
	}
	// printf '1  a\n2  b\n' | sha256sum
	const want = "8d711146c07b0092609ee8aa24647b11f96dab70254b0b11505acc5c8cbcd31a"
	for _, files := range [][]File{{a, b}, {b, a}} {
		if got := together(files); got != want {
			t.Errorf("digest of two files is %s, want %s", got, want)
		}
	}
}
