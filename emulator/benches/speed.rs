//! How fast kernels run on the emulator, all checks on, per core and on all cores: `cargo bench -p cuda-emulator`.
//!
//! The first rows are plain loops in registers, which share nothing: by how much they gain is all that the machine gives.
//! Virtual processors may be two threads of one core.

use cuda_emulator::config::Config;
use cuda_emulator::counters::Counters;
use cuda_emulator::device::A100;
use cuda_emulator::gpu::{Arg, Gpu};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// `y[i] = a x[i] + y[i]`, eight elements a thread, a block's width apart.
const AXPY: &str = r#"
.version 8.0
.target sm_80
.address_size 64
.visible .entry axpy(.param .u64 x, .param .u64 y, .param .f32 a, .param .u32 n)
{
    .reg .pred %p<3>;
    .reg .b32 %r<8>;
    .reg .f32 %f<5>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [x];
    ld.param.u64 %rd2, [y];
    ld.param.f32 %f1, [a];
    ld.param.u32 %r1, [n];
    cvta.to.global.u64 %rd1, %rd1;
    cvta.to.global.u64 %rd2, %rd2;
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    shl.b32 %r5, %r2, 3;
    mad.lo.s32 %r6, %r5, %r3, %r4;
    mov.u32 %r7, 0;
LOOP:
    setp.ge.u32 %p1, %r6, %r1;
    @%p1 bra DONE;
    mul.wide.u32 %rd3, %r6, 4;
    add.s64 %rd4, %rd1, %rd3;
    add.s64 %rd5, %rd2, %rd3;
    ld.global.f32 %f2, [%rd4];
    ld.global.f32 %f3, [%rd5];
    fma.rn.f32 %f4, %f1, %f2, %f3;
    st.global.f32 [%rd5], %f4;
    add.s32 %r6, %r6, %r3;
    add.s32 %r7, %r7, 1;
    setp.lt.u32 %p2, %r7, 8;
    @%p2 bra LOOP;
DONE:
    ret;
}
"#;

/// `n` times four products of one warp that do not wait for each other.
const PRODUCTS: &str = r#"
.version 8.0
.target sm_80
.address_size 64
.visible .entry products(.param .u64 out, .param .u32 n)
{
    .reg .pred %p;
    .reg .b32 %a<4>, %b<2>, %r<4>;
    .reg .f32 %c<16>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [n];
    mov.b32 %a0, 0x3f803f80;
    mov.b32 %a1, 0x40003f80;
    mov.b32 %a2, 0x3f804000;
    mov.b32 %a3, 0x40404040;
    mov.b32 %b0, 0x3c003c00;
    mov.b32 %b1, 0x3c003d00;
    mov.f32 %c0, 0f00000000;
    mov.f32 %c1, %c0; mov.f32 %c2, %c0; mov.f32 %c3, %c0; mov.f32 %c4, %c0; mov.f32 %c5, %c0;
    mov.f32 %c6, %c0; mov.f32 %c7, %c0; mov.f32 %c8, %c0; mov.f32 %c9, %c0; mov.f32 %c10, %c0;
    mov.f32 %c11, %c0; mov.f32 %c12, %c0; mov.f32 %c13, %c0; mov.f32 %c14, %c0; mov.f32 %c15, %c0;
    mov.u32 %r2, 0;
LOOP:
    mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%c0,%c1,%c2,%c3}, {%a0,%a1,%a2,%a3}, {%b0,%b1}, {%c0,%c1,%c2,%c3};
    mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%c4,%c5,%c6,%c7}, {%a0,%a1,%a2,%a3}, {%b0,%b1}, {%c4,%c5,%c6,%c7};
    mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%c8,%c9,%c10,%c11}, {%a0,%a1,%a2,%a3}, {%b0,%b1}, {%c8,%c9,%c10,%c11};
    mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%c12,%c13,%c14,%c15}, {%a0,%a1,%a2,%a3}, {%b0,%b1}, {%c12,%c13,%c14,%c15};
    add.s32 %r2, %r2, 1;
    setp.lt.u32 %p, %r2, %r1;
    @%p bra LOOP;
    add.f32 %c0, %c0, %c4;
    add.f32 %c8, %c8, %c12;
    add.f32 %c0, %c0, %c8;
    mov.u32 %r3, %tid.x;
    mul.wide.u32 %rd2, %r3, 4;
    add.s64 %rd1, %rd1, %rd2;
    st.global.f32 [%rd1], %c0;
    ret;
}
"#;

