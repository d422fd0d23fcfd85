//! Loads, stores and hints: bytes at places of known content.

use super::spaces::{PLACE, Place, SPACES, constants, places, run};
use super::{COMMON, Kernel, STRIDE, Spelling, declarations, noise, random_for, word};
use crate::isa::Ty;

/// What says how caches and other threads see an access, and changes nothing for one thread.
const MANNERS: &[&str] = &[
    "weak",
    "volatile",
    "relaxed",
    "acquire",
    "release",
    "cta",
    "cluster",
    "gpu",
    "sys",
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "nc",
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L1::evict_first",
    "L1::evict_last",
    "L1::no_allocate",
    "L2::cache_hint",
    "L2::64B",
    "L2::128B",
    "L2::256B",
];
const VECTORS: &[&str] = &["v2", "v4"];

/// The spelling in wider registers, which it may use but for vectors of 64 bits and more.
fn widened(s: &Spelling<'_>, text: &str, of: &str) -> Option<String> {
    let integer =
        matches!(s.ty(), Ty::B8 | Ty::B16 | Ty::B32 | Ty::U8 | Ty::U16 | Ty::U32 | Ty::S8 | Ty::S16 | Ty::S32);
    integer.then(|| s.names(of).iter().fold(text.to_owned(), |text, name| text.replace(name, &wider(name))))
}

/// A 64-bit register for one of a spelling's; the spelling itself has none of these numbers.
fn wider(name: &str) -> String {
    format!("%rd7{:0>4}", name.trim_start_matches(|c: char| !c.is_ascii_digit()))
}

/// `ld` and `ldu`: every element is the bytes at its place; in a wider register, with its sign if it has one.
pub fn load(s: &Spelling<'_>) {
    s.knows(&[SPACES, MANNERS, VECTORS]);
    let input = noise(&mut random_for(s), 32 * STRIDE);
    let (ty, count) = (s.ty(), s.names("d").len());
    for place in Place::meant(s).into_iter().filter(|p| !(*p == Place::Local && strong(s))) {
        for wide in [false, true] {
            let names: Vec<String> =
                s.names("d").into_iter().map(|n| if wide { wider(n) } else { n.to_owned() }).collect();
            let text = if wide { widened(s, &s.with_policy(), "d") } else { Some(s.with_policy()) };
            let Some(text) = text else { continue };
            let bits = if wide { 64 } else { ty.bits() };
            let store = |(i, name)| format!("st.global.b{bits} [%out+{}], {name};\n", 16 * i);
            let stores: String = names.iter().enumerate().map(store).collect();
            let got = match place {
                Place::Function => in_function(s, &format!("{text}\n{stores}"), "", &input),
                _ => run(format!("{}{text}\n{stores}", place.fill_as(s.name("a"), s.one_of(SPACES).is_none())), &input),
            };
            for (lane, i) in (0..32).flat_map(|lane| (0..count).map(move |i| (lane, i))) {
                let at = 16 + i * ty.bytes() as usize;
                let held = match place {
                    Place::Entry => word(&input, PLACE, lane, at, ty.bytes() as usize),
                    _ => word(&input, STRIDE, lane, at, ty.bytes() as usize),
                };
                let sign = if ty.signed() && held >> (ty.bits() - 1) == 1 { u128::MAX << ty.bits() } else { 0 };
                let expected = if bits == 128 { held } else { (held | sign) & ((1 << bits) - 1) };
                let got = word(&got, STRIDE, lane, 16 * i, bits as usize / 8);
                assert_eq!(got, expected, "{text} from {place:?}, lane {lane}, element {i}");
            }
        }
    }
}

/// Local memory is no one else's, so accesses that others may see need not take it.
fn strong(s: &Spelling<'_>) -> bool {
    s.has("relaxed") || s.has("acquire") || s.has("release")
}

/// `st`: the elements replace their bytes and no others.
pub fn store(s: &Spelling<'_>) {
    s.knows(&[SPACES, MANNERS, VECTORS]);
    let input = noise(&mut random_for(s), 32 * STRIDE);
    let (ty, size) = (s.ty(), s.ty().bytes() as usize);
    for place in Place::meant(s).into_iter().filter(|p| !(*p == Place::Local && strong(s))) {
        for wide in [false, true] {
            let Some(text) = (if wide { widened(s, &s.with_policy(), "b") } else { Some(s.with_policy()) }) else {
                continue;
            };
            let bits = if wide { 64 } else { ty.bits() };
            let names = s.names("b").into_iter().map(|n| if wide { wider(n) } else { n.to_owned() });
            let load = |(i, name)| format!("ld.global.b{bits} {name}, [%in+{}];\n", PLACE + 16 * i);
            let loads: String = names.enumerate().map(load).collect();
            let base = s.name("a");
            let got = match place {
                Place::Function => in_function(s, &dump("ld.param", "x"), &format!("{loads}{text}"), &input),
                _ => {
                    let generic = s.one_of(SPACES).is_none();
                    let load = if generic { "ld".to_owned() } else { format!("ld.{}", place.word()) };
                    run(format!("{}{loads}{text}\n{}", place.fill_as(base, generic), dump(&load, base)), &input)
                }
            };
            for lane in 0..32 {
                let mut expected = input[lane * STRIDE..][..PLACE].to_vec();
                for i in 0..s.names("b").len() {
                    let from = lane * STRIDE + PLACE + 16 * i;
                    expected[16 + i * size..][..size].copy_from_slice(&input[from..from + size]);
                }
                assert_eq!(got[lane * STRIDE..][..PLACE], expected, "{text} to {place:?}, lane {lane}");
            }
        }
    }
}

