"""Writes the properties that the Rust crates behind Python's tokenizers give each character and dump.rs doesn't ask for.

    pip install tokenizers==0.23.2
    python dump.py >> properties.txt
"""
from tokenizers import Regex, normalizers, pre_tokenizers

POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
ALL = "".join(map(chr, POINTS))
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co".split()
SCRIPTS = "Arabic Bengali Cyrillic Devanagari Greek Han Hangul Hebrew Hiragana Katakana Latin Tamil Thai".split()


def spans(name, value, points):
    """Prints runs of code points that follow each other."""
    start = last = None
    for c in points + [None]:
        if start is not None and c == last + 1:
            last = c
            continue
        if start is not None:
            print(f"{name};{start:04X}..{last:04X};{value}")
        start = last = c


def matched(pre_tokenizer):
    """The code points of the pieces that a splitter which drops everything else leaves."""
    return [ord(c) for text, _ in pre_tokenizer.pre_tokenize_str(ALL) for c in text]


def by_regex(regex):
    return matched(pre_tokenizers.Split(Regex(regex + "+"), "removed", invert=True))


def hexes(text):
    return " ".join(f"{ord(c):04X}" for c in text)


def normal_forms():
    """Compatibility decompositions that are not canonical ones, and pairs that compose."""
    nfd, nfkd, nfc = normalizers.NFD(), normalizers.NFKD(), normalizers.NFC()
    for c in POINTS:
        s = chr(c)
        d = nfkd.normalize_str(s)
        if d != nfd.normalize_str(s):
            print(f"nfkd;{c:04X};{hexes(d)}")
    for c in POINTS:
        s = chr(c)
        d = nfd.normalize_str(s)
        if d == s or 0xAC00 <= c <= 0xD7A3 or nfc.normalize_str(s) != s:
            continue
        first = nfc.normalize_str(d[:-1])
        assert len(first) == 1 and nfc.normalize_str(first + d[-1]) == s, s
        print(f"compose;{c:04X};{hexes(first + d[-1])}")


for category in CATEGORIES:
    spans("category", category, by_regex(r"\p{%s}" % category))
for script in SCRIPTS:
    spans("script", script, by_regex(r"\p{%s}" % script))
spans("onigword", "1", by_regex(r"\w"))
accents = normalizers.StripAccents()
spans("mark", "1", [c for c in POINTS if accents.normalize_str(chr(c)) == ""])
digits = pre_tokenizers.Digits(individual_digits=True)
spans("numeric", "1", [c for c in POINTS if len(digits.pre_tokenize_str("a" + chr(c))) == 2])
normal_forms()
