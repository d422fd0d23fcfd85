//! Writes a model folder tensor by tensor: shards, index, and the other files of the folder it was made from.
//!
//! Takes memory for the headers only. All tensors are declared first, so every byte has its place before any is there; then they are given in the declared
//! order. A run that was cut off is continued by declaring the same job again. Knows nothing of what the tensors mean.
//! The surprise: `config.json` is written last, so a folder that has one is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde_json::json;

use super::header::{byte_size, stored_name};
use super::hub::SIDE_FILES;
use super::index::INDEX;
use super::safetensors::SINGLE;
use crate::dtype::DType;
use crate::error::{Error, Result};

/// Bytes of tensors in a shard, as transformers has it. A larger tensor has a shard of its own.
pub const SHARD_BYTES: u64 = 5_000_000_000;
/// What is being written, and from what. There as long as the folder is not complete; locked by the process that writes.
const JOB: &str = "osprey-job.json";
/// How many tensors are safely on the disk.
const PROGRESS: &str = "osprey-job.done";
/// Bytes that may be written before they are made safe.
const COMMIT_BYTES: u64 = 256 << 20;
/// Ends the name of a file that is not complete.
const PART: &str = ".part";
const CONFIG: &str = "config.json";

/// A tensor that will be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
}

impl Declared {
    /// Its size; the largest number if that overflows.
    pub fn bytes(&self) -> u64 {
        byte_size(&self.shape, self.dtype).map_or(u64::MAX, |n| n as u64)
    }
}

/// What to write. Two runs with equal jobs write equal folders, and the second continues the first.
#[derive(Debug)]
pub struct Job<'a> {
    /// The command and whatever flags change its result.
    pub what: &'a str,
    /// The folder that the other files are copied from, byte for byte: tokenizer, template, processor and generation settings.
    pub source: &'a Path,
    /// The folder to write: new, empty, or left by this job.
    pub out: &'a Path,
    /// Files whose change makes it another job: weights, adapter, calibration data.
    pub inputs: &'a [PathBuf],
    /// The text of `config.json`; the source's if `None`.
    pub config: Option<String>,
    /// In the order in which they will be given.
    pub tensors: Vec<Declared>,
    /// Usually [`SHARD_BYTES`].
    pub shard_bytes: u64,
}

/// One file of tensors.
struct Shard {
    name: String,
    /// Which of the declared tensors it holds.
    tensors: Range<usize>,
    header: Vec<u8>,
    /// Size of the file.
    bytes: u64,
}

/// A model folder that is being written.
pub struct FolderWriter {
    source: PathBuf,
    out: PathBuf,
    config: Option<String>,
    tensors: Vec<Declared>,
    shards: Vec<Shard>,
    /// By tensor: where it begins in its shard.
    offsets: Vec<u64>,
    /// Tensors that are written.
    done: usize,
    uncommitted: u64,
    /// The unfinished shard.
    open: Option<File>,
    /// Held until the folder is complete.
    _lock: File,
}

impl FolderWriter {
    /// Begins a job, or continues it where it was cut off: [`done`](Self::done) says where.
    ///
    /// # Errors
    /// [`Error::Request`] if the folder is the source, holds anything else than this job, or is being written by another process; [`Error::Contract`] if two
    /// tensors have one name.
    pub fn open(job: Job) -> Result<FolderWriter> {
        let text = describe(&job)?;
        let Job { source, out, config, tensors, shard_bytes, .. } = job;
        refuse_source(source, out)?;
        fs::create_dir_all(out).map_err(|e| Error::io(out, e))?;
        let lock = claim(out, &text)?;
        let (shards, offsets) = lay_out(&tensors, shard_bytes)?;
        let mut writer = FolderWriter {
            source: source.to_path_buf(),
            out: out.to_path_buf(),
            config,
            tensors,
            shards,
            offsets,
            done: 0,
            uncommitted: 0,
            open: None,
            _lock: lock,
        };
        writer.done = writer.found()?;
        Ok(writer)
    }

