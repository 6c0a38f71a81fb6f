"""Makes conformance cases with Hugging Face's own code, as oracle.js does, and of pairs too.

    pip install tokenizers==0.23.2
    python oracle.py texts.json OUTDIR name=tokenizer.json...

texts.json is a list of {"cat", "src", "text", "max"}, or of {..., "text", "pair", "max"}; a max of 0 is no limit.
OUTDIR gets a cases-NAME.jsonl.gz of each tokenizer, in which a pair's case has "types" beside "ids". A name that
ends in "+lower" gets the normaliser that sentence-transformers puts in front for do_lower_case.
"""
import gzip
import json
import sys

from tokenizers import Tokenizer, normalizers


def open_tokenizer(name, path):
    tk = Tokenizer.from_file(path)
    tk.no_padding()
    if name.endswith("+lower"):
        own = [tk.normalizer] if tk.normalizer else []
        tk.normalizer = normalizers.Sequence([normalizers.Lowercase()] + own)
    return tk


def cases(tk, texts):
    out = [None] * len(texts)
    for most in {t["max"] for t in texts}:
        tk.enable_truncation(most) if most else tk.no_truncation()
        for i, t in enumerate(texts):
            if t["max"] != most:
                continue
            try:
                e = tk.encode(t["text"], t.get("pair"))
            except BaseException as err:  # Rust's panics are no Exceptions
                out[i] = {**t, "ids": None, "error": str(err)}
                continue
            out[i] = {**t, "ids": e.ids, **({"types": e.type_ids} if "pair" in t else {})}
    return out


texts = json.load(open(sys.argv[1], encoding="utf-8"))
for spec in sys.argv[3:]:
    name, path = spec.split("=", 1)
    lines = "".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) + "\n" for c in cases(open_tokenizer(name, path), texts))
    with open(f"{sys.argv[2]}/cases-{name}.jsonl.gz", "wb") as f:
        f.write(gzip.compress(lines.encode("utf-8"), 9, mtime=0))
