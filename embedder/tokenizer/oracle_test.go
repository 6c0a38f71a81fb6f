package tokenizer_test

import (
	"encoding/csv"
	"encoding/json"
	"flag"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/embedder/tokenizer"
)

var (
	python = flag.String("python", "python3", "a Python with the package tokenizers 0.23.2, for TestOracle")
	oracle = flag.Int("oracle", 60, "how many texts of each kind TestOracle compares; 0 is all that there are")
	seed   = flag.Uint64("seed", 1, "of the texts that TestOracle makes up")
	only   = flag.String("only", "", "the one tokenizer that TestOracle compares")
)

// TestOracle compares ids with those of Python's tokenizers, if it is there: texts of the public cases, made-up
// ones, and KLUE, KorSTS and STS-B where the folder "shared" is beside the repository; single and in pairs.
func TestOracle(t *testing.T) {
	if out, err := exec.Command(*python, "-c", "import tokenizers; print(tokenizers.__version__)").CombinedOutput(); err != nil {
		t.Skipf("skipped: %s has no package tokenizers", *python)
	} else if got := strings.TrimSpace(string(out)); got != "0.23.2" {
		t.Skipf("skipped: tokenizers %s in %s, want 0.23.2", got, *python)
	}
	dir := t.TempDir()
	cases := oracleTexts(t)
	data, err := json.Marshal(cases)
	if err != nil {
		t.Fatal(err)
	}
	texts := filepath.Join(dir, "texts.json")
	if err := os.WriteFile(texts, data, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, path := range oracleTokenizers(t, dir) {
		if *only != "" && *only != name {
			continue
		}
		t.Run(name, func(t *testing.T) {
			out, err := exec.Command(*python, "testdata/tools/oracle.py", texts, dir, name+"="+path).CombinedOutput()
			if err != nil {
				t.Fatalf("oracle.py: %v\n%s", err, out)
			}
			checkPairs(t, openOracle(t, name, path), filepath.Join(dir, "cases-"+name+".jsonl.gz"), len(cases))
		})
	}
}

// openOracle opens a tokenizer as the oracle does.
func openOracle(tb testing.TB, name, path string) *tokenizer.Tokenizer {
	tb.Helper()
	if !strings.HasSuffix(name, "+lower") {
		return open(tb, path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return open(tb, folder(tb, map[string]string{"tokenizer.json": string(data), "sentence_bert_config.json": `{"do_lower_case":true}`}))
}

// oracleTokenizers returns the files to compare: every variant and family, the public ones with do_lower_case, and, where
// they are, the tokenizers of small models and real ones.
func oracleTokenizers(tb testing.TB, dir string) map[string]string {
	tb.Helper()
	files := map[string]string{}
	list := slices.Clone(families)
	for _, v := range variants {
		list = append(list, family(v))
	}
	for _, f := range list {
		path := filepath.Join(dir, f.name+".json")
		if err := os.WriteFile(path, variant(tb, f.from, f.edit), 0o644); err != nil {
			tb.Fatal(err)
		}
		files[f.name] = path
	}
	for _, name := range publicNames {
		files[name] = "testdata/public/tokenizers/" + name + ".json"
		files[name+"+lower"] = files[name]
	}
	root, err := repositoryRoot()
	if err != nil {
		tb.Fatal(err)
	}
	for _, pattern := range []string{"data/models-tiny2/*/tokenizer.json", "cases/models/*/tokenizer.json", "data/tokenizers/*/tokenizer.json"} {
		found, err := filepath.Glob(filepath.Join(filepath.Dir(root), "shared", pattern))
		if err != nil {
			tb.Fatal(err)
		}
		for _, path := range found {
			files["shared-"+filepath.Base(filepath.Dir(path))] = path
		}
	}
	return files
}

// A pairCase is a testCase that may have a second text, with the types of the ids then.
type pairCase struct {
	Cat   string  `json:"cat"`
	Src   string  `json:"src"`
	Text  string  `json:"text"`
	Pair  *string `json:"pair,omitempty"`
	Max   int     `json:"max"`
	IDs   []int32 `json:"ids"`
	Types []int32 `json:"types,omitempty"`
	Error string  `json:"error,omitempty"` // what Hugging Face's code says to such a text
}

// checkPairs compares ids and types with a file's cases, of which there are at least so many.
func checkPairs(t *testing.T, tk *tokenizer.Tokenizer, file string, atLeast int) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(string(readGzip(t, file))), "\n")
	if len(lines) < atLeast {
		t.Fatalf("%s has %d cases, want at least %d", file, len(lines), atLeast)
	}
	failed := 0
	for i, line := range lines {
		var c pairCase
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatal(err)
		}
		var ids, types []int32
		switch {
		case c.Error != "":
			continue
		case c.Pair == nil:
			ids, _ = tk.Encode(nil, c.Text, c.Max)
		default:
			ids, types, _ = tk.EncodePair(nil, nil, c.Text, *c.Pair, c.Max)
		}
		if !slices.Equal(ids, c.IDs) || !slices.Equal(types, c.Types) {
			at := 0
			for at < len(ids) && at < len(c.IDs) && ids[at] == c.IDs[at] {
				at++
			}
			t.Errorf("case %d (%s), %d ids at most, of %d, want %d, from id %d on:\n got %v %v\nwant %v %v\ntext %q\npair %q", i, c.Cat, c.Max,
				len(ids), len(c.IDs), at, ids[at:], types, c.IDs[at:], c.Types, short(c.Text), pointed(c.Pair))
			if failed++; failed >= 5 {
				t.Fatalf("too many mismatches, stopping at case %d of %d", i, len(lines))
			}
		}
	}
}

