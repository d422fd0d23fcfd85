//! The control-flow graph of a function and what is live in it.
//!
//! A value occupies its row at a position if some lane may have written it before and may read it afterwards. Rows hold
//! lanes side by side and a lane only follows paths of this graph, so liveness along paths is enough however the lanes
//! of a warp are interleaved; operations between lanes read registers where all of them stand at the same instruction.
//!
//! One variable is followed at a time, from its reads backwards: memory is that of the graph, not variables times blocks.

use crate::isa::{Inst, Op, Pred};

/// What an instruction does with a variable; in this order within one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Read,
    /// Writes where a guard holds: the old value may live on.
    Touch,
    Write,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Event {
    pub at: u32,
    pub kind: Kind,
}

/// A run of instructions that is entered at its start and left at its end.
struct Run {
    start: u32,
    end: u32,
    before: Vec<u32>,
    after: Vec<u32>,
}

/// The graph. Block 0 is the entry.
pub(super) struct Graph {
    runs: Vec<Run>,
    /// By position.
    run_of: Vec<u32>,
}

/// Where control goes from an instruction: jumps, and whether the next one follows.
fn leaves(inst: &Inst) -> (&[u32], bool) {
    let guarded = inst.guard != Pred::Always;
    match &inst.op {
        Op::Branch { target } => (std::slice::from_ref(target), guarded),
        Op::BranchIndexed { targets, .. } => (targets, guarded),
        Op::Exit | Op::Trap | Op::Return { .. } => (&[], guarded),
        _ => (&[], true),
    }
}

/// Whether control never goes on behind an instruction.
pub(super) fn ends(inst: &Inst) -> bool {
    !leaves(inst).1
}

impl Graph {
    /// Of code whose targets are positions in it and whose last instruction `ends`.
    pub fn new(code: &[Inst]) -> Graph {
        let mut leader = vec![false; code.len() + 1];
        leader[0] = true;
        for (at, inst) in code.iter().enumerate() {
            let (targets, next) = leaves(inst);
            targets.iter().for_each(|&t| leader[t as usize] = true);
            leader[at + 1] |= !next || !targets.is_empty();
        }
        let mut runs: Vec<Run> = Vec::new();
        let mut run_of = Vec::with_capacity(code.len());
        for at in 0..code.len() as u32 {
            if leader[at as usize] {
                runs.push(Run { start: at, end: at, before: Vec::new(), after: Vec::new() });
            }
            let current = runs.len() - 1;
            runs[current].end = at;
            run_of.push(current as u32);
        }
        let mut graph = Graph { runs, run_of };
        graph.connect(code);
        graph
    }

    fn connect(&mut self, code: &[Inst]) {
        for run in 0..self.runs.len() {
            let last = self.runs[run].end as usize;
            let (targets, next) = leaves(&code[last]);
            let mut after: Vec<u32> = targets.iter().map(|&t| self.run_of[t as usize]).collect();
            after.extend(next.then(|| run as u32 + 1).filter(|&n| (n as usize) < self.runs.len()));
            after.sort_unstable();
            after.dedup();
            for &to in &after {
                self.runs[to as usize].before.push(run as u32);
            }
            self.runs[run].after = after;
        }
    }
}

/// Where one variable holds a value that is still needed, or is written for nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Live {
    /// Positions, both ends included; apart from one another, in no order.
    pub segments: Vec<(u32, u32)>,
    /// A path from the entry reads it before any unguarded write.
    pub from_entry: bool,
}

/// Marks of one variable in a run; valid if they carry its stamp.
#[derive(Clone, Copy, Default)]
struct Marks {
    live_in: u32,
    live_out: u32,
    /// Reached from the entry with the variable unwritten.
    seen: u32,
    /// Its events in the run.
    events: (u32, u32, u32),
}

/// Follows variables through a graph.
pub(super) struct Liveness<'g> {
    graph: &'g Graph,
    marks: Vec<Marks>,
    stamp: u32,
    /// Runs looked at so far, by all variables.
    pub steps: u64,
}

impl<'g> Liveness<'g> {
    pub fn new(graph: &'g Graph) -> Self {
        Liveness { graph, marks: vec![Marks::default(); graph.runs.len()], stamp: 0, steps: 0 }
    }

