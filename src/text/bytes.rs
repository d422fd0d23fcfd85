//! The byte alphabet of byte-level BPE: vocabularies write each of the 256 bytes as a printable character.

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
