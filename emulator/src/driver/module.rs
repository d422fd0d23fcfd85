//! Modules and libraries: images of PTX text, what they hold, and the linker, whose image is the inputs' text.

use super::abi::{list, offer, put, put_list, text};
use super::error::{Error, R};
use super::handles::{Handle, Handles};
use super::platform::say;
use super::state::context::current;
use super::state::function::{FUNCTIONS, Function, functions_of};
use super::state::module::{LIBRARIES, Library, Log, MODULES, Module, compile, load};
use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::{Arc, Mutex, OnceLock};

static LINKERS: Handles<Linker> = Handles::new();

/// Inputs on their way to one image.
struct Linker {
    inputs: Mutex<Vec<CString>>,
    image: OnceLock<CString>,
    /// Of `cuLinkCreate`'s options, which are valid as long as the linker.
    log: Mutex<Log>,
}

/// The text of an image, which says nowhere how long it is.
unsafe fn image<'a>(from: *const c_void, log: &mut Log) -> R<&'a str> {
    if from.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    // SAFETY: text ends with a zero, and no image of another kind has one among its first four bytes.
    let bytes = unsafe { CStr::from_ptr(from.cast()) };
    let cubin = bytes.to_bytes().starts_with(b"\x7fELF");
    let fatbin = [0xba55_ed50_u32, 0x4662_43b1].iter().any(|mark| bytes.to_bytes().starts_with(&mark.to_le_bytes()));
    if cubin || fatbin {
        log.say(&format!("only PTX text runs here, this image is a {}", if cubin { "cubin" } else { "fatbin" }));
        return Err(Error::NO_BINARY_FOR_GPU);
    }
    bytes.to_str().map_err(|e| {
        log.say(&format!("the image is no PTX text: {e}"));
        Error::INVALID_PTX
    })
}

fn module(handle: Handle) -> R<Arc<Module>> {
    current()?;
    MODULES.get(handle).ok_or(Error::INVALID_HANDLE)
}

fn library(handle: Handle) -> R<Arc<Library>> {
    LIBRARIES.get(handle).ok_or(Error::INVALID_HANDLE)
}

unsafe fn load_into(to: *mut Handle, from: *const c_void, mut log: Log) -> R {
    let context = current()?;
    // SAFETY: passed on.
    unsafe { put(to, load(&context, image(from, &mut log)?, &mut log)?.handle) }
}

unsafe fn global(module: &Module, at: *mut u64, bytes: *mut usize, name: *const c_char) -> R {
    // SAFETY: passed on.
    unsafe {
        let name = text(name)?;
        let found = module.contents.globals.iter().find(|global| global.name == name).ok_or(Error::NOT_FOUND)?;
        offer(at, found.address);
        offer(bytes, found.bytes as usize);
    }
    Ok(())
}

fn index_of(module: &Module, kernel: &str) -> R<usize> {
    module.contents.kernels.iter().position(|program| program.name == kernel).ok_or(Error::NOT_FOUND)
}

fn file(path: &str) -> R<CString> {
    let bytes = std::fs::read(path).map_err(|e| {
        say(&format!("{path}: {e}"));
        Error::FILE_NOT_FOUND
    })?;
    // Text stops at the first zero, as it would in memory.
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    CString::new(&bytes[..end]).map_err(|_| Error::INVALID_IMAGE)
}

fn new_library(text: &str) -> Handle {
    LIBRARIES.insert(Library { text: text.to_owned(), loaded: Mutex::default() })
}

impl Linker {
    fn add(&self, kind: i32, input: CString) -> R {
        const PTX: i32 = 1;
        if kind != PTX {
            say("the linker takes PTX text only");
            return Err(Error::NO_BINARY_FOR_GPU);
        }
        if self.image.get().is_some() {
            return Err(Error::INVALID_VALUE);
        }
        self.inputs.lock().unwrap_or_else(|e| e.into_inner()).push(input);
        Ok(())
    }

    /// All texts, one after the other: a module of several units. It is compiled for what is wrong with it to show.
    fn complete(&self) -> R<&CStr> {
        let linked = self.joined();
        let mut log = self.log.lock().unwrap_or_else(|e| e.into_inner());
        // SAFETY: a C string.
        let text = unsafe { image(linked.as_ptr().cast(), &mut log)? };
        drop(compile(&current()?, text, &mut log)?);
        Ok(linked)
    }

    fn joined(&self) -> &CStr {
        let inputs = self.inputs.lock().unwrap_or_else(|e| e.into_inner());
        self.image.get_or_init(|| {
            let texts: Vec<&[u8]> = inputs.iter().map(|input| input.as_bytes()).collect();
            // No input has a zero within.
            CString::new(texts.join(&b'\n')).unwrap_or_default()
        })
    }
}

fn linker(handle: Handle) -> R<Arc<Linker>> {
    LINKERS.get(handle).ok_or(Error::INVALID_HANDLE)
}

