//! Model folders as Osprey writes them: what other readers find in them, and what a cut leaves behind.

use std::fs;
use std::path::{Path, PathBuf};

use osprey::checkpoint::{Checkpoint, Declared, FolderWriter, Job};
use osprey::dtype::DType;
use osprey::error::Result;
use safetensors::SafeTensors;
use tempfile::TempDir;

use crate::refusal;

const CONFIG: &str = "{\"model_type\":\"qwen2_vl\"}\n";

/// A folder to copy from, and a place for a folder to write.
struct Place {
    dir: TempDir,
    shard_bytes: u64,
}

impl Place {
    fn new(shard_bytes: u64) -> Place {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::create_dir(&source).unwrap();
        for (name, text) in [
            ("config.json", CONFIG),
            ("tokenizer.json", "{}"),
            ("chat_template.jinja", "\u{e9}"),
            ("LICENSE", "free"),
            ("model.safetensors", "weights"),
            ("optimizer.pt", "not the model's"),
        ] {
            fs::write(source.join(name), text).unwrap();
        }
        Place { dir, shard_bytes }
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn open(&self) -> Result<FolderWriter> {
        self.open_as("test", tensors(), None)
    }

    fn open_as(&self, what: &str, tensors: Vec<Declared>, config: Option<String>) -> Result<FolderWriter> {
        let (source, out, inputs) = (self.source(), self.out(), [self.source().join("model.safetensors")]);
        let shard_bytes = self.shard_bytes;
        FolderWriter::open(Job { what, source: &source, out: &out, inputs: &inputs, config, tensors, shard_bytes })
    }

    /// Every file of the folder with its bytes.
    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let name = |e: fs::DirEntry| e.file_name().into_string().unwrap();
        let mut names: Vec<String> = fs::read_dir(self.out()).unwrap().map(|e| name(e.unwrap())).collect();
        names.sort();
        names.into_iter().map(|n| (n.clone(), fs::read(self.out().join(n)).unwrap())).collect()
    }

    fn refused(&self, result: Result<FolderWriter>) -> String {
        refusal(self.dir.path(), result)
    }
}

/// Odd sizes and mixed widths, so that careless offsets would be unaligned.
fn tensors() -> Vec<Declared> {
    let list: [(&str, DType, &[usize]); 6] = [
        ("codes", DType::I8, &[3, 3]),
        ("scales", DType::F32, &[3]),
        ("a \"quoted\" name", DType::Bf16, &[5]),
        ("packed", DType::U8, &[7]),
        ("shape", DType::I64, &[2]),
        ("none", DType::F16, &[0, 4]),
    ];
    list.map(|(name, dtype, shape)| Declared { name: name.into(), dtype, shape: shape.to_vec() }).into()
}

/// Bytes that no other tensor has.
fn data(index: usize) -> Vec<u8> {
    let t = &tensors()[index];
    let len = t.shape.iter().product::<usize>() * t.dtype.size();
    (0..len).map(|i| (index * 40 + i + 1) as u8).collect()
}

fn give(writer: &mut FolderWriter, range: std::ops::Range<usize>) {
    range.for_each(|i| writer.write(&tensors()[i].name, &data(i)).unwrap());
}

fn write_all(place: &Place) {
    let mut writer = place.open().unwrap();
    assert_eq!(writer.done(), 0);
    give(&mut writer, 0..6);
    writer.finish().unwrap();
}

fn check_tensors(dir: &Path) {
    let checkpoint = Checkpoint::open(dir).unwrap();
    assert_eq!(checkpoint.len(), 6);
    for (i, t) in tensors().iter().enumerate() {
        let got = checkpoint.get(&t.name).unwrap();
        assert_eq!((got.dtype(), got.shape(), got.bytes()), (t.dtype, &t.shape[..], &data(i)[..]), "{}", t.name);
    }
}

