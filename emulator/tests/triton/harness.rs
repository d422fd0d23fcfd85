//! Runs what `make.py` compiled: arguments by name, device memory as slices, errors against bounds.

use cuda_emulator::config::Config;
use cuda_emulator::counters::Counters;
use cuda_emulator::device::{A100, Device, H100};
use cuda_emulator::fault::Fault;
use cuda_emulator::gpu::{self, Arg, Gpu};
use cuda_emulator::ptx::{Module, PtxError};
use half::{bf16, f16};
use serde::Deserialize;
use std::path::Path;

/// What stands in the JSON file of a kernel.
#[derive(Deserialize)]
struct About {
    kernel: String,
    num_warps: u32,
    shared: u32,
    /// `name:type`, in order; two scratch pointers follow.
    params: Vec<String>,
}

/// A compiled kernel on a device of its own.
pub struct Kernel {
    gpu: Gpu,
    module: Module,
    about: About,
}

/// A file of the `triton` folder.
pub fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/triton").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Loads `NAME.ptx` on `device`.
pub fn load(name: &str, device: Device) -> Result<Kernel, PtxError> {
    let gpu = Gpu::new(device, Config::default()).unwrap();
    let module = gpu.load(&file(&format!("{name}.ptx")))?;
    let about = serde_json::from_str(&file(&format!("{name}.json"))).unwrap();
    Ok(Kernel { gpu, module, about })
}

impl Kernel {
    /// A kernel on the device that its name ends in.
    pub fn new(name: &str) -> Kernel {
        let device = if name.ends_with("_sm90") { H100 } else { A100 };
        load(name, device).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Device memory that holds `data`.
    pub fn upload<T: Element>(&self, data: &[T]) -> Arg {
        let bytes: Vec<u8> = data.iter().flat_map(|v| v.bytes()).collect();
        let at = self.gpu.alloc(bytes.len() as u64).unwrap();
        self.gpu.write(at, &bytes).unwrap();
        Arg::U64(at)
    }

    /// Device memory for `count` elements, nowhere written.
    pub fn room<T: Element>(&self, count: usize) -> Arg {
        Arg::U64(self.gpu.alloc((count * size_of::<T>()) as u64).unwrap())
    }

    /// The elements at an argument.
    pub fn download<T: Element>(&self, at: &Arg, count: usize) -> Vec<T> {
        let Arg::U64(at) = *at else { panic!("not an address: {at:?}") };
        let bytes = self.gpu.read(at, count * size_of::<T>()).unwrap();
        bytes.chunks_exact(size_of::<T>()).map(T::of).collect()
    }

    /// Launches with the arguments that the kernel declares, in its order.
    pub fn launch(&self, grid: [u32; 3], args: &[(&str, &Arg)]) -> Result<Counters, Box<Fault>> {
        let declared = self.about.params.iter().map(|param| param.split_once(':').unwrap().0);
        assert!(declared.eq(args.iter().map(|(name, _)| *name)), "parameters are {:?}", self.about.params);
        let kernel = gpu::kernel(&self.module, &self.about.kernel).unwrap();
        let scratch = [Arg::U64(0), Arg::U64(0)];
        let all: Vec<Arg> = args.iter().map(|(_, arg)| (*arg).clone()).chain(scratch).collect();
        assert_eq!(kernel.params.len(), all.len());
        self.gpu.launch(kernel, grid, [32 * self.about.num_warps, 1, 1], self.about.shared, &all)
    }

    /// As `launch`; a fault fails the test.
    pub fn run(&self, grid: [u32; 3], args: &[(&str, &Arg)]) -> Counters {
        self.launch(grid, args).unwrap_or_else(|fault| panic!("{fault}"))
    }
}

/// What lies in device memory.
pub trait Element: Copy {
    fn of(bytes: &[u8]) -> Self;
    fn bytes(self) -> Vec<u8>;
}

macro_rules! element {
    ($($ty:ty),*) => {$(
        impl Element for $ty {
            fn of(bytes: &[u8]) -> Self {
                <$ty>::from_le_bytes(bytes.try_into().unwrap())
            }
            fn bytes(self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }
        }
    )*};
}
element!(i8, i32, f32, f16, bf16);

/// A seeded sequence (splitmix64).
pub struct Numbers(pub u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// From `low` up to, not including, `high`.
    pub fn real(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// From `low` to `high`, both included.
    pub fn integer(&mut self, low: i32, high: i32) -> i32 {
        low + (self.next() % (i64::from(high) - i64::from(low) + 1) as u64) as i32
    }
}

/// Unit roundoffs: half the distance from 1 to the next number.
pub const F32: f64 = 1.0 / (1u64 << 24) as f64;
pub const F16: f64 = 1.0 / (1 << 11) as f64;
pub const BF16: f64 = 1.0 / (1 << 8) as f64;

/// Fails where `got` is farther than `bound` from `want`, or not a number.
pub fn near(what: &str, got: impl Into<f64>, want: f64, bound: f64) {
    let got = got.into();
    assert!((got - want).abs() <= bound, "{what}: {got} instead of {want}, bound {bound:e}");
}
