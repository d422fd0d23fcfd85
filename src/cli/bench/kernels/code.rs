//! Figures of a kernel that need no run: what ptxas and nvdisasm say of it.
//!
//! Both tools are optional. The surprise: the main loop is found, not named: it is the innermost loop with the most matrix instructions.

use crate::launch::{Kernel, Target};
use crate::ptx::{self, Module, Resources};
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where `make cuda` puts ptxas, from the repository's root.
const WHEELS: &str = ".cuda/nvidia/cu13/bin";

/// What is known of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Code {
    pub registers: u32,
    /// Bytes spilled, stored and loaded.
    pub spills: u32,
    pub main_loop: Option<MainLoop>,
}

/// The loop in which a kernel multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MainLoop {
    pub instructions: u32,
    /// Matrix instructions among them: `HMMA`, or `IMMA` of int8.
    pub mma: u32,
}

impl MainLoop {
    /// Machine instructions for each matrix instruction.
    pub fn per_mma(&self) -> f64 {
        self.instructions as f64 / self.mma as f64
    }
}

/// Assembles each module once for a target.
pub struct Assembler {
    arch: String,
    ptxas: Option<PathBuf>,
    nvdisasm: Option<PathBuf>,
    /// By entry.
    done: HashMap<&'static str, Code>,
    modules: BTreeSet<&'static str>,
}

impl Assembler {
    /// With the tools that are there.
    pub fn new(target: &Target) -> Assembler {
        let [ptxas, nvdisasm] = ["ptxas", "nvdisasm"].map(find);
        Assembler { arch: format!("sm_{}", target.sm), ptxas, nvdisasm, done: HashMap::new(), modules: BTreeSet::new() }
    }

    /// A line about tools that are missing.
    pub fn missing(&self) -> Option<String> {
        let tools = [("ptxas", &self.ptxas), ("nvdisasm", &self.nvdisasm)];
        let missing: Vec<&str> = tools.iter().filter(|(_, found)| found.is_none()).map(|(name, _)| *name).collect();
        let columns = if self.ptxas.is_none() { "registers, spills and SASS/mma" } else { "SASS/mma" };
        let (names, first) = (missing.join(" and "), missing.first()?);
        let how = if *first == "ptxas" { "`make cuda`" } else { "pip's nvidia-cuda-nvdisasm, then PATH" };
        Some(format!("{names} not found in PATH or {WHEELS} ({how}): no {columns}"))
    }

    /// What is known of a kernel; nothing without ptxas.
    pub fn of(&mut self, kernel: &Kernel) -> Option<Code> {
        let module = ptx::module_of(&kernel.entry)?;
        if self.modules.insert(module.name) {
            self.assemble(module);
        }
        self.done.get(kernel.entry.as_str()).copied()
    }

    fn assemble(&mut self, module: &'static Module) {
        let Some(ptxas) = &self.ptxas else { return };
        let Ok(dir) = temporary() else { return };
        let (source, cubin) = (dir.join(format!("{}.ptx", module.name)), dir.join(format!("{}.cubin", module.name)));
        let args = ["-v", "-arch", &self.arch, "-o"];
        let said = std::fs::write(&source, module.ptx)
            .ok()
            .and_then(|()| Command::new(ptxas).args(args).arg(&cubin).arg(&source).output().ok());
        let said = said.map(|out| String::from_utf8_lossy(&out.stderr).into_owned()).unwrap_or_default();
        let text = self.nvdisasm.as_ref().and_then(|tool| Command::new(tool).arg("-c").arg(&cubin).output().ok());
        let text = text.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
        for &entry in module.entries {
            if let Some(Resources { registers, spills, .. }) = ptx::resources(&said, entry) {
                self.done.insert(entry, Code { registers, spills, main_loop: main_loop(&text, entry) });
            }
        }
        // It lies in the system's folder for such files: nobody misses it if this fails.
        let _ = std::fs::remove_dir_all(dir);
    }
}

