//! A product of matrices as nvcc compiles it (`tests/data/gemm.cu`): tensor copies, mbarriers and `wgmma` in two stages.

use super::{Bench, Random};
use cuda_emulator::fault::{Fault, FaultKind};
use cuda_emulator::gpu::{Arg, kernel};
use cuda_emulator::machine::matrix::Swizzle;
use cuda_emulator::tensor_map::TensorMap;

const TEXT: &str = include_str!("../data/gemm.ptx");
const ROWS: usize = 128;
const COLUMNS: usize = 192;

/// Multiplies matrices of whole numbers; whether the result is right.
fn run(text: &str, k: usize) -> Result<bool, Box<Fault>> {
    let bench = Bench::new();
    let mut random = Random(5);
    let mut matrix = |rows: usize| -> Vec<i32> { (0..rows * k).map(|_| random.below(17) as i32 - 8).collect() };
    let (a, b) = (matrix(ROWS), matrix(COLUMNS));
    let map = |values: &[i32]| {
        let bytes: Vec<u8> = values.iter().flat_map(|&x| (((x as f32).to_bits() >> 16) as u16).to_le_bytes()).collect();
        let map = TensorMap {
            address: bench.upload(&bytes),
            dimensions: vec![k as u64, (values.len() / k) as u64],
            strides: vec![2 * k as u64],
            extents: vec![64, 64],
            element: 2,
            swizzle: Swizzle::B128,
        };
        Arg::Bytes(map.encode().into())
    };
    let c = bench.0.alloc((ROWS * COLUMNS * 4) as u64).expect("memory");
    let args = [map(&a), map(&b), Arg::U64(c), Arg::S32(COLUMNS as i32), Arg::S32(k as i32)];
    let module = bench.0.load(text).unwrap_or_else(|e| panic!("{e}"));
    let gemm = kernel(&module, "gemm").expect("the kernel");
    let counters = bench.0.launch(gemm, [COLUMNS as u32 / 64, ROWS as u32 / 64, 1], [160, 1, 1], 0, &args)?;
    // Four warps of six blocks, a product for every 16 of k.
    assert_eq!(counters.mma["m64n64k16.bf16.bf16.f32"], (4 * 6 * k / 16) as u64);
    let expected = (0..ROWS * COLUMNS).map(|i| {
        let (row, column) = (i / COLUMNS, i % COLUMNS);
        (0..k).map(|x| a[row * k + x] * b[column * k + x]).sum::<i32>() as f32
    });
    let got = bench.words(c, ROWS * COLUMNS);
    Ok(got.into_iter().eq(expected.map(f32::to_bits)))
}

#[test]
fn the_pipeline_multiplies() {
    for k in [64, 128, 320, 448] {
        assert_eq!(run(TEXT, k), Ok(true), "k = {k}");
    }
}

#[test]
fn planted_mistakes_are_found() {
    let edited = |from: &str, to: &str| {
        assert!(TEXT.contains(from), "{from}");
        run(&TEXT.replace(from, to), 448).expect_err(from)
    };
    let fault = edited("b64 _, [%r195], %r196;", "b64 _, [%r195], 16400;");
    assert_eq!(fault.kind, FaultKind::Deadlock, "{fault}");
    assert!(fault.why.contains("0 arrivals and 16 bytes"), "{fault}");
    // The stage is given back while its product may still read it.
    let fault = edited("wgmma.wait_group.sync.aligned 1;", "wgmma.wait_group.sync.aligned 2;");
    assert_eq!(fault.kind, FaultKind::SharedRace, "{fault}");
    assert!(fault.why.contains("bulk copy") && fault.why.contains("asynchronous read"), "{fault}");
    let fault = edited("wgmma.wait_group.sync.aligned 0;", "");
    assert_eq!(fault.kind, FaultKind::RegisterRace, "{fault}");
}
