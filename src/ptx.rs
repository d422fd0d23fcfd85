//! The compiled kernels: what `build.rs` made of `kernels/*.cu`, embedded.
//!
//! It knows names and text, no driver. Empty if nvcc was not found when this was built.

include!(concat!(env!("OUT_DIR"), "/ptx.rs"));

/// Why there are no kernels, for an error message.
pub const MISSING: &str =
    "this build has no CUDA kernels, because nvcc was not found: run `make cuda`, then build again";

/// The module that holds an entry.
pub fn module_of(entry: &str) -> Option<&'static Module> {
    MODULES.iter().find(|m| m.entries.contains(&entry))
}

/// One `.cu` file as PTX.
#[derive(Debug)]
pub struct Module {
    /// The file's name without its ending.
    pub name: &'static str,
    pub ptx: &'static str,
    /// Its `extern "C"` kernels.
    pub entries: &'static [&'static str],
}
