//! Who may use whom inside `machine/` and `driver/`. The tables are the architecture; what a file takes from others is
//! read from the sources: `use` lines, paths, and in `machine/` the methods that one file gives a warp and another calls.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// From below: a file uses files of the rows before its own. A folder that is not split here is one.
const MACHINE: &[&[&str]] = &[
    &["clock", "launch", "raw", "report", "shared", "simd"],
    &["alu", "global", "races"],
    &["matrix"],
    &["tally"],
    // What there is while a launch runs.
    &["state/barrier", "state/cluster", "state/copies", "state/mbarrier", "state/products"],
    &["state/grid"],
    &["state/cta"],
    &["state/warp"],
    // What instructions do to it.
    &["access", "barrier", "cluster", "unwritten"],
    &["async_copy", "atomic", "beside", "control", "print", "tensor"],
    &["bulk", "mbarrier", "wgmma"],
    &["collective"],
    // Who runs them.
    &["step"],
    &["block"],
    &["workers"],
];

const DRIVER: &[&[&str]] = &[
    &["error", "handles"],
    &["abi", "limits", "platform"],
    // What handles stand for, and what streams do.
    &["state/context"],
    &["state/module", "state/transfer"],
    &["state/function"],
    &["state/kernel"],
    &["state/work"],
    &["state/capture", "state/graph"],
    &["state/stream"],
    // The calls.
    &[
        "capture", "context", "copy", "device", "emu", "event", "function", "launch", "memory", "module", "stream",
        "tensor",
    ],
    &["graph", "pool"],
    &["graph_edit", "graph_node"],
    &["entry"],
];

type Sources = BTreeMap<String, String>;

/// The code of every file of a table but the folders' own (`mod.rs`, which declare the others), by its name in the table.
fn sources(face: &str, table: &[&[&str]]) -> Sources {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(face);
    let mut sources = Sources::new();
    let mut open: Vec<PathBuf> = vec![root.clone()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let place = path.strip_prefix(&root).unwrap().with_extension("");
        let place = place.to_str().unwrap();
        let folder = place.split('/').next().unwrap();
        let name = if table.iter().any(|row| row.contains(&folder)) { folder } else { place };
        if name != "mod" && name != "state/mod" {
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let code = code.collect::<Vec<_>>().join(" ");
            *sources.entry(name.to_owned()).or_default() += &code;
        }
    }
    sources
}

/// What follows a path's beginning: one name, or several in braces; those of `state` with the file there.
fn heads(code: &str, beginning: &str) -> BTreeSet<String> {
    let word = |text: &str| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut heads = BTreeSet::new();
    for rest in code.split(beginning).skip(1) {
        let list =
            rest.strip_prefix('{').and_then(|list| list.split('}').next()).unwrap_or(rest.split(',').next().unwrap());
        heads.extend(list.split(',').map(|item| match item.trim().strip_prefix("state::") {
            Some(inner) => format!("state/{}", word(inner)),
            None => word(item),
        }));
    }
    heads.remove("");
    heads
}

/// The files that a file uses.
fn imports(face: &str, name: &str, sources: &Sources) -> BTreeSet<String> {
    let code = &sources[name];
    let mut found = heads(code, &format!("crate::{face}::"));
    found.extend(match name.split_once('/') {
        Some((folder, _)) => heads(code, "super::").into_iter().map(|file| format!("{folder}/{file}")).collect(),
        None if Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(face).join(name).is_dir() => BTreeSet::new(),
        None => heads(code, "super::"),
    });
    for (other, theirs) in sources.iter().filter(|_| face == "machine") {
        let methods = heads(theirs, "    pub(super) fn ");
        if methods.iter().any(|method| code.contains(&format!("self.{method}("))) {
            found.insert(other.clone());
        }
    }
    found.remove(name);
    found
}

fn wrong(face: &str, table: &[&[&str]]) -> Vec<String> {
    let sources = sources(face, table);
    let mut wrong = Vec::new();
    for name in sources.keys() {
        let row = table.iter().position(|row| row.contains(&name.as_str()));
        let below = &table[..row.unwrap_or_else(|| panic!("{face}/{name} is not in the table"))];
        let above = |import: &String| !below.iter().any(|row| row.contains(&import.as_str()));
        wrong.extend(
            imports(face, name, &sources).into_iter().filter(above).map(|import| format!("{name} uses {import}")),
        );
    }
    wrong
}

#[test]
fn the_machine_reads_in_one_direction() {
    assert_eq!(wrong("machine", MACHINE), Vec::<String>::new());
}

#[test]
fn the_driver_reads_in_one_direction() {
    assert_eq!(wrong("driver", DRIVER), Vec::<String>::new());
}

#[test]
fn imports_and_methods_of_others_are_seen() {
    let code =
        "use super::state::warp::{Cx, Warp}; use super::{raw, races::Use}; crate::machine::alu::run(); self.hop(1)";
    let sources = [("bulk", code), ("step", "    pub(super) fn hop(&self)")];
    let sources = sources.map(|(name, code)| (name.to_owned(), code.to_owned())).into();
    let expected = ["alu", "races", "raw", "state/warp", "step"].map(str::to_owned);
    assert_eq!(imports("machine", "bulk", &sources), expected.into());
}
