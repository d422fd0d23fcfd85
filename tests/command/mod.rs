//! The `osprey` binary, and model folders to give it.
#![allow(dead_code)] // Every test uses a part of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The source tree.
pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The binary.
pub fn osprey() -> Command {
    Command::new(env!("CARGO_BIN_EXE_osprey"))
}

/// Runs the binary to its end.
pub fn call(args: &[&str]) -> Output {
    osprey().args(args).stdin(Stdio::null()).output().unwrap()
}

/// Its stdout; it must succeed.
pub fn good(args: &[&str]) -> String {
    let out = call(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// The bundled model.
pub fn demo() -> PathBuf {
    Path::new(ROOT).join("models/demo")
}

/// A copy of a model folder's files in the folder `to`.
pub fn copied(from: impl AsRef<Path>, to: PathBuf) -> PathBuf {
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let file = entry.unwrap().path();
        if file.is_file() {
            fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
        }
    }
    to
}
