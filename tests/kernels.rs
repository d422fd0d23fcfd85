//! The compiled kernels as text: their parameters are those of the ops, and ptxas makes of them what the launches assume.

use osprey::launch::{Arg, Kernel, Launch, Target};
use osprey::ops::REGISTRY;
use osprey::ptx::{MODULES, Module, Resources, module_of, resources};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// The smallest device that the kernels are made for: A100, but with the shared memory of an RTX 4090.
const TARGET: Target = Target { sm: 80, sms: 108, smem: 99 << 10 };

/// Every launch of a registry case that a kernel takes.
fn launches() -> Vec<(String, Launch, Kernel)> {
    let cases = REGISTRY.iter().flat_map(|e| (e.cases)().into_iter().map(|c| (e.name, c)));
    let taken =
        cases.filter_map(|(name, c)| c.op.kernel().ok().map(|k| (format!("{name} [{}]", c.label), c.op.launch(), k)));
    taken.collect()
}

fn module(entry: &str) -> &'static Module {
    module_of(entry).unwrap_or_else(|| panic!("no .cu file has the entry {entry}"))
}

/// PTX types of an entry's parameters.
fn params<'p>(ptx: &'p str, entry: &str) -> Vec<&'p str> {
    let after = ptx.split(&format!(".visible .entry {entry}(")).nth(1).unwrap_or_else(|| panic!("no entry {entry}"));
    let list = after.split(')').next().unwrap();
    list.lines().filter_map(|l| l.trim().strip_prefix(".param .")?.split_whitespace().next()).collect()
}

#[test]
fn parameters_are_those_of_the_ops() {
    for (at, launch, kernel) in launches() {
        let want: Vec<&str> = launch
            .args
            .iter()
            .map(|a| match a {
                Arg::Tensor(..) | Arg::Weight(..) | Arg::Absent => "u64",
                Arg::I32(_) => "u32",
                Arg::F32(_) => "f32",
            })
            .collect();
        assert_eq!(params(module(&kernel.entry).ptx, &kernel.entry), want, "{at}: {}", kernel.entry);
    }
}

#[test]
fn every_entry_is_launched_by_a_case() {
    let launched: Vec<String> = launches().into_iter().map(|(.., k)| k.entry).collect();
    // The probe is no op: benches launch it.
    let entries = MODULES.iter().filter(|m| m.name != "probe").flat_map(|m| m.entries);
    let idle: Vec<_> = entries.filter(|e| !launched.iter().any(|l| l == *e)).collect();
    assert!(idle.is_empty(), "no case launches {idle:?}");
}

#[test]
fn every_op_has_cases_in_both_storage_types() {
    // Logits are f32, and blocks are copied as words.
    for entry in REGISTRY.iter().filter(|e| !["sample", "kv_copy"].contains(&e.name)) {
        for dtype in ["bf16", "f16"] {
            let found = launches()
                .iter()
                .any(|(at, _, k)| at.starts_with(&format!("{} [", entry.name)) && k.entry.contains(dtype));
            assert!(found, "no case of {} has a {dtype} kernel", entry.name);
        }
    }
}

/// Runs ptxas over a module: what it says of every entry.
fn assemble(module: &'static Module, arch: &str) -> Vec<(&'static str, Resources)> {
    let ptxas = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cuda/nvidia/cu13/bin/ptxas");
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = dir.join(format!("{}.{arch}.ptx", module.name));
    std::fs::write(&file, module.ptx).unwrap();
    let out = Command::new(&ptxas).args(["-v", "-arch", arch, "-o", "/dev/null"]).arg(&file).output();
    let out = out.unwrap_or_else(|e| panic!("{}: {e}: run `make cuda`", ptxas.display()));
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{arch}: {text}");
    let of = |&entry: &&'static str| {
        let resources = resources(&text, entry);
        (entry, resources.unwrap_or_else(|| panic!("ptxas says nothing of {entry} for {arch}:\n{text}")))
    };
    module.entries.iter().map(of).collect()
}

/// Registers of a multiprocessor, from compute capability 8.0 on (CUDA C++ Programming Guide, table of technical specifications).
const REGISTERS: u32 = 65536;

#[test]
fn nothing_spills_and_every_launch_fits() {
    let mut blocks: BTreeMap<String, Kernel> = BTreeMap::new();
    for (.., k) in launches() {
        let most = blocks.entry(k.entry.clone()).or_insert_with(|| k.clone());
        (most.smem, most.block) = (most.smem.max(k.smem), most.block.max(k.block));
    }
    let archs = ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100"];
    // Large modules first, so that no thread is left with one.
    let mut modules: Vec<&'static Module> = MODULES.iter().collect();
    modules.sort_by_key(|m| std::cmp::Reverse(m.ptx.len()));
    let work: Vec<_> = modules.into_iter().flat_map(|m| archs.map(|arch| (arch, m))).collect();
    let assembled: Vec<_> = work.into_par_iter().with_max_len(1).map(|(arch, m)| (arch, assemble(m, arch))).collect();
    for (arch, (entry, r)) in assembled.into_iter().flat_map(|(arch, all)| all.into_iter().map(move |one| (arch, one)))
    {
        println!("{arch:7} {entry:40} {:3} registers {:6} bytes shared", r.registers, r.shared);
        assert_eq!((r.spills, r.stack), (0, 0), "{entry} on {arch}: bytes spilled, and of stack");
        let Some(k) = blocks.get(entry) else { continue };
        let registers = k.block * r.registers.next_multiple_of(8);
        assert!(registers <= REGISTERS, "{entry} on {arch}: {registers} registers a block");
        let shared = r.shared + k.smem;
        assert!(shared as usize <= TARGET.smem, "{entry} on {arch}: {shared} bytes of shared memory");
    }
}
