//! What every kernel moves at a model's widths, counted on the emulator: memory as little as the op's cost allows, caches what its tiles say, and
//! shared memory without conflicts.
//!
//! Both sides of each bound are held, so that a formula cannot pass by promising little.

use osprey::checkpoint::{Config, TextConfig, VisionConfig};
use osprey::dtype::DType;
use osprey::exec::cuda::CudaExecutor;
use osprey::exec::cuda::driver::{Device, Driver};
use osprey::exec::{Executor, Needs};
use osprey::ops::REGISTRY;
use osprey::ops::case::Case;
use osprey::ops::workload::{Phase, Workload, workloads};
use osprey::plan::Recorder;
use osprey::quant::Format;
use osprey::tensor::Region;
use serde_json::Value;
use std::collections::BTreeSet;

/// Qwen2-VL 2B with fewer FFN channels and tokens, and a tower half as wide.
fn config() -> Config {
    let text = TextConfig {
        hidden_size: 1536,
        intermediate_size: 1792,
        num_hidden_layers: 28,
        num_attention_heads: 12,
        num_key_value_heads: 2,
        head_dim: 128,
        vocab_size: 8192,
        max_position_embeddings: 32768,
        rms_norm_eps: 1e-6,
        rope_theta: 1e6,
        mrope_section: [16, 24, 24],
    };
    let vision = VisionConfig {
        depth: 32,
        embed_dim: 640,
        num_heads: 8,
        head_dim: 80,
        mlp_dim: 2560,
        hidden_size: 1536,
        in_channels: 3,
        patch_size: 14,
        temporal_patch_size: 2,
        spatial_merge_size: 2,
    };
    Config {
        model_type: "qwen2_vl".into(),
        text,
        vision,
        image_token_id: 1,
        video_token_id: 2,
        vision_start_token_id: 3,
        vision_end_token_id: 4,
        eos_token_ids: Vec::new(),
        bos_token_id: None,
        pad_token_id: None,
        tie_word_embeddings: true,
        torch_dtype: None,
        quantization: None,
    }
}

/// The counters of one launch on the emulator.
fn counters(case: Case) -> Value {
    let image = case.memory().bytes(Region::Arena).to_vec();
    let mut recorder = Recorder::new(case.label, Region::Arena, &case.weights);
    recorder.push_boxed(case.op).unwrap();
    let mut needs = Needs::default();
    needs.cover(recorder.finish().unwrap());
    needs.regions.set(Region::Arena, image.len());
    let device = Device::open(Driver::Emulator, 0).unwrap();
    let mut executor = CudaExecutor::new(device, &needs, &case.weights, &mut |_, _| ()).unwrap();
    let id = executor.load(needs.plans.swap_remove(0)).unwrap();
    executor.write(Region::Arena, 0, &image).unwrap();
    executor.run(id, 0..1).unwrap();
    executor.read(Region::Arena, 0, &mut [0]).unwrap();
    serde_json::from_str(&executor.counters().unwrap()).unwrap()
}

/// What is wrong with a workload's traffic, where loads that stream weights past 8 rows have `full` sectors.
fn complaints(w: &Workload, full: f64) -> Vec<String> {
    let name = format!("{} {} {} ({})", w.phase.name(), w.rows, w.op, w.role);
    // A row of weights and a row of activations alike are read 16 bytes a lane, if there are 8 of them.
    let streams = w.phase == Phase::Decode && w.rows == 8 && MULTIPLY.contains(&w.op);
    complaints_of(&name, w.op, w.case(), if streams { full } else { 0.0 })
}

