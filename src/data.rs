//! Tensor bytes and who keeps them alive: a file mapping or memory. Clones share, so a weight may outlive its checkpoint.
//!
//! The bytes are used in place and may be unaligned: safetensors aligns nothing but the header.

use memmap2::Mmap;
use std::ops::Range;
use std::sync::Arc;

/// Read-only bytes of one tensor. Cloning is cheap and shares the bytes.
#[derive(Clone)]
pub struct TensorData {
    backing: Backing,
    range: Range<usize>,
}

#[derive(Clone)]
enum Backing {
    Map(Arc<Mmap>),
    Owned(Arc<[u8]>),
}

impl TensorData {
    /// Takes bytes in memory, for tensors that come from no file.
    pub fn from_bytes(bytes: impl Into<Arc<[u8]>>) -> TensorData {
        let bytes = bytes.into();
        TensorData { range: 0..bytes.len(), backing: Backing::Owned(bytes) }
    }

    /// `range` must lie within the mapping.
    pub(crate) fn mapped(map: &Arc<Mmap>, range: Range<usize>) -> TensorData {
        assert!(range.start <= range.end && range.end <= map.len(), "the header parser checks ranges");
        TensorData { backing: Backing::Map(map.clone()), range }
    }

    /// The bytes, little-endian, row-major; possibly unaligned.
    pub fn bytes(&self) -> &[u8] {
        match &self.backing {
            Backing::Map(map) => &map[self.range.clone()],
            Backing::Owned(bytes) => &bytes[self.range.clone()],
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// True if some dimension is 0.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// True if the bytes are a file's, so that the page cache holds them and not the process.
    pub fn is_mapped(&self) -> bool {
        matches!(self.backing, Backing::Map(_))
    }
}

impl std::fmt::Debug for TensorData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.is_mapped() { "mapped" } else { "owned" };
        write!(f, "TensorData({} bytes, {kind})", self.len())
    }
}
