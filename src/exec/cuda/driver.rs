//! The CUDA driver, made safe: a device, its memory, kernels, launches and graphs.
//!
//! It owns every `unsafe` call into the driver and turns codes into errors that name the call. It knows no plan and no tensor. The surprise: the
//! emulator is a driver too. A process that has loaded it by path gets it back from every later search for `libcuda.so`, so that one process
//! has one driver for its whole life.

use crate::error::{Error, Result};
use crate::launch::{Kernel, Target};
use crate::ptx::Module;
use cudarc::driver::{CudaContext, CudaGraph, CudaStream, DriverError, result, sys};
use libloading::Library;
use std::ffi::{CString, c_void};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Which driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// The system's, with a GPU.
    Cuda,
    /// The emulator's library, on the CPU.
    Emulator,
}

/// Global memory that a launch may touch, as `cuEmuOperands` of `emulator/include/cuemu.h` takes it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Operand {
    pub address: u64,
    /// Of one row.
    pub bytes: u64,
    pub rows: u64,
    /// From one row to the next, in bytes.
    pub stride: u64,
    pub access: OperandAccess,
}

/// What a launch may do with an operand.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperandAccess {
    Read = 0,
    /// All of it is written, and nothing of it read before.
    Write = 1,
    ReadWrite = 3,
}

/// The emulator's calls beside the driver's.
struct Emulator(Library);

impl Emulator {
    fn declare(&self, operands: &[Operand]) {
        // SAFETY: the signature is that of cuemu.h, and the array outlives the call.
        unsafe {
            let call = self.0.get::<unsafe extern "C" fn(*const Operand, u32) -> u32>(b"cuEmuOperands");
            let code = call.expect("the emulator exports it")(operands.as_ptr(), operands.len() as u32);
            assert_eq!(code, 0, "operands of a launch overlap or end beyond all addresses");
        }
    }

    /// Text that a call of cuemu.h gives; none if it has none.
    fn text(&self, name: &[u8]) -> Option<String> {
        // SAFETY: as above; the first call asks for the length, the second fills as many bytes.
        unsafe {
            let call = self.0.get::<unsafe extern "C" fn(*mut u8, *mut usize) -> u32>(name).ok()?;
            let mut bytes = 0;
            if call(std::ptr::null_mut(), &mut bytes) != 0 {
                return None;
            }
            let mut text = vec![0; bytes];
            (call(text.as_mut_ptr(), &mut bytes) == 0).then_some(())?;
            text.truncate(bytes.saturating_sub(1));
            String::from_utf8(text).ok()
        }
    }
}

/// The driver that was asked for first.
static DRIVER: OnceLock<Driver> = OnceLock::new();
static EMULATOR: OnceLock<Result<Emulator, String>> = OnceLock::new();

/// The library built with this program: cargo puts a fresh one into `deps`, and a copy beside the executable that may be older.
fn emulator() -> Result<&'static Emulator, String> {
    let open = || {
        let exe = std::env::current_exe().map_err(|e| e.to_string())?;
        let dir = exe.parent().unwrap_or(&exe);
        let candidates: [PathBuf; 2] = ["deps/libcuda_emulator.so", "libcuda_emulator.so"].map(|name| dir.join(name));
        let Some(path) = candidates.iter().find(|p| p.is_file()) else {
            return Err(format!(
                "{} is missing: build it with `cargo build -p cuda-emulator`",
                candidates[1].display()
            ));
        };
        // SAFETY: the emulator's initialisers do nothing but reserve memory.
        unsafe { Library::new(path) }.map(Emulator).map_err(|e| e.to_string())
    };
    EMULATOR.get_or_init(open).as_ref().map_err(Clone::clone)
}

/// True if the system has a CUDA driver library.
pub fn is_present() -> bool {
    // SAFETY: it looks libraries up by name and closes them again.
    unsafe { sys::is_culib_present() }
}

/// A device with one stream.
pub struct Device {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    emulator: Option<&'static Emulator>,
    pub name: String,
    pub target: Target,
}

