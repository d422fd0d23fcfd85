//! `osprey trace` beside transformers' goldens: runs it, and measures how far apart they are.
//!
//! Paths are relative to the repository, and the program is looked for beside the test, so that both run in a copy elsewhere.
#![allow(dead_code)] // Every test uses a part of it.

use osprey::checkpoint::Checkpoint;
use std::path::{Path, PathBuf};
use std::process::Command;

const GOLDEN: &str = "tests/golden";
pub const MODELS: [&str; 2] = ["tiny_a", "tiny_b"];

/// A safetensors file.
pub struct Tensors(pub Checkpoint);

impl Tensors {
    fn open(path: &Path) -> Self {
        Tensors(Checkpoint::open_file(path).unwrap_or_else(|e| panic!("{e}")))
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some()
    }

    pub fn get<T: bytemuck::Pod>(&self, name: &str) -> (Vec<usize>, Vec<T>) {
        let t = self.0.get(name).unwrap_or_else(|| panic!("{}: no tensor {name}", self.0.source().display()));
        (t.shape().to_vec(), bytemuck::pod_collect_to_vec(t.bytes()))
    }
}

pub fn conversations() -> Vec<String> {
    let files = std::fs::read_dir(format!("{GOLDEN}/conversations")).unwrap();
    let mut names: Vec<String> =
        files.map(|f| f.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    assert!(names.len() >= 8);
    names
}

/// The program: beside the test, or one folder up where cargo puts it.
fn osprey() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let mut folders = test.ancestors().skip(1).take(2);
    folders.find_map(|dir| Some(dir.join("osprey")).filter(|p| p.is_file())).expect("osprey is built with its tests")
}

/// Runs `osprey trace` on a model of the goldens and opens what it wrote.
pub fn trace(model: &str, conversation: &str, dtype: &str, extra: &[&str]) -> Tensors {
    trace_folder(&Path::new(GOLDEN).join(model), conversation, dtype, extra)
}

/// The same on a model folder.
pub fn trace_folder(model: &Path, conversation: &str, dtype: &str, extra: &[&str]) -> Tensors {
    let label = format!("{}-{conversation}-{dtype}-{}", model.display(), extra.join("")).replace('/', "_");
    let out: PathBuf = std::env::temp_dir().join(format!("osprey-{}-{label}.safetensors", std::process::id()));
    let status = Command::new(osprey())
        .args(["trace", "--model", model.to_str().unwrap(), "--dtype", dtype, "--max-new-tokens", "32"])
        .args(["--conversation", &format!("{GOLDEN}/conversations/{conversation}.json")])
        .args(["--out", out.to_str().unwrap()])
        .args(extra)
        .output()
        .unwrap();
    assert!(status.status.success(), "{label}: {}", String::from_utf8_lossy(&status.stderr));
    let tensors = Tensors::open(&out);
    // The mapping outlives the name.
    std::fs::remove_file(out).unwrap();
    tensors
}

pub fn golden(model: &str, conversation: &str) -> Tensors {
    Tensors::open(Path::new(&format!("{GOLDEN}/traces/{model}/{conversation}.safetensors")))
}

/// Distances between two tensors in units of the reference's standard deviation.
#[derive(Debug, Clone, Copy)]
pub struct Distance {
    pub mean: f64,
    pub p99: f64,
}

pub fn distance(got: &[f32], want: &[f32]) -> Distance {
    assert_eq!(got.len(), want.len());
    let n = want.len() as f64;
    let mean = want.iter().map(|&x| x as f64).sum::<f64>() / n;
    let std = (want.iter().map(|&x| (x as f64 - mean).powi(2)).sum::<f64>() / n).sqrt();
    let mut d: Vec<f64> = got.iter().zip(want).map(|(a, b)| (*a as f64 - *b as f64).abs() / std).collect();
    d.sort_by(f64::total_cmp);
    Distance { mean: d.iter().sum::<f64>() / n, p99: d[(d.len() * 99 / 100).min(d.len() - 1)] }
}

/// The largest drop from the reference's best logit to its logit of our best token, over rows.
pub fn regret(got: &[f32], want: &[f32], vocab: usize) -> f64 {
    let best = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
    let rows = got.chunks(vocab).zip(want.chunks(vocab));
    rows.map(|(g, w)| (w[best(w)] - w[best(g)]) as f64).fold(0.0, f64::max)
}

/// The logits of the positions that the golden holds.
pub fn logits(got: &Tensors, want: &Tensors) -> (Vec<f32>, Vec<f32>, usize) {
    let (shape, all) = got.get::<f32>("logits");
    let (want_shape, kept) = want.get::<f32>("logits");
    let vocab = shape[1];
    assert_eq!(vocab, want_shape[1]);
    if !want.has("logits_rows") {
        return (all, kept, vocab);
    }
    let rows = want.get::<i64>("logits_rows").1;
    (rows.iter().flat_map(|&r| &all[r as usize * vocab..][..vocab]).copied().collect(), kept, vocab)
}

pub fn same<T: bytemuck::Pod + PartialEq + std::fmt::Debug>(got: &Tensors, want: &Tensors, name: &str, at: &str) {
    if want.has(name) {
        assert!(got.get::<T>(name) == want.get::<T>(name), "{at}: {name} differs");
    } else {
        assert!(!got.has(name), "{at}: {name} should not be there");
    }
}

/// The largest mean distance that counts as equal in f32: five times what lies between f32 and f64 arithmetic in transformers itself is 8e-6;
/// the project's contract allows 1e-4.
pub const F32_MEAN: f64 = 1e-4;

pub fn close(got: &Tensors, want: &Tensors, name: &str, at: &str) {
    let ((shape, g), (want_shape, w)) = (got.get::<f32>(name), want.get::<f32>(name));
    assert_eq!(shape, want_shape, "{at}: shape of {name}");
    let d = distance(&g, &w);
    assert!(d.mean <= F32_MEAN, "{at}: {name} is off by {d:?} standard deviations");
}

/// The largest distance of transformers' own bf16 run from its f32 run.
pub fn bf16_noise(model: &str, key: &str) -> f64 {
    let noise: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(format!("{GOLDEN}/bf16_noise.json")).unwrap()).unwrap();
    let pairs = noise[model].as_object().unwrap().values();
    pairs.map(|p| p[key].as_f64().unwrap()).fold(0.0, f64::max)
}

/// transformers' own bf16 run is off by the distances in `bf16_noise.json`. Ours rounds less (statistics, angles and sums of a fused op stay in
/// f32), so it must not be further from f32 than theirs at the worst pair: mean 0.021, p99 0.082, regret 0.28. In f16, whose rounding is 8 times finer, not
/// further than an eighth of that.
pub fn check_rounded(model: &str, dtype: &str, extra: &[&str]) {
    let finer = if dtype == "f16" { 8.0 } else { 1.0 };
    let worst = |key: &str| bf16_noise(model, key) / finer;
    for conversation in conversations() {
        let at = format!("{model}/{conversation} {dtype} {extra:?}");
        let (g, w, vocab) = logits(&trace(model, &conversation, dtype, extra), &golden(model, &conversation));
        let (d, regret) = (distance(&g, &w), regret(&g, &w, vocab));
        println!("{at}: logits mean {:.1e} p99 {:.1e} regret {regret:.1e}", d.mean, d.p99);
        assert!(
            d.mean <= worst("mean") && d.p99 <= worst("p99") && regret <= worst("max_regret"),
            "{at}: {d:?}, regret {regret}"
        );
    }
}
