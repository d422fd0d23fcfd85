//! Rows of integers times quantized weights: sums of a block are exact in 32 bits, so no instruction set can round them otherwise.
//!
//! Owns the order of the f32 chain over the blocks. Refuses to know units and epilogues. The surprise: since the sums are exact, instruction sets
//! spell the integers as suits them ([`integers`]), and rows come in any number, to the same bits.

pub mod integers;
pub mod product;

use super::BLOCK;
use super::simd::{Isa, LANES};
use integers::Integers;
use std::ops::Range;

/// Columns that the loops take at a time: no group is smaller, and a row is padded to whole ones.
const CHUNK: usize = 32;

/// A quantized weight by panels of 16 rows, whose lanes are rows: element `(n, k)` is `scales[n, k / group] * (codes[n, k] - zeros[n, k / group])`. A last
/// panel has as many lanes as the others, whatever they hold.
#[derive(Debug, Clone, Copy)]
pub struct Codes<'a> {
    /// 4 or 8.
    pub bits: usize,
    pub n: usize,
    pub k: usize,
    /// Columns that share a scale, see [`Codes::takes`].
    pub group: usize,
    /// `[panels][k / 4]`, with k up to a multiple of 32: byte `j` of a dword is column `4 i + j`. In 4 bits `[panels][k / 8]`: the low half of byte `j` is
    /// column `8 i + j`, the high half column `8 i + 4 + j`.
    pub codes: &'a [[u32; LANES]],
    /// `[panels][k / group]`
    pub scales: &'a [[f32; LANES]],
    /// `[panels][k / group]`; without them 8 or 128 are the zeros.
    pub zeros: Option<&'a [[u8; LANES]]>,
}

impl<'a> Codes<'a> {
    /// Whether rows of `k` codes may have groups of `group`.
    pub fn takes(group: usize, k: usize) -> bool {
        [32, 64, 128, k].contains(&group) || group.is_multiple_of(BLOCK)
    }

    /// k whose sum is scaled at once.
    pub(super) fn block(&self) -> usize {
        if self.group == self.k { BLOCK } else { self.group.min(BLOCK) }
    }

    /// Lines of a panel, 16 dwords each.
    fn depth(&self) -> usize {
        self.k.next_multiple_of(CHUNK) * self.bits / 32
    }

    /// The panels that hold some rows.
    pub(super) fn panels(&'a self, rows: Range<usize>) -> impl Iterator<Item = Panel<'a>> {
        assert!(rows.end <= self.n, "rows {rows:?} of {}", self.n);
        let (depth, groups) = (self.depth(), self.k / self.group);
        (rows.start / LANES..rows.end.div_ceil(LANES)).map(move |panel| {
            let of_groups = panel * groups..(panel + 1) * groups;
            Panel {
                codes: &self.codes[panel * depth..(panel + 1) * depth],
                scales: &self.scales[of_groups.clone()],
                zeros: self.zeros.map(|zeros| &zeros[of_groups]),
            }
        })
    }

    pub(super) fn assert_whole(&self) {
        let panels = self.n.div_ceil(LANES);
        let groups = panels * (self.k / self.group);
        assert!(Codes::takes(self.group, self.k), "groups of {} in {} columns", self.group, self.k);
        let sizes = (self.codes.len(), self.scales.len(), self.zeros.map_or(groups, <[_]>::len));
        assert!(sizes == (panels * self.depth(), groups, groups), "codes of another size");
    }
}

/// Sixteen rows of a weight.
#[derive(Debug, Clone, Copy)]
pub struct Panel<'a> {
    codes: &'a [[u32; LANES]],
    scales: &'a [[f32; LANES]],
    zeros: Option<&'a [[u8; LANES]]>,
}

/// A range of integer rows times some panels of a weight. Its sums are `[integer rows][panels]`.
pub struct Task<'a> {
    pub isa: Isa,
    pub x: &'a Integers<'a>,
    /// Of the integer rows.
    pub range: Range<usize>,
    /// Any part of the weight.
    pub of: &'a Codes<'a>,
    pub panels: &'a [Panel<'a>],
    /// The panels that the thread will be asked for next, as far as known.
    pub next: &'a [Panel<'a>],
}
