//! The bundled model on its held-out pictures, through the real binary: as accurate as transformers measured it (`tests/data/demo/expected.json`),
//! with the same words (`<kind>.hf.jsonl`).

use serde_json::Value;
use std::path::Path;

mod command;
use command::osprey;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/demo");

fn lines(name: &str) -> Vec<Value> {
    let path = Path::new(DATA).join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// The bundled model's answer in f32, greedy.
fn ask(item: &Value) -> String {
    ask_with(item, &["--dtype", "f32"])
}

/// The bundled model's greedy answer.
fn ask_with(item: &Value, flags: &[&str]) -> String {
    let mut command = osprey();
    command.args(["run", "--json", "--temperature", "0", "--max-new-tokens", "48", "--threads", "1"]).args(flags);
    for image in item["images"].as_array().unwrap() {
        command.arg("--input").arg(Path::new(DATA).join(image.as_str().unwrap()));
    }
    let out = command.args(["--prompt", item["query"].as_str().unwrap()]).output().unwrap();
    assert!(out.status.success(), "{item}: {}", String::from_utf8_lossy(&out.stderr));
    let answer: Value = serde_json::from_slice(&out.stdout).unwrap();
    answer["text"].as_str().unwrap().to_string()
}

/// Label and corners of the first box.
fn parse_box(text: &str) -> Option<(String, [f64; 4])> {
    let found = osprey::media::boxes::parse(text).into_iter().next()?;
    Some((found.label, found.corners.map(f64::from)))
}

/// Intersection over union.
fn iou(a: [f64; 4], b: [f64; 4]) -> f64 {
    let area = |r: [f64; 4]| (r[2] - r[0]).max(0.0) * (r[3] - r[1]).max(0.0);
    let both = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    both / (area(a) + area(b) - both)
}

fn correct(kind: &str, said: &str, want: &str) -> bool {
    if kind != "pointing" {
        return said.trim() == want;
    }
    match (parse_box(said), parse_box(want)) {
        (Some((label, a)), Some((wanted, b))) => label == wanted && iou(a, b) >= 0.5,
        _ => false,
    }
}

fn check(kind: &str) {
    let (items, reference) = (lines(&format!("{kind}.jsonl")), lines(&format!("{kind}.hf.jsonl")));
    assert!(items.len() >= 20 && items.len() == reference.len());
    let (mut right, mut same) = (0, 0);
    for (item, reference) in items.iter().zip(&reference) {
        let said = ask(item);
        right += usize::from(correct(kind, &said, item["response"].as_str().unwrap()));
        same += usize::from(said == reference["answer"].as_str().unwrap());
    }
    let expected: Value =
        serde_json::from_str(&std::fs::read_to_string(format!("{DATA}/expected.json")).unwrap()).unwrap();
    let expected = expected["kinds"][kind]["correct"].as_u64().unwrap() as usize;
    println!(
        "{kind}: {right} of {} right (transformers {expected}), {same} word for word as transformers",
        items.len()
    );
    // A near tie may fall the other way for one picture; more is a fault.
    assert!(right + 1 >= expected, "{kind}: {right} right, transformers {expected}");
    assert!(same + 1 >= items.len(), "{kind}: {same} of {} as transformers", items.len());
}

macro_rules! kinds {
    ($($kind:ident),*) => { $(#[test] fn $kind() { check(stringify!($kind)); })* };
}
kinds!(naming, counting, place, words, numbers, digits, pointing);

const KINDS: [&str; 7] = ["naming", "counting", "place", "words", "numbers", "digits", "pointing"];

/// In bf16 both round; a near tie may fall the other way, so the pictures are those where the CPU's bf16 answer is also the f32 one.
#[test]
fn the_kernels_say_what_the_cpu_says() {
    for kind in KINDS {
        let items = lines(&format!("{kind}.jsonl"));
        let item = items.iter().find(|i| ask(i) == ask_with(i, &["--dtype", "bf16", "--device", "cpu"])).unwrap();
        let (cpu, emulator) = (ask(item), ask_with(item, &["--dtype", "bf16", "--device", "emulator"]));
        assert_eq!(cpu, emulator, "{kind}: {}", item["query"]);
    }
}

/// A near tie may fall the other way for one picture; more is a fault.
#[test]
fn a_cache_of_int8_says_the_same() {
    let items = KINDS.iter().flat_map(|kind| lines(&format!("{kind}.jsonl")).into_iter().step_by(5));
    let items: Vec<Value> = items.collect();
    let int8 = |item| ask_with(item, &["--dtype", "f32", "--kv-cache-dtype", "int8"]);
    let other: Vec<_> = items.iter().filter(|item| ask(item) != int8(item)).map(|item| &item["query"]).collect();
    assert!(items.len() >= 50 && other.len() <= 1, "{} of {}: {other:?}", other.len(), items.len());
}

/// Every op of a prompt and an answer on the emulator, held against the CPU's body on the same inputs.
#[test]
fn lockstep_finds_no_difference() {
    for dtype in ["bf16", "f16"] {
        let item = &lines("pointing.jsonl")[0];
        let flags = ["--dtype", dtype, "--device", "emulator", "--lockstep", "cpu"];
        ask_with(item, &flags);
        ask_with(item, &[&flags[..], &["--kv-cache-dtype", "int8"]].concat());
    }
}

#[test]
fn boxes_overlap_as_they_should() {
    assert_eq!(iou([0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0]), 1.0 / 3.0);
    assert!(!correct(
        "pointing",
        "red circle",
        "<|object_ref_start|>a<|object_ref_end|><|box_start|>(1,1),(5,5)<|box_end|>"
    ));
}
