//! Fences and barriers: without them another warp reads too early, and the emulator says so.

use super::{Kernel, STRIDE, Spelling, noise, random_for, word};
use crate::fault::FaultKind;

/// A kernel of two warps.
fn two_warps(body: String) -> Kernel {
    Kernel { threads: 64, ..Kernel::new(body, vec![0; 64 * STRIDE]) }
}

/// Thread `t + 32` has got what thread `t` stored: `3 t + 5`.
fn handed_over(s: &Spelling<'_>, got: &[u8]) {
    for t in 32..64 {
        assert_eq!(word(got, STRIDE, t, 0, 4), 3 * (t as u128 - 32) + 5, "{} thread {t}", s.text);
    }
}

const ADDRESSES: &str = "setp.eq.u32 %q0, %t, 0; setp.lt.u32 %q1, %t, 32;
    mov.u32 %x0, tile; mad.lo.u32 %x1, %lane, 4, %x0; mad.lo.u32 %x2, %t, 3, 5;\n";

/// `fence` and `membar`.
pub fn fence(s: &Spelling<'_>) {
    s.knows(&[
        &["cta", "cluster", "gpu", "gl", "sys", "sc", "acq_rel", "acquire", "release"],
        &["mbarrier_init", "proxy", "alias", "async", "global", "shared::cta", "shared::cluster"],
    ]);
    let text = s.text;
    if s.has("async") && !s.has("global") {
        let kernel = Kernel::new(
            format!(
                "{ADDRESSES} st.shared.u32 [%x1], %x2;
                {text}
                bar.warp.sync -1;
                @!%q0 bra DONE;
                cp.async.bulk.global.shared::cta.bulk_group [%out], [%x0], 128;
                cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;"
            ),
            Vec::new(),
        );
        let got = kernel.output();
        (0..32).for_each(|i| assert_eq!(word(&got, 4, i, 0, 4), 3 * i as u128 + 5, "{text}"));
        return kernel.needs(text, FaultKind::SharedRace);
    }
    if s.has("proxy") {
        // One path to memory is all there is here: nothing is to be ordered, and nothing may change.
        let kernel = Kernel::new(
            format!(
                "st.global.u32 [%out], %t; {text} ld.global.u32 %x0, [%out]; add.u32 %x0, %x0, 1; st.global.u32 [%out], %x0;"
            ),
            Vec::new(),
        );
        let got = kernel.output();
        return (0..32).for_each(|t| assert_eq!(word(&got, STRIDE, t, 0, 4), t as u128 + 1, "{text}"));
    }
    // Warp 0 stores and raises a flag, warp 1 waits for the flag and loads.
    let kernel = two_warps(format!(
        "{ADDRESSES} @%q0 st.shared.u32 [%x0+128], 0;
        bar.sync 0;
        @!%q1 bra LOOK;
        st.shared.u32 [%x1], %x2;
        bar.warp.sync -1;
        {text}
        @%q0 st.volatile.shared.u32 [%x0+128], 1;
        bra DONE;
        LOOK: ld.volatile.shared.u32 %x3, [%x0+128]; setp.eq.u32 %q2, %x3, 0;
        @%q2 bra LOOK;
        {text}
        ld.shared.u32 %x3, [%x1]; st.global.u32 [%out], %x3;"
    ));
    handed_over(s, &kernel.output());
    kernel.needs(text, FaultKind::SharedRace);
}

/// `bar`, `barrier` and `barrier.cluster`.
pub fn barrier(s: &Spelling<'_>) {
    s.knows(&[
        &["cta", "cluster", "sync", "arrive", "wait", "warp", "red", "popc", "and", "or", "pred"],
        &["aligned", "release", "relaxed", "acquire"],
    ]);
    if s.given("m") {
        return warp(s);
    }
    match s.one_of(&["red", "cluster", "arrive"]) {
        Some("red") => reduction(s),
        Some("cluster") => cluster(s),
        Some("arrive") => {
            // The first warp goes on at once, the second waits for it.
            let text = format!("{} @%q1 {} @!%q1 bar.sync {}, 64;", numbers(s), s.text, s.name("a"));
            hand_over(s, &text, &text);
        }
        _ => hand_over(s, &(numbers(s) + s.text), s.text),
    }
}

