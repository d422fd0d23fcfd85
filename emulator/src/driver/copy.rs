//! Calls that copy and fill, and the structures of C that describe copies.

use super::abi::get;
use super::error::{Error, R};
use super::handles::Handle;
use super::state::stream::{queue, synchronous};
use super::state::transfer::{Copy, Fill, Kind, Side};
use super::state::work::Work;
use std::ffi::c_void;

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
    queue(stream)?.submit(work)
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
