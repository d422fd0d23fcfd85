//! Mutated headers, indexes and configs: whatever the bytes are, the reader neither panics nor takes memory that the file does not justify.
//!
//! Its own test binary, because it counts every allocation.

#[path = "checkpoint/writer.rs"]
#[allow(dead_code, reason = "shared with the other test binary, which uses all of it")]
mod writer;

#[path = "import/folder.rs"]
#[allow(dead_code, reason = "shared with the other test binary, which uses all of it")]
mod folder;
mod traces;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use osprey::checkpoint::inventory::expected;
use osprey::checkpoint::{Checkpoint, Config, GenerationConfig, ModelFiles};
use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

use writer::{config, file, join, nested_config, tensors, write_shards, write_single};

/// Counts the live bytes of each thread and their peak.
struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    LIVE.set(LIVE.get() + bytes);
    PEAK.set(PEAK.get().max(LIVE.get()));
}

// SAFETY: every call is passed on to the system allocator unchanged; the counters allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's contract is the callee's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's contract is the callee's.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that were live at once while `f` ran, beyond those before it.
fn peak<T>(f: impl FnOnce() -> T) -> (T, isize) {
    let before = LIVE.get();
    PEAK.set(before);
    let out = f();
    (out, PEAK.get() - before)
}

/// One change to a text or binary file.
#[derive(Debug, Clone)]
enum Edit {
    Set(prop::sample::Index, u8),
    Cut(prop::sample::Index, usize),
    Insert(prop::sample::Index, &'static str),
    Repeat(prop::sample::Index, usize),
}

const TOKENS: [&str; 16] = [
    "0",
    "-1",
    "18446744073709551615",
    "99999999999999999999",
    "1e999",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "\"",
    "\\",
    "null",
    "[0,0]",
    "\"F64\"",
];

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(i, b)| Edit::Set(i, b)),
        (at(), 1..40usize).prop_map(|(i, n)| Edit::Cut(i, n)),
        (at(), prop::sample::select(&TOKENS[..])).prop_map(|(i, t)| Edit::Insert(i, t)),
        (at(), 1..200usize).prop_map(|(i, n)| Edit::Repeat(i, n)),
    ]
}

fn apply(bytes: &mut Vec<u8>, edits: &[Edit]) {
    for edit in edits {
        if bytes.is_empty() {
            return;
        }
        match edit {
            Edit::Set(i, b) => *i.get_mut(bytes) = *b,
            Edit::Cut(i, n) => {
                let at = i.index(bytes.len());
                bytes.drain(at..(at + n).min(bytes.len()));
            }
            Edit::Insert(i, text) => {
                let at = i.index(bytes.len());
                bytes.splice(at..at, text.bytes());
            }
            Edit::Repeat(i, n) => {
                let at = i.index(bytes.len());
                let copy = bytes[at..(at + n).min(bytes.len())].to_vec();
                bytes.splice(at..at, copy);
            }
        }
    }
}

/// Digits of a JSON text, replaced: keeps the syntax and lies about values.
fn renumber(text: &str, which: usize, value: &str) -> String {
    let numbers: Vec<(usize, usize)> = number_ranges(text);
    let (from, to) = numbers[which % numbers.len()];
    format!("{}{value}{}", &text[..from], &text[to..])
}

fn number_ranges(text: &str) -> Vec<(usize, usize)> {
    let mut out = Vec::new();
    let mut start = None;
    for (i, c) in text.char_indices() {
        match (c.is_ascii_digit(), start) {
            (true, None) => start = Some(i),
            (false, Some(from)) => {
                out.push((from, i));
                start = None;
            }
            _ => {}
        }
    }
    out
}

/// Opens a folder in every way; checks what was accepted, the message of what was not, and the memory taken.
fn open_all(dir: &Path) {
    let allowed = 1 << 20;
    let (checkpoint, taken) = peak(|| Checkpoint::open(dir));
    assert!(taken < allowed, "{taken} bytes for the tensors");
    match &checkpoint {
        Ok(checkpoint) => checkpoint.tensors().for_each(|t| {
            let want = t.shape().iter().product::<usize>() * t.dtype().size();
            assert_eq!(t.bytes().len(), want, "{}", t.name());
        }),
        Err(e) => assert!(!e.to_string().contains('\n'), "{e}"),
    }
    let (files, taken) = peak(|| ModelFiles::open(dir));
    // A config may ask for 1,024 layers, whose list of names is justified.
    assert!(taken < 16 * allowed, "{taken} bytes for the model");
    if let Err(e) = files {
        assert!(!e.to_string().contains('\n'), "{e}");
    }
}

