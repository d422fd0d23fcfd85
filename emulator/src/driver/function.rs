//! Functions: kernels of a module in a context, and library kernels that become one where they are used.

use super::abi::{offer, put};
use super::context::{Context, current};
use super::error::{Error, R};
use super::handles::{Handle, Handles};
use super::limits;
use super::module::{LIBRARIES, Module};
use crate::program::Program;
use std::collections::BTreeMap;
use std::ffi::{CString, c_char};
use std::sync::{Arc, Mutex};

pub static FUNCTIONS: Handles<Function> = Handles::new();

/// See the module.
pub struct Function {
    home: Home,
    name: CString,
    /// Attributes that were set.
    set: Mutex<BTreeMap<i32, i32>>,
}

enum Home {
    Module { module: Arc<Module>, index: usize },
    Library(Handle),
}

/// `CUfunction_attribute`: the one that changes what may be launched, from which on they can be set, and the last.
const MAX_DYNAMIC_SHARED: i32 = 8;
const LAST: i32 = 15;

impl Function {
    fn insert(home: Home, name: &str) -> Handle {
        // A PTX name holds no zero byte.
        let name = CString::new(name).unwrap_or_default();
        FUNCTIONS.insert(Function { home, name, set: Mutex::default() })
    }

    /// The handle of a module's kernel; asked again, the same.
    pub fn of(module: &Arc<Module>, index: usize) -> Handle {
        let is = |f: &Function| f.is_in(module) && matches!(f.home, Home::Module { index: i, .. } if i == index);
        FUNCTIONS.handle_of(is).unwrap_or_else(|| {
            Function::insert(Home::Module { module: module.clone(), index }, &module.contents.kernels[index].name)
        })
    }

    /// The handle of a library's kernel; asked again, the same.
    pub fn kernel(library: Handle, name: &str) -> Handle {
        let is = |f: &Function| f.library() == Some(library) && f.name.as_bytes() == name.as_bytes();
        FUNCTIONS.handle_of(is).unwrap_or_else(|| Function::insert(Home::Library(library), name))
    }

    /// The library whose kernel this is.
    pub fn library(&self) -> Option<Handle> {
        if let Home::Library(handle) = self.home { Some(handle) } else { None }
    }

    pub fn is_in(&self, other: &Arc<Module>) -> bool {
        matches!(&self.home, Home::Module { module, .. } if Arc::ptr_eq(module, other))
    }

    pub fn belongs_to(&self, context: &Arc<Context>) -> bool {
        matches!(&self.home, Home::Module { module, .. } if Arc::ptr_eq(&module.context, context))
    }

    /// The module and the program. Only of what `function` gave.
    fn place(&self) -> R<(&Arc<Module>, &Program)> {
        match &self.home {
            Home::Module { module, index } => Ok((module, &module.contents.kernels[*index])),
            Home::Library(_) => Err(Error::INVALID_HANDLE),
        }
    }

    pub fn program(&self) -> R<&Program> {
        Ok(self.place()?.1)
    }

    pub fn context(&self) -> R<&Arc<Context>> {
        Ok(&self.place()?.0.context)
    }

    /// The dynamic shared memory that was opted into.
    pub fn opted(&self) -> Option<u32> {
        self.setting(MAX_DYNAMIC_SHARED).map(|bytes| bytes as u32)
    }

    fn setting(&self, attribute: i32) -> Option<i32> {
        self.set.lock().unwrap_or_else(|e| e.into_inner()).get(&attribute).copied()
    }

    fn attribute(&self, number: i32) -> R<i32> {
        let (module, program) = self.place()?;
        let device = &module.context.gpu.device;
        let needs = &program.needs;
        let value = match number {
            0 => limits::most_threads(needs),
            1 => needs.static_shared,
            2 => 0, // CONST_SIZE_BYTES: constants are the module's
            3 => needs.local,
            4 => limits::registers(needs),
            5 => module.contents.target, // PTX_VERSION: that of the virtual architecture, 80 for compute_80
            6 => device.capability.0 * 10 + device.capability.1, // BINARY_VERSION: compiled for the device
            MAX_DYNAMIC_SHARED => limits::most_dynamic(needs, device, self.opted()),
            9 => return Ok(self.setting(number).unwrap_or(-1)), // PREFERRED_SHARED_MEMORY_CARVEOUT
            7 | 10..=LAST => return Ok(self.setting(number).unwrap_or(0)),
            _ => return Err(Error::INVALID_VALUE),
        };
        Ok(value as i32)
    }