    /// How many tensors are written, counted from the first: those of an earlier run need not be computed again.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Writes the next tensor; `bytes` are little-endian and row-major.
    ///
    /// # Errors
    /// [`Error::Contract`] if it is not the next one or has another size, [`Error::Io`] if the disk is full.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.check_next(name, bytes.len())?;
        let shard = self.shards.partition_point(|s| s.tensors.end <= self.done);
        let part = self.part(shard);
        let failed = |e| Error::io(&part, e);
        let file = match &mut self.open {
            Some(file) => file,
            none => none.insert(open_part(&part, &self.shards[shard]).map_err(failed)?),
        };
        file.seek(SeekFrom::Start(self.offsets[self.done])).and_then(|_| file.write_all(bytes)).map_err(failed)?;
        self.done += 1;
        self.uncommitted += bytes.len() as u64;
        let full = self.done == self.shards[shard].tensors.end;
        if full || self.uncommitted >= COMMIT_BYTES {
            self.commit()?;
        }
        if full {
            self.open = None;
            fs::rename(&part, self.path(shard)).map_err(failed)?;
        }
        Ok(())
    }

    /// Makes everything that is written survive a cut. Happens by itself every 256 MiB.
    pub fn commit(&mut self) -> Result<()> {
        if let Some(file) = &self.open {
            file.sync_all().map_err(|e| Error::io(&self.out, e))?;
        }
        self.uncommitted = 0;
        put(&self.out.join(PROGRESS), self.done.to_string().as_bytes())
    }

    /// Completes the folder once all tensors are written: other files, index, config.
    ///
    /// # Errors
    /// [`Error::Contract`] if a tensor is missing.
    pub fn finish(self) -> Result<()> {
        if let Some(missing) = self.tensors.get(self.done) {
            return Err(contract(format!("{} is not written", missing.name)));
        }
        for name in SIDE_FILES.into_iter().chain(["LICENSE"]).filter(|n| *n != CONFIG) {
            self.copy(name)?;
        }
        if self.shards.len() > 1 {
            put(&self.out.join(INDEX), self.index().as_bytes())?;
        }
        match &self.config {
            Some(text) => put(&self.out.join(CONFIG), text.as_bytes())?,
            None => self.copy(CONFIG)?,
        }
        for name in [PROGRESS, JOB] {
            let path = self.out.join(name);
            fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
        }
        Ok(())
    }

    fn check_next(&self, name: &str, bytes: usize) -> Result<()> {
        let Some(next) = self.tensors.get(self.done) else {
            return Err(contract(format!("{name} comes after the last tensor")));
        };
        if next.name != name {
            return Err(contract(format!("{name} is given where {} is next", next.name)));
        }
        check_size(next, bytes)
    }

    /// Counts the tensors of an earlier run that are really there.
    fn found(&self) -> Result<usize> {
        let noted = fs::read_to_string(self.out.join(PROGRESS)).ok().and_then(|t| t.parse().ok()).unwrap_or(0);
        for (i, shard) in self.shards.iter().enumerate() {
            let (path, part) = (self.path(i), self.part(i));
            let whole = |file: &Path| fs::metadata(file).is_ok_and(|m| m.len() == shard.bytes);
            if noted >= shard.tensors.end {
                // Cut off between the note and the new name.
                if !whole(&path) && whole(&part) {
                    fs::rename(&part, &path).map_err(|e| Error::io(&part, e))?;
                }
                if !whole(&path) {
                    return Ok(shard.tensors.start);
                }
            } else {
                return Ok(if whole(&part) { noted.max(shard.tensors.start) } else { shard.tensors.start });
            }
        }
        Ok(self.tensors.len())
    }

    fn path(&self, shard: usize) -> PathBuf {
        self.out.join(&self.shards[shard].name)
    }

    fn part(&self, shard: usize) -> PathBuf {
        self.out.join(format!("{}{PART}", self.shards[shard].name))
    }

    /// Copies a file of the source, if it has it.
    fn copy(&self, name: &str) -> Result<()> {
        let from = self.source.join(name);
        if !from.is_file() {
            return Ok(());
        }
        put(&self.out.join(name), &fs::read(&from).map_err(|e| Error::io(&from, e))?)
    }

    fn index(&self) -> String {
        let shard =
            |s: &Shard| self.tensors[s.tensors.clone()].iter().map(|t| (t.name.clone(), s.name.clone())).collect();
        let map: BTreeMap<String, String> = self.shards.iter().flat_map::<Vec<_>, _>(shard).collect();
        let data: u64 = self.shards.iter().map(|s| s.bytes - s.header.len() as u64).sum();
        format!("{:#}\n", json!({ "metadata": { "total_size": data }, "weight_map": map }))
    }
}

