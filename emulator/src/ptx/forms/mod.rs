//! The instruction table: which PTX the emulator runs, each form in one line, and what it becomes.
//!
//! Owns decoding of one instruction and the document of all of them. Guards, calls and returns are `lower`'s; what a name
//! means is asked of [`Names`]. The surprise: a line's syntax is at once the matcher, the documentation and the source
//! of the tests, so a modifier that is not written in the table is refused.

mod asynchronous;
mod atomics;
mod compare;
mod control;
mod convert;
mod float;
mod hopper;
mod integer;
mod matrix;
mod memory;
mod movement;
mod operands;
mod pattern;
mod special;
#[cfg(test)]
mod tests;
mod warp;

use super::ast;
use super::names::Names;
use crate::isa::Op;
use operands::{Bound, Operands};
use pattern::Pattern;
use std::collections::HashMap;
use std::sync::OnceLock;

/// Makes the ops of an instruction whose operands are bound.
type Build = fn(&mut Operands<'_>) -> Result<(), String>;

/// One line of the table.
struct Form {
    syntax: &'static str,
    /// The first PTX version and the first target that have it.
    isa: (u32, u32),
    sm: u32,
    build: Build,
}

impl Form {
    const fn since(self, major: u32, minor: u32, sm: u32) -> Form {
        Form { isa: (major, minor), sm, ..self }
    }
}

/// A form of every version and target that the emulator takes.
const fn form(syntax: &'static str, build: Build) -> Form {
    Form { syntax, isa: (7, 0), sm: 80, build }
}

/// The table, by class.
static FORMS: &[(&str, &[Form])] = &[
    ("Integer", integer::FORMS),
    ("Floating point", float::FORMS),
    ("Comparison and selection", compare::FORMS),
    ("Conversion", convert::FORMS),
    ("Data movement", movement::FORMS),
    ("Memory", memory::FORMS),
    ("Atomics", atomics::FORMS),
    ("Warps and barriers", warp::FORMS),
    ("Matrices", matrix::FORMS),
    ("Warpgroup matrices", hopper::WGMMA),
    ("Asynchronous", asynchronous::FORMS),
    ("Bulk copies and clusters", hopper::BULK),
    ("Control", control::FORMS),
];

/// Modifiers that are younger than the forms they stand in.
static NEWER: &[(&str, (u32, u32), u32)] = &[
    ("xorsign", (7, 2), 86),
    ("L2::cache_hint", (7, 4), 80),
    ("shared::cta", (7, 8), 80),
    ("shared::cluster", (7, 8), 90),
    ("cluster", (7, 8), 90),
    ("b128", (8, 3), 80),
    ("param::entry", (8, 3), 80),
    ("param::func", (8, 3), 80),
];

/// The compiled patterns, by opcode, in the order of the table.
static INDEX: OnceLock<HashMap<&'static str, Vec<(&'static Form, Pattern)>>> = OnceLock::new();

fn index() -> &'static HashMap<&'static str, Vec<(&'static Form, Pattern)>> {
    INDEX.get_or_init(|| {
        let mut index = HashMap::<_, Vec<_>>::new();
        for form in FORMS.iter().flat_map(|(_, forms)| *forms) {
            let pattern = Pattern::compile(form.syntax);
            index.entry(pattern.opcode).or_default().push((form, pattern));
        }
        index
    })
}

/// The ops that an instruction becomes: one for nearly all, none never.
///
/// # Errors
/// Why it is refused: the opcode, modifier or operand that does not fit, and the nearest syntax that would.
pub fn decode(inst: &ast::Instruction, names: &mut dyn Names) -> Result<Vec<Op>, String> {
    let (form, bound) = find(inst, names)?;
    let (version, target) = names.target();
    let Form { syntax, isa: (major, minor), sm, build } = form;
    if version < form.isa {
        return Err(format!("`{syntax}` needs PTX {major}.{minor}, this text is {}.{}", version.0, version.1));
    }
    if target < *sm {
        return Err(format!("`{syntax}` needs sm_{sm}, this text is for sm_{target}"));
    }
    for word in &inst.modifiers {
        if let Some((_, (major, minor), sm)) =
            NEWER.iter().find(|(w, isa, sm)| w == word && (version < *isa || target < *sm))
        {
            return Err(format!("`.{word}` needs PTX {major}.{minor} and sm_{sm}"));
        }
    }
    let mut operands = Operands::new(inst, bound, names);
    build(&mut operands)?;
    Ok(operands.ops)
}

/// The form of an instruction, and which operand stands for which of its slots.
fn find<'a>(inst: &'a ast::Instruction, names: &dyn Names) -> Result<(&'static Form, Bound<'a>), String> {
    let Some(forms) = index().get(&*inst.opcode) else {
        return Err(format!("instruction `{}` is not supported; see INSTRUCTIONS.md", inst.opcode));
    };
    let mut nearest = (0, &forms[0]);
    let mut shaped = None;
    for candidate in forms {
        let (reached, fits) = candidate.1.fit(&inst.modifiers);
        if fits {
            if let Some(bound) = operands::bind(&candidate.1, inst, names) {
                return Ok((candidate.0, bound));
            }
            shaped = shaped.or(Some(candidate.0.syntax));
        }
        if reached > nearest.0 {
            nearest = (reached, candidate);
        }
    }
    let (reached, (form, _)) = nearest;
    Err(match (shaped, inst.modifiers.get(reached as usize)) {
        (Some(syntax), _) => format!("the operands do not fit `{syntax}`"),
        (None, Some(word)) => format!("`.{word}` is not supported here; the nearest form is `{}`", form.syntax),
        (None, None) => format!("a modifier is missing; the nearest form is `{}`", form.syntax),
    })
}

/// The document of the table, `INSTRUCTIONS.md`.
pub fn document() -> String {
    let mut text = String::from(include_str!("preamble.md"));
    block(&mut text, pattern::SETS.iter().map(|(name, list)| format!("{name:9} {list}")));
    text += "\nModifiers that need more than their form:\n\n";
    let newer = |(word, (major, minor), sm): &_| format!(".{word:15} PTX {major}.{minor}, sm_{sm}");
    block(&mut text, NEWER.iter().map(newer));
    for (title, forms) in FORMS {
        text += &format!("\n## {title}\n\n");
        block(&mut text, forms.iter().map(line));
    }
    text
}

/// A form as the document has it.
fn line(Form { syntax, isa, sm, .. }: &Form) -> String {
    match isa {
        (7, 0) => (*syntax).to_owned(),
        (major, minor) => format!("{syntax:70}  # PTX {major}.{minor}, sm_{sm}"),
    }
}

fn block(text: &mut String, lines: impl Iterator<Item = String>) {
    *text += "```text\n";
    lines.for_each(|line| *text += &(line + "\n"));
    *text += "```\n";
}
