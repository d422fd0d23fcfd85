//! The one error type, grouped by what the caller can do about it.
//!
//! Every message is one line that names the file, the tensor, the field or the flag, and the fix where there is one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What can go wrong anywhere in the library.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be opened, read or written.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: Arc<std::io::Error> },
    /// A model folder's file is broken, incomplete, or contradicts another one. `at` names the tensor or the field.
    #[error("{}: {at}: {why}", file.display())]
    Checkpoint { file: PathBuf, at: String, why: String },
    /// An op was recorded with operands that break its contract: a bug of the caller.
    #[error("{op}: {why}")]
    Contract { op: &'static str, why: String },
    /// Understood but not implemented.
    #[error("{what} is not supported: {hint}")]
    Unsupported { what: String, hint: String },
    /// It does not fit; the numbers say by how much.
    #[error("{what} needs {need} bytes of memory, {have} are allowed: {hint}")]
    Memory { what: String, need: u64, have: u64, hint: String },
    /// A device's driver failed or is not there; `at` names the call and the op.
    #[error("{at}: {why}")]
    Device { at: String, why: String },
    /// The user's request is wrong: `at` names the file, the flag or the field.
    #[error("{at}: {why}")]
    Request { at: String, why: String },
    /// The model's own output is unusable (NaN logits).
    #[error("{0}")]
    Numerics(String),
}

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An I/O error that names its file.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io { path: path.as_ref().to_path_buf(), source: Arc::new(source) }
    }

    /// A broken checkpoint file; `at` is the tensor or the field.
    pub fn checkpoint(file: impl AsRef<Path>, at: impl Into<String>, why: impl Into<String>) -> Self {
        Error::Checkpoint { file: file.as_ref().to_path_buf(), at: at.into(), why: why.into() }
    }

    /// A broken op contract.
    pub fn contract(op: &'static str, why: impl Into<String>) -> Self {
        Error::Contract { op, why: why.into() }
    }

    /// Something that is understood but not implemented, with a way out.
    pub fn unsupported(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Unsupported { what: what.into(), hint: hint.into() }
    }

    /// A bad request; `at` is the file, flag or field.
    pub fn request(at: impl Into<String>, why: impl Into<String>) -> Self {
        Error::Request { at: at.into(), why: why.into() }
    }
}
