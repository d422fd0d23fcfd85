//! A warp: its registers, and its lanes in groups that are at the same instruction.
//!
//! The group at the lowest instruction runs first and groups that meet become one, so code that the compiler laid out
//! in order reconverges. A lane may spin on what another lane of its warp has yet to do: every look at memory that
//! others change (atomic, volatile and stronger accesses) costs a group patience, and when that is used up the others
//! go ahead for a while.

use super::alu;
use super::async_copy::Copies;
use super::bulk::BulkGroups;
use super::cluster::Awaited;
use super::cta::Cta;
use super::grid::Grid;
use super::report::{Broken, Run, broken};
use super::shared::Bytes;
use super::tally::Tally;
use super::wgmma::{self, Products};
use crate::fault::{FaultKind, Thread};
use crate::isa::{Alu, Op, Pred, WgmmaSync};
use crate::registers::{Lanes, Mask, Registers, WARP, lanes};

/// Instructions that a group runs at a time while others of its warp wait.
const SLICE: u32 = 128;
/// After so many of them the others go ahead; a look at changing memory counts as many.
const PATIENCE: u32 = 1 << 20;
const LOOK: u32 = 1 << 14;

/// What a worker owns.
pub(super) struct Work {
    pub tally: Tally,
    /// By instruction: the allocation that its last access was in.
    pub recent: Vec<u32>,
    /// Something was stored since this was last asked.
    pub progress: bool,
    /// Accesses to memory that others may change meanwhile.
    pub looks: u32,
}

/// What an instruction may reach beside its warp.
pub(super) struct Cx<'b, 'g> {
    pub grid: &'g Grid<'g>,
    pub cta: &'b mut Cta,
    pub work: &'b mut Work,
}

/// Why a group does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    /// Waits for lanes of its own warp.
    Meeting,
    /// Waits at a barrier of the block.
    Barrier(u32),
}

/// Lanes at the same instruction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub pc: u32,
    pub mask: Mask,
    pub state: State,
}

/// Where the lanes of a group go after an instruction.
pub(super) enum Flow {
    Next,
    /// To the next instruction, and let others run.
    Yield,
    /// To the same instruction again, once others have run.
    Stay,
    /// These lanes jump, the others of the group go on.
    Jump(u32, Mask),
    /// These lanes are gone.
    Exit(Mask),
    /// Everyone is where the instruction put them: new groups replace the current one.
    Replaced,
}

/// How a run of a warp ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It can go on.
    Ready,
    /// At barriers of the block.
    Waiting,
    Exited,
}

/// See the module.
pub(super) struct Warp<'g> {
    pub index: u32,
    pub regs: Registers<'g>,
    /// Lanes that have not exited.
    pub live: Mask,
    pub groups: Vec<Group>,
    pub local: Bytes,
    pub copies: Copies,
    pub bulks: BulkGroups,
    pub awaited: Awaited,
    pub products: Products,
    /// Lanes that have written each tracked register.
    written: Vec<Mask>,
    /// With the check off: the next `.sync` makes do with the lanes that came.
    pub lenient: bool,
    /// Left until other groups go ahead.
    patience: u32,
}

