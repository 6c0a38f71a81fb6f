// Makes conformance cases with Hugging Face's own code. In a folder outside of the repository:
//   npm install tokenizers@0.23.2
//   NODE_PATH=node_modules node oracle.js texts.json OUTDIR name=tokenizer.json...
// texts.json is a list of {"cat", "src", "text", "max"}; OUTDIR gets a cases-NAME.jsonl.gz of each tokenizer.
const fs = require('fs'), path = require('path'), zlib = require('zlib');
const { Tokenizer } = require('tokenizers');

async function cases(file, texts) {
  const tk = Tokenizer.fromFile(file);
  tk.disablePadding();
  const out = new Array(texts.length);
  for (const max of new Set(texts.map((t) => t.max))) {
    tk.setTruncation(max);
    for (const [i, t] of texts.entries()) {
      if (t.max !== max) continue;
      const ids = (await tk.encode(t.text, null, { addSpecialTokens: true })).getIds();
      out[i] = JSON.stringify({ ...t, ids });
    }
  }
  return out.join('\n') + '\n';
}

(async () => {
  const [, , texts, dir, ...specs] = process.argv;
  const list = JSON.parse(fs.readFileSync(texts, 'utf8'));
  for (const spec of specs) {
    const [name, file] = spec.split('=');
    const lines = await cases(file, list);
    fs.writeFileSync(path.join(dir, `cases-${name}.jsonl.gz`), zlib.gzipSync(lines, { level: 9 }));
  }
})();