/// A tool in `PATH`, or where `make cuda` puts it.
fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).chain([PathBuf::from(WHEELS)]).map(|dir| dir.join(tool));
    places.find(|p: &PathBuf| Path::is_file(p))
}

/// A new folder of this process.
fn temporary() -> std::io::Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("osprey-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map(|()| dir)
}

/// The innermost loop of an entry with the most matrix instructions in what `nvdisasm -c` prints; where several have as many, the first.
fn main_loop(text: &str, entry: &str) -> Option<MainLoop> {
    let section = text.split(&format!("\t.section\t.text.{entry},")).nth(1)?.split("\t.section\t").next()?;
    let mut labels: HashMap<&str, usize> = HashMap::new();
    let mut code: Vec<&str> = Vec::new();
    let mut loops: Vec<(usize, usize)> = Vec::new();
    for line in section.lines() {
        let line = line.trim();
        if let Some(label) = line.strip_suffix(':') {
            labels.insert(label, code.len());
        } else if let Some((_, instruction)) = line.strip_prefix("/*").and_then(|l| l.split_once("*/")) {
            let target = instruction.split("BRA").nth(1).and_then(|t| t.split("`(").nth(1)?.split(')').next());
            // A label that is known already lies behind: a loop.
            loops.extend(target.and_then(|t| labels.get(t)).map(|&start| (start, code.len())));
            code.push(instruction);
        }
    }
    // Behind the last exit lie detours of the code before it, which jump back and are no loops.
    let last = code.iter().rposition(|i| i.contains("EXIT"))?;
    loops.retain(|&(_, end)| end < last);
    let is_mma = |i: &&&str| i.contains("HMMA.") || i.contains("IMMA.");
    let mma = |&(start, end): &(usize, usize)| code[start..=end].iter().filter(is_mma).count();
    let multiplying: Vec<(usize, usize)> = loops.into_iter().filter(|l| mma(l) > 0).collect();
    let inside = |a: &(usize, usize), b: &(usize, usize)| a != b && b.0 <= a.0 && a.1 <= b.1;
    let innermost = multiplying.iter().filter(|l| !multiplying.iter().any(|other| inside(other, l)));
    let (start, end) = innermost.rev().max_by_key(|l| mma(l)).copied()?;
    Some(MainLoop { instructions: (end + 1 - start) as u32, mma: mma(&(start, end)) as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_loop_is_the_innermost_one_with_most_mma() {
        let line = |i: &str| format!("        /*0010*/                   {i} ;\n");
        let [hmma, imma, add, exit] = [
            "HMMA.16816.F32.BF16 R4, R8, R2, R4",
            "IMMA.16832.S8.S8 R4, R8.ROW, R2.COL, R4",
            "IADD3 R1, R1, 0x1, RZ",
            "EXIT",
        ]
        .map(line);
        let branch = |label: &str| line(&format!("@P0 BRA `({label})"));
        let text = [
            "\t.section\t.text.other,\"ax\"\n.L_x_9:\n",
            &hmma,
            &branch(".L_x_9"),
            &exit,
            "\t.section\t.text.k,\"ax\",@progbits\n.L_x_0:\n",
            &add,
            ".L_x_1:\n",
            &hmma,
            &imma,
            &add,
            &branch(".L_x_1"),
            &branch(".L_x_2"),
            ".L_x_2:\n",
            &hmma,
            &branch(".L_x_0"),
            &exit,
            ".L_x_3:\n",
            &hmma.repeat(4),
            &branch(".L_x_1"),
        ]
        .concat();
        assert_eq!(main_loop(&text, "k"), Some(MainLoop { instructions: 4, mma: 2 }));
        assert_eq!(main_loop(&text, "other"), Some(MainLoop { instructions: 2, mma: 1 }));
        assert_eq!(main_loop(&text, "none"), None);
    }
}
