//! A row of attention has the bits that its query, its keys and its length give it: in a prefill chunk of any size, beside rows of other
//! sequences, or decoded.

use osprey::dtype::DType;
use osprey::exec::cuda::CudaExecutor;
use osprey::exec::cuda::driver::{Device, Driver};
use osprey::exec::{Executor, Needs};
use osprey::ops::case::{CaseBuilder, Tolerance};
use osprey::ops::input::Input;
use osprey::ops::paged_attention::{PagedAttention, Splits};
use osprey::plan::Recorder;
use osprey::tensor::{Place, Region, Tensor};
use std::ops::Range;

const HEADS: usize = 6;
const GROUPS: usize = 2;
const D: usize = 128;
const BLOCK: usize = 16;
const PER_SEQ: usize = 45;

/// Rows as (sequence, visible keys): chunks over the borders of tiles and splits, a long and a padding row.
fn rows() -> Vec<(i32, i32)> {
    let chunk = |seq: i32, visible: Range<i32>| visible.map(move |n| (seq, n));
    chunk(0, 190..320).chain(chunk(1, 1..30)).chain([(2, 700), (2, 0)]).chain(chunk(2, 500..530)).collect()
}

/// Operands that all launches share.
struct Shared {
    q: Tensor,
    k: Input,
    v: Input,
    block_tables: Tensor,
}

/// Attention of some of the rows, decoded or as a chunk.
fn attention(b: &mut CaseBuilder, of: &Shared, at: Range<usize>, decoded: bool) -> PagedAttention {
    let rows = &rows()[at.clone()];
    let (seqs, visible): (Vec<i32>, Vec<i32>) = rows.iter().copied().unzip();
    let dtype = of.q.dtype;
    let splits = decoded.then(|| Splits {
        partials: b.output(DType::F32, &[Splits::partials(rows.len(), HEADS, D, PER_SEQ * BLOCK)], Tolerance::Anything),
        counters: b.counters(rows.len() * GROUPS),
    });
    PagedAttention {
        q: of.q.row_range(at.start, at.len()),
        k: of.k,
        v: of.v,
        block_tables: of.block_tables,
        seq_of_row: b.indices(&seqs),
        visible: b.indices(&visible),
        y: b.output(dtype, &[rows.len(), HEADS * D], Tolerance::Anything),
        splits,
    }
}

fn check(dtype: DType, int8_cache: bool) {
    let count = rows().len();
    let mut b = CaseBuilder::new(format!("{dtype} int8_cache={int8_cache}"));
    let cache = [3 * PER_SEQ, GROUPS, BLOCK, D];
    let table: Vec<i32> = (0..3 * PER_SEQ as i32).map(|i| i * 7 % (3 * PER_SEQ as i32)).collect();
    let shared = Shared {
        q: b.random(dtype, &[count, HEADS * D], 4.0),
        k: b.cache(int8_cache, dtype, &cache, 1.0),
        v: b.cache(int8_cache, dtype, &cache, 1.0),
        block_tables: b.bytes(DType::I32, &[3, PER_SEQ], bytemuck::cast_slice(&table)),
    };
    let whole = attention(&mut b, &shared, 0..count, false);
    let chunk = |at: Range<usize>| (at, false);
    let parts = [chunk(0..1), chunk(1..8), chunk(8..72), chunk(72..100), chunk(100..171), chunk(171..count)];
    let parts: Vec<(Range<usize>, bool)> = parts.into_iter().chain([(0..count, true), (60..75, true)]).collect();
    let others: Vec<PagedAttention> =
        parts.iter().map(|(at, decoded)| attention(&mut b, &shared, at.clone(), *decoded)).collect();
    let outputs: Vec<Tensor> = others.iter().map(|op| op.y).collect();
    let want = whole.y;
    let case = b.finish(whole);

    let image = case.memory().bytes(Region::Arena).to_vec();
    let mut recorder = Recorder::new("attention", Region::Arena, &case.weights);
    recorder.push_boxed(case.op).unwrap();
    let ops = 1 + others.len();
    others.into_iter().for_each(|op| recorder.push(op).unwrap());
    let mut needs = Needs::default();
    needs.cover(recorder.finish().unwrap());
    needs.regions.set(Region::Arena, image.len());
    let device = Device::open(Driver::Emulator, 0).unwrap();
    let mut executor = CudaExecutor::new(device, &needs, &case.weights, &mut |_, _| ()).unwrap();
    let plan = executor.load(needs.plans.swap_remove(0)).unwrap();
    executor.write(Region::Arena, 0, &image).unwrap();
    executor.run(plan, 0..ops).unwrap();
    let mut read = |t: &Tensor| {
        let Place::At { region, offset } = t.place else { panic!("cases use fixed places") };
        let mut bytes = vec![0; t.bytes()];
        executor.read(region, offset, &mut bytes).unwrap();
        bytes
    };
    let want = read(&want);
    let row = want.len() / count;
    for ((at, decoded), y) in parts.iter().zip(&outputs) {
        let got = read(y);
        for (t, got) in at.clone().zip(got.chunks(row)) {
            let same = got == &want[t * row..][..row];
            assert!(
                same,
                "{dtype}, int8 cache {int8_cache}: row {t} {:?} has other bits in {at:?}, decoded: {decoded}",
                rows()[t]
            );
        }
    }
}

#[test]
fn chunks_neighbours_and_decoding_do_not_change_a_bit() {
    [DType::Bf16, DType::F16].into_iter().for_each(|dtype| check(dtype, false));
}

#[test]
fn nor_do_they_with_a_cache_of_int8() {
    [DType::Bf16, DType::F16].into_iter().for_each(|dtype| check(dtype, true));
}
