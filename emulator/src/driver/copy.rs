//! Copies and fills between host and device, of any shape up to three dimensions.

use super::abi::get;
use super::context::{Context, owner};
use super::error::{Error, R};
use super::handles::Handle;
use super::stream::{Queue, queue, synchronous};
use super::work::Work;
use std::ffi::c_void;
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
    fn of(number: u32) -> R<Kind> {
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
    fn flat(to: u64, to_kind: Kind, from: u64, from_kind: Kind, bytes: usize) -> Copy {
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

/// `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Copy2d {
    from: Corner2d,
    to: Corner2d,
    width: usize,
    height: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Corner2d {
    x: usize,
    y: usize,
    kind: u32,
    host: u64,
    device: u64,
    array: u64,
    pitch: usize,
}

/// `CUDA_MEMCPY3D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Copy3d {
    from: Corner3d,
    to: Corner3d,
    width: usize,
    height: usize,
    depth: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Corner3d {
    x: usize,
    y: usize,
    z: usize,
    level: usize,
    kind: u32,
    host: u64,
    device: u64,
    array: u64,
    reserved: u64,
    pitch: usize,
    height: usize,
}

impl Corner3d {
    fn side(&self) -> R<Side> {
        let kind = Kind::of(self.kind)?;
        let base = if kind == Kind::Host { self.host } else { self.device };
        let slice = self.pitch.wrapping_mul(self.height);
        let offset = self.z.wrapping_mul(slice).wrapping_add(self.y.wrapping_mul(self.pitch)).wrapping_add(self.x);
        Ok(Side { at: base.wrapping_add(offset as u64), kind, pitch: self.pitch, slice })
    }
}

impl From<Corner2d> for Corner3d {
    fn from(c: Corner2d) -> Corner3d {
        let Corner2d { x, y, kind, host, device, array, pitch } = c;
        Corner3d { x, y, z: 0, level: 0, kind, host, device, array, reserved: 0, pitch, height: 0 }
    }
}

impl Copy3d {
    pub fn copy(&self) -> R<Copy> {
        let (to, from) = (self.to.side()?, self.from.side()?);
        for side in [&to, &from] {
            let rows = self.height > 1 || self.depth > 1;
            if rows && side.pitch < self.width
                || self.depth > 1 && self.height.checked_mul(side.pitch).is_none_or(|slice| side.slice < slice)
            {
                return Err(Error::INVALID_VALUE);
            }
        }
        Ok(Copy { to, from, width: self.width, height: self.height, depth: self.depth })
    }
}

impl From<&Copy> for Copy3d {
    fn from(copy: &Copy) -> Copy3d {
        let Copy { to, from, width, height, depth } = *copy;
        Copy3d { from: from.into(), to: to.into(), width, height, depth }
    }
}

impl From<Side> for Corner3d {
    /// Where the copy begins is the corner.
    fn from(Side { at, kind, pitch, slice }: Side) -> Corner3d {
        let (host, device) = if kind == Kind::Host { (at, 0) } else { (0, at) };
        let height = slice.checked_div(pitch).unwrap_or(0);
        let kind = kind as u32;
        Corner3d { x: 0, y: 0, z: 0, level: 0, kind, host, device, array: 0, reserved: 0, pitch, height }
    }
}

impl Copy2d {
    fn copy(self) -> R<Copy> {
        let Copy2d { from, to, width, height } = self;
        Copy3d { from: from.into(), to: to.into(), width, height, depth: 1 }.copy()
    }
}

/// A call of the host: on the legacy stream, after which the memory may be used.
fn now(work: Work) -> R {
    synchronous()?.submit(work)
}

fn on(stream: Handle, work: Work) -> R {
    queue(stream).and_then(|queue: Queue| queue.submit(work))
}

fn fill(at: u64, value: u32, element: usize, width: usize) -> Work {
    Work::Fill(Fill { at, pitch: 0, value, element, width, height: 1 })
}

fn fill_rows(at: u64, pitch: usize, value: u32, element: usize, width: usize, height: usize) -> Work {
    Work::Fill(Fill { at, pitch, value, element, width, height })
}

fn flat(to: u64, to_kind: Kind, from: u64, from_kind: Kind, bytes: usize) -> Work {
    Work::Copy(Copy::flat(to, to_kind, from, from_kind, bytes))
}

const HOST: Kind = Kind::Host;
const DEVICE: Kind = Kind::Device;
const UNIFIED: Kind = Kind::Unified;

api! {
    fn cuMemcpy [cuMemcpy_ptds] (to: u64, from: u64, bytes: usize) { now(flat(to, UNIFIED, from, UNIFIED, bytes)) }
    fn cuMemcpyAsync [cuMemcpyAsync_ptsz] (to: u64, from: u64, bytes: usize, stream: Handle) {
        on(stream, flat(to, UNIFIED, from, UNIFIED, bytes))
    }
    fn cuMemcpyHtoD_v2 [cuMemcpyHtoD cuMemcpyHtoD_v2_ptds] (to: u64, from: *const c_void, bytes: usize) {
        now(flat(to, DEVICE, from as u64, HOST, bytes))
    }
    fn cuMemcpyHtoDAsync_v2 [cuMemcpyHtoDAsync cuMemcpyHtoDAsync_v2_ptsz]
        (to: u64, from: *const c_void, bytes: usize, stream: Handle)
    {
        on(stream, flat(to, DEVICE, from as u64, HOST, bytes))
    }
    fn cuMemcpyDtoH_v2 [cuMemcpyDtoH cuMemcpyDtoH_v2_ptds] (to: *mut c_void, from: u64, bytes: usize) {
        now(flat(to as u64, HOST, from, DEVICE, bytes))
    }
    fn cuMemcpyDtoHAsync_v2 [cuMemcpyDtoHAsync cuMemcpyDtoHAsync_v2_ptsz]
        (to: *mut c_void, from: u64, bytes: usize, stream: Handle)
    {
        on(stream, flat(to as u64, HOST, from, DEVICE, bytes))
    }
    fn cuMemcpyDtoD_v2 [cuMemcpyDtoD cuMemcpyDtoD_v2_ptds] (to: u64, from: u64, bytes: usize) {
        now(flat(to, DEVICE, from, DEVICE, bytes))
    }
    fn cuMemcpyDtoDAsync_v2 [cuMemcpyDtoDAsync cuMemcpyDtoDAsync_v2_ptsz]
        (to: u64, from: u64, bytes: usize, stream: Handle)
    {
        on(stream, flat(to, DEVICE, from, DEVICE, bytes))
    }
    /// The addresses say whose they are.
    fn cuMemcpyPeer [cuMemcpyPeer_ptds] (to: u64, _to_context: Handle, from: u64, _from_context: Handle, bytes: usize) {
        now(flat(to, DEVICE, from, DEVICE, bytes))
    }
    fn cuMemcpyPeerAsync [cuMemcpyPeerAsync_ptsz]
        (to: u64, _to_context: Handle, from: u64, _from_context: Handle, bytes: usize, stream: Handle)
    {
        on(stream, flat(to, DEVICE, from, DEVICE, bytes))
    }
    fn cuMemcpy2D_v2 [cuMemcpy2D cuMemcpy2D_v2_ptds cuMemcpy2DUnaligned_v2 cuMemcpy2DUnaligned cuMemcpy2DUnaligned_v2_ptds]
        (copy: *const Copy2d)
    {
        now(Work::Copy(get(copy)?.copy()?))
    }
    fn cuMemcpy2DAsync_v2 [cuMemcpy2DAsync cuMemcpy2DAsync_v2_ptsz] (copy: *const Copy2d, stream: Handle) {
        on(stream, Work::Copy(get(copy)?.copy()?))
    }
    fn cuMemcpy3D_v2 [cuMemcpy3D cuMemcpy3D_v2_ptds] (copy: *const Copy3d) { now(Work::Copy(get(copy)?.copy()?)) }
    fn cuMemcpy3DAsync_v2 [cuMemcpy3DAsync cuMemcpy3DAsync_v2_ptsz] (copy: *const Copy3d, stream: Handle) {
        on(stream, Work::Copy(get(copy)?.copy()?))
    }
    fn cuMemsetD8_v2 [cuMemsetD8 cuMemsetD8_v2_ptds] (at: u64, value: u8, count: usize) {
        now(fill(at, value.into(), 1, count))
    }
    fn cuMemsetD16_v2 [cuMemsetD16 cuMemsetD16_v2_ptds] (at: u64, value: u16, count: usize) {
        now(fill(at, value.into(), 2, count))
    }
    fn cuMemsetD32_v2 [cuMemsetD32 cuMemsetD32_v2_ptds] (at: u64, value: u32, count: usize) {
        now(fill(at, value, 4, count))
    }
    fn cuMemsetD2D8_v2 [cuMemsetD2D8 cuMemsetD2D8_v2_ptds]
        (at: u64, pitch: usize, value: u8, width: usize, height: usize)
    {
        now(fill_rows(at, pitch, value.into(), 1, width, height))
    }
    fn cuMemsetD2D16_v2 [cuMemsetD2D16 cuMemsetD2D16_v2_ptds]
        (at: u64, pitch: usize, value: u16, width: usize, height: usize)
    {
        now(fill_rows(at, pitch, value.into(), 2, width, height))
    }
    fn cuMemsetD2D32_v2 [cuMemsetD2D32 cuMemsetD2D32_v2_ptds]
        (at: u64, pitch: usize, value: u32, width: usize, height: usize)
    {
        now(fill_rows(at, pitch, value, 4, width, height))
    }
    fn cuMemsetD8Async [cuMemsetD8Async_ptsz] (at: u64, value: u8, count: usize, stream: Handle) {
        on(stream, fill(at, value.into(), 1, count))
    }
    fn cuMemsetD16Async [cuMemsetD16Async_ptsz] (at: u64, value: u16, count: usize, stream: Handle) {
        on(stream, fill(at, value.into(), 2, count))
    }
    fn cuMemsetD32Async [cuMemsetD32Async_ptsz] (at: u64, value: u32, count: usize, stream: Handle) {
        on(stream, fill(at, value, 4, count))
    }
    fn cuMemsetD2D8Async [cuMemsetD2D8Async_ptsz]
        (at: u64, pitch: usize, value: u8, width: usize, height: usize, stream: Handle)
    {
        on(stream, fill_rows(at, pitch, value.into(), 1, width, height))
    }
    fn cuMemsetD2D16Async [cuMemsetD2D16Async_ptsz]
        (at: u64, pitch: usize, value: u16, width: usize, height: usize, stream: Handle)
    {
        on(stream, fill_rows(at, pitch, value.into(), 2, width, height))
    }
    fn cuMemsetD2D32Async [cuMemsetD2D32Async_ptsz]
        (at: u64, pitch: usize, value: u32, width: usize, height: usize, stream: Handle)
    {
        on(stream, fill_rows(at, pitch, value, 4, width, height))
    }
}
