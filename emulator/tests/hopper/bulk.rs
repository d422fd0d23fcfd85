//! Bulk copies of bytes in a row, and mbarriers that count them.

use super::{Bench, HEAD, Random, wait};
use cuda_emulator::fault::FaultKind;
use cuda_emulator::gpu::Arg;

const LOAD: &str = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes";
const STORE: &str = "cp.async.bulk.global.shared::cta.bulk_group";
const COMMIT: &str = "cp.async.bulk.commit_group;";
const WORDS: u32 = 64;

/// A kernel of 64 threads with `smem` of 1 KiB and mbarriers `bar`, `bar2` of one arrival; `%q` is thread 0.
fn kernel(body: &str) -> String {
    format!(
        "{HEAD}.visible .entry k(.param .u64 from, .param .u64 to)
{{
    .shared .align 128 .b8 smem[1024];
    .shared .align 8 .b64 bar, bar2;
    .reg .b32 %t, %s, %v, %n;
    .reg .b64 %from, %to, %mine, %x;
    .reg .pred %p, %q;
    ld.param.u64 %from, [from];
    ld.param.u64 %to, [to];
    mov.u32 %t, %tid.x;
    shl.b32 %s, %t, 2;
    mov.u32 %n, smem;
    add.u32 %s, %s, %n;
    mad.wide.u32 %mine, %t, 4, %to;
    mov.u32 %n, 256;
    setp.eq.u32 %q, %t, 0;
    @%q mbarrier.init.shared::cta.b64 [bar], 1;
    @%q mbarrier.init.shared::cta.b64 [bar2], 1;
    @%q fence.mbarrier_init.release.cluster;
    bar.sync 0;
{body}
    ret;
}}
"
    )
}

struct Test {
    bench: Bench,
    values: Vec<u32>,
    args: [Arg; 2],
    to: u64,
}

fn test() -> Test {
    let bench = Bench::new();
    let mut random = Random(7);
    let values: Vec<u32> = (0..2 * WORDS).map(|_| random.below(1 << 31) as u32).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let (from, to) = (bench.upload(&bytes), bench.upload(&[0xee; 1024]));
    Test { bench, values, args: [Arg::U64(from), Arg::U64(to)], to }
}

impl Test {
    fn right(&self, body: &str) -> Vec<u32> {
        let done = self.bench.run(&kernel(body), WORDS, 0, &self.args);
        done.unwrap_or_else(|fault| panic!("{body}\n{fault}"));
        self.bench.words(self.to, WORDS as usize)
    }

    fn wrong(&self, kind: FaultKind, part: &str, body: &str) {
        self.bench.refuses(kind, part, &kernel(body), WORDS, 0, &self.args);
    }
}

fn expect(bytes: u32) -> String {
    format!("@%q mbarrier.arrive.expect_tx.shared::cta.b64 %x, [bar], {bytes};\n")
}

const SHOW: &str = "ld.shared.u32 %v, [%s]; st.global.u32 [%mine], %v;\n";

#[test]
fn a_load_arrives_with_its_phase() {
    let t = test();
    let load = format!("@%q {LOAD} [smem], [%from], %n, [bar];\n");
    let first = &t.values[..WORDS as usize];
    assert_eq!(t.right(&(expect(256) + &load + &wait("bar", 0, "W") + SHOW)), first);
    // The bytes may complete before they are announced, and in parts.
    assert_eq!(t.right(&(load.clone() + &expect(256) + &wait("bar", 0, "W") + SHOW)), first);
    let halves = format!(
        "@%q {LOAD} [smem], [%from], 128, [bar];
        @%q mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [bar], 128;
        @%q {LOAD} [smem+128], [%from+128], 128, [bar];\n"
    );
    assert_eq!(t.right(&(halves + &expect(128) + &wait("bar", 0, "W") + SHOW)), first);
    t.wrong(FaultKind::SharedRace, "still under way", &(expect(256) + &load + SHOW));
    // Another mbarrier says nothing about it.
    let other = "@%q mbarrier.arrive.shared::cta.b64 %x, [bar2];\n".to_owned() + &wait("bar2", 0, "W");
    t.wrong(FaultKind::SharedRace, "still under way", &(expect(256) + &load + &other + SHOW));
}

#[test]
fn wrong_transaction_counts_never_complete() {
    let t = test();
    let load = format!("@%q {LOAD} [smem], [%from], %n, [bar];\n");
    for (count, part) in [(272, "0 arrivals and 16 bytes"), (240, "0 arrivals and -16 bytes")] {
        t.wrong(FaultKind::Deadlock, part, &(expect(count) + &load + &wait("bar", 0, "W") + SHOW));
    }
    // The missing bytes may also be reported by hand.
    let by_hand = "@%q mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [bar], 16;\n";
    t.right(&(expect(272) + &load + by_hand + &wait("bar", 0, "W") + SHOW));
    let many = "@%q mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [bar], 0x100000;\n";
    t.wrong(FaultKind::IllegalInstruction, "transaction count", many);
}

