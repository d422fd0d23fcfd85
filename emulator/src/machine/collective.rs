//! Instructions that lanes of a warp execute together: they wait for each other, then exchange values.
//!
//! The members of a `.sync` that have not exited must come to the same instruction with the same members
//! (`bar.warp.sync` and `barrier` may be different instructions). Exited members are not waited for; a value taken from
//! one is undefined, and reported.

use super::access::Want;
use super::global::How;
use super::matrix;
use super::raw::{gather, scatter};
use super::report::{Broken, Run, broken, instruction};
use super::state::warp::{Cx, Flow, Group, State, Warp};
use crate::fault::FaultKind;
use crate::isa::{BarrierKind, MatrixAccess, Op, Order, ReduxKind, Reg, Shfl, ShflMode, Ty, VoteDest, VoteKind};
use crate::registers::{Lanes, Mask, WARP, lanes};

impl<'g> Warp<'g> {
    /// The members that an instruction names, by lane; everyone alive if it names none.
    fn members(&self, op: &Op) -> Lanes<Mask> {
        match op {
            Op::WarpSync { members }
            | Op::Shfl(Shfl { members, .. })
            | Op::Vote { members, .. }
            | Op::Match { members, .. }
            | Op::Redux { members, .. }
            | Op::Elect { members, .. } => *self.regs.b32(*members),
            _ => [self.live; WARP],
        }
    }

    /// Lanes that wait at other instructions for the same meeting.
    fn elsewhere(&self, cx: &Cx, op: &Op, members: Mask) -> Mask {
        let plain = |op: &Op| matches!(op, Op::Barrier(b) if !b.aligned && b.kind == BarrierKind::Sync);
        let alike = |other: &Op, lane: usize| match (op, other) {
            (Op::WarpSync { .. }, Op::WarpSync { members: m }) => self.regs.b32(*m)[lane] == members,
            (op, other) => plain(op) && plain(other),
        };
        let waiting = self.groups.iter().filter(|g| g.state == State::Meeting);
        waiting.fold(0, |all, g| {
            let other = &cx.grid.program.code[g.pc as usize].op;
            all | lanes(g.mask).filter(|&i| alike(other, i)).fold(0, |m, i| m | 1 << i)
        })
    }

    /// Runs the instruction for the lanes whose partners are all here, and lets the others wait.
    pub(super) fn together(&mut self, cx: &mut Cx, group: Group, mask: Mask, op: &Op) -> Run<Flow> {
        let members = self.members(op);
        let (mut ready, mut at_barrier, mut left) = (0, None, mask);
        while left != 0 {
            let wanted = members[left.trailing_zeros() as usize];
            let alike = lanes(left).filter(|&i| members[i] == wanted).fold(0, |m, i| m | 1 << i);
            left &= !alike;
            let here = alike | self.elsewhere(cx, op, wanted);
            if alike & !wanted != 0 && cx.grid.rules.barriers {
                let why = format!("the lane is not among the members {wanted:#010x} that it names");
                return broken(FaultKind::MissingLanes, (alike & !wanted).trailing_zeros(), why);
            }
            if wanted & self.live & !here != 0 && !self.lenient {
                continue;
            }
            self.lenient = false;
            if let Op::Barrier(barrier) = op {
                at_barrier = self.arrive(cx, barrier, alike)?;
            } else {
                self.perform(cx, group.pc, op, alike)?;
            }
            self.let_go(here & !alike, at_barrier);
            ready |= alike;
        }
        if ready == group.mask && at_barrier.is_none() {
            return Ok(Flow::Next);
        }
        if ready == 0 {
            // It runs, and counts, when the others are here.
            let count = &mut cx.work.tally.by_instruction[group.pc as usize];
            count.runs -= 1;
            count.lanes -= u64::from(group.mask.count_ones());
        }
        let past = group.mask & !mask | if at_barrier.is_none() { ready } else { 0 };
        let waits = at_barrier.map_or(State::Ready, State::Barrier);
        for (pc, mask, state) in [
            (group.pc + 1, past, State::Ready),
            (group.pc, ready & !past, waits),
            (group.pc, mask & !ready, State::Meeting),
        ] {
            if mask != 0 {
                self.groups.push(Group { pc, mask, state });
            }
        }
        Ok(Flow::Replaced)
    }

