//! All spellings of a pattern: its modifiers and fitting operands.

use super::reader;
use super::{Kind, Pattern, Roles, Slot, many, width};
use crate::ptx::forms::operands::dimensions;
use crate::ptx::forms::pattern::{Count, Node};
use std::collections::HashSet;

/// One spelling and the registers that it names, by role.
pub struct Text {
    pub text: String,
    pub registers: Roles,
    /// What was chosen, in order of the places in the pattern.
    choices: Vec<Choice>,
}

/// A place in a pattern, and which of its alternatives.
type Choice = (usize, usize);

/// Decisions of one walk through a pattern: replayed, then the last one that can be is raised.
#[derive(Default)]
struct Walk {
    taken: Vec<(usize, usize)>,
    at: usize,
    choices: Vec<Choice>,
    /// Random decisions instead, from this state.
    random: Option<u64>,
}

impl Walk {
    /// Chooses at a place, which is its address in the pattern.
    fn choose(&mut self, place: usize, of: usize) -> usize {
        let chosen = self.pick(of);
        self.choices.push((place, chosen));
        chosen
    }

    fn pick(&mut self, of: usize) -> usize {
        if let Some(state) = &mut self.random {
            *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            return (*state >> 33) as usize % of;
        }
        if self.at == self.taken.len() {
            self.taken.push((0, of));
        }
        self.at += 1;
        self.taken[self.at - 1].0
    }

    /// Whether there is another walk.
    fn next(&mut self) -> bool {
        self.at = 0;
        while let Some((taken, of)) = self.taken.pop() {
            if taken + 1 < of {
                self.taken.push((taken + 1, of));
                return true;
            }
        }
        false
    }
}

/// All spellings where they are at most 4000, else as many at random: enough to meet all pairs of alternatives.
pub fn spellings(pattern: &Pattern) -> Vec<Text> {
    const MOST: usize = 4000;
    let (mut walk, mut all) = (Walk::default(), Vec::new());
    loop {
        all.push(spell(pattern, &mut walk));
        if !walk.next() {
            return all;
        }
        if all.len() == MOST {
            break;
        }
    }
    let mut walk = Walk { random: Some(1), ..Walk::default() };
    (0..MOST).map(|_| spell(pattern, &mut walk)).collect()
}

/// Spellings in which any two alternatives that can stand together do so at least once: all of them where a pattern
/// has one or two places to choose at, and some of the thousands where it has more.
pub fn pairwise(pattern: &Pattern) -> Vec<Text> {
    // Prime, and more than there are spellings: all are met, but not neighbours, which have few new pairs, in turn.
    const STRIDE: usize = 7919;
    let mut all: Vec<Option<Text>> = spellings(pattern).into_iter().map(Some).collect();
    let (mut met, count) = (HashSet::new(), all.len());
    let in_turn = (0..count).map(|i| i * STRIDE % count).filter_map(|i| all[i].take());
    in_turn
        .filter(|text| {
            let pairs =
                text.choices.iter().enumerate().flat_map(|(i, a)| text.choices[i..].iter().map(move |b| (*a, *b)));
            // A pattern without a choice has one spelling and no pair.
            pairs.filter(|pair| met.insert(*pair)).count() > 0 || count == 1
        })
        .collect()
}

/// Every word of a pattern.
pub fn words(sequence: &[Node]) -> Vec<&'static str> {
    let of = |node: &Node| match node {
        Node::Word(word) => vec![*word],
        Node::Choice { of, .. } => of.iter().flat_map(|s| words(s)).collect(),
        Node::AnyOrder(nodes) => words(nodes),
    };
    sequence.iter().flat_map(of).collect()
}

fn spell(pattern: &Pattern, walk: &mut Walk) -> Text {
    let mut modifiers = Vec::new();
    walk.choices.clear();
    modify(&mut pattern.modifiers.iter(), walk, &mut modifiers);
    let (mut operands, mut registers) = (Vec::<String>::new(), Roles::new());
    let hint = modifiers.iter().any(|w| w == "L2::cache_hint");
    let mut dropped = false;
    for (i, slot) in pattern.slots.iter().enumerate() {
        let there = if slot.name == "hint" {
            hint
        } else {
            !slot.optional || (!dropped && walk.choose(place(slot, 0), 2) == 1)
        };
        dropped |= slot.optional && !slot.paired && !there && slot.name != "hint";
        if !there {
            continue;
        }
        let text = operand(pattern.opcode, slot, i, &modifiers, walk, &mut registers);
        match (slot.paired, operands.last_mut()) {
            (true, Some(last)) => *last = format!("{last}|{text}"),
            _ => operands.push(text),
        }
    }
    let head: String = modifiers.iter().map(|w| format!(".{w}")).collect();
    let mut choices = walk.choices.clone();
    choices.sort_unstable();
    Text { text: format!("{}{head} {};", pattern.opcode, operands.join(", ")), registers, choices }
}

