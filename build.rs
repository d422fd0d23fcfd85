//! Compiles `kernels/*.cu` to PTX with nvcc and embeds it; without nvcc the table is empty and the build still works.
//!
//! nvcc is looked for in `$NVCC`, in `.cuda/` of the repository, where `make cuda` puts the version that drivers from 580 on accept, in
//! `$CUDA_HOME/bin`, and in `PATH`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// What every kernel is compiled for: devices from Ampere on run it.
const ARCH: &str = "compute_80";

fn main() {
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rerun-if-changed=.cuda/wheels");
    println!("cargo:rerun-if-env-changed=NVCC");
    println!("cargo:rerun-if-env-changed=CUDA_HOME");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    let mut table = String::from("/// All modules, by name.\npub const MODULES: &[Module] = &[\n");
    match find_nvcc() {
        Some(nvcc) => sources().iter().for_each(|cu| table += &module(&nvcc, cu, &out)),
        None => println!("cargo:warning=nvcc was not found: no CUDA kernels in this build (`make cuda` installs it)"),
    }
    table += "];\n";
    let file = out.join("ptx.rs");
    // Without .cuda this runs at every build; a table that is the same compiles nothing anew.
    if fs::read_to_string(&file).ok().as_ref() != Some(&table) {
        fs::write(file, table).expect("OUT_DIR is writable");
    }
}

fn find_nvcc() -> Option<PathBuf> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let home = env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc"));
    let path = env::var_os("PATH").unwrap_or_default();
    let named = env::var_os("NVCC").map(PathBuf::from).into_iter();
    let candidates = named.chain([root.join(".cuda/nvidia/cu13/bin/nvcc")]).chain(home);
    candidates.chain(env::split_paths(&path).map(|dir| dir.join("nvcc"))).find(|nvcc| nvcc.is_file())
}

fn sources() -> Vec<PathBuf> {
    let files =
        fs::read_dir("kernels").expect("the kernels are part of the source").map(|f| f.expect("readable").path());
    let mut files: Vec<PathBuf> = files.filter(|f| f.extension().is_some_and(|e| e == "cu")).collect();
    files.sort();
    files
}

/// Compiles one file; its line of the table.
fn module(nvcc: &Path, cu: &Path, out: &Path) -> String {
    let name = cu.file_stem().expect("a file has a name").to_string_lossy().into_owned();
    let ptx = out.join(format!("{name}.ptx"));
    let args = ["-ptx", "-std=c++17", "-arch", ARCH, "-lineinfo", "-I", "kernels", "-Werror", "all-warnings", "-o"];
    let run = Command::new(nvcc).args(args).arg(&ptx).arg(cu).output();
    let run = run.unwrap_or_else(|e| panic!("{}: {e}", nvcc.display()));
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{} does not compile {}:\n{said}", nvcc.display(), cu.display());
    let text = fs::read_to_string(&ptx).expect("nvcc wrote it");
    let mut line = String::new();
    writeln!(line, "    Module {{ name: {name:?}, ptx: include_str!({ptx:?}), entries: &{:?} }},", entries(&text))
        .expect("a string takes everything");
    line
}

/// Names behind `.visible .entry`.
fn entries(ptx: &str) -> Vec<&str> {
    ptx.lines().filter_map(|l| l.strip_prefix(".visible .entry ")?.split('(').next()).collect()
}