    /// Lanes that waited elsewhere go on, or wait at the barrier with the others.
    fn let_go(&mut self, who: Mask, barrier: Option<u32>) {
        let mut freed = Vec::new();
        for g in self.groups.iter_mut().filter(|g| g.state == State::Meeting && g.mask & who != 0) {
            let pc = if barrier.is_some() { g.pc } else { g.pc + 1 };
            freed.push(Group { pc, mask: g.mask & who, state: barrier.map_or(State::Ready, State::Barrier) });
            g.mask &= !who;
        }
        self.groups.retain(|g| g.mask != 0);
        self.groups.extend(freed);
    }

    /// The report about lanes that wait for others that will not come.
    pub(super) fn never_met(&self, cx: &Cx) -> Box<Broken> {
        let group = self.groups[0];
        let program = cx.grid.program;
        let op = &program.code[group.pc as usize].op;
        let lane = group.mask.trailing_zeros();
        let missing = self.members(op)[lane as usize] & self.live & !group.mask;
        let elsewhere = self.groups.iter().find(|g| g.mask & missing != 0);
        let place = elsewhere
            .map_or(String::new(), |g| format!("; lanes {:#010x} wait at {}", g.mask, instruction(program, g.pc)));
        let (kind, what) = match op {
            Op::Barrier(_) => (FaultKind::DivergentBarrier, "at a barrier that every lane of the warp must execute"),
            _ => (FaultKind::MissingLanes, "for all members"),
        };
        let why = format!(
            "lanes {:#010x} of warp {} wait {what}, but lanes {missing:#010x} never come{place}",
            group.mask, self.index
        );
        let Err(b) = broken::<()>(kind, lane, why) else { unreachable!("always an error") };
        self.blame(cx, group.pc, b)
    }

    /// The instruction itself, by the lanes of `who`.
    fn perform(&mut self, cx: &mut Cx, pc: u32, op: &Op, who: Mask) -> Run {
        match op {
            Op::WarpSync { .. } => Ok(()),
            Op::Shfl(op) => self.shuffle(cx, pc, op, who),
            Op::Vote { kind, d, a, .. } => {
                self.vote(*kind, *d, self.regs.pred(*a) & who, who);
                Ok(())
            }
            Op::Match { all, ty, d, p, a, .. } => {
                self.match_values(*all, *ty, *d, *p, *a, who);
                Ok(())
            }
            Op::Redux { kind, ty, d, a, .. } => {
                let a = self.regs.b32(*a);
                let value = lanes(who).map(|i| a[i]).reduce(|x, y| reduce(*kind, ty.signed(), x, y)).unwrap_or(0);
                self.regs.set_b32(*d, who, &[value; WARP]);
                Ok(())
            }
            Op::Elect { d, p, .. } => {
                let leader = who.trailing_zeros();
                if let Some(d) = d {
                    self.regs.set_b32(*d, who, &[leader; WARP]);
                }
                self.regs.set_pred(*p, who, 1 << leader);
                Ok(())
            }
            _ if who != Mask::MAX && cx.grid.rules.barriers => {
                let why = format!("matrix instructions need all 32 lanes; here are {who:#010x}");
                broken(FaultKind::MissingLanes, who.trailing_zeros(), why)
            }
            Op::Mma(mma) => {
                matrix::mma(mma, &mut self.regs);
                Ok(())
            }
            Op::Wgmma(wgmma) => self.wgmma(cx, pc, wgmma),
            Op::WgmmaSync(op) => {
                self.wgmma_sync(cx, op);
                Ok(())
            }
            Op::MovMatrix { d, a } => {
                let moved = matrix::movmatrix(self.regs.b32(*a));
                self.regs.set_b32(*d, who, &moved);
                Ok(())
            }
            Op::LdMatrix(access) => self.matrix_access(cx, pc, access, How::Read),
            Op::StMatrix(access) => self.matrix_access(cx, pc, access, How::Write),
            _ => unreachable!("only instructions of a whole warp come here"),
        }
    }

    fn shuffle(&mut self, cx: &Cx, pc: u32, op: &Shfl, who: Mask) -> Run {
        let (a, b, c) = (self.regs.b32(op.a), self.regs.b32(op.b), self.regs.b32(op.c));
        let (mut out, mut from, mut in_range) = ([0; WARP], [0; WARP], 0);
        for i in lanes(who) {
            let (source, inside) = source_lane(op.mode, i as u32, b[i], c[i]);
            if who >> source & 1 == 0 && cx.grid.rules.barriers {
                let why = format!("lane {i} takes its value from lane {source}, which does not take part");
                return broken(FaultKind::MissingLanes, i as u32, why);
            }
            (out[i], from[i]) = (a[source as usize], source);
            in_range |= Mask::from(inside) << i;
        }
        self.regs.set_b32(op.d, who, &out);
        if let Some(p) = op.p {
            self.regs.set_pred(p, who, in_range);
        }
        if cx.grid.has_tracked && cx.grid.tracked[pc as usize] {
            self.note_shuffle(cx, pc, who, &from);
        }
        Ok(())
    }

