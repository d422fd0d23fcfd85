//! The PTX front end: text -> `ast` (parse) -> `Program` (lower). Refuses what the machine cannot do, by line.

pub mod ast;
mod call;
mod doubt;
mod flow;
pub mod forms;
mod frames;
mod globals;
mod lex;
mod link;
mod lower;
pub mod names;
mod number;
mod parse;
mod rows;
mod scope;
mod statement;
mod units;
mod variables;

pub use parse::parse;

use crate::device::Device;
use crate::memory::Memory;
use crate::program::Program;

/// Why a text was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {why}")]
pub struct PtxError {
    pub kind: PtxErrorKind,
    pub line: u32,
    pub why: String,
}

/// What is wrong with a text, as far as a caller can do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PtxErrorKind {
    /// It is no PTX, or has what does not run here: the line says what.
    Text,
    /// It is for another target than the device.
    Target,
    /// It is of a PTX version that is not known yet.
    Version,
}

impl PtxError {
    fn new(line: u32, why: impl Into<String>) -> PtxError {
        PtxError { kind: PtxErrorKind::Text, line, why: why.into() }
    }
}

/// A module-scope `.global` or `.const` variable, allocated and initialised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    pub name: String,
    pub address: u64,
    pub bytes: u64,
}

/// A loaded module.
pub struct Module {
    /// The number of the text's `.target`: 80 of `sm_80`.
    pub target: u32,
    pub kernels: Vec<Program>,
    pub globals: Vec<Global>,
}

/// Parses, checks against the device's capability, allocates the variables and makes the programs.
///
/// # Errors
/// The first thing that cannot run here, by line; nothing stays allocated then.
pub fn load(text: &str, device: &Device, memory: &Memory) -> Result<Module, PtxError> {
    let module = parse(text)?;
    check_target(&module, device)?;
    let globals = globals::Globals::new(&module, memory)?;
    let kernels = link::kernels(&module, &globals.places(&module), device, text.len())?;
    Ok(Module { target: module.target, kernels, globals: globals.keep() })
}

fn check_target(module: &ast::Module, device: &Device) -> Result<(), PtxError> {
    let (major, minor) = device.capability;
    let (has, wants) = (major * 10 + minor, module.target);
    let suffix = module.target_suffix;
    let runs = match suffix {
        None => wants <= has,
        // Of one family: the same major number.
        Some('f') => wants <= has && wants / 10 == major,
        Some(_) => wants == has,
    };
    let (kind, why) = match (module.version, wants, runs) {
        ((1..=9, _), 1.., true) => return Ok(()),
        ((1..=9, _), 1.., false) => {
            let (suffix, name) = (suffix.map(String::from).unwrap_or_default(), device.name);
            let why =
                format!("the text is for sm_{wants}{suffix}, and {name} is sm_{has}: compile it for compute_{has}");
            (PtxErrorKind::Target, why)
        }
        ((1..=9, _), 0, _) => (PtxErrorKind::Text, "there is no `.target`".to_owned()),
        ((0, _), ..) => (PtxErrorKind::Text, "there is no `.version`".to_owned()),
        ((newer, _), ..) => {
            (PtxErrorKind::Version, format!("PTX {newer} is newer than the emulator, which knows PTX 9"))
        }
    };
    Err(PtxError { kind, line: module.target_line.max(1), why })
}
