//! Reading text files that somebody else wrote: bounded, and never a device or a pipe, which might not end.

use crate::error::{Error, Result};
use std::fs;
use std::io::Read;
use std::path::Path;

/// The text of a regular file of at most `limit` bytes.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Checkpoint`] naming what is wrong with it.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    let failed = |e| Error::io(path, e);
    let meta = fs::metadata(path).map_err(failed)?;
    if !meta.is_file() {
        return Err(Error::checkpoint(path, "file", "is not a regular file"));
    }
    if meta.len() > limit {
        return Err(Error::checkpoint(path, "size", format!("{} bytes is more than {limit}", meta.len())));
    }
    let mut bytes = Vec::new();
    // The file may grow, or state no size (as those in /proc).
    fs::File::open(path).map_err(failed)?.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(Error::checkpoint(path, "size", format!("is more than {limit} bytes")));
    }
    String::from_utf8(bytes).map_err(|e| Error::checkpoint(path, "text", format!("is not UTF-8: {}", e.utf8_error())))
}
