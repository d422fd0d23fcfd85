//! Launches: of kernels, at once or in a stream's capture.

use super::abi::{get, list, put};
use super::error::{Error, R};
use super::handles::Handle;
use super::limits;
use super::platform::say;
use super::state::context::declared;
use super::state::function::function;
use super::state::kernel::{Arguments, Kernel};
use super::state::stream::queue;
use super::state::work::Work;
use crate::gpu::Shape;
use std::sync::Arc;

unsafe fn launch(handle: Handle, stream: Handle, mut shape: Shape, arguments: Arguments) -> R {
    let queue = queue(stream)?;
    shape.operands = declared();
    // SAFETY: passed on.
    let kernel = unsafe { Kernel::new(handle, shape, arguments)? };
    if !Arc::ptr_eq(kernel.function.context()?, &queue.context) {
        return Err(Error::INVALID_HANDLE);
    }
    queue.submit(Work::Kernel(Arc::new(kernel)))
}

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Config {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: Handle,
    attributes: *const Attribute,
    count: u32,
}

/// `CUlaunchAttribute`: a number, and 64 bytes that it gives a meaning.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Attribute {
    id: u32,
    padding: u32,
    value: [u32; 16],
}

impl Config {
    /// The shape; attributes that ask for what is not here are refused, those that only advise are passed over.
    unsafe fn shape(&self) -> R<Shape> {
        const COOPERATIVE: u32 = 2;
        const CLUSTER: u32 = 4;
        const PROGRAMMATIC_EVENT: u32 = 7;
        const PREFERRED_CLUSTER: u32 = 11;
        const COMPLETION_EVENT: u32 = 12;
        const DEVICE_UPDATABLE: u32 = 13;
        let mut cooperative = false;
        // SAFETY: the caller's array.
        for attribute in unsafe { list(self.attributes, self.count as usize)? } {
            match attribute.id {
                COOPERATIVE => cooperative = attribute.value[0] != 0,
                CLUSTER | PREFERRED_CLUSTER if attribute.value[..3] != [1; 3] => {
                    say("clusters of more than one block are not supported");
                    return Err(Error::NOT_SUPPORTED);
                }
                PROGRAMMATIC_EVENT | COMPLETION_EVENT | DEVICE_UPDATABLE => return Err(Error::NOT_SUPPORTED),
                _ => {}
            }
        }
        Ok(Shape { grid: self.grid, block: self.block, shared: self.shared, cooperative, operands: None })
    }
}

api! {
    fn cuLaunchKernel [cuLaunchKernel_ptsz]
        (function: Handle, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: Handle,
         pointers: *const *const u8, extra: *const usize)
    {
        let shape = Shape { grid: [gx, gy, gz], block: [bx, by, bz], shared, cooperative: false, operands: None };
        launch(function, stream, shape, Arguments { pointers, extra })
    }
    fn cuLaunchCooperativeKernel [cuLaunchCooperativeKernel_ptsz]
        (function: Handle, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: Handle,
         pointers: *const *const u8)
    {
        let shape = Shape { grid: [gx, gy, gz], block: [bx, by, bz], shared, cooperative: true, operands: None };
        launch(function, stream, shape, Arguments { pointers, extra: std::ptr::null() })
    }
    fn cuLaunchKernelEx [cuLaunchKernelEx_ptsz]
        (config: *const Config, function: Handle, pointers: *const *const u8, extra: *const usize)
    {
        let config = get(config)?;
        launch(function, config.stream, config.shape()?, Arguments { pointers, extra })
    }
    /// Clusters are of one block: as many as there can be blocks.
    fn cuOccupancyMaxActiveClusters [] (to: *mut i32, handle: Handle, config: *const Config) {
        let (function, config) = (function(handle)?, get(config)?);
        config.shape()?;
        let device = &function.context()?.gpu.device;
        let threads = config.block.iter().fold(1u32, |threads, &n| threads.saturating_mul(n));
        let blocks = limits::resident(&function.program()?.needs, device, threads, config.shared);
        put(to, (blocks * device.multiprocessors) as i32)
    }
}
