//! Safetensors files, shards and the index.

use std::fs;
use std::path::Path;

use osprey::checkpoint::Checkpoint;
use osprey::dtype::DType;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::refusal;
use crate::writer::{Tensor, config, file, join, safetensors, tensors, write_shards, write_single};

const INDEX: &str = "model.safetensors.index.json";
const SHARD_2: &str = "model-00002-of-00002.safetensors";

/// The refusal of a folder whose `model.safetensors` has these bytes.
fn refused(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    let message = refusal(dir.path(), Checkpoint::open(dir.path()));
    message.strip_prefix("model.safetensors: ").expect("names the file").to_string()
}

/// The refusal of a header text over `data` bytes.
fn header(text: &str, data: usize) -> String {
    refused(&join(text, &vec![0; data]))
}

/// A folder with two shards; its index is changed by `edit`.
fn shards(edit: impl Fn(&mut Value)) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut index: Value = serde_json::from_str(&write_shards(dir.path(), &config(), &tensors())).unwrap();
    edit(&mut index);
    fs::write(dir.path().join(INDEX), index.to_string()).unwrap();
    dir
}

#[test]
fn one_file() {
    let dir = tempfile::tempdir().unwrap();
    write_single(dir.path(), &config(), &tensors());
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!((checkpoint.len(), checkpoint.is_empty()), (34, false));
    let tensor = checkpoint.get("model.embed_tokens.weight").unwrap();
    let found = (tensor.name(), tensor.dtype(), tensor.shape());
    assert_eq!(found, ("model.embed_tokens.weight", DType::Bf16, &[20, 16][..]));
    assert_eq!(tensor.file(), dir.path().join("model.safetensors"));
    // The second tensor of the file: its data starts at byte 640.
    let want: Vec<u8> = (640..1280).map(|i| (i % 251) as u8).collect();
    assert_eq!(tensor.bytes(), want);
    assert!(checkpoint.get("nothing").is_none());
}

#[test]
fn every_dtype_and_odd_places() {
    let list = [
        Tensor::new("a", "U8", &[3]),
        Tensor::new("b", "F32", &[2]),
        Tensor::new("c", "I64", &[]),
        Tensor::new("d", "F16", &[0, 4]),
        Tensor::new("e", "I32", &[1, 1, 1]),
        Tensor::new("f", "BF16", &[1]),
        Tensor::new("g", "I8", &[5]),
    ];
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("model.safetensors"), file(&list)).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let got: Vec<_> = checkpoint.tensors().map(|t| (t.name(), t.dtype(), t.bytes().len(), t.elements())).collect();
    let want = [
        ("a", DType::U8, 3, 3),
        ("b", DType::F32, 8, 2),
        ("c", DType::I64, 8, 1),
        ("d", DType::F16, 0, 0),
        ("e", DType::I32, 4, 1),
        ("f", DType::Bf16, 2, 1),
        ("g", DType::I8, 5, 5),
    ];
    assert_eq!(got, want);
    assert_eq!(checkpoint.get("b").unwrap().bytes(), [3, 4, 5, 6, 7, 8, 9, 10]);
}

#[test]
fn shards_and_symlinks_as_in_the_hub_cache() {
    let dir = shards(|_| ());
    let blobs = tempfile::tempdir().unwrap();
    let blob = blobs.path().join("0f1e2d");
    fs::rename(dir.path().join(SHARD_2), &blob).unwrap();
    std::os::unix::fs::symlink(&blob, dir.path().join(SHARD_2)).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.len(), 34);
    assert_eq!(checkpoint.get("visual.merger.ln_q.bias").unwrap().file(), dir.path().join(SHARD_2));
}

#[test]
fn data_outlives_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    write_single(dir.path(), &config(), &tensors());
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let data = checkpoint.tensors().next().unwrap().data().clone();
    drop(checkpoint);
    drop(dir);
    assert_eq!((data.len(), data.is_mapped(), data.bytes()[9]), (640, true, 9));
}

#[test]
fn no_weights_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display().to_string();
    let message = refusal(dir.path(), Checkpoint::open(dir.path()));
    assert_eq!(message, format!("{path}: weights: neither model.safetensors nor {INDEX} is in this folder"));
    fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
    let message = refusal(dir.path(), Checkpoint::open(dir.path()));
    assert!(message.ends_with("only pickled PyTorch weights here: convert them to safetensors first"), "{message}");
    fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    assert_eq!(refusal(dir.path(), Checkpoint::open(dir.path())), "model.safetensors: file: is not a regular file");
}

