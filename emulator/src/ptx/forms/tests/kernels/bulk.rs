//! Bulk and tensor copies, which thread 0 of 256 starts: shared memory holds the input from `tile` on, and takes loads
//! from `tile+4096` on.

use super::copies::SIZES;
use super::{Kernel, Spelling, noise, random_for};
use crate::fault::FaultKind;
use crate::machine::matrix::Swizzle;
use crate::tensor_map::TensorMap;

const THREADS: usize = 256;
/// Bytes of a thread's output: all of it has room for the largest tensor.
const SHARE: usize = 24;
/// Bytes that a copy without a tensor moves.
const BYTES: usize = 256;
/// Where the threads find a tensor map in the input.
const MAP: usize = 6144;

const WAIT: &str = "WAIT: mbarrier.try_wait.parity.shared.b64 %q1, [tile+8192], 0; @!%q1 bra WAIT;";
const COMMIT: &str = "@%q0 cp.async.bulk.commit_group;";

pub fn copy(s: &Spelling<'_>) {
    s.knows(&[
        SIZES,
        &[
            "async",
            "bulk",
            "tensor",
            "1d",
            "2d",
            "3d",
            "4d",
            "5d",
            "tile",
            "prefetch",
            "L2",
            "commit_group",
            "wait_group",
            "read",
        ],
        &["global", "shared::cta", "shared::cluster", "mbarrier::complete_tx::bytes", "bulk_group"],
    ]);
    let input = noise(&mut random_for(s), MAP);
    if s.has("tensor") {
        tensor(s, input);
    } else if s.given("mbar") {
        load(s, &input);
    } else if s.given("d") {
        let body =
            format!("{} {COMMIT} @%q0 cp.async.bulk.wait_group 0;", by_one(s, &[("a", "tile", 0), ("d", "%out", 0)]));
        assert!(kernel(body, &input).output()[..BYTES] == input[..BYTES], "{}", s.text);
    } else if s.given("a") {
        // A prefetch: a plain load finds what was there.
        let body = by_one(s, &[("a", "%base", 0)]) + &show(0);
        assert!(shown(&kernel(body, &input).output(), THREADS) == input[..4 * THREADS], "{}", s.text);
    } else {
        group(s, &input);
    }
}

fn kernel(body: String, input: &[u8]) -> Kernel {
    let body = format!(
        "setp.eq.u32 %q0, %t, 0; mov.b64 %y4, tile; mad.wide.u32 %y5, %t, 4, %base; mad.wide.u32 %y6, %t, 4, %y4;
        ld.global.b32 %x0, [%y5]; st.shared.b32 [%y6], %x0; ld.global.b32 %x0, [%y5+1024]; st.shared.b32 [%y6+1024], %x0;
        @%q0 mbarrier.init.shared.b64 [tile+8192], 1; fence.proxy.async.shared::cta; bar.sync 0;
        {body}"
    );
    Kernel { threads: THREADS, stride: SHARE, ..Kernel::new(body, input.to_vec()) }
}

/// The spelling for thread 0, with its addresses; an operand is 16 bytes behind its register.
fn by_one(s: &Spelling<'_>, addresses: &[(&str, &str, i32)]) -> String {
    let mut text = String::new();
    for (name, base, offset) in addresses {
        text += &format!("mov.b64 {0}, {base}; add.s64 {0}, {0}, {1};\n", s.name(name), offset - 16);
    }
    s.names("mbar").iter().for_each(|mbar| text += &format!("mov.b64 {mbar}, tile; add.u64 {mbar}, {mbar}, 8176;\n"));
    s.names("n").iter().for_each(|n| text += &format!("mov.u32 {n}, {BYTES};\n"));
    let policy = s.with_policy();
    text + &policy[..policy.len() - s.text.len()] + "@%q0 " + s.text
}

/// Every thread puts one word of shared memory into its output.
fn show(at: usize) -> String {
    format!("\nld.shared.b32 %x0, [%y6+{at}]; st.global.b32 [%out], %x0;")
}

/// What `count` threads showed.
fn shown(got: &[u8], count: usize) -> Vec<u8> {
    got.chunks(SHARE).take(count).flat_map(|own| own[..4].to_vec()).collect()
}

fn announce(bytes: usize) -> String {
    format!("@%q0 mbarrier.arrive.expect_tx.shared.b64 %y2, [tile+8192], {bytes};\n")
}

/// Into shared memory, from global or shared memory.
fn load(s: &Spelling<'_>, input: &[u8]) {
    let from = if s.has("global") { "%base" } else { "tile" };
    let text = announce(BYTES) + &by_one(s, &[("a", from, 0), ("d", "tile", 4096)]);
    let body = format!("{text} {WAIT} setp.ge.u32 %q2, %t, {}; @%q2 bra DONE; {}", BYTES / 4, show(4096));
    let kernel = kernel(body, input);
    assert!(shown(&kernel.output(), BYTES / 4) == input[..BYTES], "{}", s.text);
    kernel.needs(WAIT, FaultKind::SharedRace);
}

