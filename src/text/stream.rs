//! Token ids back to text, one id at a time. Owns the byte alphabet of byte-level BPE and the bytes of an unfinished character;
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

/// Whether more bytes could make these a character.
fn is_beginning(bytes: &[u8]) -> bool {
    !bytes.is_empty() && std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}

/// Bytes that the alphabet writes as the character of the same number; the others are written from U+0100 on.
fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The characters that stand for bytes 0 to 255 in a byte-level vocabulary (GPT-2, `encoder.py`, `bytes_to_unicode`).
pub(super) fn alphabet() -> impl Iterator<Item = char> {
    let mut next = 0x100;
    (0..=255u8).map(move |byte| {
        if is_printable(byte) {
            return char::from(byte);
        }
        next += 1;
        char::from_u32(next - 1).expect("256 + 67 is below the surrogates")
    })
}

/// The bytes of a vocabulary entry. One that is not written in the alphabet stands for itself, as in transformers.
pub(super) fn token_bytes(token: &str) -> Vec<u8> {
    token.chars().map(byte).collect::<Option<Vec<u8>>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

fn byte(c: char) -> Option<u8> {
    static BYTES: std::sync::LazyLock<[Option<u8>; 0x144]> = std::sync::LazyLock::new(|| {
        let mut bytes = [None; 0x144];
        alphabet().zip(0..=255u8).for_each(|(c, byte)| bytes[c as usize] = Some(byte));
        bytes
    });
    BYTES.get(c as usize).copied().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_a_bijection() {
        let all: Vec<char> = alphabet().collect();
        assert_eq!(all.len(), 256);
        assert_eq!(all[b' ' as usize], 'Ġ');
        assert_eq!(all[b'\n' as usize], 'Ċ');
        for (c, want) in all.iter().zip(0..=255u8) {
            assert_eq!(byte(*c), Some(want));
        }
        assert_eq!(token_bytes("a日"), "a日".as_bytes());
    }
}
