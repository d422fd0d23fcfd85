//! A request's bits depend on the request alone: not on the chunks of its prompt, the threads, the instruction set, what the cache already
//! holds, or whether a token was decoded or recomputed.

mod bits;

use bits::batch::check_batches;
use bits::{Setup, check_chunks, check_recomputed, engine, generate, outcome, request, setup, under};
use osprey::cpu::Isa;
use osprey::dtype::DType;
use osprey::engine::{Cancel, Picture};
use osprey::exec::cuda::driver::Driver;
use osprey::quant::Format;
use std::ops::ControlFlow;

#[test]
fn chunks_do_not_change_a_bit() {
    [DType::F32, DType::Bf16, DType::F16].map(setup).into_iter().for_each(check_chunks);
}

#[test]
fn chunks_do_not_change_a_bit_of_the_kernels() {
    [DType::Bf16, DType::F16].map(|dtype| under(Driver::Emulator, dtype)).into_iter().for_each(check_chunks);
}

#[test]
fn a_batch_does_not_change_a_bit() {
    [DType::F32, DType::Bf16].map(setup).into_iter().for_each(check_batches);
    [DType::Bf16, DType::F16].map(|dtype| under(Driver::Emulator, dtype)).into_iter().for_each(check_batches);
}

#[test]
fn a_decoded_token_equals_a_recomputed_one() {
    check_recomputed(setup(DType::Bf16));
    [DType::Bf16, DType::F16].map(|dtype| under(Driver::Emulator, dtype)).into_iter().for_each(check_recomputed);
}

#[test]
fn int8_does_not_change_that() {
    let int8 = |s| Setup { format: Format::W8A8, ..s };
    [setup(DType::F32), setup(DType::Bf16), under(Driver::Emulator, DType::Bf16)].map(int8).into_iter().for_each(|s| {
        check_chunks(s);
        check_batches(s);
        check_recomputed(s);
    });
    check_chunks(int8(under(Driver::Emulator, DType::F16)));
}

#[test]
fn codes_with_scales_of_groups_do_not_change_that() {
    let setups = [
        Setup { format: Format::W4A16 { group: 8, zeros: true }, ..setup(DType::Bf16) },
        Setup { format: Format::W8A16 { group: 8, zeros: false }, ..setup(DType::F32) },
        Setup { format: Format::W4A16 { group: 32, zeros: true }, ..under(Driver::Emulator, DType::Bf16) },
        Setup { format: Format::W8A16 { group: 32, zeros: false }, ..under(Driver::Emulator, DType::F16) },
    ];
    setups.into_iter().for_each(|s| {
        check_chunks(s);
        check_batches(s);
        check_recomputed(s);
    });
}

#[test]
fn nor_does_a_cache_of_int8() {
    let int8 = |s| Setup { int8_cache: true, ..s };
    let setups = [setup(DType::F32), setup(DType::Bf16), setup(DType::F16)];
    let kernels = [DType::Bf16, DType::F16].map(|dtype| under(Driver::Emulator, dtype));
    setups.into_iter().chain(kernels).map(int8).for_each(|s| {
        check_chunks(s);
        check_batches(s);
        check_recomputed(s);
    });
    // Both at once.
    check_chunks(Setup { format: Format::W8A8, ..int8(under(Driver::Emulator, DType::Bf16)) });
}

#[test]
fn threads_and_instruction_sets_do_not_change_a_bit() {
    let request = request(60, 2, 0.0);
    for int8_cache in [false, true] {
        let setup = Setup { int8_cache, ..setup(DType::Bf16) };
        let want = outcome(&mut engine(setup), &request);
        for isa in Isa::available() {
            for threads in [1, 2, 3] {
                let got = outcome(&mut engine(Setup { isa, threads, ..setup }), &request);
                assert!(got == want, "{} with {threads} threads gives other bits", isa.name());
            }
        }
    }
}

#[test]
fn a_cached_prefix_gives_the_same_answer() {
    let mut warm = engine(setup(DType::Bf16));
    let first = request(50, 4, 0.0);
    generate(&mut warm, &first);
    let mut second = first.clone();
    second.prompt.ids[45] += 1;
    let got = warm.generate(&second, &Cancel::default(), |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((got.timing.reused, got.timing.encoded), (32, 0), "the prefix was not reused");
    assert_eq!(got.ids, generate(&mut engine(setup(DType::Bf16)), &second));
}

#[test]
fn another_picture_is_never_served_from_the_cache() {
    let mut warm = engine(setup(DType::F32));
    generate(&mut warm, &request(50, 5, 0.0));
    let other = request(50, 5, 0.25);
    let got = warm.generate(&other, &Cancel::default(), |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((got.timing.reused, got.timing.encoded), (0, 1));
    assert_eq!(got.ids, generate(&mut engine(setup(DType::F32)), &other));
}

#[test]
fn a_seed_decides_the_answer() {
    let mut e = engine(setup(DType::F32));
    let mut r = request(30, 6, 0.0);
    let first = generate(&mut e, &r);
    assert_eq!(first, generate(&mut e, &r));
    r.sampling.seed += 1;
    assert_ne!(first, generate(&mut e, &r));
}

#[test]
fn unusable_logits_name_the_step() {
    let mut e = engine(setup(DType::F32));
    let mut broken = request(20, 7, 0.0);
    let mut patches = (*broken.media[0]).clone();
    patches.data[0] = f32::NAN;
    broken.media[0] = Picture::new(patches);
    let error = e.generate(&broken, &Cancel::default(), |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(error.contains("token 19") && error.contains("NaN"), "{error}");
}

#[test]
fn a_cancelled_request_leaves_a_usable_engine() {
    let mut e = engine(setup(DType::F32));
    let r = request(30, 8, 0.0);
    let cancel = Cancel::default();
    cancel.cancel();
    let none = e.generate(&r, &cancel, |_| ControlFlow::Continue(())).unwrap();
    assert!(none.ids.is_empty());
    assert_eq!(none.finish.name(), "cancelled");
    let three = e.generate(&r, &Cancel::default(), {
        let mut n = 0;
        move |_| {
            n += 1;
            if n == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    });
    assert_eq!(three.unwrap().ids, generate(&mut e, &r)[..3]);
}