#[test]
fn broken_files() {
    assert_eq!(refused(b""), "header: the file is empty");
    assert_eq!(refused(b"1234567"), "header: the file has 7 bytes, too few for a safetensors file");
    let pointer = refused(b"version https://git-lfs.example/spec/v1\noid sha256:00\nsize 1\n");
    assert_eq!(pointer, "header: this is a Git LFS pointer, not the weights: run `git lfs pull` in the folder");
    let whole = file(&tensors());
    let cut = refused(&whole[..100]);
    assert!(
        cut.starts_with("header: claims ") && cut.ends_with("but only 92 follow: truncated, or not a safetensors file"),
        "{cut}"
    );
    let cut = refused(&whole[..whole.len() - 1]);
    assert!(cut.starts_with("visual.patch_embed.proj.weight: data_offsets "), "{cut}");
    assert!(cut.ends_with("the file is truncated or its header is wrong"), "{cut}");
    let long = refused(&[&whole[..], &[0; 5]].concat());
    assert_eq!(long, "data: 5 bytes at the end of the file belong to no tensor");
    let huge = refused(&u64::MAX.to_le_bytes());
    assert_eq!(
        huge,
        "header: claims 18446744073709551615 bytes, but only 0 follow: truncated, or not a safetensors file"
    );
}

#[test]
fn a_header_of_gigabytes_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    fs::write(&path, (1u64 << 33).to_le_bytes()).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len((1 << 33) + 8).unwrap();
    let message = refusal(dir.path(), Checkpoint::open(dir.path()));
    assert_eq!(message, "model.safetensors: header: claims 8589934592 bytes, more than the 16777216 that are allowed");
}

