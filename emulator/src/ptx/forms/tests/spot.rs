//! What exactly some instructions become: `spot.txt` has the PTX and, indented, the ops.
//!
//! Registers are written by their names, temporaries as `t0`, constants by their bits as `#2a`.

use super::reader::{Scope, TEMPORARIES, instruction, name, number};
use super::{Op, decode};

/// The ops as `spot.txt` writes them.
fn shown(ops: &[Op], scope: &Scope) -> Vec<String> {
    let replace = |text: String| {
        let mut out = String::new();
        let mut rest = text.as_str();
        while let Some(at) = rest.find("Reg(") {
            let end = at + rest[at..].find(')').expect("closed");
            let index: u32 = rest[at + 4..end].parse().expect("a number");
            out += &rest[..at];
            out += &register(index, scope);
            rest = &rest[end + 1..];
        }
        out + rest
    };
    ops.iter().map(|op| replace(format!("{op:?}"))).collect()
}

fn register(index: u32, scope: &Scope) -> String {
    if let Some(row) = crate::isa::Reg(index).constant() {
        return format!("#{:x}", scope.constants[row].1);
    }
    if index >= TEMPORARIES {
        return format!("t{}", index - TEMPORARIES);
    }
    let names = [8, 16, 32, 64, 128].into_iter().flat_map(|bits| (0..100).map(move |n| name(bits, n)));
    names.into_iter().find(|n| number(n) == index).expect("a register of the test")
}

#[test]
fn instructions_become_these_ops() {
    let (mut expected, mut made) = (Vec::new(), Vec::new());
    for line in include_str!("spot.txt").lines() {
        expected.push(line.to_owned());
        if !line.starts_with(' ') {
            let mut scope = Scope::default();
            let ops = decode(&instruction(line), &mut scope).unwrap_or_else(|why| panic!("{line}: {why}"));
            made.push(line.to_owned());
            made.extend(shown(&ops, &scope).into_iter().map(|op| format!("    {op}")));
        }
    }
    assert_eq!(expected, made);
}
