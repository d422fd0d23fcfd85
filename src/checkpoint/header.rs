//! The header of one safetensors file: parsed from bytes, every claim checked against the file, no I/O.
//!
//! Written here and not taken from the `safetensors` crate because its errors name neither the tensor nor what is wrong with it, and because it
//! takes duplicate names, shapes of any rank and 100 MB of header.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de::IgnoredAny};

use super::json::shown;
use crate::dtype::DType;
use crate::error::{Error, Result};

/// The largest header that is parsed, in bytes. The 72B model's shards stay under 100 kB; parsing takes at most about four times this much memory.
pub(crate) const MAX_HEADER: u64 = 16 << 20;
/// The largest number of tensors in a file and in a checkpoint; a quantized 72B has about 5,000.
pub(crate) const MAX_TENSORS: usize = 1 << 16;
/// Bytes of the length field in front of the header.
const LENGTH: usize = 8;
/// The highest rank of a tensor; a patch embedding has 5.
const MAX_RANK: usize = 8;

/// One tensor of a header. `range` are bytes of the file.
#[derive(Debug)]
pub(crate) struct Entry {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub range: Range<usize>,
}

/// Parses and checks the header of `file`, whose whole content is `bytes`. The entries come in file order.
pub(crate) fn parse(file: &Path, bytes: &[u8]) -> Result<Vec<Entry>> {
    let header = header_bytes(file, bytes)?;
    let raw = raw_entries(file, header)?;
    let data = bytes.len() - LENGTH - header.len();
    let start = LENGTH + header.len();
    let mut entries = Vec::with_capacity(raw.len());
    for (name, raw) in raw {
        entries
            .push(checked(name, raw, start, data).map_err(|(name, why)| Error::checkpoint(file, shown(&name), why))?);
    }
    entries.sort_by(|a, b| (a.range.start, a.range.end, &a.name).cmp(&(b.range.start, b.range.end, &b.name)));
    check_cover(file, &entries, start, bytes.len())?;
    Ok(entries)
}

fn header_bytes<'a>(file: &Path, bytes: &'a [u8]) -> Result<&'a [u8]> {
    let bad = |why: String| Err(Error::checkpoint(file, "header", why));
    if bytes.starts_with(b"version https://git-lfs") {
        return bad("this is a Git LFS pointer, not the weights: run `git lfs pull` in the folder".into());
    }
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else {
        return bad(format!("the file has {} bytes, too few for a safetensors file", bytes.len()));
    };
    let length = u64::from_le_bytes(*length);
    if length > rest.len() as u64 {
        return bad(format!(
            "claims {length} bytes, but only {} follow: truncated, or not a safetensors file",
            rest.len()
        ));
    }
    if length > MAX_HEADER {
        return bad(format!("claims {length} bytes, more than the {MAX_HEADER} that are allowed"));
    }
    Ok(&rest[..length as usize])
}

/// A tensor as the header states it.
#[derive(Deserialize)]
struct Raw {
    dtype: String,
    shape: Shape,
    data_offsets: [u64; 2],
}

/// A shape of at most [`MAX_RANK`] dimensions, so that a hostile list is refused before it is stored.
struct Shape(Vec<u64>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        d.deserialize_seq(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a shape of at most {MAX_RANK} dimensions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Shape, A::Error> {
        let mut dims = Vec::new();
        while let Some(dim) = seq.next_element()? {
            if dims.len() == MAX_RANK {
                return Err(de::Error::custom(format!("more than {MAX_RANK} dimensions")));
            }
            dims.push(dim);
        }
        Ok(Shape(dims))
    }
}

/// Collects the header's entries; `current` is the one being read, so that an error can name it.
struct Collect<'a> {
    current: &'a mut String,
}

impl<'de> DeserializeSeed<'de> for Collect<'_> {
    type Value = Vec<(String, Raw)>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Self::Value, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Collect<'_> {
    type Value = Vec<(String, Raw)>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut seen = HashSet::new();
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            self.current.clone_from(&name);
            if entries.len() == MAX_TENSORS {
                return Err(de::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            if !seen.insert(name.clone()) {
                return Err(de::Error::custom("the name occurs twice"));
            }
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
            } else {
                entries.push((name, map.next_value()?));
            }
            self.current.clear();
        }
        Ok(entries)
    }
}