    /// Of one variable, whose `events` are in order.
    pub fn of(&mut self, events: &[Event]) -> Live {
        let mut open = self.group(events);
        let with_events = open.clone();
        open.retain(|&run| exposed(self.events(events, run)));
        open.iter().for_each(|&run| self.marks[run as usize].live_in = self.stamp);
        let mut through = Vec::new();
        while let Some(run) = open.pop() {
            for &from in &self.graph.runs[run as usize].before {
                self.steps += 1;
                if std::mem::replace(&mut self.marks[from as usize].live_out, self.stamp) == self.stamp {
                    continue;
                }
                let here = self.events(events, from);
                let killed = here.iter().any(|e| e.kind == Kind::Write);
                if here.is_empty() {
                    through.push(from);
                }
                let marks = &mut self.marks[from as usize];
                if !killed && marks.live_in != self.stamp {
                    marks.live_in = self.stamp;
                    open.push(from);
                }
            }
        }
        let mut live = Live { segments: Vec::new(), from_entry: self.marks[0].live_in == self.stamp };
        for &run in &with_events {
            self.segments(self.events(events, run), run, &mut live.segments);
        }
        live.segments.extend(through.iter().map(|&run| {
            let run = &self.graph.runs[run as usize];
            (run.start, run.end)
        }));
        live
    }

    /// Reads that a path from the entry reaches without an unguarded write before; of a variable just given to `of`.
    pub fn unproven(&mut self, events: &[Event]) -> Vec<u32> {
        let mut reads = Vec::new();
        let mut open = vec![0];
        self.marks[0].seen = self.stamp;
        while let Some(run) = open.pop() {
            self.steps += 1;
            let here = self.events(events, run);
            let before = here.iter().take_while(|e| e.kind != Kind::Write);
            reads.extend(before.filter(|e| e.kind == Kind::Read).map(|e| e.at));
            if here.iter().any(|e| e.kind == Kind::Write) {
                continue;
            }
            for &next in &self.graph.runs[run as usize].after {
                if std::mem::replace(&mut self.marks[next as usize].seen, self.stamp) != self.stamp {
                    open.push(next);
                }
            }
        }
        reads.sort_unstable();
        reads
    }

    /// Notes which events lie in which run; the runs that have some.
    fn group(&mut self, events: &[Event]) -> Vec<u32> {
        self.stamp += 1;
        let run_of = |e: &Event| self.graph.run_of[e.at as usize];
        let mut runs = Vec::new();
        let mut from = 0;
        for same in events.chunk_by(|a, b| run_of(a) == run_of(b)) {
            let to = from + same.len() as u32;
            self.marks[run_of(&same[0]) as usize].events = (self.stamp, from, to);
            runs.push(run_of(&same[0]));
            from = to;
        }
        self.steps += runs.len() as u64;
        runs
    }

    fn events<'e>(&self, events: &'e [Event], run: u32) -> &'e [Event] {
        let (stamp, from, to) = self.marks[run as usize].events;
        if stamp == self.stamp { &events[from as usize..to as usize] } else { &[] }
    }

    /// The live segments of a run with events, from its end to its start.
    fn segments(&self, events: &[Event], run: u32, out: &mut Vec<(u32, u32)>) {
        let Run { start, end, .. } = self.graph.runs[run as usize];
        let mut until = (self.marks[run as usize].live_out == self.stamp).then_some(end);
        for event in events.iter().rev() {
            match event.kind {
                Kind::Read => until = until.or(Some(event.at)),
                Kind::Touch if until.is_some() => {}
                Kind::Touch | Kind::Write => out.push((event.at, until.take().unwrap_or(event.at))),
            }
        }
        out.extend(until.map(|until| (start, until)));
    }
}

