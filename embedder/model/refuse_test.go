package model

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

// TestOpenRefuses breaks one thing at a time. Every error must name the file and the cause in one line.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	module := func(modules string) edit { return write("modules.json", modules) }
	const transformer = `{"path":"","type":"x.Transformer"}`
	for want, edits := range map[string][]edit{
		"config.json is missing: not a Hugging Face":                                 {remove("config.json")},
		"reading config.json: unexpected end":                                        {cut("config.json", 3)},
		"config.json: model_type is missing":                                         {config1("model_type", nil)},
		"config.json: architecture gpt2 is none of":                                  {config1("model_type", "gpt2")},
		`config.json: architecture "BertForQuestionAnswering" is not a text encoder`: {config1("architectures", []string{"BertForQuestionAnswering"})},
		`config.json: hidden_act "mish" is none of`:                                  {config1("hidden_act", "mish")},
		`position_embedding_type "relative_key"`:                                     {config1("position_embedding_type", "relative_key")},
		"is_decoder":                                                                 {config1("is_decoder", true)},
		"quantization_config is set":                                                 {config1("quantization_config", map[string]any{"bits": 4})},
		"pruned_heads is set":                                                        {config1("pruned_heads", map[string]any{"0": []int{1}})},
		"auto_map names code of its own":                                             {config1("auto_map", map[string]any{"AutoModel": "code.Model"})},
		"hidden_size 17 is not a multiple of num_attention_heads 2":                  {config1("hidden_size", 17)},
		"num_hidden_layers is -1 or missing":                                         {config1("num_hidden_layers", -1)},
		"vocab_size is 0 or missing":                                                 {config1("vocab_size", nil)},
		"layer_norm_eps is 0":                                                        {config1("layer_norm_eps", 0)},
		"type_vocab_size is 0":                                                       {config1("type_vocab_size", 0)},
		"adapter_config.json: adapters are not supported":                            {write("adapter_config.json", "{}")},

		"model.safetensors is missing, and pytorch_model.bin too, and there is no onnx/model.onnx": {remove("model.safetensors")},
		"pytorch_model.bin: the file begins with \"x\": neither":                                   {remove("model.safetensors"), write("pytorch_model.bin", "x")},
		"model.safetensors: it is a git-lfs pointer":                                               {write("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")},
		"reading config.json: it is a git-lfs pointer":                                             {write("config.json", "version https://git-lfs.github.com/spec/v1\n")},
		`model_type "bert\nx" is no name`:                                                          {config1("model_type", "bert\nx")},
		`tensor "encoder.layer.2.attention.self.query.weight" is missing`:                          {config1("num_hidden_layers", 1<<16)},
		"reading config.json: it is not a regular file":                                            {fifo("config.json")},
		"reading modules.json: it is not a regular file":                                           {fifo("modules.json")},
		"model.safetensors: it is not a regular file":                                              {fifo("model.safetensors")},
		"reading vocab.txt: it is not a regular file":                                              {remove("tokenizer.json"), fifo("vocab.txt")},
		"tokenizer.json is missing, and vocab.txt":                                                 {remove("tokenizer.json"), link("tokenizer.json", "/dev/zero")},
		"in the hub's cache, not a model's":                                                        {remove("config.json"), write("refs/main", "x")},
		`model.safetensors: tensor "encoder.layer.2.attention.self.query.weight" is missing`:       {config1("num_hidden_layers", 3)},
		"has the shape [64 16], config.json wants [65 16]":                                         {config1("vocab_size", 65)},
		"cut short": {cut("model.safetensors", 10)},

		"1_Pooling/config.json is missing":                       {remove("1_Pooling")},
		`1_Pooling/config.json: pooling mode "best"`:             {set("1_Pooling/config.json", map[string]any{"pooling_mode": "best"})},
		"1_Pooling/config.json: made for 32 dimensions":          {set("1_Pooling/config.json", map[string]any{"embedding_dimension": 32})},
		"2_Dense/config.json is missing":                         {module(`[` + transformer + `,{"path":"1_Pooling","type":"x.Pooling"},{"path":"2_Dense","type":"x.Dense"}]`)},
		`modules.json: module 2: a module of type "x.LayerNorm"`: {module(`[` + transformer + `,{"path":"1_Pooling","type":"x.Pooling"},{"path":"2_LayerNorm","type":"x.LayerNorm"}]`)},
		"modules.json: module 0: Pooling in this place":          {module(`[{"path":"1_Pooling","type":"x.Pooling"}]`)},
		"modules.json: no Transformer followed by a Pooling":     {module(`[` + transformer + `]`)},
		`modules.json: module 0: path "../up" leaves`:            {module(`[{"path":"../up","type":"x.Transformer"}]`)},

		"sentence_bert_config.json: max_seq_length is 0":                                {set("sentence_bert_config.json", map[string]any{"max_seq_length": 0})},
		"sentence_bert_config.json: query_length":                                       {set("sentence_bert_config.json", map[string]any{"query_length": 3})},
		`transformer_task "fill-mask"`:                                                  {set("sentence_bert_config.json", map[string]any{"transformer_task": "fill-mask"})},
		`config_sentence_transformers.json: model_type "CrossEncoder"`:                  {write("config_sentence_transformers.json", `{"model_type":"CrossEncoder"}`)},
		"config_sentence_transformers.json: truncate_dim: 99 dimensions were asked for": {write("config_sentence_transformers.json", `{"truncate_dim":99}`)},
		`config_sentence_transformers.json: default_prompt_name "q" is not among`:       {write("config_sentence_transformers.json", `{"default_prompt_name":"q"}`)},

		"tokenizer.json is missing, and vocab.txt and sentencepiece.bpe.model too": {remove("tokenizer.json")},
		"reading tokenizer.json":                               {cut("tokenizer.json", 9)},
		`tokenizer_config.json: truncation_side "left"`:        {set("tokenizer_config.json", map[string]any{"truncation_side": "left"})},
		"padding id 64 is outside config.json's vocab_size 64": {set("tokenizer_config.json", map[string]any{"pad_token": nil}), set("tokenizer.json", map[string]any{"padding": map[string]any{"pad_id": 64}})},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			refused(t, copyOf(t, "variants/bert-all", edits...), want)
		})
	}
}