    fn set_attribute(&self, number: i32, value: i32) -> R {
        let (module, program) = self.place()?;
        let optin = module.context.gpu.device.shared_per_block_optin;
        let room = optin.saturating_sub(program.needs.static_shared) as i32;
        let valid = match number {
            MAX_DYNAMIC_SHARED => (0..=room).contains(&value),
            9 => (-1..=100).contains(&value),
            11..=13 => value <= 1, // clusters are of one block
            _ => (MAX_DYNAMIC_SHARED..=LAST).contains(&number),
        };
        if !valid {
            return Err(Error::INVALID_VALUE);
        }
        self.set.lock().unwrap_or_else(|e| e.into_inner()).insert(number, value);
        Ok(())
    }
}

/// The functions of a module, in its order.
pub fn functions_of(module: &Arc<Module>) -> Vec<Handle> {
    (0..module.contents.kernels.len()).map(|index| Function::of(module, index)).collect()
}

/// The function behind a handle; of a library's kernel, that of the current context.
pub fn function(handle: Handle) -> R<Arc<Function>> {
    let found = FUNCTIONS.get(handle).ok_or(Error::INVALID_HANDLE)?;
    match found.library() {
        None => Ok(found),
        Some(_) => FUNCTIONS.get(in_context(handle)?).ok_or(Error::INVALID_HANDLE),
    }
}

fn in_context(handle: Handle) -> R<Handle> {
    let found = FUNCTIONS.get(handle).ok_or(Error::INVALID_HANDLE)?;
    let Some(library) = found.library() else { return Ok(handle) };
    let module = LIBRARIES.get(library).ok_or(Error::INVALID_HANDLE)?.module(&current()?)?;
    let named = |program: &Program| program.name.as_bytes() == found.name.as_bytes();
    let index = module.contents.kernels.iter().position(named).ok_or(Error::NOT_FOUND)?;
    Ok(Function::of(&module, index))
}

fn usable(handle: Handle) -> R<Arc<Function>> {
    current()?;
    function(handle)
}

/// A number that the caller gives as a signed one.
fn positive(value: i32) -> R<u32> {
    u32::try_from(value).ok().filter(|&v| v > 0).ok_or(Error::INVALID_VALUE)
}

fn active_blocks(to: *mut i32, handle: Handle, threads: i32, dynamic: usize) -> R {
    let function = usable(handle)?;
    let dynamic = u32::try_from(dynamic).map_err(|_| Error::INVALID_VALUE)?;
    let device = &function.context()?.gpu.device;
    let blocks = limits::resident(&function.program()?.needs, device, positive(threads)?, dynamic);
    // SAFETY: the caller's pointer.
    unsafe { put(to, blocks as i32) }
}

type SharedOfBlock = Option<unsafe extern "C" fn(i32) -> usize>;

/// The block of whole warps that fills a multiprocessor best, the largest of those.
fn best_block(handle: Handle, of_block: SharedOfBlock, dynamic: usize, limit: i32) -> R<(i32, i32)> {
    let function = usable(handle)?;
    let (program, device) = (function.program()?, &function.context()?.gpu.device);
    let most = limits::most_threads(&program.needs);
    let most = if limit > 0 { most.min(limit as u32) } else { most };
    let mut best = (0, 0, 0);
    for threads in (1..=most).rev().filter(|&n| n % 32 == 0 || n == most) {
        // SAFETY: the caller's function.
        let dynamic = of_block.map_or(dynamic, |of| unsafe { of(threads as i32) });
        let dynamic = u32::try_from(dynamic).unwrap_or(u32::MAX);
        let blocks = limits::resident(&program.needs, device, threads, dynamic);
        if blocks * threads > best.0 {
            best = (blocks * threads, blocks, threads);
        }
    }
    Ok(((best.1 * device.multiprocessors) as i32, best.2 as i32))
}

fn potential(grid: *mut i32, block: *mut i32, best: R<(i32, i32)>) -> R {
    let (blocks, threads) = best?;
    // SAFETY: the caller's pointers.
    unsafe {
        put(grid, blocks)?;
        put(block, threads)
    }
}

