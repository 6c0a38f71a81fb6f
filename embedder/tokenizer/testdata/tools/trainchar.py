"""Trains the small BPE of characters in testdata/charbpe, in Gemma's layout, from a text file of our own:

    python trainchar.py texts.txt tokenizer.json
"""
import json
import sys

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
with open(sys.argv[1], encoding="utf-8") as f:
    lines = [line.replace(" ", "▁") for line in f]
learner = Tokenizer(models.BPE(unk_token="<unk>"))
learner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
learner.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=3200, limit_alphabet=900, show_progress=False))
model = json.loads(learner.to_str())["model"]
pieces = special + [f"<0x{b:02X}>" for b in range(256)] + [p for p in model["vocab"] if p not in special]
token = lambda content, i: {"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
around = lambda sequence, typ: [{"SpecialToken": {"id": "<bos>", "type_id": typ}}, {"Sequence": {"id": sequence, "type_id": typ}}, {"SpecialToken": {"id": "<eos>", "type_id": typ}}]
json.dump({
    "version": "1.0", "truncation": None, "padding": None,
    "added_tokens": [token(c, i) for i, c in enumerate(special)],
    "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
    "post_processor": {"type": "TemplateProcessing", "single": around("A", 0), "pair": around("A", 0) + around("B", 1),
                       "special_tokens": {t: {"id": t, "ids": [special.index(t)], "tokens": [t]} for t in ("<bos>", "<eos>")}},
    "decoder": None,
    "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
              "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
              "vocab": {p: i for i, p in enumerate(pieces)}, "merges": model["merges"]},
}, open(sys.argv[2], "w", encoding="utf-8"), ensure_ascii=False, separators=(",", ":"))
