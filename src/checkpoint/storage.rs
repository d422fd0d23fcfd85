//! Tensors and quantized matrices of files, by name, and the mapping of files.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::header::byte_size;
use super::json::shown;
use crate::data::TensorData;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::quant::Quantized;

/// A named tensor with its data. The length of `data` always fits `shape` and `dtype`.
#[derive(Debug, Clone)]
pub struct StoredTensor {
    name: Arc<str>,
    file: Arc<Path>,
    dtype: DType,
    shape: Vec<usize>,
    data: TensorData,
}

impl StoredTensor {
    /// A tensor in memory. Fails if the length of `data` does not fit.
    pub fn new(name: &str, dtype: DType, shape: &[usize], data: TensorData) -> Result<StoredTensor> {
        if byte_size(shape, dtype) != Some(data.len()) {
            let why = format!("shape {shape:?} of {dtype} does not fit {} bytes", data.len());
            return Err(Error::checkpoint("memory", shown(name), why));
        }
        Ok(StoredTensor { name: name.into(), file: Path::new("memory").into(), dtype, shape: shape.to_vec(), data })
    }

    /// A tensor of a file; the header parser has checked that everything fits.
    pub(crate) fn in_file(file: &Arc<Path>, map: &Arc<Mmap>, entry: super::header::Entry) -> StoredTensor {
        let data = TensorData::mapped(map, entry.range);
        StoredTensor { name: entry.name.into(), file: file.clone(), dtype: entry.dtype, shape: entry.shape, data }
    }

    /// The same tensor under another name.
    pub fn renamed(&self, name: &str) -> StoredTensor {
        StoredTensor { name: name.into(), ..self.clone() }
    }

    /// Its name: as stored in a [`Checkpoint`](super::Checkpoint), canonical in [`Weights`](super::Weights).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file it comes from; `memory` if it comes from none.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Its element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Its dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.data.len() / self.dtype.size()
    }

    /// The data in place, little-endian, possibly unaligned.
    pub fn bytes(&self) -> &[u8] {
        self.data.bytes()
    }

    /// The data as a handle that outlives this tensor.
    pub fn data(&self) -> &TensorData {
        &self.data
    }
}

/// A shape as rows and columns.
pub(crate) fn rows(shape: &[usize]) -> (usize, usize) {
    match shape {
        [len] => (*len, 1),
        [n, rest @ ..] => (*n, rest.iter().product()),
        [] => (1, 1),
    }
}

/// A linear layer's matrix in codes, under the name that its floats would have.
#[derive(Debug, Clone)]
pub struct StoredMatrix {
    name: Arc<str>,
    file: Arc<Path>,
    codes: Arc<Quantized>,
}

impl StoredMatrix {
    /// A matrix in memory. Fails if its parts do not belong together.
    pub fn new(name: &str, codes: Arc<Quantized>) -> Result<StoredMatrix> {
        StoredMatrix::in_file(name, Path::new("memory"), codes)
    }

    /// A matrix of a file.
    pub(crate) fn in_file(name: &str, file: &Path, codes: Arc<Quantized>) -> Result<StoredMatrix> {
        codes.check().map_err(|why| Error::checkpoint(file, shown(name), why))?;
        Ok(StoredMatrix { name: name.into(), file: file.into(), codes })
    }

    /// Its canonical name, `X.weight`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that holds its codes; `memory` if none does.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Codes, scales and zero points.
    pub fn codes(&self) -> &Arc<Quantized> {
        &self.codes
    }
}

/// Maps a whole regular file read-only.
pub(crate) fn map_file(file: &Path) -> Result<Arc<Mmap>> {
    // Asked before opening: opening a pipe would block.
    let meta = fs::metadata(file).map_err(|e| Error::io(file, e))?;
    if !meta.is_file() {
        return Err(Error::checkpoint(file, "file", "is not a regular file"));
    }
    if meta.len() == 0 {
        return Err(Error::checkpoint(file, "header", "the file is empty"));
    }
    let handle = File::open(file).map_err(|e| Error::io(file, e))?;
    // SAFETY: the mapping is private and read-only, and only `&[u8]` of it are handed out, so every bit pattern is valid. What remains is that
    // another process truncates or rewrites the file meanwhile: weights are files that nobody edits in place (downloads and our own writers
    // rename), and there is no way to use them in place that excludes it.
    let map = unsafe { Mmap::map(&handle) }.map_err(|e| Error::io(file, e))?;
    Ok(Arc::new(map))
}
