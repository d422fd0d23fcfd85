//! Functions: kernels of a module in a context, and library kernels that become one where they are used.

use super::context::{Context, current};
use super::module::{LIBRARIES, Module};
use crate::driver::error::{Error, R};
use crate::driver::handles::{Handle, Handles};
use crate::driver::limits;
use crate::program::Program;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex};

pub static FUNCTIONS: Handles<Function> = Handles::new();

/// See the module.
pub struct Function {
    home: Home,
    pub name: CString,
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
    pub fn place(&self) -> R<(&Arc<Module>, &Program)> {
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

    /// `CUfunction_attribute` of a number.
    pub fn attribute(&self, number: i32) -> R<i32> {
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

    /// Sets one that can be set to this value.
    pub fn set_attribute(&self, number: i32, value: i32) -> R {
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

/// The handle of a function; of a library's kernel, of that in the current context.
pub fn in_context(handle: Handle) -> R<Handle> {
    let found = FUNCTIONS.get(handle).ok_or(Error::INVALID_HANDLE)?;
    let Some(library) = found.library() else { return Ok(handle) };
    let module = LIBRARIES.get(library).ok_or(Error::INVALID_HANDLE)?.module(&current()?)?;
    let named = |program: &Program| program.name.as_bytes() == found.name.as_bytes();
    let index = module.contents.kernels.iter().position(named).ok_or(Error::NOT_FOUND)?;
    Ok(Function::of(&module, index))
}