impl Device {
    /// Opens a device of a driver.
    ///
    /// # Errors
    /// [`Error::Device`] saying what is missing and how to get it.
    pub fn open(driver: Driver, ordinal: usize) -> Result<Self> {
        let missing = |why: String| Error::Device { at: format!("{driver:?} device {ordinal}"), why };
        let first = *DRIVER.get_or_init(|| driver);
        if first != driver {
            let why =
                format!("this process runs on {first:?}, and has one driver for its life: use --device cpu beside it");
            return Err(missing(why));
        }
        let emulator = match driver {
            Driver::Emulator => Some(emulator().map_err(missing)?),
            Driver::Cuda => None,
        };
        if !is_present() {
            return Err(missing(
                "there is no CUDA driver (libcuda.so): install NVIDIA's driver, or use --device cpu".into(),
            ));
        }
        let context = CudaContext::new(ordinal).map_err(|e| missing(describe(e)))?;
        let attribute = |a| context.attribute(a).map_err(|e| missing(describe(e)));
        let (major, minor) = context.compute_capability().map_err(|e| missing(describe(e)))?;
        let target = Target {
            sm: (10 * major + minor) as u32,
            sms: attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
            smem: attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize,
        };
        let name = context.name().map_err(|e| missing(describe(e)))?;
        // A context that tracks events waits for all of its streams when it makes one, which ends captures of other devices of this process.
        // SAFETY: what is tracked are cudarc's own slices, and there are none: memory here is a `Buffer`, used by one stream.
        unsafe { context.disable_event_tracking() };
        // The default stream cannot be captured.
        let stream = context.new_stream().map_err(|e| missing(describe(e)))?;
        Ok(Device { context, stream, emulator, name, target })
    }