const ELEMENTS: u32 = 1 << 20;
const RUNS: usize = 20;

/// A kernel with its launch.
struct Case {
    text: &'static str,
    grid: u32,
    block: u32,
    /// Makes the buffers.
    args: fn(&Gpu) -> Vec<Arg>,
}

impl Case {
    /// Prints millions of what `count` counts, in a second of one thread and of all.
    fn print(&self, what: &str, count: fn(&Counters) -> u64) {
        row(what, |threads| {
            let gpu = Gpu::new(A100, Config { threads, ..Config::default() }).expect("address space");
            let (module, args) = (gpu.load(self.text).expect("valid PTX"), (self.args)(&gpu));
            let start = Instant::now();
            let counters = gpu.launch(&module.kernels[0], [self.grid, 1, 1], [self.block, 1, 1], 0, &args);
            (count(&counters.expect("no fault")), start.elapsed())
        });
    }
}

/// Prints millions a second of what `run` counts on one thread and on all: of each the best of some runs, which take
/// turns so that what else the machine does meets both.
fn row(what: &str, run: impl Fn(usize) -> (u64, Duration)) {
    let mut best = [0f64; 2];
    for _ in 0..RUNS {
        for (best, threads) in best.iter_mut().zip([1, Config::default().threads]) {
            let (count, time) = run(threads);
            *best = best.max(count as f64 / time.as_secs_f64() / 1e6);
        }
    }
    let [one, all] = best;
    println!("{what:42} {one:8.2} {all:8.2} {:8.2}", all / one);
}

fn axpy(gpu: &Gpu) -> Vec<Arg> {
    let ones: Vec<u8> = (0..ELEMENTS).flat_map(|_| 1.0f32.to_le_bytes()).collect();
    let buffer = |()| {
        let at = gpu.alloc(ones.len() as u64).expect("4 MiB fit");
        gpu.write(at, &ones).expect("inside the allocation");
        Arg::U64(at)
    };
    let [x, y] = [(); 2].map(buffer);
    vec![x, y, Arg::F32(2.0), Arg::U32(ELEMENTS)]
}

fn products(gpu: &Gpu) -> Vec<Arg> {
    vec![Arg::U64(gpu.alloc(128 * 4).expect("512 bytes fit")), Arg::U32(4096)]
}

/// Steps of a loop in registers on so many threads at once.
fn plain(threads: usize, steps: fn(u64) -> u64) -> (u64, Duration) {
    const STEPS: u64 = 1 << 26;
    let start = Instant::now();
    std::thread::scope(|scope| {
        (0..threads).for_each(|seed| drop(scope.spawn(move || black_box(steps(black_box(STEPS + seed as u64))))));
    });
    (threads as u64 * STEPS, start.elapsed())
}

/// One step waits for the other: most of the core is idle.
fn chain(steps: u64) -> u64 {
    (0..steps).fold(steps, |x, i| (x ^ i).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Six that do not wait for each other: the core's adders are busy.
fn wide(steps: u64) -> u64 {
    let mut x = [1, 2, 3, 4, 5, 6].map(|i| i * steps);
    for i in 0..steps / 6 {
        x = x.map(|x| (x ^ i).rotate_left(7).wrapping_add(x));
    }
    x.iter().fold(0, |all, x| all ^ x)
}

fn main() {
    println!("{:42} {:>8} {:>8} {:>8}", "million a second", "1 thread", "all", "ratio");
    row("plain loop, one chain", |threads| plain(threads, chain));
    row("plain loop, six chains", |threads| plain(threads, wide));
    let axpy = Case { text: AXPY, grid: ELEMENTS / (256 * 8), block: 256, args: axpy };
    axpy.print("warp instructions, element-wise", |c| c.warp_instructions);
    let products = Case { text: PRODUCTS, grid: 16, block: 32, args: products };
    products.print("mma.m16n8k16 bf16", |c| c.mma.values().sum());
}