/// Code that puts a place into the output.
pub fn dump(load: &str, base: &str) -> String {
    let word = |at| format!("{load}.b32 %x4, [{base}+{at}]; st.global.b32 [%out+{at}], %x4;\n");
    (0..PLACE).step_by(4).map(word).collect()
}

/// Calls a function with the lane's place as its parameter `x`, after `before` changed that; the address of a
/// spelling is then the parameter's.
fn in_function(s: &Spelling<'_>, body: &str, before: &str, input: &[u8]) -> Vec<u8> {
    let address = format!("[{}+16]", s.name("a"));
    let (body, before) = (body.replace(&address, "[x+16]"), before.replace(&address, "[p+16]"));
    let mut fill = String::new();
    for at in (0..PLACE).step_by(16) {
        fill += &format!("ld.global.v4.b32 {{%x0, %x1, %x2, %x3}}, [%in+{at}];\n");
        fill += &format!("st.param.v4.b32 [p+{at}], {{%x0, %x1, %x2, %x3}};\n");
    }
    let front = format!(
        "{}.func f(.param .align 16 .b8 x[{PLACE}], .param .b64 to) {{
        {COMMON} {} ld.param.b64 %out, [to];
        {body} ret; }}",
        constants(input),
        declarations(&body)
    );
    let call = format!(
        "{{ .param .align 16 .b8 p[{PLACE}]; .param .b64 to; {fill} {before}
        st.param.b64 [to], %out; call f, (p, to); }}"
    );
    Kernel { front, ..Kernel::new(call, input.to_vec()) }.output()
}

/// `mov` of 16 bytes, whole or in halves: they stay what they are.
pub fn moved(s: &Spelling<'_>) {
    s.knows(&[]);
    let input = noise(&mut random_for(s), 32 * STRIDE);
    let each = |name: &str, code: &dyn Fn(usize, usize, &str) -> String| {
        let (names, bits) = (s.names(name), 128 / s.names(name).len());
        names.iter().enumerate().map(|(i, r)| code(bits, i * bits / 8, r)).collect::<String>()
    };
    let loads = each("a", &|bits, at, r| format!("ld.global.b{bits} {r}, [%in+{at}];\n"));
    let stores = each("d", &|bits, at, r| format!("st.global.b{bits} [%out+{at}], {r};\n"));
    let got = run(format!("{loads}{}\n{stores}", s.text), &input);
    (0..32).for_each(|lane| assert_eq!(got[lane * STRIDE..][..16], input[lane * STRIDE..][..16], "{}", s.text));
}

/// Instructions that are advice: what is in memory stays there, and what they make is of use to `ld` as a policy.
pub fn hint(s: &Spelling<'_>) {
    s.knows(&[
        SPACES,
        &["L1", "L2", "L2::evict_last", "L2::evict_normal", "L2::evict_first", "L2::evict_unchanged", "tensormap"],
        &["fractional", "range", "cvt"],
    ]);
    let input = noise(&mut random_for(s), 32 * STRIDE);
    let place = match s.one_of(SPACES) {
        Some("local") => Place::Local,
        Some("const") => Place::Const,
        Some("param") => Place::Entry,
        _ => Place::Global,
    };
    let address = s.names("a").first().copied().filter(|name| name.starts_with("%rd")).unwrap_or("%y0");
    let mut body = if s.opcode == "createpolicy" && s.has("cvt") {
        format!("mov.b64 {}, 0; mov.b64 %y0, %in;\n", s.name("a"))
    } else {
        place.fill(address)
    };
    for name in ["n", "m", "f"].iter().flat_map(|n| s.names(n)) {
        body += &format!("mov.b32 {name}, 0x3f800000;\n");
    }
    body += s.text;
    let source = if s.opcode == "createpolicy" { "%in" } else { address };
    body += &dump(&format!("ld.{}", if source == "%in" { "global" } else { place.word() }), source);
    if s.given("d") {
        body += &format!("ld.global.L2::cache_hint.b32 %x4, [%in], {}; st.global.b32 [%out], %x4;", s.name("d"));
    }
    let expected = match place {
        Place::Entry => input[..32 * PLACE].to_vec(),
        _ => places(&input),
    };
    assert!(places(&run(body, &input)) == expected, "{}", s.text);
}
