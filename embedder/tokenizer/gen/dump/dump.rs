//! Writes properties.txt: every Unicode property that Hugging Face's tokenizers consults, asked of the very
//! crates it is built from, for each code point. Not part of the build; README.md says how to run it.

use std::fmt::Display;
use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::char as nfd;

// The grapheme tables are private to their crate: README.md copies its source file beside this one.
#[allow(dead_code)]
mod tables;

fn all() -> impl Iterator<Item = char> {
    (0..=0x10ffff).filter_map(char::from_u32)
}

/// One line per run of neighbouring code points with the same value: name;lo..hi;value
fn ranges<V: Display + PartialEq>(name: &str, value: impl Fn(char) -> Option<V>) {
    let mut run: Option<(u32, u32, V)> = None;
    for c in all() {
        let (n, v) = (c as u32, value(c));
        match (&mut run, v) {
            (Some(r), Some(v)) if r.1 + 1 == n && r.2 == v => r.1 = n,
            (_, v) => {
                if let Some((lo, hi, v)) = run.take() {
                    println!("{name};{lo:04X}..{hi:04X};{v}");
                }
                run = v.map(|v| (n, n, v));
            }
        }
    }
    if let Some((lo, hi, v)) = run {
        println!("{name};{lo:04X}..{hi:04X};{v}");
    }
}

fn flag(name: &str, is: impl Fn(char) -> bool) {
    ranges(name, |c| is(c).then_some(1));
}

fn onig(name: &str, pattern: &str) {
    let re = onig::Regex::new(pattern).unwrap();
    flag(name, |c| re.is_match(c.encode_utf8(&mut [0; 4])));
}

fn hex(s: impl Iterator<Item = char>) -> String {
    s.map(|c| format!("{:04X}", c as u32)).collect::<Vec<_>>().join(" ")
}

fn main() {
    use tables::grapheme::GraphemeCat::*;
    flag("other", |c| c.is_other());
    flag("punctuation", |c| c.is_ascii_punctuation() || c.is_punctuation());
    flag("nonspacing", |c| c.is_mark_nonspacing());
    flag("whitespace", |c| c.is_whitespace());
    let word = regex::Regex::new(r"^\w$").unwrap();
    flag("word", |c| word.is_match(c.encode_utf8(&mut [0; 4])));
    onig("letter", r"\A\p{L}\z");
    onig("number", r"\A\p{N}\z");
    onig("onigspace", r"\A\s\z");
    ranges("ccc", |c| Some(nfd::canonical_combining_class(c)).filter(|&k| k != 0));
    ranges("grapheme", |c| Some(match tables::grapheme::grapheme_category(c).2 {
        GC_Any => return None,
        GC_CR => "CR", GC_LF => "LF", GC_Control => "Control", GC_Extend => "Extend",
        GC_Extended_Pictographic => "Pictographic", GC_InCB_Consonant => "Consonant",
        GC_L => "L", GC_V => "V", GC_T => "T", GC_LV => "LV", GC_LVT => "LVT",
        GC_Prepend => "Prepend", GC_Regional_Indicator => "Regional",
        GC_SpacingMark => "SpacingMark", GC_ZWJ => "ZWJ",
    }));
    flag("linker", tables::is_incb_linker);
    flag("incbextend", tables::derived_property::InCB_Extend);
    for c in all() {
        let low = hex(c.to_lowercase());
        if low != hex(std::iter::once(c)) {
            println!("lower;{:04X};{low}", c as u32);
        }
        if ('\u{ac00}'..='\u{d7a3}').contains(&c) {
            continue; // Hangul is decomposed by arithmetic
        }
        let mut d = vec![];
        nfd::decompose_canonical(c, |q| d.push(q));
        if d != [c] {
            println!("nfd;{:04X};{}", c as u32, hex(d.into_iter()));
        }
    }
}