fn raw_entries(file: &Path, header: &[u8]) -> Result<Vec<(String, Raw)>> {
    let mut current = String::new();
    let mut json = serde_json::Deserializer::from_slice(header);
    let parsed =
        Collect { current: &mut current }.deserialize(&mut json).and_then(|entries| json.end().map(|()| entries));
    parsed.map_err(|e| {
        let at = if current.is_empty() { "header".to_string() } else { shown(&current) };
        Error::checkpoint(file, at, shown(&e.to_string()))
    })
}

/// Checks one entry against the `data` bytes that start at `start` in the file. The error carries the name back.
fn checked(name: String, raw: Raw, start: usize, data: usize) -> std::result::Result<Entry, (String, String)> {
    let Some(dtype) = dtype(&raw.dtype) else {
        let why = format!("dtype {} is none of F32, BF16, F16, I64, I32, I8, U8", shown(&raw.dtype));
        return Err((name, why));
    };
    let [from, to] = raw.data_offsets;
    if from > to || to > data as u64 {
        let why = format!(
            "data_offsets {from}..{to} lie outside the {data} bytes of data: the file is truncated or its header is wrong"
        );
        return Err((name, why));
    }
    let shape: Option<Vec<usize>> = raw.shape.0.iter().map(|&n| usize::try_from(n).ok()).collect();
    let size = shape.as_deref().and_then(|s| byte_size(s, dtype));
    match (shape, size) {
        (Some(shape), Some(size)) if size as u64 == to - from => {
            Ok(Entry { name, dtype, shape, range: start + from as usize..start + to as usize })
        }
        (_, Some(size)) => {
            let why =
                format!("shape {:?} of {dtype} takes {size} bytes, but data_offsets span {}", raw.shape.0, to - from);
            Err((name, why))
        }
        (_, None) => Err((name, format!("shape {:?} of {dtype} overflows", raw.shape.0))),
    }
}

/// Bytes of a tensor, or `None` if that overflows.
pub(crate) fn byte_size(shape: &[usize], dtype: DType) -> Option<usize> {
    // A zero must not hide an overflow of the other dimensions.
    let all = shape.iter().try_fold(dtype.size(), |a, &n| a.checked_mul(n.max(1)))?;
    Some(if shape.contains(&0) { 0 } else { all })
}

fn dtype(name: &str) -> Option<DType> {
    Some(match name {
        "F32" => DType::F32,
        "BF16" => DType::Bf16,
        "F16" => DType::F16,
        "I64" => DType::I64,
        "I32" => DType::I32,
        "I8" => DType::I8,
        "U8" => DType::U8,
        _ => return None,
    })
}

/// A dtype as a header says it.
pub(crate) const fn stored_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "F32",
        DType::Bf16 => "BF16",
        DType::F16 => "F16",
        DType::I64 => "I64",
        DType::I32 => "I32",
        DType::I8 => "I8",
        DType::U8 => "U8",
    }
}

/// Tensors must cover the data without overlap or hole, up to the end of the file.
fn check_cover(file: &Path, entries: &[Entry], start: usize, end: usize) -> Result<()> {
    let mut at = start;
    let mut before = "the header";
    for e in entries {
        if e.range.start < at {
            return Err(Error::checkpoint(
                file,
                shown(&e.name),
                format!("its data overlaps that of {}", shown(before)),
            ));
        }
        if e.range.start > at {
            let hole = e.range.start - at;
            return Err(Error::checkpoint(
                file,
                shown(&e.name),
                format!("{hole} bytes before its data belong to no tensor"),
            ));
        }
        at = e.range.end;
        before = &e.name;
    }
    if at != end {
        let why = format!("{} bytes at the end of the file belong to no tensor", end - at);
        return Err(Error::checkpoint(file, "data", why));
    }
    Ok(())
}
