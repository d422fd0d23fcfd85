//! What a worker counts: by instruction while it runs, by class and shape when the launch is over.

use super::matrix::depth;
use crate::counters::Counters;
use crate::isa::{MatTy, Op};
use crate::program::Program;

/// The counts of one instruction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    pub runs: u64,
    pub lanes: u64,
    pub wavefronts: u64,
    pub ideal: u64,
}

/// The counts of one worker.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    pub by_instruction: Vec<Count>,
    pub total: Counters,
}

impl Tally {
    pub fn new(program: &Program) -> Tally {
        Tally { by_instruction: vec![Count::default(); program.code.len()], total: Counters::default() }
    }

    /// Adds this worker's counts to the launch's.
    pub fn merge_into(self, sum: &mut Counters, program: &Program) {
        let t = self.total;
        for (to, from) in [
            (&mut sum.global_load_requests, t.global_load_requests),
            (&mut sum.global_store_requests, t.global_store_requests),
            (&mut sum.global_load_sectors, t.global_load_sectors),
            (&mut sum.global_store_sectors, t.global_store_sectors),
            (&mut sum.barriers, t.barriers),
            (&mut sum.global_atomics, t.global_atomics),
            (&mut sum.shared_atomics, t.shared_atomics),
            (&mut sum.local_bytes, t.local_bytes),
            (&mut sum.blocks, t.blocks),
        ] {
            *to += from;
        }
        for (pc, count) in self.by_instruction.into_iter().enumerate().filter(|(_, c)| c.runs > 0) {
            sum.warp_instructions += count.runs;
            sum.active_lanes += count.lanes;
            let op = &program.code[pc].op;
            *sum.by_class.entry(op.class()).or_default() += count.runs;
            if let Some(shape) = shape(op) {
                *sum.mma.entry(shape).or_default() += count.runs;
            }
            sum.shared_wavefronts += count.wavefronts;
            sum.shared_wavefronts_ideal += count.ideal;
            if count.wavefronts > count.ideal {
                let line = program.places.get(pc).map_or(0, |p| p.ptx);
                let at = sum.shared_conflicts.entry(line).or_default();
                *at = (at.0 + count.wavefronts, at.1 + count.ideal);
            }
        }
    }
}

fn shape(op: &Op) -> Option<String> {
    let (m, n, k, a, b, d) = match op {
        Op::Mma(mma) => (mma.m, mma.n, mma.k, mma.a_ty, mma.b_ty, mma.d_ty),
        Op::Wgmma(op) => (64, op.n, depth(op.a_ty) as u32, op.a_ty, op.b_ty, op.d_ty),
        _ => return None,
    };
    Some(format!("m{m}n{n}k{k}.{}.{}.{}", name(a), name(b), name(d)))
}

fn name(ty: MatTy) -> String {
    format!("{ty:?}").to_lowercase()
}
