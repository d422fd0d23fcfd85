//! Who may use whom. The table is the architecture; `use crate::` lines are read from the sources.

use std::collections::BTreeSet;
use std::path::Path;

/// A module and what it may import, beside `error` and `dtype`, which everyone may.
const ALLOWED: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("dtype", &[]),
    // Leaves.
    ("file", &[]),
    ("data", &[]),
    ("quant", &["data"]),
    ("checkpoint", &["data", "file", "quant"]),
    ("media", &["file"]),
    ("text", &["file"]),
    ("cpu", &[]),
    ("kv", &[]),
    ("tensor", &[]),
    ("step", &["tensor"]),
    ("weights", &["data", "quant", "tensor"]),
    ("launch", &["quant", "tensor"]),
    ("hostmem", &["launch", "tensor", "weights"]),
    // Ops see memory, weights, the step and the fast bodies; `checkpoint` for the sizes of real models, `data` to build test weights.
    ("ops", &["checkpoint", "cpu", "data", "hostmem", "launch", "quant", "step", "tensor", "weights"]),
    ("plan", &["hostmem", "launch", "ops", "step", "tensor", "weights"]),
    // An executor never sees a model, a model never an executor.
    // The kernels as a device takes them: their text, and weights in their layouts.
    ("ptx", &[]),
    ("pack", &["data", "launch", "quant", "weights"]),
    ("exec", &["cpu", "hostmem", "launch", "pack", "plan", "ptx", "tensor", "weights"]),
    ("model", &["checkpoint", "ops", "plan", "quant", "step", "tensor", "weights"]),
    (
        "engine",
        &[
            "checkpoint",
            "exec",
            "hostmem",
            "kv",
            "launch",
            "media",
            "model",
            "ops",
            "plan",
            "step",
            "tensor",
            "text",
            "weights",
        ],
    ),
    // From messages to the engine's request, for whoever asks: `cli` or `server`.
    ("intake", &["checkpoint", "engine", "media", "text"]),
    // Sockets and JSON around an engine that somebody else opens.
    ("server", &["engine", "intake", "media", "text"]),
    // Runs a model layer by layer, and knows the engine only as a means.
    ("quantize", &["checkpoint", "cpu", "data", "engine", "exec", "file", "model", "quant"]),
    (
        "cli",
        &[
            "checkpoint",
            "cpu",
            "data",
            "engine",
            "exec",
            "hostmem",
            "intake",
            // `bench kernels` runs single ops.
            "launch",
            "media",
            "model",
            "ops",
            "pack",
            "plan",
            "ptx",
            "quantize",
            "quant",
            "server",
            "step",
            "tensor",
            "text",
            "weights",
        ],
    ),
];

/// Modules named by `crate::` paths in a source text.
fn imports(source: &str) -> BTreeSet<String> {
    let code = source.lines().filter(|l| !l.trim_start().starts_with("//"));
    let mut found = BTreeSet::new();
    for line in code {
        for rest in line.split("crate::").skip(1) {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.insert(name);
        }
    }
    found.remove("");
    found
}

fn sources(dir: &Path, out: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, out),
            false => out.push(path),
        }
    }
}

#[test]
fn modules_import_only_what_lies_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        let module = relative.components().next().unwrap().as_os_str().to_string_lossy().replace(".rs", "");
        if ["main", "lib"].contains(&module.as_str()) {
            continue;
        }
        let (_, allowed) =
            ALLOWED.iter().find(|(m, _)| *m == module).unwrap_or_else(|| panic!("{module} is not in the table"));
        for import in imports(&std::fs::read_to_string(&file).unwrap()) {
            let ok =
                import == module || ["error", "dtype"].contains(&import.as_str()) || allowed.contains(&import.as_str());
            if !ok {
                wrong.push(format!("{} uses {import}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_forbidden_import_is_seen() {
    assert_eq!(imports("use crate::model::text;\n// use crate::exec::cpu;\n"), BTreeSet::from(["model".to_string()]));
}
