//! Module-scope variables in device memory: `.global` and `.const` alike, allocated and initialised.

use std::collections::HashMap;

use super::ast::{Init, Module, VarSpace, Variable};
use super::scope::Placed;
use super::{Global, PtxError};
use crate::isa::Space;
use crate::memory::Memory;

/// Bytes that the variables of a module may have together.
const LARGEST: u64 = 1 << 30;
const PAGE: usize = 1 << 16;

/// The variables of a module, while it is not sure that it will be loaded: dropped, they are freed.
pub(super) struct Globals<'a> {
    memory: &'a Memory,
    all: Vec<Global>,
}

impl<'a> Globals<'a> {
    pub fn new(module: &Module, memory: &'a Memory) -> Result<Self, PtxError> {
        let mut globals = Globals { memory, all: Vec::new() };
        let defined: Vec<&Variable> = module.variables.iter().filter(|v| is_global(v) && !v.external()).collect();
        let mut total = 0u64;
        for &variable in &defined {
            total = total.saturating_add(variable.bytes());
            if total > LARGEST {
                return refuse(variable, format!("up to `{}` the variables have more than 1 GiB", variable.name));
            }
            globals.allocate(variable)?;
        }
        let addresses: HashMap<&str, u64> = globals.all.iter().map(|g| (g.name.as_str(), g.address)).collect();
        if addresses.len() < defined.len() {
            return Err(PtxError::new(duplicate(&defined), "this variable is defined twice"));
        }
        for (variable, global) in defined.iter().zip(&globals.all) {
            initialise(variable, global, &addresses, memory)?;
        }
        for variable in module.variables.iter().filter(|v| is_global(v) && v.external()) {
            if !addresses.contains_key(variable.name.as_str()) {
                return refuse(variable, format!("`{}` is defined in no module: link before loading", variable.name));
            }
        }
        Ok(globals)
    }

    fn allocate(&mut self, variable: &Variable) -> Result<(), PtxError> {
        let (bytes, name) = (variable.bytes(), &variable.name);
        match self.memory.alloc_as(variable.space == VarSpace::Const, bytes, name) {
            Ok(address) => self.all.push(Global { name: name.clone(), address, bytes }),
            Err(_) => return refuse(variable, format!("no device memory is left for the {bytes} bytes of `{name}`")),
        }
        Ok(())
    }

    /// Places by name. `.const` reads global addresses too.
    pub fn places(&self, module: &'a Module) -> HashMap<&'a str, Placed> {
        let place = |v: &'a Variable, g: &Global| {
            let space = if v.space == VarSpace::Const { Space::Const } else { Space::Global };
            (v.name.as_str(), Placed { space, address: g.address, bytes: g.bytes })
        };
        let defined = module.variables.iter().filter(|v| is_global(v) && !v.external());
        defined.zip(&self.all).map(|(v, g)| place(v, g)).collect()
    }

    /// Keeps them for good.
    pub fn keep(mut self) -> Vec<Global> {
        std::mem::take(&mut self.all)
    }
}

impl Drop for Globals<'_> {
    fn drop(&mut self) {
        for global in &self.all {
            // The only failure is that the address is not allocated, and then there is nothing to free.
            let _ = self.memory.free(global.address);
        }
    }
}

fn is_global(variable: &Variable) -> bool {
    matches!(variable.space, VarSpace::Global | VarSpace::Const)
}

fn refuse<T>(variable: &Variable, why: String) -> Result<T, PtxError> {
    Err(PtxError::new(variable.line, why))
}

fn duplicate(defined: &[&Variable]) -> u32 {
    let mut seen = std::collections::HashSet::new();
    defined.iter().find(|v| !seen.insert(v.name.as_str())).map_or(0, |v| v.line)
}

/// Writes the initial value; what no initialiser names is zero, as CUDA has it.
fn initialise(
    variable: &Variable,
    global: &Global,
    addresses: &HashMap<&str, u64>,
    memory: &Memory,
) -> Result<(), PtxError> {
    let mut image = Vec::with_capacity(variable.init.len() * variable.element as usize);
    for init in &variable.init {
        let bits = match init {
            Init::Bits(bits) => *bits,
            Init::Address { name, offset, byte, .. } => match addresses.get(name.as_str()) {
                Some(address) => {
                    let address = address.wrapping_add_signed(*offset);
                    byte.map_or(address, |byte| address >> (8 * byte) & 0xff)
                }
                None => {
                    return refuse(
                        variable,
                        format!("`{name}` is no `.global` variable, so it has no address to store"),
                    );
                }
            },
        };
        image.extend_from_slice(&u128::from(bits).to_le_bytes()[..variable.element as usize]);
    }
    let zeros = vec![0; PAGE.min((global.bytes as usize).saturating_sub(image.len()))];
    let write = |at: u64, bytes: &[u8]| match memory.write(global.address + at, bytes) {
        Ok(()) => Ok(()),
        Err(_) => refuse(variable, format!("`{}` does not fit its own allocation", variable.name)),
    };
    write(0, &image)?;
    let mut at = image.len() as u64;
    while at < global.bytes {
        let count = zeros.len().min((global.bytes - at) as usize);
        write(at, &zeros[..count])?;
        at += count as u64;
    }
    Ok(())
}
