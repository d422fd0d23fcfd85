//! Kernel launches: arguments taken, limits checked, programs run.

use super::abi::{get, list, put};
use super::context::declared;
use super::error::{Error, R};
use super::function::{Function, function};
use super::handles::Handle;
use super::limits;
use super::platform::say;
use super::stream::queue;
use super::work::Work;
use crate::gpu::{Shape, param_bytes};
use crate::program::Param;
use std::sync::Arc;

/// A launch that fits its device, with its arguments copied.
pub struct Kernel {
    pub handle: Handle,
    function: Arc<Function>,
    pub shape: Shape,
    params: Vec<u8>,
    /// Where each argument lies in `params`: what `cuGraphKernelNodeGetParams` shows.
    pointers: Box<[usize]>,
}

/// The arguments as a launch gives them: an array of pointers, or `extra`'s one buffer.
#[derive(Clone, Copy)]
pub struct Arguments {
    pub pointers: *const *const u8,
    pub extra: *const usize,
}

impl Kernel {
    /// # Errors
    /// What `cuLaunchKernel` returns for a launch that cannot be; why goes to stderr.
    pub unsafe fn new(handle: Handle, shape: Shape, arguments: Arguments) -> R<Kernel> {
        let function = function(handle)?;
        let (program, context) = (function.program()?, function.context()?);
        limits::check(program, &context.gpu.device, &shape, function.opted()).map_err(|(error, why)| {
            say(&format!("launch of {} refused: {why}", program.name));
            error
        })?;
        // SAFETY: passed on.
        let params = unsafe { arguments.bytes(&program.params)? };
        let pointers = program.params.iter().map(|p| params.as_ptr() as usize + p.offset as usize).collect();
        Ok(Kernel { handle, function, shape, params, pointers })
    }

    /// Runs it in its function's context, without any lock.
    pub fn run(&self) -> R {
        let (program, context) = (self.function.program()?, self.function.context()?);
        let outcome = context.gpu.run(program, &self.shape, &self.params);
        context.finish(&program.name, &self.shape, outcome)
    }

    /// An array with a pointer to every argument.
    pub fn pointers(&self) -> *const usize {
        self.pointers.as_ptr()
    }
}

impl Arguments {
    /// The parameter bytes.
    unsafe fn bytes(self, params: &[Param]) -> R<Vec<u8>> {
        let total = param_bytes(params);
        match (self.pointers.is_null(), self.extra.is_null()) {
            (false, false) => Err(Error::INVALID_VALUE),
            _ if total == 0 => Ok(Vec::new()),
            // SAFETY: passed on.
            (false, true) => unsafe { self.gather(params, total) },
            (true, false) => unsafe { self.buffer(total) },
            (true, true) => Err(Error::INVALID_VALUE),
        }
    }

    unsafe fn gather(self, params: &[Param], total: usize) -> R<Vec<u8>> {
        let mut bytes = vec![0; total];
        // SAFETY: one pointer per parameter, to as many bytes as it has, by the contract of `kernelParams`.
        let pointers = unsafe { list(self.pointers, params.len())? };
        for (param, &pointer) in params.iter().zip(pointers) {
            // SAFETY: as above.
            let from = unsafe { list(pointer, param.bytes as usize)? };
            bytes[param.offset as usize..][..from.len()].copy_from_slice(from);
        }
        Ok(bytes)
    }

    /// Reads `extra`: names and values in turn, up to an end mark.
    unsafe fn buffer(self, total: usize) -> R<Vec<u8>> {
        const END: usize = 0;
        const POINTER: usize = 1;
        const SIZE: usize = 2;
        let (mut at, mut buffer, mut size) = (self.extra, std::ptr::null(), std::ptr::null::<usize>());
        // SAFETY: pairs follow each other up to the end mark, by the contract of `extra`.
        unsafe {
            loop {
                let value = || *at.add(1);
                match *at {
                    END => break,
                    POINTER => buffer = value() as *const u8,
                    SIZE => size = value() as *const usize,
                    _ => return Err(Error::INVALID_VALUE),
                }
                at = at.add(2);
            }
            let given = list(buffer, get(size)?)?;
            given.get(..total).map(<[u8]>::to_vec).ok_or(Error::INVALID_VALUE)
        }
    }
}

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
