// Trains the small byte-level BPE in testdata/bytebpe from a text file of our own (see oracle.js for set-up):
//   NODE_PATH=node_modules node train.js texts.txt tokenizer.json
const fs = require('fs');
const { Tokenizer } = require('tokenizers');

const [, , texts, out] = process.argv;
const special = ['<s>', '<pad>', '</s>', '<unk>'];
const alphabet = [];
for (let b = 0, n = 0; b < 256; b++) {
  const printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  alphabet.push(String.fromCharCode(printable ? b : 256 + n++));
}
const token = (content, id, lstrip) =>
  ({ id, content, single_word: false, lstrip, rstrip: false, normalized: true, special: true });

// The binding's train() gives its own trainer no special tokens, so the merges are learned here: plain
// byte-pair counting over words, which is all that the cases need.
const words = new Map();
const pattern = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;
for (const w of fs.readFileSync(texts, 'utf8').match(pattern)) {
  const key = [...Buffer.from(w, 'utf8')].map((b) => alphabet[b]).join('\u0000');
  words.set(key, (words.get(key) || 0) + 1);
}
let list = [...words].map(([k, n]) => [k.split('\u0000'), n]);
const merges = [];
while (merges.length < 2500) {
  const counts = new Map();
  for (const [w, n] of list) for (let i = 0; i + 1 < w.length; i++) {
    const pair = w[i] + ' ' + w[i + 1];
    counts.set(pair, (counts.get(pair) || 0) + n);
  }
  const [best, n] = [...counts].reduce((a, b) => (b[1] > a[1] || (b[1] === a[1] && b[0] < a[0]) ? b : a), ['', 0]);
  if (n < 3) break;
  merges.push(best);
  const [left, right] = best.split(' ');
  for (const e of list) {
    const w = e[0];
    for (let i = 0; i + 1 < w.length; i++) if (w[i] === left && w[i + 1] === right) w.splice(i, 2, left + right);
  }
}
const pieces = [...special, ...[...alphabet].sort(), ...new Set(merges.map((m) => m.replace(' ', ''))), '<mask>'];
const vocab = Object.fromEntries(pieces.map((p, i) => [p, i]));
fs.writeFileSync(out, JSON.stringify({
  version: '1.0', truncation: null, padding: null,
  added_tokens: [...special.map((c, i) => token(c, i, false)), token('<mask>', vocab['<mask>'], true)],
  normalizer: null,
  pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true },
  post_processor: { type: 'RobertaProcessing', sep: ['</s>', 2], cls: ['<s>', 0], trim_offsets: true, add_prefix_space: false },
  decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true },
  model: { type: 'BPE', dropout: null, unk_token: null, continuing_subword_prefix: '', end_of_word_suffix: '', fuse_unk: false, vocab, merges },
}));
