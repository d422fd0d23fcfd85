//! A lossy WebP picture (a VP8 key frame, RFC 6386) walked without its pixels: do its partitions last for every macroblock?
//!
//! Owns: the boolean decoder and the syntax of modes and coefficients. Refuses to know prediction, transforms and filters.
//! Surprise: such data cannot be wrong, only too short. One byte beyond a partition's end reads as zero, as in libwebp.

use super::tables::{COEFFICIENTS, MODES, UPDATES};

/// The mode of macroblocks that choose one for each of their 16 luma blocks.
const BY_BLOCK: usize = 4;

/// Whether the frame holds all of its `width` x `height` pixels. `None` where the decoder would fail.
pub(super) fn walk(frame: &[u8], width: usize, height: usize) -> Option<()> {
    let [a, b, c, _, _, _, _, _, _, _, rest @ ..] = frame else { return None };
    let first = u32::from_le_bytes([*a, *b, *c, 0]) as usize >> 5;
    let mut modes = Bools::new(rest.get(..first)?);
    let header = Header::read(&mut modes)?;
    let mut partitions = split(&rest[first..], header.partitions)?;
    let probabilities = read_probabilities(&mut modes)?;
    let skip = if modes.flag()? { Some(modes.literal(8)? as u8) } else { None };
    let mut above = vec![Context::default(); width.div_ceil(16)];
    for y in 0..height.div_ceil(16) {
        let coefficients = &mut partitions[y % header.partitions];
        let mut left = Context::default();
        for above in &mut above {
            if let Some(segments) = header.segments {
                modes.tree(&[2, 4, 0, -1, -2, -3], &segments)?;
            }
            let skipped = skip.map_or(Some(false), |p| modes.bool(p))?;
            let by_block = read_modes(&mut modes, above, &mut left)?;
            if skipped {
                above.clear(by_block);
                left.clear(by_block);
            } else {
                read_macroblock(coefficients, &probabilities, by_block, above, &mut left)?;
            }
        }
    }
    Some(())
}

/// The boolean decoder of section 7, one byte at a time.
struct Bools<'a> {
    rest: &'a [u8],
    ended: bool,
    value: u32,
    range: u32,
    /// Bits of `value` below the 8 that are compared.
    spare: i32,
}

impl<'a> Bools<'a> {
    fn new(rest: &'a [u8]) -> Self {
        Self { rest, ended: false, value: 0, range: 255, spare: -8 }
    }

    fn bool(&mut self, probability: u8) -> Option<bool> {
        if self.spare < 0 {
            let byte = match self.rest.split_first() {
                Some((&byte, rest)) => {
                    self.rest = rest;
                    byte
                }
                None if std::mem::replace(&mut self.ended, true) => return None,
                None => 0,
            };
            self.value = self.value << 8 | byte as u32;
            self.spare += 8;
        }
        let split = 1 + (((self.range - 1) * probability as u32) >> 8);
        let shifted = split << self.spare;
        let bit = self.value >= shifted;
        if bit {
            self.range -= split;
            self.value -= shifted;
        } else {
            self.range = split;
        }
        let shift = self.range.leading_zeros() as i32 - 24;
        self.range <<= shift;
        self.spare -= shift;
        Some(bit)
    }

    fn flag(&mut self) -> Option<bool> {
        self.bool(128)
    }

    fn literal(&mut self, bits: u32) -> Option<usize> {
        (0..bits).try_fold(0, |v, _| Some(v << 1 | self.flag()? as usize))
    }

    /// Passes a number that is there only if a flag says so: `bits` and a sign.
    fn pass_optional(&mut self, bits: u32) -> Option<()> {
        if self.flag()? {
            self.literal(bits + 1)?;
        }
        Some(())
    }

    /// Walks a tree of pairs: a positive entry is the next pair, others are leaves, negated.
    fn tree(&mut self, tree: &[i8], probabilities: &[u8]) -> Option<usize> {
        let mut at = 0;
        loop {
            let next = tree[at + self.bool(probabilities[at / 2])? as usize];
            if next <= 0 {
                return Some(-next as usize);
            }
            at = next as usize;
        }
    }
}

/// What the walk needs of the frame header (section 9).
struct Header {
    /// Probabilities of the segment tree, where macroblocks name their segment.
    segments: Option<[u8; 3]>,
    partitions: usize,
}

impl Header {
    fn read(bits: &mut Bools) -> Option<Self> {
        if bits.flag()? {
            return None; // a colour space that the decoder refuses
        }
        bits.flag()?; // clamping
        let segments = if bits.flag()? { read_segments(bits)? } else { None };
        bits.literal(1 + 6 + 3)?; // the filter's kind, level and sharpness
        if bits.flag()? && bits.flag()? {
            (0..8).try_for_each(|_| bits.pass_optional(6))?;
        }
        Some(Self { segments, partitions: 1 << bits.literal(2)? })
    }
}

fn read_segments(bits: &mut Bools) -> Option<Option<[u8; 3]>> {
    let (map, features) = (bits.flag()?, bits.flag()?);
    if features {
        bits.flag()?;
        (0..4).try_for_each(|_| bits.pass_optional(7))?;
        (0..4).try_for_each(|_| bits.pass_optional(6))?;
    }
    if !map {
        return Some(None);
    }
    let mut probabilities = [255; 3];
    for p in &mut probabilities {
        if bits.flag()? {
            *p = bits.literal(8)? as u8;
        }
    }
    Some(Some(probabilities))
}