/// Choice number `which` at a slot, or at a node of the modifiers.
fn place<T>(at: &T, which: usize) -> usize {
    std::ptr::from_ref(at).addr() + which
}

fn modify(sequence: &mut dyn Iterator<Item = &Node>, walk: &mut Walk, out: &mut Vec<String>) {
    for node in sequence {
        match node {
            Node::Word(word) => out.push((*word).to_owned()),
            Node::Choice { of, optional } => {
                let chosen = walk.choose(place(node, 0), of.len() + usize::from(*optional));
                if let Some(sequence) = of.get(chosen) {
                    modify(&mut sequence.iter(), walk, out);
                }
            }
            Node::AnyOrder(nodes) if walk.choose(place(node, 0), 2) == 0 => modify(&mut nodes.iter(), walk, out),
            Node::AnyOrder(nodes) => modify(&mut nodes.iter().rev(), walk, out),
        }
    }
}

/// The operand for slot number `i`; every register has its own number.
fn operand(opcode: &str, slot: &Slot, i: usize, modifiers: &[String], walk: &mut Walk, roles: &mut Roles) -> String {
    let written = matches!(slot.name, "d" | "p") || (slot.name == "q" && slot.paired);
    let value = |roles: &mut Roles, number: usize, bits: u32| {
        let name = reader::name(bits, number);
        if !matches!(slot.name, "hint" | "ns") {
            roles.insert((written, reader::number(&name), bits.div_ceil(32)));
            if slot.name == "acc" {
                roles.insert((true, reader::number(&name), bits.div_ceil(32)));
            }
        }
        name
    };
    match slot.kind {
        Kind::Value(_) => {
            let (bits, n) = (width(slot, modifiers).bits(), many(slot, modifiers));
            let names: Vec<String> = (0..n).map(|j| value(roles, i * 300 + j, bits)).collect();
            if n == 1
                && (slot.count == Count::One || (slot.count == Count::Elements && walk.choose(place(slot, 1), 2) == 0))
            {
                names[0].clone()
            } else {
                format!("{{{}}}", names.join(", "))
            }
        }
        Kind::Memory => {
            roles.insert((false, reader::number(&reader::name(64, i)), 2));
            format!("[{}+16]", reader::name(64, i))
        }
        Kind::Tensor => {
            roles.insert((false, reader::number(&reader::name(64, i)), 2));
            let count = dimensions(modifiers).expect("dimensions");
            let at: Vec<String> = (0..count).map(|j| value(roles, i * 300 + j, 32)).collect();
            format!("[{}, {{{}}}]", reader::name(64, i), at.join(", "))
        }
        Kind::Predicate { negatable } => {
            roles.insert((written, i as u32, 0));
            if negatable && walk.choose(place(slot, 1), 2) == 1 { format!("!%p{i}") } else { format!("%p{i}") }
        }
        Kind::Number => {
            let all = numbers(opcode, slot.name, modifiers);
            all[walk.choose(place(slot, 1), all.len())].to_owned()
        }
        Kind::Sink => "_".to_owned(),
        Kind::Label => "$L_1".to_owned(),
        Kind::Labels => "$T_1".to_owned(),
    }
}

/// Numbers that an operand may be.
fn numbers(opcode: &str, slot: &str, modifiers: &[String]) -> &'static [&'static str] {
    let has = |word: &str| modifiers.iter().any(|w| w == word);
    match (opcode, slot) {
        ("applypriority" | "discard", _) => &["128"],
        ("setmaxnreg", _) => &["40", "232"],
        ("pmevent", _) => &["7"],
        ("lop3", _) => &["0x1e", "0xca", "0x96"],
        ("wgmma", "na" | "nb") => &["1", "-1"],
        ("wgmma", _) => &["0", "1"],
        ("cp", _) if has("wait_group") => &["0", "1"],
        ("cp", _) if has("ca") => &["16", "8", "4"],
        _ => &["16"],
    }
}
