//! What lanes of a warp tell each other. Members are all lanes, or those of a mask that alone come.

use super::{Kernel, STRIDE, Spelling, noise, random_for, word};

/// Runs the text where `members` has a bit; `%r` and `%rd` sources come from the input, in the order of `sources`,
/// and a result is 32 bits of `d` and 0, 1 of `p`. Lanes without give 77.
fn run(s: &Spelling<'_>, members: u32, input: &[u8], sources: &[&str]) -> Vec<u8> {
    let mut body =
        format!("mov.u32 %x0, {members}; shr.u32 %x0, %x0, %lane; and.b32 %x0, %x0, 1; setp.ne.u32 %q0, %x0, 0;\n");
    for (i, name) in sources.iter().flat_map(|name| s.names(name)).enumerate() {
        let at = 8 * i;
        body += &match name.as_bytes()[1..3] {
            [b'p', _] => format!("ld.global.b32 %x1, [%in+{at}]; and.b32 %x1, %x1, 1; setp.ne.u32 {name}, %x1, 0;\n"),
            [b'r', b'd'] => format!("ld.global.b64 {name}, [%in+{at}];\n"),
            _ => format!("ld.global.b32 {name}, [%in+{at}];\n"),
        };
    }
    if s.given("m") {
        body += &format!("mov.u32 {}, {members};\n", s.name("m"));
    }
    let (d, p) = (s.names("d"), s.names("p"));
    d.iter().for_each(|d| body += &format!("mov.u32 {d}, 77;\n"));
    p.iter().for_each(|p| body += &format!("setp.ne.u32 {p}, 0, 0;\n"));
    body += &format!("@%q0 {}\n", s.text);
    d.iter().for_each(|d| body += &format!("st.global.u32 [%out], {d};\n"));
    p.iter().for_each(|p| body += &format!("selp.u32 %x1, 1, 0, {p}; st.global.u32 [%out+8], %x1;\n"));
    Kernel::new(body, input.to_vec()).output()
}

/// `shfl`: the ISA's own description, a lane at a time.
pub fn shuffle(s: &Spelling<'_>) {
    s.knows(&[&["sync", "up", "down", "bfly", "idx"]]);
    let random = &mut random_for(s);
    for _ in 0..16 {
        moved(s, &noise(random, 32 * STRIDE));
    }
}

fn moved(s: &Spelling<'_>, input: &[u8]) {
    let got = run(s, u32::MAX, input, &["a", "b", "c"]);
    for lane in 0..32 {
        let source = |i: usize| word(input, STRIDE, lane as usize, 8 * i, 4) as i32;
        let (b, c, segment) = (source(1) & 31, source(2) & 31, source(2) >> 8 & 31);
        let (most, least) = (lane & segment | c & !segment, lane & segment);
        let (from, inside) = match s.one_of(&["up", "down", "bfly", "idx"]) {
            Some("up") => (lane - b, lane - b >= most),
            Some("down") => (lane + b, lane + b <= most),
            Some("bfly") => (lane ^ b, lane ^ b <= most),
            _ => (least | b & !segment, least | b & !segment <= most),
        };
        let from = if inside { from } else { lane };
        let lane = lane as usize;
        assert_eq!(word(&got, STRIDE, lane, 0, 4), word(input, STRIDE, from as usize, 0, 4), "{} lane {lane}", s.text);
        if s.given("p") {
            assert_eq!(word(&got, STRIDE, lane, 8, 4), u128::from(inside), "{} lane {lane}", s.text);
        }
    }
}

/// Votes, matches, reductions, elections, and who is active.
pub fn collect(s: &Spelling<'_>) {
    s.knows(&[&["sync", "all", "any", "uni", "ballot", "add", "min", "max", "and", "or", "xor", "pred"]]);
    let random = &mut random_for(s);
    for members in [u32::MAX, 0x8421_0f36, 1 << 9] {
        // Few values, so that some lanes agree; then all the same.
        for values in [u64::MAX, 1 << 40 | 3, 0] {
            let input: Vec<u8> = (0..32)
                .flat_map(|_| (random.bits() & values).to_le_bytes().into_iter().chain([0; STRIDE - 8]))
                .collect();
            check(s, members, &input, &run(s, members, &input, &["a"]));
        }
    }
}

fn check(s: &Spelling<'_>, members: u32, input: &[u8], got: &[u8]) {
    let bytes = if s.has("b64") { 8 } else { 4 };
    let value = |lane: usize| word(input, STRIDE, lane, 0, bytes) as u64;
    let all: Vec<usize> = (0..32).filter(|lane| members >> lane & 1 == 1).collect();
    let holds = |lane: &usize| (value(*lane) & 1 == 1) != s.turned("a");
    let set = |test: &dyn Fn(usize) -> bool| all.iter().filter(|l| test(**l)).fold(0u32, |set, l| set | 1 << l);
    let signed = || all.iter().map(|&l| value(l) as i32);
    let unsigned = || all.iter().map(|&l| value(l) as u32);
    let agree = all.iter().all(|&l| value(l) == value(all[0]));
    for lane in 0..32 {
        let ((d, p), here) = ((77, 0), members >> lane & 1 == 1);
        let (d, p) = match (s.opcode.as_str(), s.words.iter().map(String::as_str).find(|w| *w != "sync")) {
            _ if !here => (d, p),
            ("vote", Some("ballot")) => (set(&|l| holds(&l)), 0),
            ("vote", Some("all")) => (0, u32::from(all.iter().all(holds))),
            ("vote", Some("any")) => (0, u32::from(all.iter().any(holds))),
            ("vote", Some("uni")) => (0, u32::from(all.iter().all(|l| holds(l) == holds(&all[0])))),
            ("match", Some("any")) => (set(&|l| value(l) == value(lane)), 0),
            ("match", Some("all")) => (if agree { members } else { 0 }, u32::from(agree)),
            ("redux", Some("add")) => (unsigned().fold(0, u32::wrapping_add), 0),
            ("redux", Some("and")) => (unsigned().fold(u32::MAX, |x, y| x & y), 0),
            ("redux", Some("or")) => (unsigned().fold(0, |x, y| x | y), 0),
            ("redux", Some("xor")) => (unsigned().fold(0, |x, y| x ^ y), 0),
            ("redux", Some("min")) if s.has("s32") => (signed().min().expect("some") as u32, 0),
            ("redux", Some("max")) if s.has("s32") => (signed().max().expect("some") as u32, 0),
            ("redux", Some("min")) => (unsigned().min().expect("some"), 0),
            ("redux", Some("max")) => (unsigned().max().expect("some"), 0),
            ("elect", _) => (all[0] as u32, u32::from(lane == all[0])),
            ("activemask", _) => (members, 0),
            other => panic!("{other:?} has no model"),
        };
        if s.given("d") {
            assert_eq!(word(got, STRIDE, lane, 0, 4), d.into(), "{} d of lane {lane} of {members:#x}", s.text);
        }
        if s.given("p") {
            assert_eq!(word(got, STRIDE, lane, 8, 4), p.into(), "{} p of lane {lane} of {members:#x}", s.text);
        }
    }
}
