//! What steps a warp: chooses a group of its lanes, runs it instruction by instruction, and knows every class of them.
//!
//! The group at the lowest instruction runs first and groups that meet become one, so code that the compiler laid out
//! in order reconverges. A lane may spin on what another lane of its warp has yet to do: every look at memory that
//! others change (atomic, volatile and stronger accesses) costs a group patience, and when that is used up the others
//! go ahead for a while.

use super::alu;
use super::report::{Broken, Run, broken};
use super::state::warp::{Cx, Flow, Group, PATIENCE, State, Warp};
use crate::fault::FaultKind;
use crate::isa::{Op, Pred, WgmmaSync};
use crate::registers::{Mask, WARP};

/// Instructions that a group runs at a time while others of its warp wait.
const SLICE: u32 = 128;
/// What a look at changing memory costs of a group's patience.
const LOOK: u32 = 1 << 14;

/// How a run of a warp ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It can go on.
    Ready,
    /// At barriers of the block.
    Waiting,
    Exited,
}

impl<'g> Warp<'g> {
    /// Runs until the budget of instructions is used up, or nothing of the warp can go on.
    pub(super) fn run(&mut self, cx: &mut Cx, budget: u32) -> Run<Ended> {
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
                    cx.cta.look();
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

    fn ran_off(&self, group: Group) -> Box<Broken> {
        let why = format!("instruction {} is past the end of the program", group.pc);
        let Err(b) = broken::<()>(FaultKind::IllegalInstruction, group.mask.trailing_zeros(), why) else {
            unreachable!()
        };
        b
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
}
