//! Planted mistakes around `wgmma`, each beside the kernel that is right.

use super::wgmma::{PLAIN, kernel};
use super::{Bench, Random};
use cuda_emulator::config::{Check, Checks};
use cuda_emulator::fault::{Fault, FaultKind};
use cuda_emulator::gpu::Arg;

const PRODUCT: &str =
    "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%c0, %c1, %c2, %c3}, %da, %db, %p, 1, 1, 0, 0;";

/// Runs the kernel with `product` in its middle, edited.
fn run(checks: Checks, product: &str, edit: impl Fn(String) -> String) -> Result<Vec<u32>, Box<Fault>> {
    let bench = Bench::with(checks);
    let mut random = Random(4);
    let mut matrix = |lines| -> Vec<Vec<i32>> {
        (0..lines).map(|_| (0..16).map(|_| random.below(9) as i32 - 4).collect()).collect()
    };
    let mut image = Vec::new();
    PLAIN.write(&mut image, 1024, &matrix(64), "bf16");
    PLAIN.write(&mut image, 16 << 10, &matrix(8), "bf16");
    let out = bench.upload(&[0; 128 * 16]);
    let args = [
        Arg::U64(bench.upload(&image)),
        Arg::U64(out),
        Arg::U64(bench.upload(&[0; 128 * 16])),
        Arg::U64(PLAIN.descriptor(64, 1024)),
        Arg::U64(PLAIN.descriptor(8, 16 << 10)),
        Arg::U32(1),
        Arg::U32(image.len() as u32),
    ];
    bench.run(&edit(kernel(4, product)), 128, image.len() as u32, &args)?;
    Ok(bench.words(out, 512))
}

fn right(product: &str, edit: impl Fn(String) -> String) -> Vec<u32> {
    run(Checks::ALL, product, edit).unwrap_or_else(|fault| panic!("{fault}"))
}

fn wrong(kind: FaultKind, part: &str, product: &str, edit: impl Fn(String) -> String) {
    let fault = run(Checks::ALL, product, edit).expect_err(part);
    assert_eq!(fault.kind, kind, "{fault}");
    assert!(fault.why.contains(part), "{fault}");
}

fn same(text: String) -> String {
    text
}

fn without(line: &'static str) -> impl Fn(String) -> String {
    move |text| {
        assert!(text.contains(line), "{line}");
        text.replacen(line, "", 1)
    }
}

const WAIT: &str = "wgmma.wait_group.sync.aligned 0;";
const COMMIT: &str = "wgmma.commit_group.sync.aligned;";

#[test]
fn operands_that_were_written_need_a_proxy_fence() {
    right(PRODUCT, same);
    let fence = "fence.proxy.async.shared::cta;";
    wrong(FaultKind::SharedRace, "fence.proxy.async", PRODUCT, without(fence));
    // The reader may make it as well, once it knows of the writes.
    right(&format!("{fence} {PRODUCT}"), without(fence));
}

#[test]
fn results_are_there_after_the_wait() {
    let expected = right(PRODUCT, same);
    assert!(expected.iter().any(|&x| x != 0));
    wrong(FaultKind::RegisterRace, "wgmma.wait_group is missing", PRODUCT, without(WAIT));
    let stale = run(Checks::ALL.without(Check::Races), PRODUCT, without(WAIT)).expect("nobody looks");
    assert_eq!(stale, vec![0; 512]);
    // One group may stay under way: it is the only one.
    wrong(FaultKind::RegisterRace, "is read", PRODUCT, |text| text.replace("aligned 0;", "aligned 1;"));
    let two = format!("{PRODUCT} {COMMIT} {PRODUCT} {COMMIT}");
    right(&two, same);
    wrong(FaultKind::RegisterRace, "is read", &two, |text| text.replace("aligned 0;", "aligned 2;"));
    // Products that no group holds are never waited for.
    wrong(FaultKind::RegisterRace, "is read", PRODUCT, without(COMMIT));
}

#[test]
fn registers_in_use_may_be_moved_but_not_written() {
    let a = PRODUCT.replace("%da", "{%a0, %a1, %a2, %a3}").replace("0, 0;", "0;");
    right(&a, same);
    wrong(FaultKind::RegisterRace, "is written", &format!("{a} add.u32 %a2, %t, 1;"), same);
    wrong(FaultKind::RegisterRace, "is written", &format!("{PRODUCT} mov.b32 %c1, 0;"), same);
    let moved = format!("{PRODUCT} mov.b32 %a0, %c0;");
    let after = |text: String| text.replace("[%out+0], %c0", "[%out+0], %a0");
    assert_eq!(right(&moved, after), right(PRODUCT, same));
}

#[test]
fn the_first_product_needs_a_fence() {
    wrong(FaultKind::RegisterRace, "wgmma.fence", PRODUCT, without("wgmma.fence.sync.aligned;"));
}

#[test]
fn operands_stay_until_the_wait() {
    let store = "st.shared.b32 [smem+1024], %t;";
    let early = format!("{PRODUCT} {COMMIT} setp.eq.u32 %q, %t, 0; @%q {store}");
    wrong(FaultKind::SharedRace, "asynchronous read", &early, same);
    let late = format!("{PRODUCT} {COMMIT} {WAIT} setp.eq.u32 %q, %t, 0; @%q {store}");
    right(&late, same);
    // A warp's wait stands for the warpgroup: warp 3 may write what warp 0 multiplied.
    right(&late.replace("%t, 0;", "%t, 96;"), same);
    // Who did not wait knows nothing of it.
    let other = format!("{PRODUCT} {COMMIT} setp.lt.u32 %q, %t, 32; @%q bra W; {store} W: {WAIT}");
    wrong(FaultKind::SharedRace, "asynchronous read", &other, same);
}

#[test]
fn the_warps_of_a_warpgroup_agree() {
    let other = format!("setp.ge.u32 %q, %t, 96; @%q add.u64 %db, %db, 2; {PRODUCT}");
    wrong(FaultKind::MissingLanes, "descriptors", &other, same);
    let gone = format!("setp.ge.u32 %q, %t, 96; @%q exit; {PRODUCT}");
    wrong(FaultKind::MissingLanes, "warp 3 of its warpgroup", &gone, same);
    wrong(FaultKind::OutOfBounds, "descriptor", &format!("add.u64 %db, %db, 4096; {PRODUCT}"), same);
}
