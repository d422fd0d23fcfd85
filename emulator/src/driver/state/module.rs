//! Modules: PTX text loaded in a context; libraries: text that belongs to no context, and is loaded into one when it is
//! first used there. What a text became is kept, as drivers do: most programs load the same ones again and again.

use super::context::Context;
use crate::device::Device;
use crate::driver::abi::{list, offer, put_text};
use crate::driver::error::{Error, R};
use crate::driver::handles::{Handle, Handles, fresh};
use crate::driver::platform::say;
use crate::ptx::{self, PtxErrorKind};
use std::collections::BTreeMap;
use std::ffi::c_char;
use std::sync::{Arc, Mutex};

pub static MODULES: Handles<Module> = Handles::new();
pub static LIBRARIES: Handles<Library> = Handles::new();

/// A module in a context.
pub struct Module {
    pub handle: Handle,
    pub context: Arc<Context>,
    pub contents: Arc<ptx::Module>,
}

impl Drop for Module {
    fn drop(&mut self) {
        for global in &self.contents.globals {
            // An error would mean that the loader did not allocate it: then there is nothing to free.
            let _ = self.context.gpu.memory.free(global.address);
        }
    }
}

/// A text, loaded where it is used.
pub struct Library {
    pub text: String,
    /// Its module in each context, by the context's handle.
    pub loaded: Mutex<BTreeMap<Handle, Arc<Module>>>,
}

impl Library {
    /// The module in a context.
    pub fn module(&self, context: &Arc<Context>) -> R<Arc<Module>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(module) = loaded.get(&context.handle).filter(|module| Arc::ptr_eq(&module.context, context)) {
            return Ok(module.clone());
        }
        let module = load(context, &self.text, &mut Log::default())?;
        loaded.insert(context.handle, module.clone());
        Ok(module)
    }

    /// Drops its module in a context that ends.
    pub fn forget(&self, context: Handle) {
        let gone = self.loaded.lock().unwrap_or_else(|e| e.into_inner()).remove(&context);
        drop(gone);
    }
}

/// Where a caller wants to read why an image was refused (`CU_JIT_ERROR_LOG_BUFFER`).
#[derive(Default)]
pub struct Log {
    at: usize,
    room: usize,
    /// The option's value, which becomes the bytes written.
    written: usize,
}

impl Log {
    const BUFFER: i32 = 5;
    const BYTES: i32 = 6;
    /// Of the other log, which stays empty.
    const INFO_BYTES: i32 = 4;

    /// What `CUjit_option`s say of it.
    pub unsafe fn from_options(options: *const i32, values: *mut usize, count: u32) -> R<Log> {
        let mut log = Log::default();
        // SAFETY: both arrays have `count` entries by the API's contract.
        let (options, given) = unsafe { (list(options, count as usize)?, list(values, count as usize)?) };
        let mut info = 0;
        for (i, (&option, &value)) in options.iter().zip(given).enumerate() {
            let place = values.wrapping_add(i) as usize;
            match option {
                Log::BUFFER => log.at = value,
                Log::BYTES => (log.room, log.written) = (value as u32 as usize, place),
                Log::INFO_BYTES => info = place,
                _ => {}
            }
        }
        // SAFETY: places in the array of values. Nothing is written to the logs yet.
        unsafe { [log.written, info].into_iter().for_each(|place| offer(place as *mut usize, 0)) };
        Ok(log)
    }

    /// Writes there, and to stderr.
    pub fn say(&mut self, what: &str) {
        say(what);
        if self.at != 0 && self.room != 0 {
            // SAFETY: the options promise `room` bytes there, and a place for their number.
            unsafe {
                let bytes = put_text(self.at as *mut c_char, self.room, what).unwrap_or(0);
                offer(self.written as *mut usize, bytes);
            }
        }
    }
}

/// Texts without variables, which are in no memory, and what they are on a device.
static KNOWN: Mutex<Vec<Known>> = Mutex::new(Vec::new());

/// Bytes of text that are kept; more, and it begins anew.
const LARGEST: usize = 256 << 20;

struct Known {
    device: Device,
    text: String,
    contents: Arc<ptx::Module>,
}

/// What a text is on a device, if that is known.
fn recall(device: &Device, text: &str) -> Option<Arc<ptx::Module>> {
    let known = KNOWN.lock().unwrap_or_else(|e| e.into_inner());
    known.iter().find(|k| k.text == text && k.device == *device).map(|k| k.contents.clone())
}

fn remember(device: &Device, text: &str, contents: &Arc<ptx::Module>) {
    if !contents.globals.is_empty() {
        return;
    }
    let mut known = KNOWN.lock().unwrap_or_else(|e| e.into_inner());
    if text.len() + known.iter().map(|k| k.text.len()).sum::<usize>() > LARGEST {
        known.clear();
    }
    known.push(Known { device: device.clone(), text: text.to_owned(), contents: contents.clone() });
}

/// A module that only its owner knows.
pub fn compile(context: &Arc<Context>, text: &str, log: &mut Log) -> R<Module> {
    let device = &context.gpu.device;
    if let Some(contents) = recall(device, text) {
        return Ok(Module { handle: fresh(), context: context.clone(), contents });
    }
    let contents = context.gpu.load(text).map_err(|error| {
        log.say(&error.to_string());
        match error.kind {
            PtxErrorKind::Target => Error::NO_BINARY_FOR_GPU,
            PtxErrorKind::Version => Error::UNSUPPORTED_PTX_VERSION,
            PtxErrorKind::Text => Error::INVALID_PTX,
        }
    })?;
    let contents = Arc::new(contents);
    remember(device, text, &contents);
    Ok(Module { handle: fresh(), context: context.clone(), contents })
}

/// A module among `MODULES`.
pub fn load(context: &Arc<Context>, text: &str, log: &mut Log) -> R<Arc<Module>> {
    let module = Arc::new(compile(context, text, log)?);
    MODULES.insert_at(module.handle, module.clone());
    Ok(module)
}
