//! From the axes that tools pack along to rows `[N, K]`, on all threads. Words are 32 bits, little-endian, possibly unaligned.

use rayon::prelude::*;

/// Columns that a task moves: a cache line of words.
const COLUMNS: usize = 16;
/// Codes of 4 bits in a word.
const NIBBLES: usize = 8;

/// The word at an index.
pub(super) fn word(words: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([words[4 * at], words[4 * at + 1], words[4 * at + 2], words[4 * at + 3]])
}

/// Words `[rows, columns]` as `[columns, rows]`: codes packed along K thereby lie by rows of N.
pub(super) fn transposed_words(words: &[u8], columns: usize) -> Vec<u8> {
    let rows = words.len() / 4 / columns;
    let mut out = vec![0; words.len()];
    out.par_chunks_mut(4 * rows * COLUMNS).enumerate().for_each(|(tile, out)| {
        for (row, line) in words.chunks_exact(4 * columns).enumerate() {
            let line = &line[4 * COLUMNS * tile..];
            for (to, word) in out.chunks_exact_mut(4 * rows).zip(line.chunks_exact(4)) {
                to[4 * row..][..4].copy_from_slice(word);
            }
        }
    });
    out
}

/// 4-bit codes that words `[K, N / 8]` pack along N, as rows of K; nibble `i` of a word belongs to its row `rows[i]`.
pub(super) fn unpacked_columns(words: &[u8], k: usize, rows: [usize; NIBBLES]) -> Vec<u8> {
    let (columns, row_bytes) = (words.len() / 4 / k, k.div_ceil(2));
    let mut out = vec![0; columns * NIBBLES * row_bytes];
    out.par_chunks_mut(row_bytes * NIBBLES * COLUMNS).enumerate().for_each(|(tile, out)| {
        for (i, pair) in words.chunks(2 * 4 * columns).enumerate() {
            let (even, odd) = pair.split_at(4 * columns);
            for (column, out) in out.chunks_exact_mut(row_bytes * NIBBLES).enumerate() {
                let at = COLUMNS * tile + column;
                let low = word(even, at);
                let high = if odd.is_empty() { 0 } else { word(odd, at) };
                for (nibble, row) in rows.into_iter().enumerate() {
                    let (low, high) = (low >> (4 * nibble) & 15, high >> (4 * nibble) & 15);
                    out[row * row_bytes + i] = (low | high << 4) as u8;
                }
            }
        }
    });
    out
}

/// Rows of codes of `bits` whose column `j` was column `order[j]`.
pub(super) fn reordered(mut codes: Vec<u8>, bits: usize, order: &[u32]) -> Vec<u8> {
    let per_byte = 8 / bits;
    codes.par_chunks_mut(order.len().div_ceil(per_byte)).for_each(|row| {
        let old = row.to_vec();
        let code = |&from: &u32| {
            let from = from as usize;
            old[from / per_byte] >> (bits * (from % per_byte)) & (0xFF >> (8 - bits))
        };
        for (byte, from) in row.iter_mut().zip(order.chunks(per_byte)) {
            *byte = from.iter().enumerate().fold(0, |byte, (i, from)| byte | code(from) << (bits * i));
        }
    });
    codes
}

/// `[rows, columns]` as `[columns, rows]`.
pub(super) fn transposed<T: Copy>(values: &[T], columns: usize) -> Vec<T> {
    let at = |column: usize| values.iter().copied().skip(column).step_by(columns);
    (0..columns).flat_map(at).collect()
}
