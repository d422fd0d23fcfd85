//! Copies and fills between host and device, of any shape up to three dimensions.

use super::context::{Context, owner};
use crate::driver::error::{Error, R};
use std::sync::Arc;

/// Bytes that are staged at once.
const CHUNK: usize = 1 << 20;

/// `width` bytes, `height` rows, `depth` slices.
#[derive(Clone, Copy, Debug)]
pub struct Copy {
    pub to: Side,
    pub from: Side,
    pub width: usize,
    pub height: usize,
    pub depth: usize,
}

/// One end of a copy: the address of its first byte, and bytes between rows and slices.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    pub at: u64,
    /// The memory type that the caller stated.
    pub kind: Kind,
    pub pitch: usize,
    pub slice: usize,
}

/// `CUmemorytype`, without arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Host = 1,
    Device = 2,
    /// The address says which.
    Unified = 4,
}

/// A resolved address.
enum Place {
    Host(*mut u8),
    Device(Arc<Context>, u64),
}

impl Kind {
    /// The kind of a number.
    pub fn of(number: u32) -> R<Kind> {
        match number {
            1 => Ok(Kind::Host),
            2 => Ok(Kind::Device),
            4 => Ok(Kind::Unified),
            3 => Err(Error::NOT_SUPPORTED), // arrays
            _ => Err(Error::INVALID_VALUE),
        }
    }
}

impl Side {
    fn flat(at: u64, kind: Kind) -> Side {
        Side { at, kind, pitch: 0, slice: 0 }
    }

    fn place(&self) -> R<Place> {
        let owner = if self.kind == Kind::Host { None } else { owner(self.at) };
        match owner {
            Some(context) => Ok(Place::Device(context, self.at)),
            None if self.kind == Kind::Device || self.at == 0 => Err(Error::INVALID_VALUE),
            None => Ok(Place::Host(self.at as *mut u8)),
        }
    }

    fn row(&self, y: usize, z: usize) -> u64 {
        self.at.wrapping_add((z.wrapping_mul(self.slice)).wrapping_add(y.wrapping_mul(self.pitch)) as u64)
    }
}

impl Copy {
    /// Of bytes in a row.
    pub fn flat(to: u64, to_kind: Kind, from: u64, from_kind: Kind, bytes: usize) -> Copy {
        let (to, from) = (Side::flat(to, to_kind), Side::flat(from, from_kind));
        Copy { to, from, width: bytes, height: 1, depth: 1 }
    }

    /// Does it. Device memory that is not allocated is INVALID_VALUE.
    pub fn run(&self) -> R {
        if self.width == 0 || self.height == 0 || self.depth == 0 {
            return Ok(());
        }
        if isize::try_from(self.width).is_err() {
            return Err(Error::INVALID_VALUE);
        }
        let (to, from) = (self.to.place()?, self.from.place()?);
        for z in 0..self.depth {
            for y in 0..self.height {
                move_row(&to.at(self.to.row(y, z)), &from.at(self.from.row(y, z)), self.width)?;
            }
        }
        Ok(())
    }
}

impl Place {
    /// The same memory at another address.
    fn at(&self, address: u64) -> Place {
        match self {
            Place::Host(_) => Place::Host(address as *mut u8),
            Place::Device(context, _) => Place::Device(context.clone(), address),
        }
    }
}

fn move_row(to: &Place, from: &Place, bytes: usize) -> R {
    let outside = |_| Error::INVALID_VALUE;
    match (to, from) {
        // SAFETY: both ranges are the caller's, by the contract of the copies; they may overlap.
        (Place::Host(to), Place::Host(from)) => unsafe { std::ptr::copy(*from, *to, bytes) },
        (Place::Host(to), Place::Device(context, at)) => {
            // SAFETY: `bytes` bytes are there by the contract of the copies.
            let to = unsafe { std::slice::from_raw_parts_mut(*to, bytes) };
            context.gpu.memory.read(*at, to).map_err(outside)?;
        }
        (Place::Device(context, at), Place::Host(from)) => {
            // SAFETY: as above.
            let from = unsafe { std::slice::from_raw_parts(*from, bytes) };
            context.gpu.memory.write(*at, from).map_err(outside)?;
        }
        (Place::Device(a, to), Place::Device(b, from)) if Arc::ptr_eq(a, b) => {
            a.gpu.memory.copy(*to, *from, bytes as u64).map_err(outside)?;
        }
        (Place::Device(a, to), Place::Device(b, from)) => {
            let data = b.gpu.read(*from, bytes).map_err(outside)?;
            a.gpu.memory.write(*to, &data).map_err(outside)?;
        }
    }
    Ok(())
}

/// `width` elements of 1, 2 or 4 bytes in each of `height` rows, `pitch` bytes apart.
#[derive(Clone, Copy, Debug)]
pub struct Fill {
    pub at: u64,
    pub pitch: usize,
    pub value: u32,
    pub element: usize,
    pub width: usize,
    pub height: usize,
}

impl Fill {
    /// Does it. INVALID_VALUE unless the range is allocated and its rows begin on an element.
    pub fn run(&self) -> R {
        if self.width == 0 || self.height == 0 {
            return Ok(());
        }
        let bytes = self.row_bytes().ok_or(Error::INVALID_VALUE)?;
        let context = owner(self.at).ok_or(Error::INVALID_VALUE)?;
        let chunk = self.value.to_le_bytes()[..self.element].repeat(CHUNK.min(bytes) / self.element);
        for y in 0..self.height {
            let row = self.at + (y * self.pitch) as u64;
            for from in (0..bytes).step_by(chunk.len()) {
                let part = &chunk[..chunk.len().min(bytes - from)];
                context.gpu.memory.write(row + from as u64, part).map_err(|_| Error::INVALID_VALUE)?;
            }
        }
        Ok(())
    }
}

impl Fill {
    /// Bytes of a row; None if rows are not aligned, overlap, or reach beyond any memory.
    fn row_bytes(&self) -> Option<usize> {
        let aligned = self.at.is_multiple_of(self.element as u64) && self.pitch.is_multiple_of(self.element);
        let bytes = self.width.checked_mul(self.element).filter(|_| aligned)?;
        let apart = self.height == 1 || self.pitch >= bytes;
        let end = (self.height - 1).checked_mul(self.pitch)?.checked_add(bytes)?;
        self.at.checked_add(end as u64).filter(|_| apart).map(|_| bytes)
    }
}
