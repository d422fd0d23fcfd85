//! Keeps user text apart from special tokens while a chat template turns both into one string.
//!
//! A template's output must be scanned for special tokens (`<|im_end|>`), but the same characters typed by a user must stay text.
//! So before rendering, one *pivot* character of every special token (`|` for Qwen) is replaced in user text by a stand-in, a
//! private-use character that occurs nowhere in the conversation; after the output is split at special tokens, the stand-ins
//! become the pivot again. So whatever a template trims, splits or joins, every pivot of a special token in its output is its own.
//! (Where it writes them around a value, as in `<|{{ part.type }}_pad|>`, it means a token.) Lengths, whitespace, tags like
//! `</think>` and everything else that templates look at stay as they are.
//!
//! The surprise: user text is not tokenised by itself. Between two special tokens, template text and user text are one run and go
//! through BPE as one string, so that ids equal those of transformers (`"user\n" + "hi"`).

use std::collections::BTreeSet;

use crate::error::{Error, Result};

/// Characters of which every special token contains at least one.
#[derive(Clone, Debug)]
pub struct Guard {
    pivots: Vec<char>,
}

impl Guard {
    /// Chooses pivots for these special tokens, the character that covers most of them first.
    pub fn new<'t>(special: impl IntoIterator<Item = &'t str>) -> Self {
        let mut left: Vec<&str> = special.into_iter().filter(|token| !token.is_empty()).collect();
        let mut pivots = Vec::new();
        while !left.is_empty() {
            let chars: BTreeSet<char> = left.iter().flat_map(|token| token.chars()).collect();
            let worth = |c: &char| {
                (!c.is_alphanumeric() && !c.is_whitespace(), left.iter().filter(|t| t.contains(*c)).count(), rank(*c))
            };
            let Some(best) = chars.into_iter().max_by_key(worth) else { break };
            left.retain(|token| !token.contains(best));
            pivots.push(best);
        }
        Guard { pivots }
    }

    /// Stand-ins that occur in none of `texts`.
    pub fn stand_ins<'t>(&self, texts: impl IntoIterator<Item = &'t str>) -> Result<StandIns> {
        let private = |c: &char| matches!(*c, '\u{E000}'..='\u{F8FF}' | '\u{F0000}'..='\u{FFFFD}');
        let used: BTreeSet<char> = texts.into_iter().flat_map(|text| text.chars().filter(private)).collect();
        let mut free = ('\u{E000}'..='\u{F8FF}').chain('\u{F0000}'..='\u{FFFFD}').filter(|c| !used.contains(c));
        let pairs = self.pivots.iter().map(|pivot| Some((*pivot, free.next()?))).collect::<Option<Vec<_>>>();
        let pairs =
            pairs.ok_or_else(|| Error::request("messages", "the text uses every private-use character of Unicode"))?;
        Ok(StandIns { pairs })
    }
}

/// Templates look for tags such as `<think>` in text, so angle brackets are the last choice among equals.
fn rank(c: char) -> u8 {
    match c {
        '<' | '>' => 0,
        '|' => 2,
        _ => 1,
    }
}

/// Pivots and their stand-ins, for one rendering.
#[derive(Clone, Debug, Default)]
pub struct StandIns {
    pairs: Vec<(char, char)>,
}

impl StandIns {
    /// Protects user text; occurrences of the tokens in `keep` stay as they are.
    pub fn hide(&self, text: &str, keep: &[String]) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let kept = keep.iter().find(|token| rest.starts_with(token.as_str()));
            let step = kept.map_or(c.len_utf8(), |token| token.len());
            match kept {
                Some(token) => out.push_str(token),
                None => out.push(swap(c, self.pairs.iter().copied())),
            }
            rest = &rest[step..];
        }
        out
    }

    /// Undoes [`StandIns::hide`].
    pub fn show(&self, text: &str) -> String {
        text.chars().map(|c| swap(c, self.pairs.iter().map(|(pivot, stand_in)| (*stand_in, *pivot)))).collect()
    }
}

fn swap(c: char, mut pairs: impl Iterator<Item = (char, char)>) -> char {
    pairs.find(|(from, _)| *from == c).map_or(c, |(_, to)| to)
}

/// A rendered conversation in which user text is still told from special tokens.
#[derive(Clone, Debug)]
pub struct Rendered {
    marked: String,
    stand_ins: StandIns,
}

impl Rendered {
    pub(super) fn new(marked: String, stand_ins: StandIns) -> Self {
        Rendered { marked, stand_ins }
    }

    /// The text, as `apply_chat_template(..., tokenize=False)` gives it.
    pub fn text(&self) -> String {
        self.stand_ins.show(&self.marked)
    }

    pub(super) fn marked(&self) -> &str {
        &self.marked
    }

    pub(super) fn stand_ins(&self) -> &StandIns {
        &self.stand_ins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pivot_of_qwen_is_the_bar() {
        assert_eq!(Guard::new(["<|im_start|>", "<|im_end|>", "<|box_start|>"]).pivots, ['|']);
        assert_eq!(Guard::new(["<s>", "</s>", "[INST]", "mask"]).pivots.len(), 3);
        assert!(Guard::new([]).pivots.is_empty());
    }

    #[test]
    fn stand_ins_avoid_private_characters_in_use() {
        let guard = Guard::new(["<|x|>"]);
        let text = "\u{E000}a|b\u{E001}";
        let stand_ins = guard.stand_ins([text]).unwrap();
        assert_eq!(stand_ins.hide(text, &[]), "\u{E000}a\u{E002}b\u{E001}");
        assert_eq!(stand_ins.show(&stand_ins.hide(text, &[])), text);
    }

    #[test]
    fn kept_tokens_stay() {
        let stand_ins = Guard::new(["<|a|>", "<|b|>"]).stand_ins([""]).unwrap();
        assert_eq!(stand_ins.hide("<|a|><|b|>", &["<|a|>".into()]), "<|a|><\u{E000}b\u{E000}>");
    }
}
