package model

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

// networkOf reads a config.json.
func networkOf(t *testing.T, raw string) (network, error) {
	t.Helper()
	var c config
	if err := json.Unmarshal([]byte(raw), &c); err != nil {
		return network{}, err
	}
	return c.network()
}

// TestGenerations reads architectures as older configurations write them down, and compares with what the small
// folder's own, of transformers 5, become.
func TestGenerations(t *testing.T) {
	t.Parallel()
	for folder, old := range map[string]string{
		"modernbert": `{"model_type":"modernbert","architectures":["ModernBertForMaskedLM"],"vocab_size":1012,"hidden_size":64,"num_hidden_layers":4,
			"num_attention_heads":4,"intermediate_size":96,"max_position_embeddings":256,"norm_eps":1e-5,"hidden_activation":"gelu",
			"global_attn_every_n_layers":3,"global_rope_theta":160000.0,"local_rope_theta":10000.0,"local_attention":48,
			"attention_bias":false,"mlp_bias":false,"norm_bias":false,"position_embedding_type":"absolute","pad_token_id":1010}`,
		"gte": `{"model_type":"new","architectures":["NewModel"],"auto_map":{"AutoModel":"Alibaba-NLP/new-impl--modeling.NewModel"},"vocab_size":1404,
			"hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,"intermediate_size":160,"max_position_embeddings":192,"layer_norm_eps":1e-12,
			"hidden_act":"gelu","position_embedding_type":"rope","rope_theta":160000,"rope_scaling":null,"pack_qkv":true,"type_vocab_size":1,
			"layer_norm_type":"layer_norm","logn_attention_scale":false,"pad_token_id":1}`,
		"nomic-bert": `{"model_type":"nomic_bert","architectures":["NomicBertModel"],"auto_map":{"AutoModel":"nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"},
			"vocab_size":1200,"n_embd":64,"n_layer":2,"n_head":4,"n_inner":160,"n_positions":128,"layer_norm_epsilon":1e-12,"activation_function":"swiglu",
			"qkv_proj_bias":false,"mlp_fc1_bias":false,"mlp_fc2_bias":false,"prenorm":false,"rotary_emb_base":1000,"rotary_emb_fraction":1.0,
			"rotary_scaling_factor":null,"use_rms_norm":false,"type_vocab_size":2,"pad_token_id":0}`,
		"eurobert": `{"model_type":"eurobert","architectures":["EuroBertForMaskedLM"],"auto_map":{"AutoModel":"EuroBERT/EuroBERT-210m--modeling_eurobert.EuroBertModel"},
			"vocab_size":1004,"hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":4,"intermediate_size":160,
			"max_position_embeddings":128,"rms_norm_eps":1e-5,"hidden_act":"silu","rope_theta":250000,"rope_scaling":null,"attention_bias":false,"mlp_bias":false}`,
		"qwen3": `{"model_type":"qwen3","architectures":["Qwen3ForCausalLM"],"vocab_size":1006,"hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,
			"num_key_value_heads":2,"head_dim":32,"intermediate_size":160,"max_position_embeddings":256,"rms_norm_eps":1e-6,"hidden_act":"silu",
			"rope_theta":1000000,"rope_scaling":null,"sliding_window":null,"use_sliding_window":false,"attention_bias":false}`,
		"gemma3": `{"model_type":"gemma3_text","architectures":["Gemma3TextModel"],"vocab_size":1168,"hidden_size":64,"num_hidden_layers":6,"num_attention_heads":4,
			"num_key_value_heads":1,"head_dim":16,"intermediate_size":128,"max_position_embeddings":256,"rms_norm_eps":1e-6,"hidden_activation":"gelu_pytorch_tanh",
			"rope_theta":1000000.0,"rope_local_base_freq":10000.0,"rope_scaling":null,"sliding_window":48,"sliding_window_pattern":6,
			"query_pre_attn_scalar":16,"use_bidirectional_attention":true,"attention_bias":false,"attn_logit_softcapping":null}`,
		"jina-v3": `{"model_type":"xlm-roberta-flash","architectures":["XLMRobertaModel"],"vocab_size":1404,"hidden_size":64,"num_hidden_layers":2,
			"num_attention_heads":4,"intermediate_size":160,"max_position_embeddings":130,"layer_norm_eps":1e-5,"hidden_act":"gelu",
			"position_embedding_type":"rotary","rotary_emb_base":20000.0,"type_vocab_size":1,"pad_token_id":1}`,
		"deberta-v2": `{"model_type":"deberta-v2","vocab_size":1000,"hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,"intermediate_size":160,
			"max_position_embeddings":96,"layer_norm_eps":1e-7,"hidden_act":"gelu","relative_attention":true,"pos_att_type":"p2c|c2p","share_att_key":true,
			"norm_rel_ebd":"layer_norm","position_buckets":16,"max_relative_positions":-1,"position_biased_input":false,"type_vocab_size":0}`,
	} {
		raw, err := os.ReadFile(testkit.Shared(t, "data", "models-tiny2", folder, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		want, err := networkOf(t, string(raw))
		if err != nil {
			t.Errorf("%s: %v", folder, err)
		}
		got, err := networkOf(t, old)
		got.Type = want.Type
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, read as\n%+v\nwant\n%+v", folder, err, got, want)
		}
	}
}

// TestNTK reads gte-multilingual-base's rotations, which its authors scale.
func TestNTK(t *testing.T) {
	t.Parallel()
	n, err := networkOf(t, `{"model_type":"new","auto_map":{"AutoModel":"x--modeling.NewModel"},"vocab_size":9,"hidden_size":768,"num_hidden_layers":1,
		"num_attention_heads":12,"intermediate_size":9,"max_position_embeddings":8192,"rope_theta":20000,"rope_scaling":{"type":"ntk","factor":8.0}}`)
	if err != nil || n.Rope.Theta != 160_000 || n.Rope.Factor < 0.937 || n.Rope.Factor > 0.938 { // 8^(-2/64)
		t.Errorf("%+v, %v", n.Rope, err)
	}
}

// TestFamiliesRefuse asks each family for what its description does not have.
func TestFamiliesRefuse(t *testing.T) {
	t.Parallel()
	for folder, wants := range map[string]map[string]string{
		"albert":     {"inner_group_num": `2`, "num_hidden_groups": `2`},
		"mpnet":      {"relative_attention_num_buckets": `30`},
		"deberta-v2": {"relative_attention": `false`, "share_att_key": `false`, "conv_kernel_size": `3`, "position_biased_input": `true`, "norm_rel_ebd": `"none"`, "position_buckets": `99999`},
		"modernbert": {"layer_types": `["full_attention"]`, "rope_parameters": `{"full_attention":{"rope_theta":1,"rope_type":"yarn"}}`},
		"gte":        {"logn_attention_scale": `true`, "layer_norm_type": `"rms_norm"`, "rope_scaling": `{"type":"linear","factor":2}`},
		"nomic-bert": {"rotary_emb_fraction": `0.5`, "prenorm": `true`, "num_experts": `8`},
		"eurobert":   {"rope_scaling": `{"rope_type":"llama3","factor":8}`, "num_key_value_heads": `3`, "auto_map": `{"AutoModel":"x--y.Other"}`},
		"qwen3":      {"use_sliding_window": `true`, "head_dim": `31`},
		"gemma3":     {"use_bidirectional_attention": `false`, "attn_logit_softcapping": `30.0`, "query_pre_attn_scalar": `0`},
		"jina-v3":    {"position_embedding_type": `"alibi"`, "layer_norm_eps": `-1`},
	} {
		raw, err := os.ReadFile(testkit.Shared(t, "data", "models-tiny2", folder, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		for key, value := range wants {
			var fields map[string]json.RawMessage
			if err := json.Unmarshal(raw, &fields); err != nil {
				t.Fatal(err)
			}
			fields[key] = json.RawMessage(value)
			changed, err := json.Marshal(fields)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := networkOf(t, string(changed)); err == nil || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s with %s %s: %v, read as %s, want one line that refuses it", folder, key, value, err, n)
			}
		}
	}
}

// TestFamiliesAreShort holds the descriptions, with the function that belongs to one, to 60 lines.
func TestFamiliesAreShort(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("families_*.go")
	if err != nil || len(files) < 2 {
		t.Fatal(files, err)
	}
	count := 0
	for _, name := range files {
		set := gotoken.NewFileSet()
		f, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == gotoken.VAR {
				count++
			}
			if lines := set.Position(d.End()).Line - set.Position(d.Pos()).Line + 1; lines > 60 {
				t.Errorf("%s: a description of %d lines", set.Position(d.Pos()), lines)
			}
		}
	}
	if count < len(families) {
		t.Errorf("%d descriptions, want %d", count, len(families))
	}
}