    fn vote(&mut self, kind: VoteKind, d: VoteDest, holds: Mask, who: Mask) {
        let verdict = match kind {
            VoteKind::All => holds == who,
            VoteKind::Any | VoteKind::Ballot => holds != 0,
            VoteKind::Uni => holds == who || holds == 0,
        };
        match d {
            VoteDest::Pred(p) => self.regs.set_pred(p, who, if verdict { Mask::MAX } else { 0 }),
            VoteDest::Ballot(d) => self.regs.set_b32(d, who, &[holds; WARP]),
        }
    }

    fn match_values(&mut self, all: bool, ty: Ty, d: Reg, p: Option<u16>, a: Reg, who: Mask) {
        let value = |i: usize| if ty.bits() == 64 { self.regs.b64(a)[i] } else { u64::from(self.regs.b32(a)[i]) };
        let mut out: Lanes<u32> = [0; WARP];
        for i in lanes(who) {
            out[i] = lanes(who).filter(|&j| value(j) == value(i)).fold(0, |m, j| m | 1 << j);
        }
        let agreed = out[who.trailing_zeros() as usize] == who;
        if all {
            out = [if agreed { who } else { 0 }; WARP];
        }
        self.regs.set_b32(d, who, &out);
        if let Some(p) = p {
            self.regs.set_pred(p, who, if agreed { Mask::MAX } else { 0 });
        }
    }

    /// `ldmatrix`, `stmatrix`: lanes 8i to 8i+7 have the addresses of matrix i's rows of 16 bytes.
    fn matrix_access(&mut self, cx: &mut Cx, pc: u32, access: &MatrixAccess, how: How) -> Run {
        let count = access.registers.len();
        let mask = Mask::MAX >> (WARP - 8 * count);
        let want = Want { pc, space: access.space, bytes: 16, how, order: Order::Weak };
        let target = self.resolve(cx, want, self.addresses(&access.at), mask)?;
        cx.work.progress |= how.writes();
        for (i, &register) in access.registers.iter().enumerate() {
            let row = |r: usize| (target.mask >> (8 * i + r) & 1 == 1).then_some(target.at[8 * i + r]);
            if how.writes() {
                let tile = matrix::stmatrix(self.regs.b32(register), access.transposed);
                for (r, bytes) in tile.iter().enumerate() {
                    if let Some(at) = row(r) {
                        scatter(at, 16, u128::from_le_bytes(*bytes));
                    }
                }
            } else {
                let tile = std::array::from_fn(|r| row(r).map_or(0, |at| gather(at, 16)).to_le_bytes());
                self.regs.set_b32(register, Mask::MAX, &matrix::ldmatrix(&tile, access.transposed));
            }
        }
        Ok(())
    }
}

/// The lane that `lane` takes its value from, and whether it was in range: the ISA's description of `shfl`.
fn source_lane(mode: ShflMode, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (distance, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let first = lane & segment;
    let limit = first | clamp & !segment;
    let (source, inside) = match mode {
        ShflMode::Up => (lane.wrapping_sub(distance), lane as i32 - distance as i32 >= limit as i32),
        ShflMode::Down => (lane + distance, lane + distance <= limit),
        ShflMode::Bfly => (lane ^ distance, (lane ^ distance) <= limit),
        ShflMode::Idx => (first | distance & !segment, (first | distance & !segment) <= limit),
    };
    if inside { (source, true) } else { (lane, false) }
}

fn reduce(kind: ReduxKind, signed: bool, x: u32, y: u32) -> u32 {
    match kind {
        ReduxKind::Add => x.wrapping_add(y),
        ReduxKind::Min if signed => (x as i32).min(y as i32) as u32,
        ReduxKind::Max if signed => (x as i32).max(y as i32) as u32,
        ReduxKind::Min => x.min(y),
        ReduxKind::Max => x.max(y),
        ReduxKind::And => x & y,
        ReduxKind::Or => x | y,
        ReduxKind::Xor => x ^ y,
    }
}