#[test]
fn phases_follow_one_another() {
    let t = test();
    let load = |from: u32| format!("@%q {LOAD} [smem], [%from+{from}], %n, [bar];\n");
    let again = expect(256) + &load(0) + &wait("bar", 0, "W") + SHOW + "bar.sync 0;\n" + &expect(256) + &load(256);
    assert_eq!(t.right(&(again.clone() + &wait("bar", 1, "V") + SHOW)), &t.values[WORDS as usize..]);
    // Without the barrier some thread may still read what the second copy replaces.
    let other = (expect(256) + &load(256)).replace("[bar]", "[bar2]");
    let twice = expect(256) + &load(0) + &wait("bar", 0, "W") + SHOW + "bar.sync 0;\n" + &other;
    assert_eq!(t.right(&(twice.clone() + &wait("bar2", 0, "V") + SHOW)), &t.values[WORDS as usize..]);
    t.wrong(FaultKind::SharedRace, "nothing orders", &twice.replace("bar.sync 0;\n", ""));
}

#[test]
fn copies_are_aligned_and_inside() {
    let t = test();
    let load = |operands: &str| format!("@%q {LOAD} {operands}, [bar];\n");
    t.wrong(FaultKind::Misaligned, "multiple of 16", &load("[smem+8], [%from], 16"));
    t.wrong(FaultKind::Misaligned, "multiple of 16", &load("[smem], [%from+4], 16"));
    t.wrong(FaultKind::Misaligned, "multiple of 16", &load("[smem], [%from], 20"));
    t.wrong(FaultKind::OutOfBounds, "past the end", &load("[smem], [%from+400], 128"));
    t.wrong(FaultKind::OutOfBounds, "shared memory", &load("[smem+2048], [%from], 128"));
    let uninitialised = format!("@%q {LOAD} [smem], [%from], 16, [smem+512];\n");
    t.wrong(FaultKind::IllegalInstruction, "not initialised", &uninitialised);
    t.wrong(FaultKind::UninitialisedShared, "never written", &format!("@%q {STORE} [%to], [smem], 16;\n"));
}

#[test]
fn a_store_arrives_with_the_wait() {
    let t = test();
    let fill = "add.u32 %v, %t, 100; st.shared.u32 [%s], %v;\n";
    let fence = "fence.proxy.async.shared::cta;\nbar.sync 0;\n";
    let store = format!("@%q {STORE} [%to], [smem], %n;\n@%q {COMMIT}\n");
    let expected: Vec<u32> = (100..100 + WORDS).collect();
    let wait = "@%q cp.async.bulk.wait_group 0;\n";
    let stored = format!("{fill}{fence}{store}");
    assert_eq!(t.right(&(stored.clone() + wait)), expected);
    // At the end of a kernel everything arrives.
    assert_eq!(t.right(&stored), expected);
    t.wrong(FaultKind::SharedRace, "no fence.proxy.async", &format!("{fill}bar.sync 0;\n{store}{wait}"));
    // The source is free once it was read.
    let reuse = "bar.sync 0;\nst.shared.u32 [%s], %t;\n";
    assert_eq!(t.right(&(stored.clone() + "@%q cp.async.bulk.wait_group.read 0;\n" + reuse + wait)), expected);
    t.wrong(FaultKind::SharedRace, "asynchronous read", &(stored.clone() + reuse + wait));
    t.wrong(
        FaultKind::SharedRace,
        "asynchronous read",
        &(stored.clone() + "@%q cp.async.bulk.wait_group.read 1;\n" + reuse),
    );
    // What is read back before the wait is what was there.
    let before = "@%q ld.global.u32 %v, [%to+4];\n";
    let keep = "@%q st.global.u32 [%to+512], %v;\n";
    for (order, value) in [([before, wait], 0xeeee_eeee), ([wait, before], 101)] {
        t.bench.0.write(t.to, &[0xee; 256]).expect("allocated");
        t.right(&(stored.clone() + order[0] + order[1] + keep));
        assert_eq!(t.bench.words(t.to + 512, 1), [value]);
    }
}

#[test]
fn shared_memory_is_copied_within_the_block() {
    let t = test();
    let copy = "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes";
    let body = "st.shared.u32 [%s], %t;\nfence.proxy.async;\nbar.sync 0;\n".to_owned()
        + &expect(256)
        + &format!("@%q {copy} [smem+512], [smem], %n, [bar];\n")
        + &wait("bar", 0, "W")
        + "ld.shared.u32 %v, [%s+512]; st.global.u32 [%mine], %v;\n";
    assert_eq!(t.right(&body), (0..WORDS).collect::<Vec<_>>());
}