/// `commit_group` and `wait_group`: only then may what a store reads be written over.
fn group(s: &Spelling<'_>, input: &[u8]) {
    let store =
        |at: usize| format!("@%q0 cp.async.bulk.global.shared::cta.bulk_group [%out+{at}], [tile+{at}], {BYTES};");
    let (own, over) = (format!("@%q0 {}", s.text), "@%q0 st.shared.b64 [tile], 0;");
    let body = match s.number("n") {
        None => format!("{} {own} @%q0 cp.async.bulk.wait_group.read 0; {over}", store(0)),
        Some(0) => format!("{} {COMMIT} {own} {over}", store(0)),
        // One group may be left, and that is the later.
        Some(_) => format!("{} {COMMIT} {} {COMMIT} {own} {over}", store(0), store(1024)),
    };
    let kernel = kernel(body, input);
    assert!(kernel.output()[..BYTES] == input[..BYTES], "{}", s.text);
    kernel.needs(&own, FaultKind::SharedRace);
}

/// A box of a tensor whose first corner lies outside, so that zeros come too.
struct Box {
    map: TensorMap,
    at: Vec<i32>,
    /// Of every element in the box's order: its byte in the tensor, if it is inside.
    elements: Vec<Option<usize>>,
}

impl Box {
    fn new(rank: usize) -> Box {
        let (dimensions, extents) = (vec![12u64, 5, 3, 2, 4], vec![8u32, 3, 2, 2, 1]);
        let strides: Vec<u64> = (1..rank).map(|i| 4 * dimensions[..i].iter().product::<u64>()).collect();
        let at = [-2, 3, 1, 1, 2];
        let element = |number: u32| {
            let (mut rest, mut byte) = (number, Some(0));
            for i in 0..rank {
                let place = i64::from(at[i]) + i64::from(rest % extents[i]);
                rest /= extents[i];
                let step = if i == 0 { 4 } else { strides[i - 1] };
                byte = byte
                    .filter(|_| (0..dimensions[i] as i64).contains(&place))
                    .map(|b| b + place as usize * step as usize);
            }
            byte
        };
        let elements = (0..extents[..rank].iter().product()).map(element).collect();
        let (dimensions, extents) = (dimensions[..rank].to_vec(), extents[..rank].to_vec());
        let map = TensorMap { address: 16, dimensions, strides, extents, element: 4, swizzle: Swizzle::None };
        Box { map, at: at[..rank].to_vec(), elements }
    }
}

fn tensor(s: &Spelling<'_>, mut input: Vec<u8>) {
    let rank =
        s.one_of(&["1d", "2d", "3d", "4d", "5d"]).expect("a rank").trim_end_matches('d').parse().expect("a number");
    let Box { map, at, elements } = Box::new(rank);
    input.extend(map.encode());
    // The tensor is the input, or the output; the map's address is written here.
    let tensor = if s.given("a") { "%out" } else { "%base" };
    let places: String = s.names("m")[1..].iter().zip(&at).map(|(r, at)| format!("mov.b32 {r}, {at};\n")).collect();
    let begin = format!("{places} @%q0 st.global.b64 [%base+{}], {tensor};\n", MAP + 8);
    let mut addresses = vec![("a", "tile", 0), ("d", "tile", 4096)];
    addresses.retain(|(name, ..)| s.given(name));
    let text = format!("{begin} add.u64 {}, %base, {MAP};\n{}", s.name("m"), by_one(s, &addresses));
    let word = |of: &[u8], at: usize| of[at..at + 4].to_vec();
    if s.given("a") {
        let kernel = kernel(format!("{text} {COMMIT} @%q0 cp.async.bulk.wait_group 0;"), &input);
        let mut expected = vec![0; THREADS * SHARE];
        for (number, byte) in elements.iter().enumerate().filter_map(|(i, byte)| Some((i, (*byte)?))) {
            expected[byte..byte + 4].copy_from_slice(&word(&input, 4 * number));
        }
        assert!(kernel.output() == expected, "{}", s.text);
    } else if s.given("d") {
        let text = announce(4 * elements.len()) + &text;
        let kernel = kernel(
            format!("{text} {WAIT} setp.ge.u32 %q2, %t, {}; @%q2 bra DONE; {}", elements.len(), show(4096)),
            &input,
        );
        let expected: Vec<u8> = elements.iter().flat_map(|e| e.map_or(vec![0; 4], |byte| word(&input, byte))).collect();
        assert!(shown(&kernel.output(), elements.len()) == expected, "{}", s.text);
        kernel.needs(WAIT, FaultKind::SharedRace);
    } else {
        assert!(shown(&kernel(text + &show(0), &input).output(), THREADS) == input[..4 * THREADS], "{}", s.text);
    }
}
