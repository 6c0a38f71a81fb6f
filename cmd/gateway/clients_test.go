package main

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pkoukk/tiktoken-go-loader/assets"
)

// TestClients runs programs that users have already, unchanged but for address, token and model, where they are installed: scripts/clients.sh
// brings them all and names where they are.
func TestClients(t *testing.T) {
	t.Parallel()
	python, node := cmp.Or(os.Getenv("CLIENTS_PYTHON"), "python3"), os.Getenv("CLIENTS_NODE") // a folder with node_modules
	needed := os.Getenv("CLIENTS_PYTHON") != ""
	clients, err := filepath.Abs("testdata/clients")
	if err != nil {
		t.Fatal(err)
	}
	// LangChain counts with tiktoken, which fetches its vocabulary unless it finds it here, under the digest of its address.
	vocabularies := t.TempDir()
	vocabulary, err := assets.Assets.ReadFile("cl100k_base.tiktoken")
	if err == nil {
		err = os.WriteFile(filepath.Join(vocabularies, "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"), vocabulary, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, module string // of Python, or of Node behind "node:"
		program      []string
	}{
		{"openai", "openai", []string{python, clients + "/own.py"}},
		{"openai node", "node:openai", []string{"node", clients + "/own.cjs"}},
		{"openai batch", "openai", []string{python, clients + "/clients.py", "openai_batch"}},
		{"langchain-openai", "langchain_openai", []string{python, clients + "/clients.py", "langchain_openai"}},
		{"huggingface_hub", "huggingface_hub", []string{python, clients + "/clients.py", "huggingface_hub"}},
		{"haystack openai", "haystack", []string{python, clients + "/clients.py", "haystack_openai"}},
		{"haystack tei", "haystack", []string{python, clients + "/clients.py", "haystack_tei"}},
		{"chromadb openai", "chromadb", []string{python, clients + "/clients.py", "chromadb_openai"}},
		{"chromadb tei", "chromadb", []string{python, clients + "/clients.py", "chromadb_tei"}},
		{"litellm", "litellm", []string{python, clients + "/clients.py", "litellm"}},
		{"cohere", "cohere", []string{python, clients + "/clients.py", "cohere"}},
		{"llama-index openai", "llama_index.embeddings.openai", []string{python, clients + "/clients.py", "llama_index_openai"}},
		{"llama-index openai-like", "llama_index.embeddings.openai_like", []string{python, clients + "/clients.py", "llama_index_like"}},
		{"llama-index tei", "llama_index.embeddings.text_embeddings_inference", []string{python, clients + "/clients.py", "llama_index_tei"}},
		{"@langchain/openai", "node:@langchain/openai", []string{"node", clients + "/clients.cjs", "langchain_openai"}},
		{"@huggingface/inference", "node:@huggingface/inference", []string{"node", clients + "/clients.cjs", "huggingface_inference"}},
		{"cohere node", "node:cohere-ai", []string{"node", clients + "/clients.cjs", "cohere"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			probe := []string{python, "-c", "import importlib.util, sys; sys.exit(importlib.util.find_spec('" + tt.module + "') is None)"}
			if module, ok := strings.CutPrefix(tt.module, "node:"); ok {
				probe = []string{"node", "-e", "require.resolve(" + strings.ReplaceAll("'"+module+"'", "''", "") + ")"}
			}
			run := func(args ...string) (string, error) {
				c := exec.CommandContext(t.Context(), args[0], args[1:]...)
				c.Dir, c.Env = node, append(os.Environ(), "TIKTOKEN_CACHE_DIR="+vocabularies, "NODE_PATH="+filepath.Join(node, "node_modules"))
				out, err := c.CombinedOutput()
				return string(out), err
			}
			if out, err := run(probe...); err != nil {
				if needed {
					t.Fatalf("%s is not installed: %v %s", tt.name, err, out)
				}
				t.Skipf("%s is not installed: %v", tt.name, err)
			}
			s := start(t, "--tokens", tokensFile(t))
			s.work()
			base := s.api
			if strings.HasSuffix(tt.program[1], "own.py") || strings.HasSuffix(tt.program[1], "own.cjs") {
				base += "/v1"
			}
			out, err := run(append(tt.program, base, token, "m")...)
			if err != nil || !strings.Contains(out, "ok") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