    /// Makes this device the calling thread's: an executor may have moved there.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn bind(&self) -> Result<()> {
        self.check("cuCtxSetCurrent", self.context.bind_to_thread())
    }

    /// Bytes that are free.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn free_memory(&self) -> Result<u64> {
        self.check("cuMemGetInfo", result::mem_get_info()).map(|(free, _)| free as u64)
    }

    /// Device memory; what it holds is undefined.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn alloc(&self, what: &str, len: usize) -> Result<Buffer> {
        // SAFETY: plain bytes, freed by `Buffer`. A byte even where none is needed: the driver refuses empty allocations.
        let address = unsafe { result::malloc_sync(len.max(1)) };
        let address = self.check(&format!("cuMemAlloc of {len} bytes for {what}"), address)?;
        Ok(Buffer { address, len, context: self.context.clone() })
    }

    /// Host memory that the device copies from without the CPU.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn pinned(&self, len: usize) -> Result<Pinned> {
        // SAFETY: plain bytes, freed by `Pinned`.
        let base = unsafe { result::malloc_host(len, 0) };
        let base = self.check(&format!("cuMemHostAlloc of {len} bytes"), base)?;
        // SAFETY: it has `len` bytes of ours.
        unsafe { std::ptr::write_bytes(base.cast::<u8>(), 0, len) };
        Ok(Pinned { base: base.cast(), len, stream: self.stream.clone() })
    }

    /// Starts copying the first `len` bytes of pinned memory; they must stay as they are until [`synchronize`](Self::synchronize).
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn copy_in(&self, to: &Buffer, offset: usize, from: &Pinned, len: usize) -> Result<()> {
        assert!(offset + len <= to.len, "{offset}+{len} of {}", to.len);
        // SAFETY: inside both allocations, which outlive the stream's work: freeing pinned memory waits for it, and so does the executor's end.
        let copied = unsafe {
            result::memcpy_htod_async(to.address + offset as u64, &from.bytes()[..len], self.stream.cu_stream())
        };
        self.check("cuMemcpyHtoDAsync", copied)
    }

    /// Copies out, after all work before.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn copy_out(&self, to: &mut [u8], from: &Buffer, offset: usize) -> Result<()> {
        assert!(offset + to.len() <= from.len, "{offset}+{} of {}", to.len(), from.len);
        // SAFETY: inside the allocation, and the wait below ends before `to` does.
        let copied = unsafe { result::memcpy_dtoh_async(to, from.address + offset as u64, self.stream.cu_stream()) };
        self.check("cuMemcpyDtoHAsync", copied)?;
        self.synchronize()
    }

    /// Starts copying a buffer's first `len` bytes to another one.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn copy(&self, to: &Buffer, from: &Buffer, len: usize) -> Result<()> {
        assert!(len <= to.len.min(from.len), "{len} of {} and {}", to.len, from.len);
        // SAFETY: inside both allocations.
        let copied = unsafe { result::memcpy_dtod_async(to.address, from.address, len, self.stream.cu_stream()) };
        self.check("cuMemcpyDtoDAsync", copied)
    }

    /// Fills with zeros.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn zero(&self, what: &Buffer) -> Result<()> {
        // SAFETY: inside the allocation.
        let set = unsafe { result::memset_d8_async(what.address, 0, what.len, self.stream.cu_stream()) };
        self.check("cuMemsetD8Async", set)
    }

    /// Waits for all work.
    ///
    /// # Errors
    /// [`Error::Device`] with what a kernel did wrong.
    pub fn synchronize(&self) -> Result<()> {
        self.check("cuStreamSynchronize", self.stream.synchronize())
    }

    /// Compiles a module for this device.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver refuses the PTX: it is older than the compiler.
    pub fn load(&self, module: &Module) -> Result<Loaded> {
        let text = CString::new(module.ptx).expect("PTX is text");
        // SAFETY: zero-terminated text.
        let handle = unsafe { result::module::load_data(text.as_ptr().cast()) };
        let handle = self.check(&format!("cuModuleLoadData of {}", module.name), handle)?;
        Ok(Loaded { handle, context: self.context.clone() })
    }

    /// A kernel of a module, allowed as much shared memory as its launch wants.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn function(&self, module: &Loaded, kernel: &Kernel) -> Result<Function> {
        let name = CString::new(kernel.entry.as_str()).expect("names have no zero");
        // SAFETY: the module is loaded; the executor keeps it as long as its functions.
        let handle = unsafe { result::module::get_function(module.handle, name) };
        let handle = self.check(&format!("cuModuleGetFunction of {}", kernel.entry), handle)?;
        let most = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: a function of a loaded module.
        let set = unsafe { result::function::set_function_attribute(handle, most, kernel.smem as i32) };
        self.check(&format!("cuFuncSetAttribute of {}: {} bytes of shared memory", kernel.entry, kernel.smem), set)?;
        Ok(Function(handle))
    }

    /// Launches a kernel. `params` are eight bytes each, pointers or scalars in the lower half; `operands` is everything in global memory that they
    /// let it touch, which only the emulator wants to know.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn launch(&self, f: &Function, kernel: &Kernel, params: &mut [u64], operands: &[Operand]) -> Result<()> {
        if let Some(emulator) = self.emulator {
            emulator.declare(operands);
        }
        let [x, y, z] = kernel.grid;
        let mut pointers: Vec<*mut c_void> = params.iter_mut().map(|p| (p as *mut u64).cast()).collect();
        let (block, smem, stream) = ((kernel.block, 1, 1), kernel.smem, self.stream.cu_stream());
        // SAFETY: the ABI test holds the entry's parameters against the op's list, and the addresses lie in buffers of the executor.
        let launched = unsafe { result::launch_kernel(f.0, (x, y, z), block, smem, stream, &mut pointers) };
        self.check("cuLaunchKernel", launched)
    }

    /// Records what `work` launches, without running it.
    ///
    /// # Errors
    /// [`Error::Device`], or that of `work`.
    pub fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.check("cuStreamBeginCapture", self.stream.begin_capture(mode))?;
        let done = work();
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self.check("cuStreamEndCapture", self.stream.end_capture(flags));
        done?;
        graph?
            .map(Graph)
            .ok_or_else(|| Error::Device { at: "cuStreamEndCapture".into(), why: "nothing was captured".into() })
    }

    /// Runs a graph.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn replay(&self, graph: &Graph) -> Result<()> {
        self.check("cuGraphLaunch", graph.0.launch())
    }

    /// How long the device takes for what `work` starts. The emulator's clock is the host's: it says nothing of a GPU.
    ///
    /// # Errors
    /// [`Error::Device`], or that of `work`.
    pub fn time(&self, work: impl FnOnce() -> Result<()>) -> Result<Duration> {
        let record = || self.stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT));
        let start = self.check("cuEventRecord", record())?;
        work()?;
        let end = self.check("cuEventRecord", record())?;
        let ms = self.check("cuEventElapsedTime", start.elapsed_ms(&end))?;
        Ok(Duration::from_secs_f64(ms as f64 / 1e3))
    }

    /// Bytes of its L2 cache.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn l2_bytes(&self) -> Result<usize> {
        let bytes = self.context.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
        self.check("cuDeviceGetAttribute", bytes).map(|b| b as usize)
    }

    /// True if nothing runs on a GPU.
    pub fn is_emulated(&self) -> bool {
        self.emulator.is_some()
    }

    /// The emulator's counters of the last launch, as JSON; none on a GPU.
    pub fn counters(&self) -> Option<String> {
        self.emulator?.text(b"cuEmuCounters")
    }

    fn check<T>(&self, call: &str, result: Result<T, DriverError>) -> Result<T> {
        result.map_err(|e| {
            let fault = self.emulator.and_then(|emulator| emulator.text(b"cuEmuLastFault"));
            let why = fault.map_or_else(|| describe(e), |fault| format!("{}: {fault}", describe(e)));
            Error::Device { at: format!("{call} on {}", self.name), why }
        })
    }
}

