//! One decode step of three sequences, alone and in batches of several sizes.

use super::{Setup, executor, model};
use osprey::dtype::DType;
use osprey::engine::BLOCK_SIZE;
use osprey::exec::{Executor, Needs, PlanId};
use osprey::model::qwen2_vl::Qwen2Vl;
use osprey::model::text::{Surroundings, Tail, TextIo};
use osprey::step::{HostStep, StepLayout, StepShape};
use osprey::tensor::{Region, Tensor};
use std::sync::Arc;

/// Tokens that are in the cache: within a block, across tiles, across the borders at which partial results are folded.
const LENGTHS: [usize; 3] = [5, 70, 300];
/// Blocks of a sequence.
const BLOCKS: usize = 12;
const BATCHES: [usize; 4] = [1, 3, 4, 8];

struct Plans {
    exec: Box<dyn Executor>,
    loaded: Vec<(StepShape, PlanId, TextIo)>,
}

fn around(model: &Qwen2Vl) -> Surroundings {
    let text = &model.config.text;
    let counters = Tensor::at(Region::State, 0, DType::I32, &[1024]);
    Surroundings {
        kv: model.kv_layout(LENGTHS.len() * BLOCKS, BLOCK_SIZE),
        images: Tensor::at(Region::Embeds, 0, model.precision.activations, &[1, text.hidden_size]),
        bests: Tensor::at(Region::State, counters.bytes(), DType::I64, &[8, 1]),
        seen: Tensor::at(Region::State, counters.bytes() + 64, DType::U8, &[1, text.vocab_size]),
        counters,
    }
}

impl Plans {
    fn new(s: Setup) -> Self {
        let (model, mut needs) = (model(s), Needs::default());
        let around = around(&model);
        let prompts = LENGTHS.map(|rows| StepShape { rows, seqs: 1, blocks: BLOCKS, samples: 1 });
        let batches = BATCHES.map(|n| StepShape { rows: n, seqs: n, blocks: BLOCKS, samples: n });
        let mut ios = Vec::new();
        for shape in prompts.into_iter().chain(batches) {
            let recorded = model.decoder.record(&model.weights, model.precision, shape, Tail::Logits, &around);
            let (plan, io) = recorded.unwrap();
            needs.cover(plan);
            needs.regions.at_least(Region::Step, StepLayout::new(shape).bytes());
            needs.regions.at_least(Region::Out, 64 + io.logits.bytes());
            ios.push((shape, io));
        }
        needs.regions.set(Region::Kv, around.kv.bytes());
        needs.regions.set(Region::Embeds, around.images.bytes());
        needs.regions.set(Region::State, around.counters.bytes() + 64 + around.seen.bytes());
        let mut exec = executor(s, &needs, &mut model.weights.clone()).unwrap();
        let plans: Vec<Arc<_>> = needs.plans.drain(..).collect();
        let loaded = plans.into_iter().zip(ios).map(|(plan, (shape, io))| (shape, exec.load(plan).unwrap(), io));
        let loaded = loaded.collect();
        Plans { exec, loaded }
    }

    /// Runs a step; the logits of its sampled rows.
    fn run(&mut self, step: &HostStep) -> Vec<Vec<u32>> {
        let (_, id, io) = self.loaded.iter().find(|(shape, ..)| *shape == step.layout.shape).unwrap();
        self.exec.write(Region::Step, 0, step.bytes()).unwrap();
        let ops = self.exec.plan(*id).ops().len();
        self.exec.run(*id, 0..ops).unwrap();
        let (region, offset) = self.exec.plan(*id).locate(&io.logits);
        let mut bytes = vec![0; io.logits.bytes()];
        self.exec.read(region, offset, &mut bytes).unwrap();
        bytemuck::pod_collect_to_vec::<u8, u32>(&bytes).chunks(io.logits.cols()).map(<[u32]>::to_vec).collect()
    }
}

/// Puts token `at` of a sequence into a row.
fn fill(step: &mut HostStep, row: usize, seq_row: usize, sequence: usize, at: usize) {
    let l = step.layout;
    let rows = l.shape.rows;
    step.i32s_mut(&l.ids)[row] = ((at * 37 + sequence * 101 + 5) % 1000) as i32;
    for axis in 0..3 {
        step.i32s_mut(&l.positions)[axis * rows + row] = at as i32;
    }
    step.i32s_mut(&l.slots)[row] = (sequence * BLOCKS * BLOCK_SIZE + at) as i32;
    step.i32s_mut(&l.visible)[row] = at as i32 + 1;
    step.i32s_mut(&l.seq_of_row)[row] = seq_row as i32;
    let table = &mut step.i32s_mut(&l.block_tables)[seq_row * BLOCKS..][..BLOCKS];
    table.iter_mut().zip(sequence * BLOCKS..).for_each(|(entry, block)| *entry = block as i32);
}

/// The same bits for a sequence, whoever else is in its batch, wherever it stands, and with padding.
pub fn check_batches(s: Setup) {
    let mut plans = Plans::new(s);
    for (sequence, rows) in LENGTHS.into_iter().enumerate() {
        let mut step = HostStep::new(StepShape { rows, seqs: 1, blocks: BLOCKS, samples: 1 });
        (0..rows).for_each(|at| fill(&mut step, at, 0, sequence, at));
        plans.run(&step);
    }
    let mut decode = |batch: usize, members: &[(usize, usize)]| {
        let mut step = HostStep::new(StepShape { rows: batch, seqs: batch, blocks: BLOCKS, samples: batch });
        let l = step.layout;
        step.i32s_mut(&l.seq_of_row).iter_mut().zip(0..).for_each(|(seq, row)| *seq = row);
        step.i32s_mut(&l.sample_rows).iter_mut().zip(0..).for_each(|(to, row)| *to = row);
        members.iter().for_each(|&(row, sequence)| fill(&mut step, row, row, sequence, LENGTHS[sequence]));
        let first = plans.run(&step);
        // The second run is captured, the third replayed.
        (0..2).for_each(|_| assert!(plans.run(&step) == first, "{:?}: a replay gives other bits", s.driver));
        first
    };
    let alone: Vec<Vec<u32>> = (0..LENGTHS.len()).map(|sequence| decode(1, &[(0, sequence)]).remove(0)).collect();
    for (batch, members) in
        [(3, [(0, 0), (1, 1), (2, 2)]), (4, [(0, 2), (2, 0), (3, 1)]), (8, [(7, 0), (3, 2), (4, 1)])]
    {
        let logits = decode(batch, &members);
        for (row, sequence) in members {
            assert!(
                logits[row] == alone[sequence],
                "{:?}, {}: row {row} of {batch} gives other bits",
                s.driver,
                s.dtype
            );
        }
    }
}
