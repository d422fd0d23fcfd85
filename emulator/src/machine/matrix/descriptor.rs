//! How matrices lie in shared memory: the 64-bit descriptors of `wgmma`, and the swizzles, which tensor copies share.
//!
//! An operand is read in chunks of 16 bytes. K-major: a chunk holds neighbours in k of one row (of A; of B a column).
//! Transposed: a chunk holds eight rows' elements of one k. The layouts are the canonical ones of the ISA document.

/// A row of A or a column of B: what one `wgmma` multiplies of it.
pub type Line = [u8; 32];

/// Bytes that swizzles move, and that are read at once.
pub const CHUNK: usize = 16;

/// How the chunks of a line of the pattern change places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swizzle {
    None,
    B32,
    B64,
    B128,
}

impl Swizzle {
    /// Bytes of a line of the pattern.
    pub fn span(self) -> u32 {
        match self {
            Swizzle::None => 16,
            Swizzle::B32 => 32,
            Swizzle::B64 => 64,
            Swizzle::B128 => 128,
        }
    }

    /// Where the byte of an unswizzled address lies: the chunk's number within the span, XOR the number of the 128-byte
    /// line that it is in, counted from line `first`.
    pub fn place(self, address: u32, first: u32) -> u32 {
        let chunks = self.span() / CHUNK as u32;
        address ^ ((address >> 7).wrapping_sub(first) & (chunks - 1)) << 4
    }
}

/// A matrix descriptor, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub start: u32,
    pub leading: u32,
    pub stride: u32,
    /// The 128-byte line within the pattern at which the matrix begins.
    pub base: u32,
    pub swizzle: Swizzle,
}

impl Descriptor {
    /// Addresses and offsets are 14 bits of 16 bytes each.
    pub fn decode(bits: u64) -> Descriptor {
        let field = |from: u32| (bits >> from & 0x3fff) as u32 * 16;
        let swizzle = match bits >> 62 {
            0 => Swizzle::None,
            1 => Swizzle::B128,
            2 => Swizzle::B64,
            _ => Swizzle::B32,
        };
        Descriptor { start: field(0), leading: field(16), stride: field(32), base: (bits >> 49 & 7) as u32, swizzle }
    }

    /// The address of chunk `chunk` of line `line`, K-major.
    fn straight(&self, line: u32, chunk: u32) -> u32 {
        let across = if self.swizzle == Swizzle::None { self.leading } else { CHUNK as u32 };
        self.place(line % 8 * self.swizzle.span() + line / 8 * self.stride + chunk * across)
    }

    /// The address of the chunk with element `k` of the lines of chunk `chunk`, transposed.
    fn transposed(&self, k: u32, chunk: u32) -> u32 {
        let width = self.swizzle.span() / CHUNK as u32;
        let (down, across) = match self.swizzle {
            Swizzle::None => (self.leading, self.stride),
            _ => (self.stride, self.leading),
        };
        let line = k % 8 * self.swizzle.span() + k / 8 * down;
        self.place(line + chunk % width * CHUNK as u32 + chunk / width * across)
    }

    fn place(&self, offset: u32) -> u32 {
        self.swizzle.place(self.start.wrapping_add(offset), self.base)
    }

    /// Reads `lines` of the operand from line `first` on, both multiples of 8; transposed operands have 16-bit elements.
    pub fn gather<E>(
        &self,
        transposed: bool,
        first: usize,
        lines: &mut [Line],
        mut read: impl FnMut(u32) -> Result<[u8; CHUNK], E>,
    ) -> Result<(), E> {
        if !transposed {
            for (i, line) in lines.iter_mut().enumerate() {
                for (chunk, part) in line.chunks_exact_mut(CHUNK).enumerate() {
                    part.copy_from_slice(&read(self.straight((first + i) as u32, chunk as u32))?);
                }
            }
            return Ok(());
        }
        for (i, lines) in lines.chunks_exact_mut(8).enumerate() {
            for k in 0..16 {
                let chunk = read(self.transposed(k as u32, (first / 8 + i) as u32))?;
                for (line, element) in lines.iter_mut().zip(chunk.chunks_exact(2)) {
                    line[2 * k..][..2].copy_from_slice(element);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ISA document's pictures: by line of 128 bytes, which chunk is where.
    #[test]
    fn swizzles_are_those_of_the_document() {
        let line = |swizzle: Swizzle, line: u32| -> Vec<u32> {
            (0..8).map(|chunk| swizzle.place(128 * line + 16 * chunk, 0) % 128 / 16).collect()
        };
        assert_eq!(line(Swizzle::None, 5), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(line(Swizzle::B32, 0), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(line(Swizzle::B32, 1), [1, 0, 3, 2, 5, 4, 7, 6]);
        assert_eq!(line(Swizzle::B32, 2), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(line(Swizzle::B64, 1), [1, 0, 3, 2, 5, 4, 7, 6]);
        assert_eq!(line(Swizzle::B64, 2), [2, 3, 0, 1, 6, 7, 4, 5]);
        assert_eq!(line(Swizzle::B64, 3), [3, 2, 1, 0, 7, 6, 5, 4]);
        assert_eq!(line(Swizzle::B64, 4), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(line(Swizzle::B128, 1), [1, 0, 3, 2, 5, 4, 7, 6]);
        assert_eq!(line(Swizzle::B128, 5), [5, 4, 7, 6, 1, 0, 3, 2]);
        assert_eq!(line(Swizzle::B128, 7), [7, 6, 5, 4, 3, 2, 1, 0]);
        assert_eq!(Swizzle::B128.place(3 * 128 + 5, 0), 3 * 128 + 3 * 16 + 5);
        assert_eq!(Swizzle::B128.place(3 * 128 + 5, 3), 3 * 128 + 5);
    }
}
