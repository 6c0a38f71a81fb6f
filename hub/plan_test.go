package hub

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPlan(t *testing.T) {
	t.Parallel()
	base := []string{"config.json", "tokenizer.json"}
	for _, tt := range []struct {
		name  string
		files []string // beside base
		want  []string // beside base
		err   string

		unusable bool // the loader has no use for weights
	}{
		{name: "safetensors before all", files: []string{"model.safetensors", "model.fp16.safetensors", "onnx/model.onnx", "pytorch_model.bin"}, want: []string{"model.safetensors"}},
		{name: "shards", files: []string{"model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "adapter.safetensors"},
			want: []string{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"}},
		{name: "another name", files: []string{"weights.safetensors"}, want: []string{"weights.safetensors"}},
		{name: "dense module", files: []string{"model.safetensors", "2_Dense/config.json", "2_Dense/model.safetensors", "unet/model.safetensors"},
			want: []string{"2_Dense/config.json", "2_Dense/model.safetensors", "model.safetensors"}},
		{name: "onnx with external data", files: []string{"onnx/model.onnx", "onnx/model.onnx_data", "onnx/Constant_7_attr__value", "onnx/model_qint8.onnx", "tf_model.h5"},
			want: []string{"onnx/Constant_7_attr__value", "onnx/model.onnx", "onnx/model.onnx_data"}},
		{name: "onnx at the root", files: []string{"model.onnx", "model.onnx_data", "LICENSE"}, want: []string{"model.onnx", "model.onnx_data"}},
		{name: "settings", files: []string{"model.safetensors", "vocab.txt", "sentencepiece.bpe.model", "special_tokens_map.json", "README.md", ".gitattributes", "a/b/config.json", "tokenizer.model"},
			want: []string{"model.safetensors", "sentencepiece.bpe.model", "special_tokens_map.json", "tokenizer.model", "vocab.txt"}},
		{name: "torch.save", files: []string{"pytorch_model.bin", "onnx/model.onnx", "optimizer.bin", "2_Dense/pytorch_model.bin"}, want: []string{"2_Dense/pytorch_model.bin", "pytorch_model.bin"}},
		{name: "torch.save in shards", files: []string{"pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin", "training_args.bin"},
			want: []string{"pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"}},
		{name: "a foreign architecture", files: []string{"model.safetensors", "onnx/model.onnx", "onnx/model.onnx_data"}, unusable: true, want: []string{"onnx/model.onnx", "onnx/model.onnx_data"}},
		{name: "a foreign architecture without a graph", files: []string{"model.safetensors"}, unusable: true, err: "architecture x is not known, and there is no onnx/model.onnx"},
		{name: "another program's", files: []string{"tf_model.h5"}, err: "only as tf_model.h5"},
		{name: "nothing", err: "no weights"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var files []file
			for _, name := range append(tt.files, base...) {
				files = append(files, file{path: name})
			}
			var unusable error
			if tt.unusable {
				unusable = errors.New("architecture x is not known")
			}
			got, err := plan(files, unusable)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error = %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, f := range got {
				names = append(names, f.path)
			}
			want := append(slices.Clone(tt.want), base...)
			slices.Sort(want)
			if !slices.Equal(names, want) {
				t.Errorf("plan = %q, want %q", names, want)
			}
		})
	}
	if _, err := plan([]file{{path: "model.safetensors"}}, nil); err == nil || !strings.Contains(err.Error(), "config.json") {
		t.Errorf("without config.json: %v", err)
	}
	if _, err := plan([]file{{path: "config.json"}, {path: "model.safetensors"}}, nil); err == nil || !strings.Contains(err.Error(), "tokenizer.json") {
		t.Errorf("without a tokenizer: %v", err)
	}
}

func TestComplete(t *testing.T) {
	t.Parallel()
	const index = `{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors","c":"model-1.safetensors"}}`
	for _, tt := range []struct {
		name  string
		files map[string]string
		err   string
	}{
		{name: "one file", files: map[string]string{"model.safetensors": "x"}},
		{name: "torch.save", files: map[string]string{"pytorch_model.bin": "x"}},
		{name: "a shard of torch.save missing", files: map[string]string{"pytorch_model.bin.index.json": `{"weight_map":{"a":"pytorch_model-1.bin"}}`}, err: "pytorch_model-1.bin is missing"},
		{name: "onnx", files: map[string]string{"onnx/model.onnx": "x"}},
		{name: "no weights", err: "no weights"},
		{name: "all shards", files: map[string]string{"model.safetensors.index.json": index, "model-1.safetensors": "x", "model-2.safetensors": "x"}},
		{name: "a shard missing", files: map[string]string{"model.safetensors.index.json": index, "model-1.safetensors": "x"}, err: "model-2.safetensors is missing"},
		{name: "index leaves the folder", files: map[string]string{"model.safetensors.index.json": `{"weight_map":{"a":"../x"}}`}, err: "leave its folder"},
		{name: "index is no JSON", files: map[string]string{"model.safetensors.index.json": `{`}, err: "model.safetensors.index.json"},
		{name: "module missing", files: map[string]string{"model.safetensors": "x", "modules.json": `[{"path":"1_Pooling","type":"x.Pooling"}]`}, err: "1_Pooling/config.json is missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write(t, filepath.Join(dir, "config.json"), "{}")
			write(t, filepath.Join(dir, "vocab.txt"), "[UNK]")
			for name, content := range tt.files {
				write(t, filepath.Join(dir, name), content)
			}
			err := complete(dir, nil)
			if (tt.err == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("complete = %v, want %q", err, tt.err)
			}
		})
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in, repo, revision string
		ok                 bool
	}{
		{"BM-K/KoSimCSE-roberta", "BM-K/KoSimCSE-roberta", "", true},
		{"gpt2", "gpt2", "", true},
		{"a/b@refs/pr/1", "a/b", "refs/pr/1", true},
		{"a/b@" + commit, "a/b", commit, true},
		{"a/b@", "", "", false},
		{"./models/x", "", "", false},
		{"/models/x", "", "", false},
		{"a/b@../x", "", "", false},
	} {
		repo, revision, err := Parse(tt.in)
		if (err == nil) != tt.ok || (tt.ok && (repo != tt.repo || revision != tt.revision)) {
			t.Errorf("Parse(%q) = %q, %q, %v", tt.in, repo, revision, err)
		}
	}
}

// FuzzNames checks that nothing accepted as a name can lead out of the cache folder.
func FuzzNames(f *testing.F) {
	for _, seed := range []string{"a/b", "a/b@main", "../x", "a/b@../../x", "a--b", `a\b`, "a/./b", "C:x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		const root = "/cache"
		if repo, rev, err := Parse(s); err == nil {
			c := newCache(root, repo)
			for _, name := range []string{c.root, c.ref(rev), c.snapshot(rev).Dir} {
				if !strings.HasPrefix(filepath.Clean(name), root+"/models--") {
					t.Errorf("Parse(%q) leads to %s", s, name)
				}
			}
		}
		if checkPath(s) == nil && !strings.HasPrefix(filepath.Join("/snap", s), "/snap") {
			t.Errorf("path %q leads to %s", s, filepath.Join("/snap", s))
		}
	})
}
