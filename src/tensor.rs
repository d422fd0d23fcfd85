//! Where a tensor lives and what shape it has. No bytes here: an executor owns those.
//!
//! Dimensions are single letters everywhere: `T` tokens, `B` sequences, `D` hidden, `H` query heads, `G` kv heads, `d` head dim, `F` ffn width,
//! `V` vocab, `P` patches, `L` layers, `M N K` of a matrix product, `S` sampled rows.
//! The surprise: a tensor is always seen as rows of contiguous columns; only the distance between rows is free.

use crate::dtype::DType;
use std::fmt;

/// An executor maps each region to one base allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Region {
    /// Temporaries of the decoder's plans.
    Arena,
    /// Temporaries and inputs of the vision tower's plans.
    VisionArena,
    /// KV-cache blocks of all layers.
    Kv,
    /// Image rows, kept until the prompt that uses them is prefilled.
    Embeds,
    /// What outlives a step and is zeroed once: seen tokens for penalties, and what kernels count with.
    State,
    /// Everything that changes between steps; one copy overwrites it.
    Step,
    /// What the host reads back: logits, sampled ids.
    Out,
}

impl Region {
    /// All regions, in the order of their discriminants.
    pub const ALL: [Region; 7] =
        [Region::Arena, Region::VisionArena, Region::Kv, Region::Embeds, Region::State, Region::Step, Region::Out];

    /// Lower-case name, as plans print it.
    pub const fn name(self) -> &'static str {
        match self {
            Region::Arena => "arena",
            Region::VisionArena => "vision",
            Region::Kv => "kv",
            Region::Embeds => "embeds",
            Region::State => "state",
            Region::Step => "step",
            Region::Out => "out",
        }
    }
}

/// A weight's identity: an index into the [`WeightSet`](crate::weights::WeightSet).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub u32);

/// A plan's temporary: an index into the plan's table, which packs it into an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TempId(pub u32);

/// What a tensor's bytes are relative to. Offsets are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Fixed in a region.
    At { region: Region, offset: usize },
    /// Inside a temporary of the plan that is being recorded.
    Temp { id: TempId, offset: usize },
}

/// A tensor of at most four dimensions, seen as rows of contiguous columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tensor {
    pub place: Place,
    pub dtype: DType,
    dims: [usize; 4],
    rank: usize,
    /// Elements from one row to the next.
    pub row_stride: usize,
}

impl Tensor {
    /// A contiguous tensor. `shape` has one to four dimensions.
    pub fn new(place: Place, dtype: DType, shape: &[usize]) -> Self {
        assert!((1..=4).contains(&shape.len()), "a tensor has one to four dimensions, not {}", shape.len());
        let mut dims = [1; 4];
        dims[..shape.len()].copy_from_slice(shape);
        Tensor { place, dtype, dims, rank: shape.len(), row_stride: shape[shape.len() - 1] }
    }

    /// A contiguous tensor at a fixed place.
    pub fn at(region: Region, offset: usize, dtype: DType, shape: &[usize]) -> Self {
        Tensor::new(Place::At { region, offset }, dtype, shape)
    }

    /// The dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// The product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.shape()[..self.rank - 1].iter().product()
    }

    /// The last dimension.
    pub fn cols(&self) -> usize {
        self.dims[self.rank - 1]
    }

    /// Elements, padding between rows not counted.
    pub fn elements(&self) -> usize {
        self.rows() * self.cols()
    }

    /// Elements from the first to one past the last, padding counted: what a slice over it spans.
    pub fn span(&self) -> usize {
        if self.elements() == 0 { 0 } else { (self.rows() - 1) * self.row_stride + self.cols() }
    }

    /// Bytes of [`span`](Self::span); none if they exceed the address space.
    pub fn checked_bytes(&self) -> Option<usize> {
        let rows = self.shape()[..self.rank - 1].iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
        if rows == 0 || self.cols() == 0 {
            return Some(0);
        }
        (rows - 1).checked_mul(self.row_stride)?.checked_add(self.cols())?.checked_mul(self.dtype.size())
    }

    /// Bytes of [`span`](Self::span).
    pub fn bytes(&self) -> usize {
        self.span() * self.dtype.size()
    }

    /// True if rows follow each other without padding.
    pub fn is_contiguous(&self) -> bool {
        self.row_stride == self.cols() || self.rows() == 1
    }

    /// The same elements under another shape; the tensor must be contiguous.
    pub fn reshape(&self, shape: &[usize]) -> Self {
        assert!(self.is_contiguous() && shape.iter().product::<usize>() == self.elements(), "{self} -> {shape:?}");
        Tensor::new(self.place, self.dtype, shape)
    }

    /// Columns `start..start + len` of every row, as `[rows, len]`.
    pub fn columns(&self, start: usize, len: usize) -> Self {
        assert!(start + len <= self.cols(), "columns {start}+{len} of {self}");
        let mut view = Tensor::new(self.shifted(start), self.dtype, &[self.rows(), len]);
        view.row_stride = self.row_stride;
        view
    }

    /// Rows `start..start + len`, as `[len, cols]`.
    pub fn row_range(&self, start: usize, len: usize) -> Self {
        assert!(start + len <= self.rows(), "rows {start}+{len} of {self}");
        let mut view = Tensor::new(self.shifted(start * self.row_stride), self.dtype, &[len, self.cols()]);
        view.row_stride = self.row_stride;
        view
    }

    fn shifted(&self, elements: usize) -> Place {
        let by = elements * self.dtype.size();
        match self.place {
            Place::At { region, offset } => Place::At { region, offset: offset + by },
            Place::Temp { id, offset } => Place::Temp { id, offset: offset + by },
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::At { region, offset: 0 } => write!(f, "{}", region.name()),
            Place::At { region, offset } => write!(f, "{}+{offset}", region.name()),
            Place::Temp { id, offset: 0 } => write!(f, "%{}", id.0),
            Place::Temp { id, offset } => write!(f, "%{}+{offset}", id.0),
        }
    }
}

impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}[", self.place, self.dtype)?;
        for (i, n) in self.shape().iter().enumerate() {
            write!(f, "{}{n}", if i == 0 { "" } else { "," })?;
        }
        f.write_str("]")?;
        if self.is_contiguous() { Ok(()) } else { write!(f, "/{}", self.row_stride) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_view_keeps_the_row_stride_and_moves_the_offset() {
        let qkv = Tensor::at(Region::Arena, 64, DType::Bf16, &[3, 12]);
        let k = qkv.columns(4, 4);
        assert_eq!((k.rows(), k.cols(), k.row_stride, k.span()), (3, 4, 12, 28));
        assert_eq!(k.to_string(), "arena+72:bf16[3,4]/12");
        assert_eq!(qkv.row_range(2, 1).to_string(), "arena+112:bf16[1,12]");
    }
}
