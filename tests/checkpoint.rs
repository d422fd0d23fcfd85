//! Model folders: every valid form opens, and every lie is refused with one line that names the file and the field or tensor.

#[path = "checkpoint/config.rs"]
mod config;
#[path = "checkpoint/files.rs"]
mod files;
#[path = "checkpoint/folder.rs"]
mod folder;
#[path = "checkpoint/hub.rs"]
mod hub;
#[path = "checkpoint/model.rs"]
mod model;
#[path = "checkpoint/writer.rs"]
mod writer;

use std::path::Path;

/// The message of a refusal, with the folder's path taken out.
fn refusal<T>(dir: &Path, result: osprey::error::Result<T>) -> String {
    let Err(error) = result else { panic!("was accepted") };
    let message = error.to_string();
    assert!(!message.contains('\n'), "more than one line: {message}");
    message.replace(&format!("{}/", dir.display()), "")
}
