//! The log probabilities of an answer's tokens, in OpenAI's two shapes.
//!
//! Text is held back where it may become a stop string or half a character, and entries with it: an entry is shown with the first text that its token
//! begins in. So what a stop string cuts off has none, nor has the token that ends an answer.

use crate::engine::Logprobs;
use crate::text::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};
use std::collections::VecDeque;

/// What OpenAI's API gives a token that is as good as impossible.
const LEAST: f32 = -9999.0;

/// A token of the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    id: u32,
    logprobs: Box<Logprobs>,
}

/// Entries whose text is not shown yet.
#[derive(Debug, Default)]
pub struct Entries {
    /// With the byte of the answer that each begins at.
    pending: VecDeque<(usize, Entry)>,
    decoded: usize,
    shown: usize,
}

impl Entries {
    /// Notes a token that gave `bytes` bytes of text, which may be those of tokens before it too.
    pub fn push(&mut self, id: u32, logprobs: Option<Box<Logprobs>>, bytes: usize) {
        let start = self.decoded;
        self.decoded += bytes;
        self.pending.extend(logprobs.map(|logprobs| (start, Entry { id, logprobs })));
    }

    /// The entries that begin in the next `bytes` bytes of text.
    pub fn show(&mut self, bytes: usize) -> Vec<Entry> {
        self.shown += bytes;
        let count = self.pending.iter().take_while(|(start, _)| *start < self.shown).count();
        self.pending.drain(..count).map(|(_, entry)| entry).collect()
    }
}

/// `logprobs` of a choice of `/v1/chat/completions`.
pub fn chat(tokenizer: &Tokenizer, entries: &[Entry]) -> Value {
    let content = entries.iter().map(|Entry { id, logprobs }| {
        let mut entry = token(tokenizer, *id, logprobs.drawn);
        entry["top_logprobs"] = logprobs.top.iter().map(|(id, p)| token(tokenizer, *id, *p)).collect();
        entry
    });
    json!({ "content": content.collect::<Value>(), "refusal": null })
}

/// `logprobs` of a choice of `/v1/completions`; the first entry begins at character `offset`.
pub fn plain(tokenizer: &Tokenizer, entries: &[Entry], mut offset: usize) -> (Value, usize) {
    let [mut tokens, mut values, mut tops, mut offsets] = [const { Vec::new() }; 4];
    for Entry { id, logprobs } in entries {
        let text = text(tokenizer, *id);
        let drawn = (*id, logprobs.drawn);
        // The drawn one is always among them.
        let named = logprobs.top.iter().chain([&drawn]).map(|(id, p)| (self::text(tokenizer, *id), least(*p).into()));
        tops.push(Value::Object(named.collect::<Map<String, Value>>()));
        values.push(least(logprobs.drawn).into());
        offsets.push(offset.into());
        offset += text.chars().count();
        tokens.push(text.into());
    }
    let [tokens, values, tops, offsets] = [tokens, values, tops, offsets].map(Value::Array);
    (json!({ "tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets }), offset)
}

fn token(tokenizer: &Tokenizer, id: u32, logprob: f32) -> Value {
    let bytes = tokenizer.bytes(id).unwrap_or_default();
    json!({ "token": String::from_utf8_lossy(&bytes), "logprob": least(logprob), "bytes": bytes })
}

fn text(tokenizer: &Tokenizer, id: u32) -> String {
    String::from_utf8_lossy(&tokenizer.bytes(id).unwrap_or_default()).into_owned()
}

fn least(logprob: f32) -> f32 {
    logprob.max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(entries: Vec<Entry>) -> Vec<u32> {
        entries.iter().map(|entry| entry.id).collect()
    }

    #[test]
    fn entries_are_shown_with_the_text_they_begin_in() {
        let logprobs = || Some(Box::new(Logprobs { drawn: -1.0, top: Vec::new() }));
        let mut entries = Entries::default();
        // Half a character, its rest, three bytes of which two are held back, and a token that shows nothing.
        [(1, 0), (2, 3), (3, 3), (4, 0)].into_iter().for_each(|(id, bytes)| entries.push(id, logprobs(), bytes));
        assert_eq!(ids(entries.show(0)), [0; 0]);
        assert_eq!(ids(entries.show(3)), [1, 2]);
        assert_eq!(ids(entries.show(1)), [3]);
        assert_eq!(ids(entries.show(2)), [0; 0]);
    }
}
