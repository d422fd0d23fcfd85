//! State spaces: 64 bytes for each lane in any of them, and the instructions about addresses.

use super::{Kernel, STRIDE, Spelling, noise, random_for, word};

/// Bytes of a lane's place.
pub const PLACE: usize = 64;

/// Where memory can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Global,
    Shared,
    Local,
    Const,
    /// A parameter of the kernel.
    Entry,
    /// A parameter of a device function.
    Function,
}

pub const SPACES: &[&str] =
    &["global", "shared", "shared::cta", "shared::cluster", "local", "const", "param", "param::entry", "param::func"];

impl Place {
    /// The places that a spelling may mean: without a space, every one that has generic addresses.
    pub fn meant(s: &Spelling<'_>) -> Vec<Place> {
        match s.one_of(SPACES) {
            None => vec![Place::Global, Place::Shared, Place::Local],
            Some("global") => vec![Place::Global],
            Some("local") => vec![Place::Local],
            Some("const") => vec![Place::Const],
            Some("param") if s.opcode == "ld" => vec![Place::Entry, Place::Function],
            Some("param::func") => vec![Place::Function],
            Some("param") if s.opcode == "st" => vec![Place::Function],
            Some("param" | "param::entry") => vec![Place::Entry],
            Some(_) => vec![Place::Shared],
        }
    }

    /// The word of the space.
    pub fn word(self) -> &'static str {
        match self {
            Place::Global => "global",
            Place::Shared => "shared",
            Place::Local => "local",
            Place::Const => "const",
            Place::Entry | Place::Function => "param",
        }
    }

    /// Code that fills the lane's place with its first bytes of input, and its address in its space in `to`.
    pub fn fill(self, to: &str) -> String {
        let name = match self {
            Place::Global => return format!("mov.b64 {to}, %in;\n"),
            Place::Shared => "tile",
            Place::Local => "own",
            Place::Const => "fixed",
            Place::Entry | Place::Function => "block",
        };
        let mut code = format!("mov.b64 {to}, {name};\n");
        if self != Place::Local {
            code += &format!("mad.wide.u32 {to}, %lane, {PLACE}, {to};\n");
        }
        if matches!(self, Place::Shared | Place::Local) {
            for at in (0..PLACE).step_by(16) {
                code += &format!("ld.global.v4.b32 {{%x0, %x1, %x2, %x3}}, [%in+{at}];\n");
                code += &format!("st.{}.v4.b32 [{to}+{at}], {{%x0, %x1, %x2, %x3}};\n", self.word());
            }
            code += "bar.warp.sync -1;\n";
        }
        code
    }

    /// As `fill`; the address is generic if `generic`.
    pub fn fill_as(self, to: &str, generic: bool) -> String {
        let convert = if generic { format!("cvta.{}.u64 {to}, {to};\n", self.word()) } else { String::new() };
        self.fill(to) + &convert
    }
}

/// Input whose constants and parameters are what [`Place::fill`] says: the places come first in their own arrays.
pub fn constants(input: &[u8]) -> String {
    let bytes: Vec<String> = places(input).iter().map(u8::to_string).collect();
    format!(".const .align 16 .b8 fixed[{}] = {{{}}};\n", bytes.len(), bytes.join(", "))
}

/// The places of all lanes, one behind the other.
pub fn places(input: &[u8]) -> Vec<u8> {
    input.chunks(STRIDE).flat_map(|lane| &lane[..PLACE]).copied().collect()
}

/// Runs a warp whose lanes have their places filled.
pub fn run(body: String, input: &[u8]) -> Vec<u8> {
    let front = constants(input);
    Kernel { front, ..Kernel::new(body, input.to_vec()) }.output()
}

/// `cvta`: what is loaded through the new address is what was stored through the old.
pub fn convert(s: &Spelling<'_>) {
    s.knows(&[SPACES, &["to"]]);
    let input = noise(&mut random_for(s), 32 * STRIDE);
    for place in Place::meant(s) {
        let (space, to) = (place.word(), s.has("to"));
        let filled = place.fill_as(s.name("a"), to);
        let load = if to { format!("ld.{space}.b32") } else { "ld.b32".to_owned() };
        let body = format!("{filled}{}\n{load} %x4, [{}+16]; st.global.b32 [%out], %x4;", s.text, s.name("d"));
        let got = run(body, &input);
        for lane in 0..32 {
            let expected = expected(place, &input, lane);
            assert_eq!(word(&got, STRIDE, lane, 0, 4), expected, "{} {place:?} lane {lane}", s.text);
        }
    }
}

/// The 32 bits at offset 16 of a lane's place; of a parameter, which is the start of the input.
fn expected(place: Place, input: &[u8], lane: usize) -> u128 {
    match place {
        Place::Entry => word(input, PLACE, lane, 16, 4),
        _ => word(input, STRIDE, lane, 16, 4),
    }
}

/// `isspacep`: true for addresses of that space alone.
pub fn asked(s: &Spelling<'_>) {
    s.knows(&[SPACES]);
    let input = noise(&mut random_for(s), 32 * STRIDE);
    let asked = s.one_of(SPACES).expect("a space").split("::").next().expect("a word");
    for place in [Place::Global, Place::Shared, Place::Local, Place::Const, Place::Entry] {
        let body = format!(
            "{}{}\nselp.b32 %x4, 1, 2, {}; st.global.b32 [%out], %x4;",
            place.fill_as(s.name("a"), true),
            s.text,
            s.name("p")
        );
        let expected = if asked == place.word() { 1 } else { 2 };
        assert_eq!(word(&run(body, &input), STRIDE, 3, 0, 4), expected, "{} of {place:?}", s.text);
    }
}

/// `mapa` and `getctarank`: the only block of a cluster has rank 0, and its addresses are those of the cluster.
pub fn of_a_cluster(s: &Spelling<'_>) {
    s.knows(&[&["shared::cluster"]]);
    let (generic, wide) = (!s.has("shared::cluster"), s.has("u64"));
    if generic && !wide {
        return; // No generic address fits 32 bits.
    }
    let input = noise(&mut random_for(s), 32 * STRIDE);
    let mut body = Place::Shared.fill_as("%y0", generic);
    body += &if wide { format!("mov.b64 {}, %y0;", s.name("a")) } else { format!("cvt.u32.u64 {}, %y0;", s.name("a")) };
    if s.given("b") {
        body += &format!("mov.u32 {}, 0;", s.name("b"));
    }
    let space = if generic { "" } else { ".shared::cluster" };
    body += s.text;
    body += &match s.opcode.as_str() {
        "mapa" => format!("ld{space}.b32 %x4, [{}+16]; st.global.b32 [%out], %x4;", s.name("d")),
        _ => format!("st.global.b32 [%out], {};", s.name("d")),
    };
    let got = run(body, &input);
    for lane in 0..32 {
        let expected = if s.opcode == "mapa" { expected(Place::Shared, &input, lane) } else { 0 };
        assert_eq!(word(&got, STRIDE, lane, 0, 4), expected, "{}", s.text);
    }
}
