//! What the checks are worth: of tiled kernels that are correct (`cu/tiles.cu`), every barrier and every wait for copies is
//! deleted from the PTX, one at a time. Each deletion must be reported, or stand below with the reason why it is not.

use crate::common::*;
use cuda_emulator::device::Device;
use cuda_emulator::fault::Fault;
use cuda_emulator::gpu::{Arg, Shape};
use half::bf16;

/// A kernel with a launch of it.
struct Study {
    kernel: &'static str,
    grid: [u32; 2],
    block: [u32; 2],
    arguments: fn(&Bench) -> Vec<Arg>,
    /// Deletions that no check reports: which of its barriers and waits, in the order of the text, and why.
    silent: &'static [(usize, &'static str)],
}

fn floats(bench: &Bench, count: usize) -> Arg {
    bench.upload(&uniform(1).take(count).collect::<Vec<f32>>())
}

fn bfloats(bench: &Bench, count: usize) -> Arg {
    bench.upload(&uniform(2).take(count).map(bf16::from_f32).collect::<Vec<_>>())
}

/// In CUDA's model these lanes need `__syncwarp` instead. The checks do not tell lanes of a warp apart.
const ONE_WARP: &str = "before it and after it only the first warp is at work";

const STUDIES: [Study; 5] = [
    Study {
        kernel: "transpose",
        grid: [2, 2],
        block: [32, 8],
        arguments: |b| vec![floats(b, 64 * 64), b.space::<f32>(64 * 64), Arg::S32(64), Arg::S32(64)],
        silent: &[],
    },
    Study {
        kernel: "reduce",
        grid: [2, 1],
        block: [256, 1],
        arguments: |b| vec![floats(b, 512), b.space::<f32>(2)],
        silent: &[
            (3, ONE_WARP),
            (4, ONE_WARP),
            (5, ONE_WARP),
            (6, ONE_WARP),
            (7, ONE_WARP),
            (8, "thread 0 alone goes on, and reads what it wrote itself"),
        ],
    },
    Study {
        kernel: "gemm",
        grid: [1, 1],
        block: [128, 1],
        arguments: |b| {
            vec![bfloats(b, 64 * 128), bfloats(b, 128 * 64), b.space::<f32>(64 * 64), Arg::S32(64), Arg::S32(128)]
        },
        silent: &[],
    },
    Study {
        kernel: "softmax",
        grid: [2, 1],
        block: [128, 1],
        arguments: |b| vec![floats(b, 600), b.space::<f32>(600), Arg::S32(300)],
        silent: &[],
    },
    Study {
        kernel: "attention",
        grid: [1, 1],
        block: [128, 1],
        arguments: |b| {
            let out = b.space::<f32>(64 * 64);
            vec![bfloats(b, 64 * 64), bfloats(b, 96 * 64), bfloats(b, 96 * 64), out, Arg::S32(96), Arg::F32(0.125)]
        },
        silent: &[],
    },
];

/// The lines of a kernel that order threads or copies.
fn deletable(text: &str, kernel: &str) -> Vec<usize> {
    let header = format!(".entry {kernel}(");
    let body = text.lines().enumerate().skip_while(|(_, line)| !line.contains(&header));
    let orders = |line: &str| line.trim_start().starts_with("bar.sync") || line.contains("cp.async.wait_group");
    body.take_while(|(_, line)| *line != "}").filter(|(_, line)| orders(line)).map(|(i, _)| i).collect()
}

fn run(study: &Study, device: &Device, arch: &'static str, text: &str, seed: u64) -> Result<(), Box<Fault>> {
    let bench = Bench::seeded(device.clone(), arch, text, seed);
    let [[x, y], [bx, by]] = [study.grid, study.block];
    let shape = Shape { grid: [x, y, 1], block: [bx, by, 1], ..shape(1, 1) };
    bench.try_run(study.kernel, &shape, &(study.arguments)(&bench)).map(|_| ())
}

#[test]
fn every_deleted_barrier_is_reported() {
    let mut wrong = Vec::new();
    for (device, arch) in TARGETS {
        let text = ptx("tiles", arch);
        for study in &STUDIES {
            run(study, &device, arch, &text, 1).unwrap_or_else(|fault| panic!("nothing deleted: {fault}"));
            let lines = deletable(&text, study.kernel);
            assert!(!lines.is_empty());
            for (index, &deleted) in lines.iter().enumerate() {
                let rest = text.lines().enumerate().map(|(i, line)| if i == deleted { "" } else { line });
                let rest = rest.collect::<Vec<_>>().join("\n");
                let reason = study.silent.iter().find(|(i, _)| *i == index).map(|(_, why)| why);
                for seed in 1..4 {
                    let done = run(study, &device, arch, &rest, seed);
                    let name =
                        format!("{} {arch} without {index} (PTX line {}), seed {seed}", study.kernel, deleted + 1);
                    match (done, reason) {
                        (Ok(()), None) => wrong.push(format!("{name}: nothing is reported")),
                        (Err(fault), Some(why)) => wrong.push(format!("{name} should be silent, as {why}: {fault}")),
                        _ => {}
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