api! {
    fn cuModuleLoadData [cuModuleLoadFatBinary] (to: *mut Handle, from: *const c_void) {
        load_into(to, from, Log::default())
    }
    fn cuModuleLoadDataEx []
        (to: *mut Handle, from: *const c_void, count: u32, options: *const i32, values: *mut usize)
    {
        load_into(to, from, Log::from_options(options, values, count)?)
    }
    fn cuModuleLoad [] (to: *mut Handle, path: *const c_char) {
        let image = file(text(path)?)?;
        load_into(to, image.as_ptr().cast(), Log::default())
    }
    fn cuModuleUnload [] (handle: Handle) {
        let gone = module(handle)?;
        MODULES.remove(handle);
        FUNCTIONS.retain(|function| !function.is_in(&gone));
        Ok(())
    }
    fn cuModuleGetLoadingMode [] (to: *mut i32) { put(to, 1) } // eager
    fn cuModuleGetFunction [] (to: *mut Handle, handle: Handle, name: *const c_char) {
        let module = module(handle)?;
        let index = index_of(&module, text(name)?)?;
        put(to, Function::of(&module, index))
    }
    fn cuModuleGetFunctionCount [] (to: *mut u32, handle: Handle) {
        put(to, module(handle)?.contents.kernels.len() as u32)
    }
    fn cuModuleEnumerateFunctions [] (to: *mut Handle, room: u32, handle: Handle) {
        let mut count = room as usize;
        put_list(to, &mut count, &functions_of(&module(handle)?))
    }
    fn cuModuleGetGlobal_v2 [cuModuleGetGlobal] (at: *mut u64, bytes: *mut usize, handle: Handle, name: *const c_char) {
        global(&*module(handle)?, at, bytes, name)
    }
    fn cuLibraryLoadData []
        (to: *mut Handle, from: *const c_void, options: *const i32, values: *mut usize, count: u32,
         _library_options: *const i32, _library_values: *mut usize, _library_count: u32)
    {
        let mut log = Log::from_options(options, values, count)?;
        put(to, new_library(image(from, &mut log)?))
    }
    fn cuLibraryLoadFromFile []
        (to: *mut Handle, path: *const c_char, _options: *const i32, _values: *mut usize, _count: u32,
         _library_options: *const i32, _library_values: *mut usize, _library_count: u32)
    {
        let bytes = file(text(path)?)?;
        put(to, new_library(image(bytes.as_ptr().cast(), &mut Log::default())?))
    }
    fn cuLibraryUnload [] (handle: Handle) {
        let gone = LIBRARIES.remove(handle).ok_or(Error::INVALID_HANDLE)?;
        let modules = std::mem::take(&mut *gone.loaded.lock().unwrap_or_else(|e| e.into_inner()));
        for module in modules.values() {
            MODULES.remove(module.handle);
            FUNCTIONS.retain(|function| !function.is_in(module));
        }
        FUNCTIONS.retain(|function| function.library() != Some(handle));
        Ok(())
    }
    fn cuLibraryGetModule [] (to: *mut Handle, handle: Handle) {
        put(to, library(handle)?.module(&current()?)?.handle)
    }
    fn cuLibraryGetKernel [] (to: *mut Handle, handle: Handle, name: *const c_char) {
        let (library, name) = (library(handle)?, text(name)?);
        index_of(&*library.module(&current()?)?, name)?;
        put(to, Function::kernel(handle, name))
    }
    fn cuLibraryGetKernelCount [] (to: *mut u32, handle: Handle) {
        put(to, library(handle)?.module(&current()?)?.contents.kernels.len() as u32)
    }
    fn cuLibraryGetGlobal [] (at: *mut u64, bytes: *mut usize, handle: Handle, name: *const c_char) {
        global(&*library(handle)?.module(&current()?)?, at, bytes, name)
    }
    fn cuLinkCreate_v2 [cuLinkCreate] (count: u32, options: *const i32, values: *mut usize, to: *mut Handle) {
        current()?;
        let log = Mutex::new(Log::from_options(options, values, count)?);
        put(to, LINKERS.insert(Linker { inputs: Mutex::default(), image: OnceLock::new(), log }))
    }
    fn cuLinkAddData_v2 [cuLinkAddData]
        (handle: Handle, kind: i32, from: *const u8, bytes: usize, _name: *const c_char, _count: u32,
         _options: *const i32, _values: *mut usize)
    {
        let data = list(from, bytes)?;
        let end = data.iter().position(|&b| b == 0).unwrap_or(bytes);
        linker(handle)?.add(kind, CString::new(&data[..end]).map_err(|_| Error::INVALID_IMAGE)?)
    }
    fn cuLinkAddFile_v2 [cuLinkAddFile]
        (handle: Handle, kind: i32, path: *const c_char, _count: u32, _options: *const i32, _values: *mut usize)
    {
        linker(handle)?.add(kind, file(text(path)?)?)
    }
    /// The image is the inputs' text, which lives as long as the linker.
    fn cuLinkComplete [] (handle: Handle, image: *mut *const c_char, bytes: *mut usize) {
        let linker = linker(handle)?;
        let text = linker.complete()?;
        put(image, text.as_ptr())?;
        offer(bytes, text.count_bytes() + 1);
        Ok(())
    }
    fn cuLinkDestroy [] (handle: Handle) { LINKERS.remove(handle).map(|_| ()).ok_or(Error::INVALID_HANDLE) }
}
