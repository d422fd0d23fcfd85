//! Registers to rows: a linear scan over the spans in which they are live.
//!
//! Registers of one width share a stretch of the frame. Two of them have one row only if one's span ends before the
//! other's begins: sources and results of an instruction never do. A register that may be read before it is written
//! keeps its row to itself, so that a lane's stale value is never another register's; what becomes of such reads is
//! the matter of `doubt`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::doubt::Doubts;
use super::flow::{Graph, Liveness};
use super::scope::Frame;
use super::variables::{Key, Variable, collect};
use crate::isa::Inst;

/// Steps that the analysis of one function may take, some tenths of a second of work.
const STEPS: u64 = 1 << 26;

/// A function's registers in its frame.
pub(super) struct Rows {
    slots: HashMap<Key, u32>,
    pub rows: u32,
    pub predicates: u32,
    pub doubts: Doubts,
    /// Rows of values that are live at the widest point.
    pub peak: u32,
    /// What finding them took: runs of instructions looked at.
    pub steps: u64,
}

impl Rows {
    /// Finds rows for the registers of `code`, of which `reserved` come first.
    pub fn new(code: &mut [Inst], frame: &Frame, reserved: u32) -> Result<Rows, String> {
        let mut variables = collect(code, frame);
        let graph = Graph::new(code);
        let mut liveness = Liveness::new(&graph);
        let mut unproven = Vec::new();
        let mut change = vec![0i64; code.len() + 1];
        for (index, variable) in variables.iter_mut().enumerate() {
            let live = liveness.of(&variable.events);
            if liveness.steps > STEPS {
                return Err("the function is too large: too many registers live across too many blocks".into());
            }
            let ends = live.segments.iter().fold((u32::MAX, 0), |(a, b), s| (a.min(s.0), b.max(s.1)));
            variable.span = if live.from_entry { (0, code.len() as u32) } else { ends };
            if live.from_entry {
                unproven.push((index, liveness.unproven(&variable.events)));
            }
            if let Key::Rows(_) = variable.key {
                for (from, to) in live.segments {
                    change[from as usize] += i64::from(variable.rows);
                    change[to as usize + 1] -= i64::from(variable.rows);
                }
            }
        }
        let peak = change.iter().scan(0, |sum, c| {
            *sum += c;
            Some(*sum)
        });
        let peak = peak.max().unwrap_or(0) as u32;
        let doubts = Doubts::new(code, &variables, frame, unproven);
        let steps = liveness.steps;
        let mut rows = Rows { slots: HashMap::new(), rows: reserved, predicates: 0, doubts, peak, steps };
        for width in [4, 2, 1] {
            let of_width = variables.iter().filter(|v| v.rows == width && matches!(v.key, Key::Rows(_)));
            rows.rows += rows.pack(of_width, rows.rows, width);
        }
        rows.predicates = rows.pack(variables.iter().filter(|v| matches!(v.key, Key::Pred(_))), 0, 1);
        Ok(rows)
    }

    /// Packs variables of one width from row `from`; the rows that it takes.
    fn pack<'v>(&mut self, variables: impl Iterator<Item = &'v Variable>, from: u32, width: u32) -> u32 {
        let mut order: Vec<_> = variables.collect();
        order.sort_by_key(|v| (v.span, v.key));
        let mut busy: BinaryHeap<Reverse<(u32, u32)>> = BinaryHeap::new();
        let mut free: BinaryHeap<Reverse<u32>> = BinaryHeap::new();
        let mut slots = 0;
        for variable in order {
            let (start, end) = variable.span;
            while let Some(&Reverse((until, slot))) = busy.peek()
                && until < start
            {
                busy.pop();
                free.push(Reverse(slot));
            }
            let slot = free.pop().map_or_else(
                || {
                    slots += 1;
                    slots - 1
                },
                |Reverse(slot)| slot,
            );
            busy.push(Reverse((end, slot)));
            let row = from + slot * width;
            match variable.key {
                Key::Rows(first) => self.slots.extend((0..width).map(|r| (Key::Rows(first + r), row + r))),
                Key::Pred(_) => drop(self.slots.insert(variable.key, row)),
            }
        }
        slots * width
    }

    /// The row of a virtual register in the frame.
    pub fn row(&self, key: Key) -> u32 {
        self.slots.get(&key).copied().unwrap_or(0)
    }
}