/// The same for a case of an op, whose loads have more than so many sectors.
fn complaints_of(name: &str, op: &str, case: Case, sectors: f64) -> Vec<String> {
    let least = case.op.cost(&case.step, &case.weights).bytes as f64;
    let tiled = case.op.tiled_bytes(&case.step, &case.weights) as f64;
    let c = counters(case);
    let count = |name: &str| c[name].as_u64().unwrap() as f64;
    let moved = (count("global_bytes_read") + count("global_bytes_written")) / least;
    let asked = 32.0 * (count("global_load_sectors") + count("global_store_sectors")) / tiled;
    let per_load = count("global_load_sectors") / count("global_load_requests");
    let wavefronts = [count("shared_wavefronts"), count("shared_wavefronts_ideal")];
    println!("{name:44} moved {moved:.3} asked {asked:.3} sectors a load {per_load:.1} wavefronts {wavefronts:?}");
    let mut wrong = Vec::new();
    let mut hold = |ok: bool, what: String| {
        if !ok {
            wrong.push(format!("{name}: {what}"))
        }
    };
    hold((0.999..1.05).contains(&moved), format!("moves {moved:.3} of the least"));
    hold((0.9..1.05).contains(&asked), format!("asks for {asked:.3} of what its tiles say"));
    hold(per_load > sectors, format!("{per_load:.1} sectors a load"));
    // Sampling counts in bins, where equal digits must meet; gathering goes where the order leads.
    hold(
        matches!(op, "sample" | "gather") || wavefronts[0] == wavefronts[1],
        format!("{wavefronts:?} wavefronts, and ideal ones"),
    );
    wrong
}

/// Whether a workload reads or writes rows of int8.
fn touches_int8(w: &Workload) -> bool {
    w.case().op.launch().operands().any(|(t, _)| t.dtype == DType::I8)
}

/// The ops that stream weights.
const MULTIPLY: [&str; 4] = ["linear", "gate_up", "qkv_mrope", "lm_head"];

#[test]
fn kernels_move_what_their_ops_must() {
    // One test, since the counters are those of the process's last launch.
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    let [bf16, f16] = [DType::Bf16, DType::F16].map(|dtype| workloads(&config(), dtype, Format::Float));
    // The tower's kernels differ from the decoder's in f16 as they do in bf16.
    let floats = bf16.into_iter().chain(f16.into_iter().filter(|w| w.phase != Phase::Vision));
    let int4 = workloads(&config(), DType::Bf16, Format::W4A16 { group: 128, zeros: false });
    let ordered = int4.into_iter().filter(|w| w.op == "gather");
    for w in floats.chain(ordered) {
        seen.insert(w.op);
        wrong.extend(complaints(&w, 15.0));
    }
    // int8: half as many loads of rows and weights, and the epilogue loads scales too.
    for w in workloads(&config(), DType::Bf16, Format::W8A8).into_iter().filter(touches_int8) {
        seen.insert(w.op);
        wrong.extend(complaints(&w, 13.0));
    }
    // Of 128 columns: 2 or 4 full loads of codes and 4 of rows; then 1 or 2 of scales, which are two sectors, and of zero points, which are half of one.
    let coded = [
        (DType::Bf16, Format::W4A16 { group: 128, zeros: false }, 12.5),
        (DType::F16, Format::W4A16 { group: 64, zeros: true }, 9.0),
        (DType::Bf16, Format::W8A16 { group: 128, zeros: false }, 12.5),
    ];
    for (dtype, format, full) in coded {
        let work = workloads(&config(), dtype, format).into_iter().filter(|w| w.phase != Phase::Vision);
        work.filter(|w| MULTIPLY.contains(&w.op)).for_each(|w| wrong.extend(complaints(&w, full)));
    }
    for dtype in [DType::Bf16, DType::F16] {
        let work = workloads(&config(), dtype, Format::Float).into_iter().map(Workload::with_int8_cache);
        let work = work.filter(|w| ["qkv_mrope", "paged_attention"].contains(&w.op));
        work.for_each(|w| wrong.extend(complaints(&w, 15.0)));
    }
    // Blocks are copied between steps: no workload has that. The last case is of a model's size.
    let copies = REGISTRY.iter().find(|entry| entry.name == "kv_copy").unwrap();
    wrong.extend(complaints_of("between steps kv_copy", copies.name, (copies.cases)().pop().unwrap(), 0.0));
    seen.insert(copies.name);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(seen, REGISTRY.iter().map(|e| e.name).collect(), "every op is looked at");
}