impl<'g> Warp<'g> {
    /// Warp `index` of a block, at the program's start.
    pub fn new(grid: &'g Grid<'g>, index: u32, block: u64) -> Warp<'g> {
        let program = grid.program;
        let live = grid.lanes_of(index);
        let mut regs = Registers::new(program.rows as usize, program.predicates as usize, &program.constants);
        grid.fill_specials(&mut regs, index, block);
        Warp {
            index,
            regs,
            live,
            groups: vec![Group { pc: 0, mask: live, state: State::Ready }],
            local: Bytes::new(grid.local * WARP as u64),
            copies: Copies::default(),
            bulks: BulkGroups::default(),
            awaited: [0; WARP],
            products: Products::default(),
            written: vec![0; program.tracked.count as usize],
            lenient: false,
            patience: PATIENCE,
        }
    }

    /// Runs until the budget of instructions is used up, or nothing of the warp can go on.
    pub fn run(&mut self, cx: &mut Cx, budget: u32) -> Run<Ended> {
        let mut left = budget;
        loop {
            let patient = self.patience == 0;
            let Some(chosen) = self.choose(patient) else { return self.at_rest(cx) };
            let group = self.groups.remove(chosen);
            let slice = if self.groups.is_empty() { left } else { left.min(SLICE) };
            let before = cx.work.looks;
            let (used, yields) = self.run_group(cx, group, slice, patient)?;
            left -= used.min(left);
            let looks = cx.work.looks.wrapping_sub(before) + if yields { PATIENCE / LOOK } else { 0 };
            self.patience = match self.groups.len() {
                0 | 1 => PATIENCE,
                _ if patient => PATIENCE,
                _ => self.patience.saturating_sub(used.saturating_add(looks.saturating_mul(LOOK))),
            };
            if left == 0 || yields && self.groups.len() <= 1 {
                return if self.groups.iter().any(|g| g.state == State::Ready) {
                    Ok(Ended::Ready)
                } else {
                    self.at_rest(cx)
                };
            }
        }
    }

    /// The ready group at the lowest instruction, or the one that ran longest ago.
    fn choose(&self, longest_ago: bool) -> Option<usize> {
        let mut ready = self.groups.iter().enumerate().filter(|(_, g)| g.state == State::Ready);
        if longest_ago { ready.next() } else { ready.min_by_key(|(_, g)| g.pc) }.map(|(i, _)| i)
    }

    /// Nobody can run: all exited, all at barriers, or lanes wait for others that cannot come.
    fn at_rest(&mut self, cx: &mut Cx) -> Run<Ended> {
        if self.groups.is_empty() {
            return Ok(Ended::Exited);
        }
        if self.groups.iter().any(|g| matches!(g.state, State::Barrier(_))) {
            return Ok(Ended::Waiting);
        }
        if cx.grid.rules.barriers {
            return Err(self.never_met(cx));
        }
        self.lenient = true;
        self.groups.iter_mut().for_each(|g| g.state = State::Ready);
        Ok(Ended::Ready)
    }

    /// Runs one group; the number of instructions, and whether it yielded.
    fn run_group(&mut self, cx: &mut Cx, mut group: Group, slice: u32, patient: bool) -> Run<(u32, bool)> {
        let program = cx.grid.program;
        // The nearest instruction at which another group is: where this one stops to let it come along.
        let mut others = self.groups.iter().map(|g| g.pc).min().unwrap_or(u32::MAX);
        for used in 0..slice {
            if group.pc >= others && !self.groups.is_empty() {
                self.merge(&mut group);
                others = self.groups.iter().map(|g| g.pc).min().unwrap_or(u32::MAX);
                let overtaken = self.groups.iter().any(|g| g.state == State::Ready && g.pc < group.pc);
                if overtaken && !patient {
                    self.groups.push(group);
                    return Ok((used, false));
                }
            }
            let Some(inst) = program.code.get(group.pc as usize) else {
                return Err(self.blame(cx, group.pc, self.ran_off(group)));
            };
            let mask = match inst.guard {
                Pred::Always => group.mask,
                guard => group.mask & self.regs.pred(guard),
            };
            let count = &mut cx.work.tally.by_instruction[group.pc as usize];
            count.runs += 1;
            count.lanes += u64::from(group.mask.count_ones());
            cx.cta.clock += 1;
            if cx.grid.has_tracked && cx.grid.tracked[group.pc as usize] {
                self.track(cx, group, mask, &inst.op).map_err(|b| self.blame(cx, group.pc, b))?;
            }
            if !self.products.idle() && mask != 0 {
                self.touch(cx, group.pc, &inst.op, mask).map_err(|b| self.blame(cx, group.pc, b))?;
            }
            let flow = match &inst.op {
                Op::Alu(op) => {
                    alu::run(op, &mut self.regs, mask);
                    Flow::Next
                }
                _ if mask == 0 => Flow::Next,
                op => self.execute(cx, group, mask, op).map_err(|b| self.blame(cx, group.pc, b))?,
            };
            match flow {
                Flow::Next => group.pc += 1,
                Flow::Jump(target, taken) if taken == group.mask => group.pc = target,
                Flow::Yield => {
                    group.pc += 1;
                    self.groups.push(group);
                    return Ok((used + 1, true));
                }
                Flow::Stay => {
                    let count = &mut cx.work.tally.by_instruction[group.pc as usize];
                    count.runs -= 1;
                    count.lanes -= u64::from(group.mask.count_ones());
                    cx.cta.clock += wgmma::LOOK;
                    self.groups.push(group);
                    return Ok((used + 1, true));
                }
                Flow::Jump(target, taken) => {
                    self.groups.push(Group { pc: target, mask: taken, state: State::Ready });
                    group = Group { pc: group.pc + 1, mask: group.mask & !taken, ..group };
                    others = self.groups.iter().map(|g| g.pc).min().unwrap_or(u32::MAX);
                }
                Flow::Exit(gone) => {
                    self.exit(cx, gone);
                    group = Group { pc: group.pc + 1, mask: group.mask & !gone, ..group };
                    if group.mask == 0 {
                        return Ok((used + 1, false));
                    }
                    self.groups.push(group);
                    return Ok((used + 1, false));
                }
                Flow::Replaced => return Ok((used + 1, false)),
            }
        }
        self.groups.push(group);
        Ok((slice, false))
    }

    /// Takes in the groups that are at the same instruction.
    fn merge(&mut self, group: &mut Group) {
        self.groups.retain(|g| {
            let meets = g.pc == group.pc && !matches!(g.state, State::Barrier(_));
            if meets {
                group.mask |= g.mask;
            }
            !meets
        });
    }

    /// Ends lanes. Whoever waited for them looks again.
    fn exit(&mut self, cx: &mut Cx, gone: Mask) {
        self.live &= !gone;
        self.land_all(cx, gone);
        self.land_bulk(gone);
        cx.cta.exited(self.index as usize, self.live);
        self.groups.iter_mut().filter(|g| g.state == State::Meeting).for_each(|g| g.state = State::Ready);
    }

    /// Registers that the front end could not prove written: checks uses, and notes writes (those of a shuffle are
    /// noted when it has its partners).
    #[cold]
    fn track(&mut self, cx: &Cx, Group { pc, mask: all, .. }: Group, mask: Mask, op: &Op) -> Run {
        let tracked = &cx.grid.program.tracked;
        if cx.grid.rules.unwritten && !self.replaces(op) {
            let guards = at(&tracked.guards, pc).iter().map(|guard| (guard, all));
            for ((register, name), mask) in guards.chain(at(&tracked.reads, pc).iter().map(|read| (read, mask))) {
                let missing = mask & !self.written[*register as usize];
                if missing != 0 {
                    let why = format!("{name} is used, but nothing was written there on this path");
                    return broken(FaultKind::UninitialisedRegister, missing.trailing_zeros(), why);
                }
            }
        }
        if !matches!(op, Op::Shfl(_)) {
            let good = self.good(op, at(&tracked.sources, pc));
            self.note(cx, pc, mask, good);
        }
        Ok(())
    }

    /// Lanes in which the tracked sources of an instruction are written.
    fn good(&self, op: &Op, sources: &[Option<u32>]) -> Mask {
        let of = |source: &Option<u32>| source.map_or(Mask::MAX, |id| self.written[id as usize]);
        match (op, sources) {
            (Op::Alu(Alu::SelP { p, .. }), [a, b, by]) => {
                let first = self.regs.pred(*p);
                of(by) & (first & of(a) | !first & of(b))
            }
            _ => sources.iter().fold(Mask::MAX, |all, source| all & of(source)),
        }
    }

    /// The tracked registers that an instruction writes are written now where its sources are `good`.
    fn note(&mut self, cx: &Cx, pc: u32, mask: Mask, good: Mask) {
        for register in at(&cx.grid.program.tracked.writes, pc) {
            let written = &mut self.written[*register as usize];
            *written = *written & !mask | good & mask;
        }
    }

    /// As `note`, for a shuffle whose lanes take values from the lanes `from`.
    #[cold]
    pub(super) fn note_shuffle(&mut self, cx: &Cx, pc: u32, mask: Mask, from: &Lanes<u32>) {
        let Some((first, rest)) = at(&cx.grid.program.tracked.sources, pc).split_first() else {
            return self.note(cx, pc, mask, Mask::MAX);
        };
        let value = first.map_or(Mask::MAX, |id| self.written[id as usize]);
        let moved = (0..WARP).fold(0, |all, lane| all | (value >> from[lane] & 1) << lane);
        let how = rest.iter().flatten().fold(Mask::MAX, |all, id| all & self.written[*id as usize]);
        self.note(cx, pc, mask, moved & how);
    }

    /// A product that does not add to D reads nothing of it; of its other sources nothing is said then either.
    fn replaces(&self, op: &Op) -> bool {
        matches!(op, Op::Wgmma(wgmma) if self.regs.pred(wgmma.scale_d) == 0)
    }

    fn ran_off(&self, group: Group) -> Box<Broken> {
        let why = format!("instruction {} is past the end of the program", group.pc);
        let Err(b) = broken::<()>(FaultKind::IllegalInstruction, group.mask.trailing_zeros(), why) else {
            unreachable!()
        };
        b
    }

    /// Adds instruction and thread to a broken rule.
    #[cold]
    pub fn blame(&self, cx: &Cx, pc: u32, mut broken: Box<Broken>) -> Box<Broken> {
        broken.pc.get_or_insert(pc);
        if let Some(lane) = broken.lane {
            let thread = cx.grid.thread_at(self.index * WARP as u32 + lane);
            broken.thread = Some(Thread { block: cx.cta.place, thread });
        }
        broken
    }

    fn execute(&mut self, cx: &mut Cx, group: Group, mask: Mask, op: &Op) -> Run<Flow> {
        let pc = group.pc;
        match op {
            Op::Alu(op) => alu::run(op, &mut self.regs, mask),
            Op::Load(op) => self.load(cx, pc, op, mask)?,
            Op::Store(op) => self.store(cx, pc, op, mask)?,
            Op::Atom(op) => self.atom(cx, pc, op, mask)?,
            Op::IsSpace { space, p, a } => self.is_space(cx, *space, *p, *a, mask),
            Op::CpAsync(op) => self.copy_async(cx, pc, op, mask)?,
            Op::CpAsyncCommit => self.copies.commit(mask),
            Op::CpAsyncWait { pending } => self.wait_copies(cx, *pending, mask),
            Op::MBarrier(op) => return self.mbarrier(cx, op, mask),
            Op::Bulk(op) => self.bulk(cx, pc, op, mask)?,
            Op::ClusterArrive { relaxed } => self.cluster_arrive(cx, *relaxed, mask)?,
            Op::ClusterWait => return Ok(self.cluster_wait(cx, mask)),
            Op::WgmmaSync(WgmmaSync::Wait { pending, .. }) if self.ahead(cx, *pending)? => return Ok(Flow::Stay),
            Op::Barrier(_)
            | Op::WarpSync { .. }
            | Op::Shfl(_)
            | Op::Vote { .. }
            | Op::Match { .. }
            | Op::Redux { .. }
            | Op::Elect { .. }
            | Op::Mma(_)
            | Op::Wgmma(_)
            | Op::WgmmaSync(_)
            | Op::LdMatrix(_)
            | Op::StMatrix(_)
            | Op::MovMatrix { .. } => return self.together(cx, group, mask, op),
            Op::ActiveMask { d } => self.regs.set_b32(*d, mask, &[mask; WARP]),
            Op::Clock { ty, d } => {
                let now = cx.cta.clock;
                match ty.bits() {
                    64 => self.regs.set_b64(*d, mask, &[now; WARP]),
                    _ => self.regs.set_b32(*d, mask, &[now as u32; WARP]),
                }
            }
            Op::Branch { target } => return Ok(Flow::Jump(*target, mask)),
            Op::BranchIndexed { index, targets } => return self.branch_indexed(group, mask, *index, targets),
            Op::Call { target, link } => {
                self.regs.set_b32(*link, mask, &[pc + 1; WARP]);
                return Ok(Flow::Jump(*target, mask));
            }
            Op::Return { link } => return Ok(self.back(group, mask, *link)),
            Op::Print { d, format, arguments } => self.print(cx, *d, *format, *arguments, mask)?,
            Op::AssertFail { message, file, line, function } => {
                return self.assert_failed(cx, [*message, *file, *function], *line, mask);
            }
            Op::Exit => return Ok(Flow::Exit(mask)),
            Op::Trap => return broken(FaultKind::Trap, mask.trailing_zeros(), "the kernel executed trap".into()),
            Op::Fence { .. } => cx.cta.races.fence(self.index as usize),
            Op::ProxyFence => cx.cta.races.show(self.index as usize),
            Op::Yield => return Ok(Flow::Yield),
            Op::Nop => {}
        }
        Ok(Flow::Next)
    }

    /// Scatters the lanes of the current group: those of `moved` by their own next instruction, the rest to the next one.
    pub(super) fn scatter(&mut self, group: Group, moved: Mask, next: impl Fn(usize) -> u32) -> Flow {
        for lane in lanes(group.mask) {
            let pc = if moved >> lane & 1 == 1 { next(lane) } else { group.pc + 1 };
            match self.groups.iter_mut().find(|g| g.pc == pc && g.state == State::Ready) {
                Some(g) => g.mask |= 1 << lane,
                None => self.groups.push(Group { pc, mask: 1 << lane, state: State::Ready }),
            }
        }
        Flow::Replaced
    }
}

/// What a list by instruction says of one.
fn at<T>(list: &[(u32, Vec<T>)], pc: u32) -> &[T] {
    list.binary_search_by_key(&pc, |(at, _)| *at).map_or(&[], |i| &list[i].1)
}