/// Writes one safetensors file of tensors with their bytes, little-endian and row-major.
///
/// # Errors
/// [`Error::Contract`] if bytes do not fit their tensor or a name occurs twice, [`Error::Io`] if the disk is full.
pub fn write_file<'a, B: AsRef<[u8]> + 'a>(
    path: &Path,
    tensors: impl Iterator<Item = &'a (Declared, B)> + Clone,
) -> Result<()> {
    tensors.clone().try_for_each(|(t, bytes)| check_size(t, bytes.as_ref().len()))?;
    let declared: Vec<Declared> = tensors.clone().map(|(t, _)| t.clone()).collect();
    let (shards, offsets) = lay_out(&declared, u64::MAX)?;
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(&shards[0].header)?;
        for (offset, (_, bytes)) in offsets.iter().zip(tensors) {
            file.seek(SeekFrom::Start(*offset))?;
            file.write_all(bytes.as_ref())?;
        }
        Ok(())
    };
    write().map_err(|e| Error::io(path, e))
}

fn check_size(tensor: &Declared, bytes: usize) -> Result<()> {
    let Declared { name, dtype, shape } = tensor;
    match byte_size(shape, *dtype) {
        Some(want) if want == bytes => Ok(()),
        _ => Err(contract(format!("{name}: {bytes} bytes for {shape:?} of {dtype}"))),
    }
}

fn contract(why: String) -> Error {
    Error::contract("folder writer", why)
}

/// The job as text; equal texts are equal jobs.
fn describe(job: &Job) -> Result<String> {
    let inputs = job.inputs.iter().map(|path| {
        let failed = |e| Error::io(path, e);
        let meta = fs::metadata(path).map_err(failed)?;
        let changed = meta.modified().map_err(failed)?.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        Ok(json!({ "path": real(path)?, "bytes": meta.len(), "changed": changed.to_string() }))
    });
    let tensors = job.tensors.iter().map(|t| json!([t.name, t.dtype.name(), t.shape]));
    let job = json!({
        "what": job.what,
        "source": real(job.source)?,
        "inputs": inputs.collect::<Result<Vec<_>>>()?,
        "config": job.config,
        "shard_bytes": job.shard_bytes,
        "tensors": tensors.collect::<Vec<_>>(),
    });
    Ok(format!("{job}\n"))
}

/// A path that is the same from every folder.
fn real(path: &Path) -> Result<String> {
    Ok(fs::canonicalize(path).map_err(|e| Error::io(path, e))?.display().to_string())
}

fn refuse_source(source: &Path, out: &Path) -> Result<()> {
    let source = fs::canonicalize(source).map_err(|e| Error::io(source, e))?;
    match fs::canonicalize(out) {
        Ok(path) if path == source => {
            Err(Error::request("--out", format!("{} is the folder that is read: give a new one", out.display())))
        }
        _ => Ok(()),
    }
}

/// Takes the folder for this job, if it is free or this job's already.
fn claim(out: &Path, text: &str) -> Result<File> {
    let refuse = |why: &str| Err(Error::request("--out", format!("{} {why}", out.display())));
    let path = out.join(JOB);
    let failed = |e| Error::io(&path, e);
    let fresh = is_free(out)?;
    if !fresh && !path.exists() {
        return refuse("is not empty: give a new folder");
    }
    let mut lock = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    if lock.try_lock().is_err() {
        return refuse("is being written by another process");
    }
    let mut started = Vec::new();
    lock.read_to_end(&mut started).map_err(failed)?;
    if started == text.as_bytes() {
        return Ok(lock);
    }
    if !fresh {
        return refuse("holds an unfinished job of other flags or files: repeat that one, or remove the folder");
    }
    let begin = |lock: &mut File| {
        lock.set_len(0)?;
        lock.rewind()?;
        lock.write_all(text.as_bytes())?;
        lock.sync_all()
    };
    begin(&mut lock).map_err(failed)?;
    Ok(lock)
}