/// The driver's name and words for a code.
fn describe(e: DriverError) -> String {
    let text = |s: Result<&std::ffi::CStr, DriverError>| s.map_or("?".into(), |s| s.to_string_lossy().into_owned());
    format!("{} ({})", text(e.error_name()), text(e.error_string()))
}

/// Device memory.
pub struct Buffer {
    address: u64,
    len: usize,
    context: Arc<CudaContext>,
}

impl Buffer {
    /// Where it begins on the device.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How many bytes it has.
    pub fn size(&self) -> usize {
        self.len
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: ours, freed once; the driver waits for work that uses it. A context that is already broken keeps nothing.
        unsafe {
            let _ = self.context.bind_to_thread().and_then(|()| result::free_sync(self.address));
        }
    }
}

/// Pinned host memory.
pub struct Pinned {
    base: *mut u8,
    len: usize,
    stream: Arc<CudaStream>,
}

impl Pinned {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes of ours.
        unsafe { std::slice::from_raw_parts(self.base, self.len) }
    }

    /// Its bytes, to fill; no copy of them may be under way.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.base, self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // A copy from it may be under way. Only this stream is waited for: another one may be capturing.
        let _ = self.stream.synchronize();
        // SAFETY: ours, freed once, and nothing uses it any more.
        unsafe {
            let _ = self.stream.context().bind_to_thread().and_then(|()| result::free_host(self.base.cast()));
        }
    }
}

/// A module on a device.
pub struct Loaded {
    handle: sys::CUmodule,
    context: Arc<CudaContext>,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // SAFETY: ours, unloaded once, with the executor that has its functions.
        unsafe {
            let _ = self.context.bind_to_thread().and_then(|()| result::module::unload(self.handle));
        }
    }
}

/// A kernel on a device.
#[derive(Clone, Copy)]
pub struct Function(sys::CUfunction);

/// A captured list of launches.
pub struct Graph(CudaGraph);

// SAFETY: handles of the driver may be used from any thread that has the context, which `Device::bind` sees to; none is shared between threads.
unsafe impl Send for Pinned {}
// SAFETY: as above.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Send for Graph {}
