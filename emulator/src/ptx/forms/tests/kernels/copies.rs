//! `cp.async`: what arrives where, that it may be read only behind its wait, and the waits.

use super::spaces::SPACES;
use super::{Kernel, STRIDE, Spelling, noise, random_for};
use crate::fault::FaultKind;

pub const SIZES: &[&str] = &["L2::cache_hint", "L2::64B", "L2::128B", "L2::256B"];

/// `%y0`: the lane's 64 bytes of `tile`, full of 0xee.
fn place() -> String {
    let clear: String = (0..64).step_by(4).map(|at| format!("st.shared.u32 [%y0+{at}], 0xeeeeeeee;\n")).collect();
    format!("mov.b64 %y0, tile; mad.wide.u32 %y0, %lane, 64, %y0;\n{clear}")
}

fn show(base: &str) -> String {
    (0..64)
        .step_by(4)
        .map(|at| format!("ld.shared.u32 %x0, [{base}+{at}]; st.global.u32 [%out+{at}], %x0;\n"))
        .collect()
}

/// `cp.async`, and what waits for it.
pub fn asynchronous(s: &Spelling<'_>) {
    s.knows(&[
        SIZES,
        &[
            "async",
            "ca",
            "cg",
            "shared",
            "shared::cta",
            "global",
            "commit_group",
            "wait_group",
            "wait_all",
            "mbarrier",
            "arrive",
            "noinc",
        ],
    ]);
    let input = noise(&mut random_for(s), 32 * STRIDE);
    if s.has("mbarrier") {
        return arrives(s, input);
    }
    if s.given("d") {
        return copy(s, input);
    }
    let copy = |at: u32| format!("cp.async.ca.shared.global [%y0+{at}], [%in+{at}], 16;");
    let body = match s.one_of(&["commit_group", "wait_group"]) {
        Some("commit_group") => format!("{} {} cp.async.wait_group 0;", copy(16), s.text),
        // With one group left, the earlier is complete.
        Some(_) if s.number("n") == Some(1) => {
            let later = copy(0).replace("%y0+0", "%y0+2048");
            format!("{} cp.async.commit_group; {later} cp.async.commit_group; {}", copy(16), s.text)
        }
        Some(_) => format!("{} cp.async.commit_group; {}", copy(16), s.text),
        None => format!("{} {}", copy(16), s.text),
    };
    let kernel = Kernel::new(format!("{} {body} {}", place(), show("%y0")), input.clone());
    compare(s, &kernel.output(), |lane| (16, input[lane * STRIDE + 16..][..16].to_vec()));
    kernel.needs(s.text, FaultKind::SharedRace);
}

/// The lane's bytes are 0xee but for those that arrived at an offset.
fn compare(s: &Spelling<'_>, got: &[u8], arrived: impl Fn(usize) -> (usize, Vec<u8>)) {
    for lane in 0..32 {
        let (mut expected, (at, bytes)) = (vec![0xee; 64], arrived(lane));
        expected[at..at + bytes.len()].copy_from_slice(&bytes);
        assert_eq!(got[lane * STRIDE..][..64], expected, "{} lane {lane}", s.text);
    }
}

/// One copy: less than it is of the source is followed by zeros, and of an ignored one there are zeros only.
fn copy(s: &Spelling<'_>, input: Vec<u8>) {
    let bytes = s.number("n").expect("a size") as usize;
    let wait = "cp.async.wait_all;";
    let mut body = place() + &format!("mov.b64 {}, %y0; mov.b64 {}, %in;\n", s.name("d"), s.name("a"));
    s.names("size").iter().for_each(|size| body += &format!("rem.u32 {size}, %lane, {};\n", bytes + 1));
    let ignore = s.names("ignore");
    ignore.iter().for_each(|p| body += &format!("and.b32 %x0, %lane, 1; setp.ne.u32 {p}, %x0, 0;\n"));
    body += &format!("{}\n{wait}\n{}", s.with_policy(), show("%y0"));
    let kernel = Kernel::new(body, input.clone());
    compare(s, &kernel.output(), |lane| {
        let ignored = !ignore.is_empty() && (lane % 2 == 1) != s.turned("ignore");
        let count = if s.given("size") { lane % (bytes + 1) } else { bytes };
        let mut arrived = input[lane * STRIDE + 16..][..if ignored { 0 } else { count }].to_vec();
        arrived.resize(bytes, 0);
        (16, arrived)
    });
    kernel.needs(wait, FaultKind::SharedRace);
}

/// `cp.async.mbarrier.arrive`: the phase is complete when the copies are; without `.noinc` the arrivals of the copies
/// are beyond those that were announced.
fn arrives(s: &Spelling<'_>, input: Vec<u8>) {
    let at = s.name("a");
    let others = if s.has("noinc") { "" } else { "mbarrier.arrive.shared.b64 %y2, [tile+4096];" };
    let body = format!(
        "{} setp.eq.u32 %q0, %lane, 0; @%q0 mbarrier.init.shared.b64 [tile+4096], 32; bar.sync 0;
        cp.async.ca.shared.global [%y0+16], [%in+16], 16;
        mov.b64 %y3, tile; {}.u64 {at}, %y3; add.u64 {at}, {at}, 4080; {}
        {others}
        WAIT: mbarrier.test_wait.parity.shared.b64 %q1, [tile+4096], 0; @!%q1 bra WAIT;
        {}",
        place(),
        if s.one_of(SPACES).is_none() { "cvta.shared" } else { "mov" },
        s.text,
        show("%y0")
    );
    let kernel = Kernel::new(body, input.clone());
    compare(s, &kernel.output(), |lane| (16, input[lane * STRIDE + 16..][..16].to_vec()));
    // Else nobody arrives at all, or all do before their copies are there.
    kernel.needs(s.text, if s.has("noinc") { FaultKind::Deadlock } else { FaultKind::SharedRace });
}
