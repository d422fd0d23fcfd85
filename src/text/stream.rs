//! Token ids back to text, one id at a time. Owns the bytes of an unfinished character;
//! refuses to look at earlier ids again.
//!
//! The surprise: a token may be part of a character (CJK, emoji), so text comes late. Broken bytes become U+FFFD exactly where
//! decoding the whole sequence at once would put them.

use super::tokenizer::{Show, Tokenizer};

/// Decodes a stream of ids into whole characters.
#[derive(Clone, Debug)]
pub struct StreamDecoder {
    show: Show,
    /// The beginning of a character: at most 3 bytes between calls.
    pending: Vec<u8>,
}

impl StreamDecoder {
    /// A decoder at the start of a text.
    pub fn new(show: Show) -> Self {
        StreamDecoder { show, pending: Vec::new() }
    }

    /// Takes the next id; returns the characters that are complete now.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        if tokenizer.shows(id, self.show) {
            self.pending.extend(tokenizer.bytes(id).unwrap_or_default());
        }
        self.take()
    }

    /// Ends the text: an unfinished character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }

    fn take(&mut self) -> String {
        let unfinished = match self.pending.utf8_chunks().last() {
            Some(last) if is_beginning(last.invalid()) => last.invalid().len(),
            _ => 0,
        };
        let rest = self.pending.split_off(self.pending.len() - unfinished);
        let whole = std::mem::replace(&mut self.pending, rest);
        String::from_utf8_lossy(&whole).into_owned()
    }
}

/// The text of `ids` at once, with U+FFFD for bytes that are not UTF-8.
pub fn decode(tokenizer: &Tokenizer, ids: &[u32], show: Show) -> String {
    let mut decoder = StreamDecoder::new(show);
    let mut text: String = ids.iter().map(|id| decoder.push(tokenizer, *id)).collect();
    text += &decoder.finish();
    text
}

/// Whether more bytes could make these a character.
fn is_beginning(bytes: &[u8]) -> bool {
    !bytes.is_empty() && std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}