#[test]
fn a_small_model_is_one_file_that_the_reference_reader_takes() {
    let place = Place::new(1 << 20);
    write_all(&place);
    check_tensors(&place.out());
    let files = place.files();
    let names: Vec<&str> = files.iter().map(|f| &f.0[..]).collect();
    assert_eq!(names, ["LICENSE", "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(files[1].1, "\u{e9}".as_bytes());
    assert_eq!(files[2].1, CONFIG.as_bytes());
    let bytes = &files[3].1;
    let (start, metadata) = SafeTensors::read_metadata(bytes).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    assert_eq!(start % 8, 0);
    for (i, t) in tensors().iter().enumerate() {
        let got = SafeTensors::deserialize(bytes).unwrap();
        assert_eq!(got.tensor(&t.name).unwrap().data(), data(i));
        // What torch needs to see the bytes as numbers.
        assert_eq!(metadata.info(&t.name).unwrap().data_offsets.0 % t.dtype.size(), 0, "{}", t.name);
    }
}

#[test]
fn shards_hold_as_much_as_fits() {
    let place = Place::new(21);
    write_all(&place);
    check_tensors(&place.out());
    let index = fs::read_to_string(place.out().join("model.safetensors.index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let shard = |n: &str| format!("model-0000{n}-of-00003.safetensors");
    // 9 + 12, 10 + 7, 16 + 0 bytes.
    let want = ["1", "1", "2", "2", "3", "3"].map(shard);
    let got: Vec<_> = tensors().iter().map(|t| index["weight_map"][&t.name].as_str().unwrap().to_string()).collect();
    assert_eq!(got, want);
    assert_eq!(index["metadata"]["total_size"], 54);
}

#[test]
fn a_cut_run_is_continued_to_the_same_bytes() {
    for shard_bytes in [1 << 20, 21, 1] {
        let whole = Place::new(shard_bytes);
        write_all(&whole);
        for cut in 0..=6 {
            let place = Place::new(shard_bytes);
            let mut writer = place.open().unwrap();
            give(&mut writer, 0..cut);
            writer.commit().unwrap();
            drop(writer);
            assert!(Checkpoint::open(place.out()).is_err() || cut == 6, "no model before all is there");
            assert!(!place.out().join("config.json").exists());
            let mut writer = place.open().unwrap();
            assert_eq!(writer.done(), cut);
            give(&mut writer, cut..6);
            writer.finish().unwrap();
            assert_eq!(place.files(), whole.files(), "cut at {cut}");
        }
    }
}

#[test]
fn what_is_not_committed_is_asked_for_again() {
    let place = Place::new(21);
    let mut writer = place.open().unwrap();
    // The first shard is full and safe; of the second, nobody said so.
    give(&mut writer, 0..3);
    drop(writer);
    assert_eq!(place.open().unwrap().done(), 2);
}

#[test]
fn what_is_noted_but_gone_is_asked_for_again() {
    let place = Place::new(21);
    let cut = || {
        let mut writer = place.open().unwrap();
        let done = writer.done();
        give(&mut writer, done..5);
        writer.commit().unwrap();
    };
    let (first, part) = ("model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors.part");
    cut();
    // Cut off between the note and the new name: nothing is lost.
    fs::rename(place.out().join(first), place.out().join(format!("{first}.part"))).unwrap();
    assert_eq!(place.open().unwrap().done(), 5);
    fs::remove_file(place.out().join(part)).unwrap();
    assert_eq!(place.open().unwrap().done(), 4);
    fs::remove_file(place.out().join(first)).unwrap();
    assert_eq!(place.open().unwrap().done(), 0);
    cut();
    fs::write(place.out().join("osprey-job.done"), "many").unwrap();
    assert_eq!(place.open().unwrap().done(), 0);
}

#[test]
fn only_a_free_folder_or_the_same_job_is_written_to() {
    let place = Place::new(21);
    fs::create_dir(place.out()).unwrap();
    fs::write(place.out().join("thesis.txt"), "mine").unwrap();
    assert_eq!(place.refused(place.open()), "--out: out is not empty: give a new folder");
    assert_eq!(place.files(), [("thesis.txt".to_string(), b"mine".to_vec())]);
    fs::remove_file(place.out().join("thesis.txt")).unwrap();

    let mut writer = place.open().unwrap();
    assert_eq!(place.refused(place.open()), "--out: out is being written by another process");
    give(&mut writer, 0..1);
    writer.commit().unwrap();
    drop(writer);
    let other = "--out: out holds an unfinished job of other flags or files: repeat that one, or remove the folder";
    assert_eq!(place.refused(place.open_as("other", tensors(), None)), other);
    assert_eq!(place.refused(place.open_as("test", tensors(), Some("{}".into()))), other);
    assert_eq!(place.refused(place.open_as("test", tensors()[1..].to_vec(), None)), other);
    assert_eq!(place.open().unwrap().done(), 1);
    fs::write(place.source().join("model.safetensors"), "retrained").unwrap();
    assert_eq!(place.refused(place.open()), other);
}

#[test]
fn a_finished_folder_is_not_written_again() {
    let place = Place::new(21);
    write_all(&place);
    assert_eq!(place.refused(place.open()), "--out: out is not empty: give a new folder");
}

#[test]
fn the_source_is_never_written_to() {
    let place = Place::new(21);
    std::os::unix::fs::symlink(place.source(), place.out()).unwrap();
    let message = place.refused(place.open());
    assert_eq!(message, "--out: out is the folder that is read: give a new one");
    assert!(!place.source().join("osprey-job.json").exists());
}

#[test]
fn a_new_config_takes_the_place_of_the_old() {
    let place = Place::new(1 << 20);
    let mut writer = place.open_as("test", tensors(), Some("{}".into())).unwrap();
    give(&mut writer, 0..6);
    writer.finish().unwrap();
    assert_eq!(fs::read_to_string(place.out().join("config.json")).unwrap(), "{}");
}

#[test]
fn tensors_come_as_they_were_declared() {
    let place = Place::new(21);
    let double = [tensors(), tensors()].concat();
    assert_eq!(place.refused(place.open_as("test", double, None)), "folder writer: codes is declared twice");
    let mut writer = place.open().unwrap();
    let mut refused = |name: &str, len: usize| refusal(place.dir.path(), writer.write(name, &vec![0; len]));
    assert_eq!(refused("scales", 12), "folder writer: scales is given where codes is next");
    assert_eq!(refused("codes", 8), "folder writer: codes: 8 bytes for [3, 3] of i8");
    give(&mut writer, 0..6);
    let more = refusal(place.dir.path(), writer.write("codes", &[0; 9]));
    assert_eq!(more, "folder writer: codes comes after the last tensor");
    drop(writer);

    let place = Place::new(21);
    let writer = place.open().unwrap();
    assert_eq!(refusal(place.dir.path(), writer.finish()), "folder writer: codes is not written");
}