/// The five quantized models of the goldens, written once.
static QUANTIZED: LazyLock<[TempDir; 5]> =
    LazyLock::new(|| ["awq4", "ct4", "ct8", "gptq4", "gptq8"].map(folder::model_folder));

/// A copy of one of them whose quantized shard and config are changed; only what opening reads.
fn changed(model: usize, shard: impl Fn(&mut Vec<u8>), config: impl Fn(String) -> String) -> TempDir {
    let (from, to) = (QUANTIZED[model].path(), tempfile::tempdir().unwrap());
    for name in ["b.safetensors", "model.safetensors.index.json"] {
        fs::copy(from.join(name), to.path().join(name)).unwrap();
    }
    let mut bytes = fs::read(from.join("a.safetensors")).unwrap();
    shard(&mut bytes);
    fs::write(to.path().join("a.safetensors"), bytes).unwrap();
    let text = fs::read_to_string(from.join("config.json")).unwrap();
    fs::write(to.path().join("config.json"), config(text)).unwrap();
    to
}

/// Bytes of the header behind its length.
fn header_of(file: &[u8]) -> usize {
    u64::from_le_bytes(file[..8].try_into().unwrap()) as usize
}

fn check_config(text: &[u8]) {
    let (parsed, taken) = peak(|| Config::from_json("config.json", &String::from_utf8_lossy(text)));
    assert!(taken < 1 << 20, "{taken} bytes for a config");
    match parsed {
        Ok(config) => {
            let (list, taken) = peak(|| expected(&config));
            assert!(taken < 16 << 20, "{taken} bytes for a list");
            for e in list {
                let elements = e.shape.iter().try_fold(1usize, |a, &n| a.checked_mul(n)).expect("no overflow");
                assert!(elements > 0 && elements < 1 << 48, "{} {:?}", e.name, e.shape);
            }
        }
        Err(e) => assert!(!e.to_string().contains('\n'), "{e}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_bytes_of_a_file(edits in prop::collection::vec(edit(), 1..6)) {
        let dir = tempfile::tempdir().unwrap();
        write_single(dir.path(), &config(), &tensors());
        let mut bytes = file(&tensors());
        apply(&mut bytes, &edits);
        fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        open_all(dir.path());
    }

    #[test]
    fn mutated_header_of_the_right_length(edits in prop::collection::vec(edit(), 1..4)) {
        let dir = tempfile::tempdir().unwrap();
        write_single(dir.path(), &config(), &tensors());
        let (header, data) = writer::safetensors(&tensors());
        let mut header = Value::Object(header).to_string().into_bytes();
        apply(&mut header, &edits);
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        bytes.extend(data);
        fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        open_all(dir.path());
    }

    #[test]
    fn wrong_numbers_in_a_header(which in any::<usize>(), value in any::<u64>(), shift in 0..64u32) {
        let dir = tempfile::tempdir().unwrap();
        let (header, data) = writer::safetensors(&tensors());
        let text = renumber(&Value::Object(header).to_string(), which, &(value >> shift).to_string());
        write_single(dir.path(), &config(), &tensors());
        fs::write(dir.path().join("model.safetensors"), join(&text, &data)).unwrap();
        open_all(dir.path());
    }

    #[test]
    fn mutated_index(edits in prop::collection::vec(edit(), 1..4)) {
        let dir = tempfile::tempdir().unwrap();
        let mut index = write_shards(dir.path(), &config(), &tensors()).into_bytes();
        apply(&mut index, &edits);
        fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        open_all(dir.path());
    }

    #[test]
    fn mutated_config(edits in prop::collection::vec(edit(), 1..4), nested in any::<bool>()) {
        let mut text = if nested { nested_config() } else { config() }.to_string().into_bytes();
        apply(&mut text, &edits);
        check_config(&text);
    }

    #[test]
    fn wrong_numbers_in_a_config(
        changes in prop::collection::vec((any::<usize>(), any::<u64>(), 0..64u32), 1..4),
        nested in any::<bool>(),
    ) {
        let mut text = if nested { nested_config() } else { config() }.to_string();
        for (which, value, shift) in changes {
            text = renumber(&text, which, &(value >> shift).to_string());
        }
        check_config(text.as_bytes());
    }

    #[test]
    fn mutated_codes(model in 0..5usize, sets in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let shard = |bytes: &mut Vec<u8>| {
            let start = 8 + header_of(bytes);
            sets.iter().for_each(|(at, byte)| *at.get_mut(&mut bytes[start..]) = *byte);
        };
        open_all(changed(model, shard, |text| text).path());
    }

    #[test]
    fn wrong_numbers_in_a_header_of_codes(model in 0..5usize, which in any::<usize>(), value in any::<u64>(), shift in 0..64u32) {
        let shard = |bytes: &mut Vec<u8>| {
            let (header, data) = bytes[8..].split_at(header_of(bytes));
            let text = renumber(&String::from_utf8_lossy(header), which, &(value >> shift).to_string());
            *bytes = join(&text, data);
        };
        open_all(changed(model, shard, |text| text).path());
    }

    #[test]
    fn mutated_quantization_config(
        model in 0..5usize,
        edits in prop::collection::vec(edit(), 1..3),
        number in prop::option::of((any::<usize>(), any::<u64>(), 0..64u32)),
    ) {
        let config = |text: String| {
            let (before, quantization) = text.split_at(text.find("\"quantization_config\"").unwrap());
            let mut changed = quantization.as_bytes().to_vec();
            match number {
                Some((which, value, shift)) => changed = renumber(quantization, which, &(value >> shift).to_string()).into(),
                None => apply(&mut changed, &edits),
            }
            format!("{before}{}", String::from_utf8_lossy(&changed))
        };
        open_all(changed(model, |_| (), config).path());
    }

    #[test]
    fn mutated_generation_config(edits in prop::collection::vec(edit(), 1..4)) {
        let dir = tempfile::tempdir().unwrap();
        let mut text = br#"{"do_sample":true,"eos_token_id":[2,1],"temperature":0.01,"top_p":0.001,"top_k":1}"#.to_vec();
        apply(&mut text, &edits);
        fs::write(dir.path().join("generation_config.json"), text).unwrap();
        if let Err(e) = GenerationConfig::open(dir.path()) {
            assert!(!e.to_string().contains('\n'), "{e}");
        }
    }
}

/// The worst headers of the largest size that is read at all.
#[test]
fn the_largest_headers_stay_within_64_mb() {
    let size = (16 << 20) - 64;
    let fill = |unit: &dyn Fn(usize) -> String, start: &str, end: &str| {
        let mut text = start.to_string();
        let mut n = 0;
        while text.len() < size - 200 {
            text.push_str(&unit(n));
            n += 1;
        }
        text + end
    };
    let entry = |n: usize| format!(r#""{n:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},"#);
    let long = |n: usize| format!(r#""{n:0200}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},"#);
    let last = r#""z":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#;
    for text in [
        fill(&entry, "{", last),
        fill(&long, "{", last),
        fill(&|_| "0,".into(), r#"{"a":{"dtype":"U8","data_offsets":[0,0],"shape":["#, "0]}}"),
        fill(&|_| "[".into(), r#"{"a":{"dtype":"U8","data_offsets":[0,0],"x":"#, "0"),
        fill(&|_| "a".into(), r#"{""#, r#"":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#),
        fill(&|_| "a".into(), r#"{"__metadata__":{"x":""#, r#""}}"#),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("model.safetensors"), join(&text, &[])).unwrap();
        let (result, taken) = peak(|| Checkpoint::open(dir.path()));
        assert!(taken < text.len() as isize + (64 << 20), "{taken} bytes for {:.60}", text);
        if let Err(e) = result {
            assert!(e.to_string().len() < 500 && !e.to_string().contains('\n'), "{:.600}", e.to_string());
        }
    }
}