/// Whether a run reads the variable before it writes it.
fn exposed(events: &[Event]) -> bool {
    events.iter().find(|e| e.kind != Kind::Touch).is_some_and(|e| e.kind == Kind::Read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn branch(guard: Pred, target: u32) -> Inst {
        Inst { guard, op: Op::Branch { target } }
    }

    fn plain() -> Inst {
        Inst { guard: Pred::Always, op: Op::Nop }
    }

    /// Positions at which a variable is live before the instruction, by the data-flow equations on single instructions.
    fn brute(code: &[Inst], events: &[Event]) -> Vec<bool> {
        let kinds = |at: usize| events.iter().filter(move |e| e.at as usize == at).map(|e| e.kind);
        let mut before = vec![false; code.len()];
        loop {
            let old = before.clone();
            for at in 0..code.len() {
                let (targets, next) = leaves(&code[at]);
                let mut after = targets.iter().any(|&t| before[t as usize]);
                after |= next && at + 1 < code.len() && before[at + 1];
                let kept = after && !kinds(at).any(|k| k == Kind::Write);
                before[at] = kept || kinds(at).any(|k| k == Kind::Read);
            }
            if before == old {
                return before;
            }
        }
    }

    fn after(code: &[Inst], before: &[bool], at: usize) -> bool {
        let (targets, next) = leaves(&code[at]);
        targets.iter().any(|&t| before[t as usize]) || next && before.get(at + 1) == Some(&true)
    }

    /// Reads that some walk from the entry reaches with the variable unwritten.
    fn unwritten(code: &[Inst], events: &[Event]) -> Vec<u32> {
        let mut seen = vec![false; code.len()];
        let mut open = vec![0usize];
        let mut reads = Vec::new();
        while let Some(at) = open.pop() {
            if at >= code.len() || std::mem::replace(&mut seen[at], true) {
                continue;
            }
            let here = || events.iter().filter(|e| e.at as usize == at);
            reads.extend(here().filter(|e| e.kind == Kind::Read).map(|e| e.at));
            if here().any(|e| e.kind == Kind::Write) {
                continue;
            }
            let (targets, next) = leaves(&code[at]);
            open.extend(targets.iter().map(|&t| t as usize));
            open.extend(next.then_some(at + 1));
        }
        reads.sort_unstable();
        reads
    }

    fn code(length: usize) -> impl Strategy<Value = Vec<Inst>> {
        let target = 0..length as u32;
        let inst = prop_oneof![
            6 => Just(plain()),
            2 => target.clone().prop_map(|t| branch(Pred::If(0), t)),
            1 => target.prop_map(|t| branch(Pred::Always, t)),
            1 => Just(Inst { guard: Pred::Always, op: Op::Exit }),
        ];
        proptest::collection::vec(inst, length - 1).prop_map(|mut code| {
            code.push(Inst { guard: Pred::Always, op: Op::Exit });
            code
        })
    }

    fn events(length: usize) -> impl Strategy<Value = Vec<Event>> {
        let kind = prop_oneof![Just(Kind::Read), Just(Kind::Touch), Just(Kind::Write)];
        let event = (0..length as u32, kind).prop_map(|(at, kind)| Event { at, kind });
        proptest::collection::btree_set(event, 0..8).prop_map(|set| set.into_iter().collect())
    }

    proptest! {
        #[test]
        fn agrees_with_the_equations(code in code(24), variables in proptest::collection::vec(events(24), 1..4)) {
            let graph = Graph::new(&code);
            let mut liveness = Liveness::new(&graph);
            for events in &variables {
                let live = liveness.of(events);
                let before = brute(&code, events);
                for at in 0..code.len() {
                    let written = events.iter().any(|e| e.at as usize == at && e.kind != Kind::Read);
                    let occupied = before[at] || written;
                    let here = live.segments.iter().filter(|(a, b)| (*a..=*b).contains(&(at as u32))).count();
                    prop_assert_eq!(here > 0, occupied, "at {} of {:?}: {:?}", at, events, live);
                    let passes = live.segments.iter().any(|&(a, b)| a <= at as u32 && (at as u32) < b);
                    let within = at + 1 < code.len() && graph.run_of[at] == graph.run_of[at + 1];
                    prop_assert_eq!(passes, within && after(&code, &before, at));
                }
                prop_assert_eq!(live.from_entry, before[0]);
                prop_assert_eq!(liveness.unproven(events), unwritten(&code, events));
            }
        }
    }
}