/// The coefficient partitions: sizes of 3 bytes for all but the last.
fn split(data: &[u8], count: usize) -> Option<Vec<Bools<'_>>> {
    let (sizes, mut rest) = data.split_at_checked(3 * (count - 1))?;
    let mut partitions = Vec::new();
    for size in sizes.chunks_exact(3) {
        let (partition, after) = rest.split_at_checked(u32::from_le_bytes([size[0], size[1], size[2], 0]) as usize)?;
        partitions.push(Bools::new(partition));
        rest = after;
    }
    partitions.push(Bools::new(rest));
    Some(partitions)
}

/// Passes the quantizers, then reads the coefficient probabilities.
fn read_probabilities(bits: &mut Bools) -> Option<[u8; 1056]> {
    bits.literal(7)?;
    (0..5).try_for_each(|_| bits.pass_optional(4))?;
    bits.flag()?; // whether later frames keep them
    let mut probabilities = COEFFICIENTS;
    for (p, update) in probabilities.iter_mut().zip(UPDATES) {
        if bits.bool(update)? {
            *p = bits.literal(8)? as u8;
        }
    }
    Some(probabilities)
}

/// What a macroblock leaves to its neighbours below or to the right.
#[derive(Clone, Default)]
struct Context {
    /// Modes of the four blocks at the border.
    modes: [usize; 4],
    /// Whether the border's blocks have coefficients: 4 luma, 2 + 2 chroma.
    filled: [usize; 8],
    /// The same for the block of luma averages.
    averages: usize,
}

impl Context {
    fn clear(&mut self, by_block: bool) {
        self.filled = [0; 8];
        if !by_block {
            self.averages = 0;
        }
    }
}

/// Reads the modes of a macroblock (section 11); whether its luma blocks have one each.
fn read_modes(bits: &mut Bools, above: &mut Context, left: &mut Context) -> Option<bool> {
    /// Block modes that stand for those of a macroblock, in the order DC, vertical, horizontal, TrueMotion.
    const AS_BLOCK: [usize; 4] = [0, 2, 3, 1];
    const BLOCK: [i8; 18] = [0, 2, -1, 4, -2, 6, 8, 12, -3, 10, -5, -6, -4, 14, -7, 16, -8, -9];
    let luma = bits.tree(&[-4, 2, 4, 6, 0, -1, -2, -3], &[145, 156, 163, 128])?;
    if luma == BY_BLOCK {
        for left in &mut left.modes {
            for above in &mut above.modes {
                let at = (*above * 10 + *left) * 9;
                *above = bits.tree(&BLOCK, &MODES[at..at + 9])?;
                *left = *above;
            }
        }
    } else {
        above.modes = [AS_BLOCK[luma]; 4];
        left.modes = above.modes;
    }
    bits.tree(&[0, 2, -1, 4, -2, -3], &[142, 114, 183])?;
    Some(luma == BY_BLOCK)
}

/// Passes the coefficients of a macroblock (section 13).
fn read_macroblock(
    bits: &mut Bools,
    p: &[u8; 1056],
    by_block: bool,
    above: &mut Context,
    left: &mut Context,
) -> Option<()> {
    let mut plane = 3;
    if !by_block {
        let filled = read_block(bits, p, 1, above.averages + left.averages)?;
        (above.averages, left.averages, plane) = (filled, filled, 0);
    }
    for (plane, border) in [(plane, 0..4), (2, 4..6), (2, 6..8)] {
        for left in &mut left.filled[border.clone()] {
            for above in &mut above.filled[border.clone()] {
                *left = read_block(bits, p, plane, *above + *left)?;
                *above = *left;
            }
        }
    }
    Some(())
}

/// Passes one block; 1 if it has coefficients. The first of plane 0 lies in the block of averages.
fn read_block(bits: &mut Bools, probabilities: &[u8; 1056], plane: usize, mut context: usize) -> Option<usize> {
    const BANDS: [usize; 16] = [0, 1, 2, 3, 6, 4, 5, 6, 6, 6, 6, 6, 6, 6, 6, 7];
    /// Bits beyond the large tokens (section 13.2), with their probabilities.
    const EXTRA: [&[u8]; 6] = [
        &[159],
        &[165, 145],
        &[173, 148, 140],
        &[176, 155, 140, 135],
        &[180, 157, 141, 134, 130],
        &[254, 254, 243, 230, 196, 177, 153, 140, 133, 130, 129],
    ];
    /// Leaves are 0: one, 1 to 3: two to four, 4 to 9: the large ones.
    const SIZES: [i8; 18] = [0, 2, 4, 8, -1, 6, -2, -3, 10, 12, -4, -5, 14, 16, -6, -7, -8, -9];
    let first = (plane == 0) as usize;
    let mut after_zero = false;
    for (i, band) in BANDS.into_iter().enumerate().skip(first) {
        let at = ((plane * 8 + band) * 3 + context) * 11;
        let p = &probabilities[at..at + 11];
        if !after_zero && !bits.bool(p[0])? {
            return Some((i > first) as usize);
        }
        after_zero = !bits.bool(p[1])?;
        if after_zero {
            context = 0;
            continue;
        }
        let size = bits.tree(&SIZES, &p[2..])?;
        if size >= 4 {
            EXTRA[size - 4].iter().try_for_each(|&p| bits.bool(p).map(drop))?;
        }
        bits.flag()?; // the sign
        context = 1 + (size > 0) as usize;
    }
    Some(1)
}