#[test]
fn lies_in_the_header() {
    for (entry, message) in [
        (r#"{"dtype":"F32","shape":[2],"data_offsets":[0,9]}"#, "w: data_offsets 0..9 lie outside the 8 bytes of data"),
        (r#"{"dtype":"F32","shape":[2],"data_offsets":[8,0]}"#, "w: data_offsets 8..0 lie outside the 8 bytes of data"),
        (
            r#"{"dtype":"F32","shape":[3],"data_offsets":[0,8]}"#,
            "w: shape [3] of f32 takes 12 bytes, but data_offsets span 8",
        ),
        (
            r#"{"dtype":"F16","shape":[2],"data_offsets":[0,8]}"#,
            "w: shape [2] of f16 takes 4 bytes, but data_offsets span 8",
        ),
        (
            r#"{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}"#,
            "w: dtype F8_E4M3 is none of F32, BF16, F16, I64, I32, I8, U8",
        ),
        (
            r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}"#,
            "w: shape [4294967296, 4294967296] of f32 overflows",
        ),
        (
            r#"{"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}"#,
            "w: shape [0, 4294967296, 4294967296] of f32 overflows",
        ),
        (r#"{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]}"#, "w: more than 8 dimensions at line 1"),
        (
            r#"{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}"#,
            "w: invalid value: integer `-2`, expected u64 at line 1",
        ),
        (
            r#"{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}"#,
            "w: invalid type: floating point `2.0`, expected u64 at line 1",
        ),
        (
            r#"{"dtype":"F32","shape":[2],"data_offsets":[0]}"#,
            "w: invalid length 1, expected an array of length 2 at line 1",
        ),
        (r#"{"dtype":"F32","data_offsets":[0,8]}"#, "w: missing field `shape` at line 1"),
        (r#"{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#, "w: 4 bytes before its data belong to no tensor"),
        (
            r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#,
            "data: 4 bytes at the end of the file belong to no tensor",
        ),
        ("7", "w: invalid type: integer `7`"),
    ] {
        let got = header(&format!(r#"{{"w":{entry}}}"#), 8);
        assert!(got.starts_with(message), "{got}");
    }
    assert!(header("[]", 0).starts_with("header: invalid type: sequence, expected an object of tensors"));
    assert!(header("{", 0).starts_with("header: EOF while parsing an object"));
    assert!(header("{}{}", 0).starts_with("header: trailing characters"));
    assert!(refused(&join("{\"\u{0}\":1}", &[])).starts_with("header: control character"));
    assert!(header(&"[".repeat(1 << 20), 0).starts_with("header: invalid type: sequence"));
    let deep = format!(r#"{{"__metadata__":{}"#, "[".repeat(1 << 20));
    assert!(header(&deep, 0).starts_with("__metadata__: "));
}

#[test]
fn overlap_and_double_names() {
    let a = r#""a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}"#;
    let b = r#""b\nc":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}"#;
    assert_eq!(header(&format!("{{{a},{b}}}"), 8), "b\\nc: its data overlaps that of a");
    assert!(header(&format!("{{{a},{a}}}"), 8).starts_with("a: the name occurs twice"));
}

#[test]
fn lies_in_the_index() {
    let message = |edit: fn(&mut Value)| {
        let dir = shards(edit);
        refusal(dir.path(), Checkpoint::open(dir.path()))
    };
    let at = |rest: &str| format!("{INDEX}: {rest}");
    assert_eq!(message(|i| i["weight_map"] = json!({})), at("weight_map: is empty"));
    assert_eq!(message(|i| *i = json!({})), at("weight_map: missing field `weight_map` at line 1 column 2"));
    assert!(
        message(|i| i["weight_map"]["a"] = json!(1))
            .starts_with(&at("weight_map: invalid type: integer `1`, expected a string"))
    );
    assert_eq!(
        message(|i| i["weight_map"]["a"] = json!("other.safetensors")),
        at("weight_map: shard other.safetensors is not in this folder")
    );
    assert_eq!(
        message(|i| i["weight_map"]["a"] = json!(SHARD_2)),
        at("a: the index puts it into model-00002-of-00002.safetensors, which does not hold it")
    );
    assert_eq!(
        message(|i| i["weight_map"]["lm_head.weight"] = json!(SHARD_2)),
        at(
            "lm_head.weight: the index puts it into model-00002-of-00002.safetensors, but it is in model-00001-of-00002.safetensors"
        )
    );
    assert_eq!(
        message(|i| {
            i["weight_map"].as_object_mut().unwrap().remove("visual.merger.ln_q.bias");
        }),
        format!("{SHARD_2}: visual.merger.ln_q.bias: is not listed in {INDEX}")
    );
}

#[test]
fn an_index_cannot_leave_its_folder() {
    for shard in [
        "../a.safetensors",
        "/etc/a.safetensors",
        "sub/a.safetensors",
        "a\\b.safetensors",
        "..",
        "",
        "config.json",
        ".safetensors",
    ] {
        let dir = shards(|i| i["weight_map"]["a"] = json!(shard));
        let shown = shard.escape_debug();
        let want =
            format!("{INDEX}: weight_map: a: shard \"{shown}\" must be the name of a .safetensors file in this folder");
        assert_eq!(refusal(dir.path(), Checkpoint::open(dir.path())), want);
    }
}

#[test]
fn doubles_across_shards_and_in_the_index() {
    let dir = shards(|_| ());
    let mut second: Vec<Tensor> = tensors()[17..].to_vec();
    second.push(tensors()[0].clone());
    fs::write(dir.path().join(SHARD_2), file(&second)).unwrap();
    let want = format!("{SHARD_2}: lm_head.weight: is also in model-00001-of-00002.safetensors");
    assert_eq!(refusal(dir.path(), Checkpoint::open(dir.path())), want);
    fs::write(dir.path().join(INDEX), r#"{"weight_map":{"a":"b.safetensors","a":"b.safetensors"}}"#).unwrap();
    assert!(
        refusal(dir.path(), Checkpoint::open(dir.path())).starts_with(&format!("{INDEX}: weight_map: a occurs twice"))
    );
    fs::remove_file(dir.path().join(INDEX)).unwrap();
    fs::write(dir.path().join(INDEX), format!(r#"{{"weight_map":{{{}}}}}"#, many(2000))).unwrap();
    let want = format!("{INDEX}: weight_map: 2000 shards are more than 1024");
    assert_eq!(refusal(dir.path(), Checkpoint::open(dir.path())), want);
}

fn many(n: usize) -> String {
    (0..n).map(|i| format!(r#""t{i}":"s{i}.safetensors""#)).collect::<Vec<_>>().join(",")
}

#[test]
fn a_single_file_may_stand_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter_model.safetensors");
    fs::write(&path, file(&[Tensor::new("x.lora_A.weight", "F32", &[2, 2])])).unwrap();
    let checkpoint = Checkpoint::open_file(&path).unwrap();
    assert_eq!((checkpoint.source(), checkpoint.len()), (Path::new(&path), 1));
    let (header, data) = safetensors(&tensors());
    assert_eq!(header.len(), 35);
    assert!(!data.is_empty());
}
