//! Kernels to run: limits checked, arguments taken.

use super::function::{Function, function};
use crate::driver::abi::{get, list};
use crate::driver::error::{Error, R};
use crate::driver::handles::Handle;
use crate::driver::limits;
use crate::driver::platform::say;
use crate::gpu::{Shape, param_bytes};
use crate::program::Param;
use std::sync::Arc;

/// A launch that fits its device, with its arguments copied.
pub struct Kernel {
    pub handle: Handle,
    pub function: Arc<Function>,
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