/// Barrier number 3 for both warps.
fn numbers(s: &Spelling<'_>) -> String {
    let threads = s.names("b").iter().map(|b| format!("mov.u32 {b}, 64; ")).collect::<String>();
    format!("mov.u32 {}, 3; {threads}", s.name("a"))
}

/// Warp 0 stores, warp 1 loads, and `barrier` is between; without `part` of it they race.
fn hand_over(s: &Spelling<'_>, barrier: &str, part: &str) {
    let kernel = two_warps(format!(
        "{ADDRESSES} @%q1 st.shared.u32 [%x1], %x2;
        {barrier}
        @%q1 bra DONE;
        ld.shared.u32 %x3, [%x1]; st.global.u32 [%out], %x3;"
    ));
    handed_over(s, &kernel.output());
    let without = Kernel { body: kernel.body.replace(part, ""), input: Vec::new(), front: String::new(), ..kernel };
    let kind = without.run().map_err(|fault| fault.kind);
    // Whichever warp comes first: bytes that nobody wrote, or a store without order.
    let expected = [FaultKind::SharedRace, FaultKind::UninitialisedShared];
    assert!(kind.is_err_and(|kind| expected.contains(&kind)), "{}", without.body);
}

fn reduction(s: &Spelling<'_>) {
    let random = &mut random_for(s);
    for rare in [0, 1, 2] {
        let ones = noise(random, 64).into_iter().map(|b| match rare {
            0 => b & 1,
            1 => 0,
            _ => 1,
        });
        let input: Vec<u8> = ones.flat_map(|one| [one].into_iter().chain([0; STRIDE - 1])).collect();
        let (predicate, popc) = (s.name("c"), s.has("popc"));
        let show = if popc {
            format!("mov.b32 %x1, {};", s.name("d"))
        } else {
            format!("selp.b32 %x1, 1, 0, {};", s.name("p"))
        };
        let body = format!(
            "ld.global.u32 %x0, [%in]; setp.ne.u32 {predicate}, %x0, 0; {} {} {show} st.global.u32 [%out], %x1;",
            numbers(s),
            s.text
        );
        let holds = |t: usize| (input[t * STRIDE] == 1) != s.turned("c");
        let count = (0..64).filter(|t| holds(*t)).count() as u128;
        let expected = match s.one_of(&["popc", "and", "or"]) {
            Some("popc") => count,
            Some("and") => u128::from(count == 64),
            _ => u128::from(count > 0),
        };
        let got = Kernel { threads: 64, ..Kernel::new(body, input.clone()) }.output();
        (0..64).for_each(|t| assert_eq!(word(&got, STRIDE, t, 0, 4), expected, "{} thread {t}", s.text));
    }
}

fn cluster(s: &Spelling<'_>) {
    let text = match s.has("arrive") {
        true => format!("{} barrier.cluster.wait;", s.text),
        false => format!("barrier.cluster.arrive; {}", s.text),
    };
    if s.has("relaxed") {
        // It orders nothing: only what a fence orders beside it may be read.
        let text = format!("fence.acq_rel.cluster; {text}");
        return hand_over(s, &text, "fence.acq_rel.cluster;");
    }
    hand_over(s, &text, &text);
}

/// `bar.warp.sync`: odd lanes store, even ones load behind it; members that do not come are missed.
fn warp(s: &Spelling<'_>) {
    let kernel = |guard: &str| {
        let body = format!(
            "{ADDRESSES} and.b32 %x3, %lane, 1; setp.eq.u32 %q3, %x3, 1; mov.u32 {}, -1;
            @%q3 st.shared.u32 [%x1], %x2;
            {guard} {}
            barrier.sync 0;
            @!%q3 ld.shared.u32 %x3, [%x1+4]; @!%q3 st.global.u32 [%out], %x3;",
            s.name("m"),
            s.text
        );
        Kernel::new(body, Vec::new())
    };
    let got = kernel("").output();
    (0..32).step_by(2).for_each(|t| assert_eq!(word(&got, STRIDE, t, 0, 4), 3 * t as u128 + 8, "{} lane {t}", s.text));
    // The others wait at the block's barrier, for those that wait for them.
    assert!(kernel("@%q3").run().is_err(), "{} without half of its members", s.text);
}