// refused demands an error that names the folder and contains want, in one line.
func refused(t *testing.T, dir, want string) {
	t.Helper()
	_, err := Open(t.Context(), dir, nil)
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want one with %q", err, want)
		return
	}
	if !strings.Contains(err.Error(), dir) || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q does not name the folder, or has several lines", err)
	}
}

func TestOpenRefusesFolders(t *testing.T) {
	t.Parallel()
	refused(t, "testdata/bert-classify", `architecture "BertForSequenceClassification" is not`)
	refused(t, "testdata/nowhere", "no such file")
	refused(t, "testdata/make.py", "not a folder")
	refused(t, t.TempDir(), "config.json is missing")
}

// TestOpenRefusesForeign breaks exported graphs.
func TestOpenRefusesForeign(t *testing.T) {
	t.Parallel()
	const onnxFile = "onnx/model.onnx"
	// swap replaces one name by another of the same length everywhere in the graph.
	swap := func(from, to string) edit {
		return func(t *testing.T, dir string) {
			t.Helper()
			raw, err := os.ReadFile(filepath.Join(dir, onnxFile))
			if err != nil || len(from) != len(to) || !strings.Contains(string(raw), from) {
				t.Fatalf("can't put %q in the place of %q: %v", to, from, err)
			}
			write(onnxFile, strings.ReplaceAll(string(raw), from, to))(t, dir)
		}
	}
	for want, tc := range map[string]struct {
		folder string
		edits  []edit
	}{
		"onnx/model.onnx: byte":                                              {"opset11", []edit{write(onnxFile, "\x07")}},
		"onnx/model.onnx: the file has no graph":                             {"opset11", []edit{write(onnxFile, "")}},
		"cut short":                                                          {"opset11", []edit{cut(onnxFile, 100)}},
		`asks for an input "position_ids__"`:                                 {"opset11", []edit{swap("token_type_ids", "position_ids__")}},
		"the graph has no input attention_mask":                              {"opset11", []edit{swap("attention_mask", "token_type_ids")}},
		`the outputs ["last_hidden_stats"] are none of`:                      {"opset11", []edit{swap("last_hidden_state", "last_hidden_stats")}},
		"is 16 wide, config.json says 99":                                    {"opset11", []edit{config1("dim", 99)}},
		`"table" lies in weights/table.bin: no such file`:                    {"opset13-external", []edit{remove("onnx/weights")}},
		`"table" wants bytes 0 to 4096 of weights/table.bin, which has 4000`: {"opset13-external", []edit{cut("onnx/weights/table.bin", 96)}},
		`"table" lies in "../../../tabl.bin", outside the folder`:            {"opset13-external", []edit{swap("weights/table.bin", "../../../tabl.bin")}},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			refused(t, copyOf(t, filepath.Join("foreign", tc.folder), tc.edits...), want)
		})
	}
	refused(t, "testdata/optimum-tiny-distilbert", `the outputs ["logits"] are none of`)
}

// TestOpenRefusesFloatInputs opens a published graph whose token ids are numbers with a point.
func TestOpenRefusesFloatInputs(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(testkit.Shared(t, "data", "onnx", "vespa", "mock_sentence_embedder.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	dir := copyOf(t, "foreign/sentence", write("onnx/model.onnx", string(raw)))
	refused(t, dir, "input input_ids has element type 1, only int64 (7) is fed")
}

// TestOpenDamagedWeightsBesideGraph: a graph in the folder is no way around weights that are damaged.
func TestOpenDamagedWeightsBesideGraph(t *testing.T) {
	t.Parallel()
	graph, err := os.ReadFile("testdata/foreign/sentence/onnx/model.onnx")
	if err != nil {
		t.Fatal(err)
	}
	beside := write("onnx/model.onnx", string(graph))
	refused(t, copyOf(t, "variants/bert-all", beside, cut("model.safetensors", 1)), "model.safetensors: tensor")
	m := mustOpen(t, copyOf(t, "variants/bert-all", beside, remove("model.safetensors")), nil)
	if m.Compiled || len(m.Warnings) != 1 || !strings.Contains(m.Warnings[0], "model.safetensors is missing") {
		t.Errorf("compiled %t with warnings %q, want the graph and the reason", m.Compiled, m.Warnings)
	}
}

// fifo puts a pipe that nobody writes to in the place of a file: opening it would wait for ever.
func fifo(file string) edit {
	return func(t *testing.T, dir string) {
		t.Helper()
		path := filepath.Join(dir, file)
		_ = os.Remove(path)
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func link(file, to string) edit {
	return func(t *testing.T, dir string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
	}
}
