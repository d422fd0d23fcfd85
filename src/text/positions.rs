//! M-RoPE positions of a prompt (Qwen2-VL paper, section 2.1; `get_rope_index` of transformers 4.45 to 4.57). Owns the rule;
//! knows nothing of chunks, batches or padding.
//!
//! The rule: text advances all three axes together; a medium spans (t, y, x) from the next free position; text goes on after the
//! largest position used so far. The surprise: `next` is not the prompt's length, and it is kept for the sequence instead of a
//! difference to it, because transformers' `rope_deltas` depend on padding and break with chunks. Transformers 5 goes on after
//! `max(h, w)` of a video even where `t` is larger; we do not.

use super::prompt::{MediaSpan, merged};
use crate::error::{Error, Result};

/// Positions of every token of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Positions {
    /// Time, height and width; each as long as the prompt.
    pub thw: [Vec<i32>; 3],
    /// The position of the first generated token, on all axes; it then grows by one per token.
    pub next: i32,
}

/// Positions for a prompt of `len` tokens with these media, whose pad tokens are merged `merge` x `merge` patches.
pub fn positions(len: usize, spans: &[MediaSpan], merge: u32) -> Result<Positions> {
    if len > i32::MAX as usize {
        return Err(Error::contract("positions", format!("a prompt of {len} tokens is too long")));
    }
    let mut out = Positions { thw: std::array::from_fn(|_| Vec::with_capacity(len)), next: 0 };
    for span in spans {
        let grid = merged(span.grid_thw, merge)?;
        let fits = span.start >= out.len() && span.len <= len && span.start <= len - span.len;
        let volume = grid.iter().map(|side| u64::from(*side)).product::<u64>();
        if !fits || volume != span.len as u64 {
            return Err(Error::contract(
                "positions",
                format!("the span {span:?} does not fit a prompt of {len} tokens"),
            ));
        }
        out.text(span.start);
        out.medium(grid);
    }
    out.text(len);
    Ok(out)
}

impl Positions {
    fn len(&self) -> usize {
        self.thw[0].len()
    }

    /// Text up to token `end`.
    fn text(&mut self, end: usize) {
        let count = (end - self.len()) as i32;
        for axis in &mut self.thw {
            axis.extend(self.next..self.next + count);
        }
        self.next += count;
    }

    fn medium(&mut self, [t, h, w]: [u32; 3]) {
        let at = |i: u32| self.next + i as i32;
        for (z, y) in (0..t).flat_map(|z| (0..h).map(move |y| (z, y))) {
            for x in 0..w {
                for (axis, i) in self.thw.iter_mut().zip([z, y, x]) {
                    axis.push(at(i));
                }
            }
        }
        self.next += t.max(h).max(w) as i32;
    }
}
