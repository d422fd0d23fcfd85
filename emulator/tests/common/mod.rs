//! Kernels that nvcc made, and a device to run them on: what the tests of whole kernels share.
//!
//! A file of `tests/cu` is compiled to PTX once per test binary and architecture. Without nvcc a test fails: it never
//! passes by not running.

#![allow(dead_code)]

use cuda_emulator::config::Config;
use cuda_emulator::counters::Counters;
use cuda_emulator::device::{A100, Device, H100};
use cuda_emulator::fault::Fault;
use cuda_emulator::gpu::{Arg, Gpu, Shape, kernel, pack};
use cuda_emulator::ptx::Module;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, OnceLock};

/// The devices that every kernel is run on, with what it is compiled for.
pub const TARGETS: [(Device, &str); 2] = [(A100, "compute_80"), (H100, "compute_90a")];

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a file of `tests/cu`.
pub fn source(name: &str) -> String {
    let path = here().join("tests/cu").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// `$NVCC`, that of `$CUDA_HOME`, that in `PATH`, that of `make cuda`.
fn nvcc() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        let home = variable("CUDA_HOME").map(|home| home.join("bin/nvcc"));
        let made = here().join("../.cuda/nvidia/cu13/bin/nvcc");
        let all = [variable("NVCC"), home, Some("nvcc".into()), Some(made)];
        let runs = |nvcc: &PathBuf| Command::new(nvcc).arg("--version").output().is_ok_and(|o| o.status.success());
        all.into_iter().flatten().find(runs).expect("no nvcc: run `make cuda`")
    })
}

/// By file and architecture.
type Texts = HashMap<(String, String), &'static OnceLock<String>>;

/// The PTX of `tests/cu/<name>.cu`, with line numbers.
pub fn ptx(name: &str, arch: &str) -> String {
    static DONE: LazyLock<Mutex<Texts>> = LazyLock::new(Mutex::default);
    let cell = {
        let mut done = DONE.lock().unwrap_or_else(|e| e.into_inner());
        *done.entry((name.into(), arch.into())).or_insert_with(|| Box::leak(Box::default()))
    };
    cell.get_or_init(|| compile(name, arch)).clone()
}

fn compile(name: &str, arch: &str) -> String {
    let out = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let file = out.path().join("kernels.ptx");
    let source = here().join("tests/cu").join(name).with_extension("cu");
    let done = Command::new(nvcc())
        .args(["-ptx", "-lineinfo", "-std=c++17", "-arch", arch, "-o"])
        .args([&file, &source])
        .output()
        .expect("nvcc starts");
    assert!(done.status.success(), "{}: {}", source.display(), String::from_utf8_lossy(&done.stderr));
    std::fs::read_to_string(file).expect("nvcc wrote PTX")
}

/// A number as it lies in memory.
pub trait Element: Copy {
    fn bytes(self) -> Vec<u8>;
    fn of(bytes: &[u8]) -> Self;
}

macro_rules! elements {
    ($($ty:ty),*) => {$(
        impl Element for $ty {
            fn bytes(self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }
            fn of(bytes: &[u8]) -> Self {
                <$ty>::from_le_bytes(bytes.try_into().expect("as many bytes as it has"))
            }
        }
    )*};
}
elements!(u8, u16, u32, u64, i16, i32, i64, f32, f64, half::f16, half::bf16);

/// A device with a module.
pub struct Bench {
    pub gpu: Gpu,
    pub module: Module,
    pub arch: &'static str,
}

impl Bench {
    pub fn new(device: Device, arch: &'static str, text: &str) -> Bench {
        Bench::seeded(device, arch, text, 1)
    }

    /// With a seed for the order of the warps. No kernel of the tests goes long without a store, but those that spin.
    pub fn seeded(device: Device, arch: &'static str, text: &str, seed: u64) -> Bench {
        let gpu = Gpu::new(device, Config { seed, patience: 1 << 20, ..Config::default() }).expect("memory");
        let module = gpu.load(text).unwrap_or_else(|e| panic!("{arch}: {e}\n{}", line(text, e.line)));
        Bench { gpu, module, arch }
    }

    /// Memory that holds these numbers; its address.
    pub fn upload<T: Element>(&self, data: &[T]) -> Arg {
        let bytes: Vec<u8> = data.iter().flat_map(|x| x.bytes()).collect();
        let at = self.gpu.alloc(bytes.len() as u64).expect("memory");
        self.gpu.write(at, &bytes).expect("just allocated");
        Arg::U64(at)
    }

    /// Memory for so many numbers, with nothing in it.
    pub fn space<T: Element>(&self, count: usize) -> Arg {
        Arg::U64(self.gpu.alloc((count * size_of::<T>()) as u64).expect("memory"))
    }

    pub fn download<T: Element>(&self, at: &Arg, count: usize) -> Vec<T> {
        let Arg::U64(at) = at else { panic!("not an address: {at:?}") };
        let bytes = self.gpu.read(*at, count * size_of::<T>()).expect("allocated");
        bytes.chunks_exact(size_of::<T>()).map(T::of).collect()
    }

    pub fn try_run(&self, name: &str, shape: &Shape, args: &[Arg]) -> Result<Counters, Box<Fault>> {
        let kernel = kernel(&self.module, name).unwrap_or_else(|| panic!("no kernel {name}"));
        self.gpu.run(kernel, shape, &pack(&kernel.params, args))
    }

    /// Runs a kernel in which no check may find a fault.
    pub fn run(&self, name: &str, grid: u32, block: u32, args: &[Arg]) -> Counters {
        self.try_run(name, &shape(grid, block), args).unwrap_or_else(|fault| panic!("{}: {fault}", self.arch))
    }

    /// Runs a kernel whose last parameter is its output, and gives that.
    pub fn output<T: Element>(&self, name: &str, shape: &Shape, args: &[Arg], count: usize) -> Vec<T> {
        let out = self.space::<T>(count);
        let args: Vec<Arg> = args.iter().cloned().chain([out.clone()]).collect();
        self.try_run(name, shape, &args).unwrap_or_else(|fault| panic!("{}: {fault}", self.arch));
        self.download(&out, count)
    }
}

fn line(text: &str, number: u32) -> &str {
    text.lines().nth((number as usize).saturating_sub(1)).unwrap_or_default()
}

/// A grid and blocks of one dimension, and nothing else.
pub fn shape(grid: u32, block: u32) -> Shape {
    Shape { grid: [grid, 1, 1], block: [block, 1, 1], shared: 0, cooperative: false, operands: None }
}

/// Runs a test on every target, with a file of `tests/cu`.
pub fn each(file: &str, test: impl Fn(&Bench)) {
    for (device, arch) in TARGETS {
        test(&Bench::new(device, arch, &ptx(file, arch)));
    }
}

/// Numbers without a pattern (SplitMix64).
pub fn random(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    })
}

/// Uniform numbers in [-1, 1), multiples of 2^-23.
pub fn uniform(seed: u64) -> impl Iterator<Item = f32> {
    random(seed).map(|r| (r >> 40) as f32 / (1 << 23) as f32 - 1.0)
}

/// `2^k` for every `k` whose power a double has.
pub fn two_to(k: i32) -> f64 {
    if k < -1022 { f64::from_bits(1 << (k + 1074)) } else { f64::from_bits(((k + 1023) as u64) << 52) }
}