/// True if nothing but an empty job is there.
fn is_free(out: &Path) -> Result<bool> {
    let failed = |e| Error::io(out, e);
    for entry in fs::read_dir(out).map_err(failed)? {
        if entry.map_err(failed)?.file_name() != JOB {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Cuts the tensors into shards and gives each its place.
fn lay_out(tensors: &[Declared], shard_bytes: u64) -> Result<(Vec<Shard>, Vec<u64>)> {
    let mut names = BTreeSet::new();
    let mut sizes = Vec::with_capacity(tensors.len());
    for t in tensors {
        if !names.insert(&t.name) {
            return Err(contract(format!("{} is declared twice", t.name)));
        }
        let size = byte_size(&t.shape, t.dtype);
        sizes.push(size.ok_or_else(|| contract(format!("{}: shape {:?} overflows", t.name, t.shape)))? as u64);
    }
    let groups = groups(&sizes, shard_bytes);
    let mut offsets = vec![0; tensors.len()];
    let mut shards = Vec::new();
    for (i, group) in groups.iter().enumerate() {
        let name = match groups.len() {
            1 => SINGLE.to_string(),
            n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
        };
        let at = &mut offsets[group.clone()];
        let data = place(&tensors[group.clone()], &sizes[group.clone()], at);
        let header = header(&tensors[group.clone()], &sizes[group.clone()], at);
        at.iter_mut().for_each(|offset| *offset += header.len() as u64);
        shards.push(Shard { name, tensors: group.clone(), bytes: header.len() as u64 + data, header });
    }
    Ok((shards, offsets))
}

/// As many tensors to a shard as fit.
fn groups(sizes: &[u64], shard_bytes: u64) -> Vec<Range<usize>> {
    let mut groups = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (i, size) in sizes.iter().enumerate() {
        if i > start && bytes + size > shard_bytes {
            groups.push(start..i);
            (start, bytes) = (i, 0);
        }
        bytes += size;
    }
    groups.push(start..sizes.len());
    groups
}

/// Offsets of the tensors of one shard in its data, whose size it gives. The largest elements come first: so all are aligned, without holes.
fn place(tensors: &[Declared], sizes: &[u64], offsets: &mut [u64]) -> u64 {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(tensors[i].dtype.size()));
    let mut at = 0;
    for i in order {
        offsets[i] = at;
        at += sizes[i];
    }
    at
}

/// The head of a safetensors file: length, JSON, blanks up to a multiple of 8 bytes. Transformers asks for the format.
fn header(tensors: &[Declared], sizes: &[u64], offsets: &[u64]) -> Vec<u8> {
    let mut json_text = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    for ((t, size), offset) in tensors.iter().zip(sizes).zip(offsets) {
        let entry = json!({ "dtype": stored_name(t.dtype), "shape": t.shape, "data_offsets": [offset, offset + size] });
        json_text += &format!(",{}:{entry}", json!(t.name));
    }
    json_text.push('}');
    json_text += &" ".repeat(json_text.len().next_multiple_of(8) - json_text.len());
    [&(json_text.len() as u64).to_le_bytes(), json_text.as_bytes()].concat()
}

/// A shard's file in its full size, to be filled; what an earlier run has filled stays.
fn open_part(path: &Path, shard: &Shard) -> std::io::Result<File> {
    let mut file = File::options().write(true).create(true).truncate(false).open(path)?;
    file.set_len(shard.bytes)?;
    file.write_all(&shard.header)?;
    Ok(file)
}

/// Writes a file that is there either whole or not at all.
pub fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let part = PathBuf::from(format!("{}{PART}", path.display()));
    let write = || {
        let mut file = File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)
    };
    write().map_err(|e| Error::io(path, e))
}
