//! From messages to token ids and positions, and from ids back to text. Knows nothing of models or executors.
//!
//! `messages` -> `template` -> `tokenizer` -> `prompt` -> `positions`; `stream` is the way back.
//! The one surprise: text that a user typed can never become a special token, whatever the chat template does with it (see `guard`).

mod bytes;
pub mod guard;
pub mod messages;
pub mod positions;
pub mod prompt;
pub mod stream;
pub mod template;
pub mod tokenizer;

mod clock;
mod tokenizer_files;

use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};

/// Reads a whole text file of a model folder or a request, refusing one of more than `limit` bytes, and what is not a file: a device or a
/// pipe might never end.
fn read_text(path: &Path, limit: u64) -> Result<String> {
    let failed = |e| Error::io(path, e);
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(Error::checkpoint(path, "file", "is not a regular file"));
    }
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    // The file may grow, or state no size (as those in /proc).
    file.take(limit.saturating_add(1)).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > limit {
        return Err(Error::checkpoint(path, "size", format!("is more than {limit} bytes")));
    }
    Ok(text)
}

/// `text` as one short line, for messages that quote a file or a library.
fn one_line(text: &str) -> String {
    const LIMIT: usize = 300;
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}