func pointed(s *string) string {
	if s == nil {
		return ""
	}
	return short(*s)
}

func short(s string) string {
	if len(s) > 400 {
		return s[:400] + "..."
	}
	return s
}

// oracleTexts are the cases to compare, without ids.
func oracleTexts(tb testing.TB) (cases []pairCase) {
	tb.Helper()
	rng := rand.New(rand.NewPCG(*seed, 2))
	texts := map[string][]string{"made-up": madeUp(rng, cmp0(*oracle, 3000))}
	for _, c := range readCases(tb, "testdata/public/cases-wordpiece-cased.jsonl.gz") {
		if c.B64 == nil {
			texts["public"] = append(texts["public"], c.Text)
		}
	}
	for _, s := range hard {
		texts["made-up"] = append(texts["made-up"], strings.ToValidUTF8(s, "\uFFFD"))
	}
	root, err := repositoryRoot()
	if err != nil {
		tb.Fatal(err)
	}
	for _, pattern := range []string{"data/klue/*.json", "data/korsts/*.tsv", "data/stsb/*.csv"} {
		files, err := filepath.Glob(filepath.Join(filepath.Dir(root), "shared", pattern))
		if err != nil {
			tb.Fatal(err)
		}
		for _, f := range files {
			texts[filepath.Base(f)] = fieldsOf(tb, f)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		list := texts[name]
		rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		if *oracle > 0 {
			list = list[:min(len(list), *oracle)]
		}
		for i, s := range list {
			cases = append(cases, pairCase{Cat: name, Src: "oracle", Text: s, Max: []int{0, 7, 16, 128, 512}[rng.IntN(5)]})
			if i%4 == 0 {
				other := list[rng.IntN(len(list))]
				cases = append(cases, pairCase{Cat: name, Src: "oracle", Text: s, Pair: &other, Max: []int{0, 5, 8, 15, 16, 63, 64, 512}[rng.IntN(8)]})
			}
		}
	}
	return cases
}

func cmp0(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

// fieldsOf returns the texts of a data set's file: all strings of a JSON, all fields of a table.
func fieldsOf(tb testing.TB, file string) (texts []string) {
	tb.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	switch filepath.Ext(file) {
	case ".json":
		var v any
		if err := json.Unmarshal(data, &v); err != nil {
			tb.Fatal(err)
		}
		return stringsOf(v, nil)
	case ".csv":
		r := csv.NewReader(strings.NewReader(string(data)))
		r.FieldsPerRecord, r.LazyQuotes = -1, true
		rows, err := r.ReadAll()
		if err != nil {
			tb.Fatal(err)
		}
		for _, row := range rows {
			texts = append(texts, row...)
		}
	default:
		for line := range strings.Lines(string(data)) {
			texts = append(texts, strings.Split(strings.TrimSuffix(line, "\n"), "\t")...)
		}
	}
	return texts
}

func stringsOf(v any, texts []string) []string {
	switch v := v.(type) {
	case string:
		texts = append(texts, v)
	case []any:
		for _, e := range v {
			texts = stringsOf(e, texts)
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			texts = stringsOf(v[k], texts)
		}
	}
	return texts
}

// scraps are what made-up texts are put together from: what regular expressions, normal forms, grapheme
// clusters and added tokens tell apart.
var scraps = strings.Split(" |  |   |        |\n|\n\n|\r\n|\r|\t|\v|\f|\u00a0|\u3000|\u2003|\u0085|\u2028|\u200b|\u200d|\ufeff|"+
	"'s|'S|'t|'re|'RE|'ve|'m|'ll|'LL|'d|'ſ|'K|'k|'|''|’s|``|-|--|_|__|.|...|,|;|:|!|?|!?|/|//|\\|(|)|[|]|{|}|<|>|@|#|$|€|₩|%|&|*|+|=|~|^|«|»|"+
	"0|1|12|123|1234|12345678|１２３|²|½|Ⅳ|٣|१|௧|𝟙|〇|①|"+
	"a|A|b|the|The|THE|bank|Bank|BANK|iPhone|McDonald|HTMLParser|ſ|K|Å|Å|ß|ẞ|İ|ı|ǅ|ﬁ|Σ|ς|σ|ΑΣ|é|é|ê̄|Ǆ|ŉ|q̣̇|q̣̇|"+
	"가|각|한국은행|금리|삼성전자|主|株式会社|李|李|金|日本|かな|カナ|ガ|が|ｶﾞ|ㄱ|ㅏ|ᄀ|ᄀ|ᅡ|각|ᆨ|각|ㆍ|"+
	"ไทย|กำ|हिन्दी|क्ष|क्\u200dष|தமிழ்|עברית|עִבְרִית|العربية|ﷺ|بِسْمِ|Кириллица|й|й|"+
	"😀|👨\u200d👩\u200d👧\u200d👦|🇰🇷|🇰|👍🏽|❤️|☎|\u0301|\u0301\u0323|\u0327\u0301|\u0344|\u0958|\u0f73|\u1e9b\u0323|\u212b|\uac00\u11a7|\u1100\u1161\u11a7|"+
	"𐐀|𐐨|𝐀|𝒜|㎏|㍿|㈜|™|℡|㌀|ｱ|Ａ|ａ|！|　|\ufffd|\x00|\x01|\x7f|\u0080|\u00ad|\u034f|\u0600|\u1f1e6|\U000e0001|\U0010ffff|\ue000|\u0378|▁|▁▁|"+
	"[CLS]|[SEP]|[MASK]|[UNK]|[PAD]|<s>|</s>|<mask>|<unk>|<pad>|<bos>|<eos>|<|endoftext|>|<0x0A>|<0xE2>|Samsung|ing|</w>", "|")

// madeUp puts texts together, a few of them long.
func madeUp(rng *rand.Rand, n int) []string {
	texts := make([]string, n)
	for i := range texts {
		size := 1 + rng.IntN(24)
		if rng.IntN(50) == 0 {
			size = 3000
		}
		// Some texts use few scraps over and over.
		pool := scraps
		if rng.IntN(3) == 0 {
			pool = make([]string, 2+rng.IntN(5))
			for k := range pool {
				pool[k] = scraps[rng.IntN(len(scraps))]
			}
		}
		var b strings.Builder
		for range size {
			switch s := pool[rng.IntN(len(pool))]; rng.IntN(8) {
			case 0:
				b.WriteString(strings.Repeat(s, rng.IntN(5)))
			case 1:
				b.WriteRune(rune(rng.IntN(0x3000)))
			default:
				b.WriteString(s)
				if rng.IntN(4) == 0 {
					b.WriteByte(' ')
				}
			}
		}
		texts[i] = strings.ToValidUTF8(b.String(), "\uFFFD")
	}
	return texts
}