api! {
    fn cuFuncGetAttribute [] (to: *mut i32, number: i32, handle: Handle) {
        put(to, usable(handle)?.attribute(number)?)
    }
    fn cuFuncSetAttribute [] (handle: Handle, number: i32, value: i32) { usable(handle)?.set_attribute(number, value) }
    fn cuFuncSetCacheConfig [] (handle: Handle, _preference: u32) { usable(handle).map(|_| ()) }
    fn cuFuncSetSharedMemConfig [] (handle: Handle, _banks: u32) { usable(handle).map(|_| ()) }
    fn cuFuncGetModule [] (to: *mut Handle, handle: Handle) { put(to, usable(handle)?.place()?.0.handle) }
    fn cuFuncGetName [cuKernelGetName] (to: *mut *const c_char, handle: Handle) {
        put(to, FUNCTIONS.get(handle).ok_or(Error::INVALID_HANDLE)?.name.as_ptr())
    }
    fn cuFuncGetParamInfo [cuKernelGetParamInfo] (handle: Handle, index: usize, offset: *mut usize, bytes: *mut usize) {
        let function = usable(handle)?;
        let param = function.program()?.params.get(index).ok_or(Error::INVALID_VALUE)?;
        put(offset, param.offset as usize)?;
        offer(bytes, param.bytes as usize);
        Ok(())
    }
    fn cuFuncIsLoaded [] (to: *mut i32, handle: Handle) {
        usable(handle)?;
        put(to, 1)
    }
    fn cuFuncLoad [] (handle: Handle) { usable(handle).map(|_| ()) }
    fn cuKernelGetFunction [] (to: *mut Handle, handle: Handle) { put(to, in_context(handle)?) }
    fn cuKernelGetLibrary [] (to: *mut Handle, handle: Handle) {
        let kernel = FUNCTIONS.get(handle).ok_or(Error::INVALID_HANDLE)?;
        put(to, kernel.library().ok_or(Error::INVALID_HANDLE)?)
    }
    /// The kernel in the current context, whatever the device.
    fn cuKernelGetAttribute [] (to: *mut i32, number: i32, handle: Handle, _ordinal: i32) {
        put(to, usable(handle)?.attribute(number)?)
    }
    fn cuKernelSetAttribute [] (number: i32, value: i32, handle: Handle, _ordinal: i32) {
        usable(handle)?.set_attribute(number, value)
    }
    fn cuKernelSetCacheConfig [] (handle: Handle, _preference: u32, _ordinal: i32) { usable(handle).map(|_| ()) }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor [] (to: *mut i32, handle: Handle, threads: i32, dynamic: usize) {
        active_blocks(to, handle, threads, dynamic)
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags []
        (to: *mut i32, handle: Handle, threads: i32, dynamic: usize, _flags: u32)
    {
        active_blocks(to, handle, threads, dynamic)
    }
    fn cuOccupancyMaxPotentialBlockSize []
        (grid: *mut i32, block: *mut i32, handle: Handle, of_block: SharedOfBlock, dynamic: usize, limit: i32)
    {
        potential(grid, block, best_block(handle, of_block, dynamic, limit))
    }
    fn cuOccupancyMaxPotentialBlockSizeWithFlags []
        (grid: *mut i32, block: *mut i32, handle: Handle, of_block: SharedOfBlock, dynamic: usize, limit: i32,
         _flags: u32)
    {
        potential(grid, block, best_block(handle, of_block, dynamic, limit))
    }
    fn cuOccupancyAvailableDynamicSMemPerBlock [] (to: *mut usize, handle: Handle, blocks: i32, threads: i32) {
        let function = usable(handle)?;
        let (needs, device) = (&function.program()?.needs, &function.context()?.gpu.device);
        let (blocks, threads) = (positive(blocks)?, positive(threads)?);
        let most = limits::most_dynamic(needs, device, function.opted());
        let fits = |bytes: &u32| limits::resident(needs, device, threads, *bytes) >= blocks;
        let found = (0..=most).step_by(256).chain([most]).filter(fits).max();
        put(to, found.ok_or(Error::INVALID_VALUE)? as usize)
    }
    /// Clusters are of one block.
    fn cuOccupancyMaxPotentialClusterSize [] (to: *mut i32, handle: Handle, _config: *const u8) {
        usable(handle)?;
        put(to, 1)
    }
}
