//! What lane-wise instructions compute, said once more in exact arithmetic: integers are `i128`, floats are fixed-point
//! numbers with [`SCALE`] bits below the point. Operands are such that every exact result fits (see `values`).

use crate::isa::Ty;
use crate::ptx::forms::pattern::named;
use std::collections::BTreeMap;

/// Bits below the point: a product of two doubles from 2^-3 on has no bit below 2^-110.
const SCALE: i32 = 112;

/// One lane of an instruction: its words, and its sources by the names of the pattern (a predicate is 0 or 1).
pub struct Lane<'a> {
    pub opcode: &'a str,
    pub words: &'a [String],
    pub sources: &'a BTreeMap<&'static str, Vec<u64>>,
    /// Registers that `d` consists of.
    pub parts: u32,
}

/// Results by name; None for what has no model here.
pub type Results = Option<Vec<(&'static str, Vec<u64>)>>;

fn one(bits: u64) -> Results {
    Some(vec![("d", vec![bits])])
}

/// The low bits.
fn cut(x: i128, bits: u32) -> u64 {
    (x & ((1i128 << bits) - 1)) as u64
}

/// The number that the low bits of a register are for an integer type.
fn integer(x: u64, ty: Ty) -> i128 {
    let low = i128::from(x) & ((1i128 << ty.bits()) - 1);
    if ty.signed() && low >> (ty.bits() - 1) == 1 { low - (1i128 << ty.bits()) } else { low }
}

fn limits(ty: Ty) -> (i128, i128) {
    let all = 1i128 << ty.bits();
    if ty.signed() { (-all / 2, all / 2 - 1) } else { (0, all - 1) }
}

/// Bits of the significand with the hidden one, and of the exponent.
fn format(ty: Ty) -> (u32, u32) {
    match ty {
        Ty::F16 | Ty::F16x2 => (11, 5),
        Ty::BF16 | Ty::BF16x2 => (8, 8),
        Ty::TF32 => (11, 8),
        Ty::F32 => (24, 8),
        Ty::E4M3x2 => (4, 4),
        Ty::E5M2x2 => (3, 5),
        _ => (53, 11),
    }
}

fn is_float(ty: Ty) -> bool {
    use Ty::*;
    matches!(ty, F16 | F16x2 | BF16 | BF16x2 | TF32 | F32 | F64 | E4M3x2 | E5M2x2)
}

fn packed(ty: Ty) -> bool {
    matches!(ty, Ty::F16x2 | Ty::BF16x2 | Ty::E4M3x2 | Ty::E5M2x2 | Ty::U16x2 | Ty::S16x2)
}

/// The fixed-point number of a normal float, or zero.
fn fixed(x: u64, ty: Ty) -> i128 {
    let (significand, exponent) = format(ty);
    let fraction = significand - 1;
    let field = (x >> fraction & ((1 << exponent) - 1)) as i32;
    if field == 0 {
        return 0;
    }
    let mantissa = i128::from(x & ((1 << fraction) - 1) | 1 << fraction);
    let power = field - ((1 << (exponent - 1)) - 1) - fraction as i32 + SCALE;
    let value = if power >= 0 { mantissa << power } else { mantissa >> -power };
    if x >> (fraction + exponent) & 1 == 1 { -value } else { value }
}

/// Rounds a quotient with a remainder to a whole number. `twice` is twice the remainder against the divisor.
fn whole(quotient: i128, twice: std::cmp::Ordering, exact: bool, negative: bool, round: &str) -> i128 {
    use std::cmp::Ordering::*;
    let up = match round {
        _ if exact => false,
        "rz" | "rzi" => false,
        "rm" | "rmi" => negative,
        "rp" | "rpi" => !negative,
        "rna" => twice != Less,
        _ => twice == Greater || twice == Equal && quotient & 1 == 1,
    };
    quotient + i128::from(up)
}

/// The float that a positive or negative fixed-point number rounds to. A lowest bit of one may stand for anything
/// smaller that is not zero.
fn float(value: i128, ty: Ty, round: &str) -> u64 {
    let (significand, exponent) = format(ty);
    if value == 0 {
        return 0;
    }
    let (negative, size) = (value < 0, value.unsigned_abs());
    let top = 127 - size.leading_zeros() as i32;
    let drop = top + 1 - significand as i32;
    let kept = if drop <= 0 {
        (size << -drop) as i128
    } else {
        let (quotient, rest) = ((size >> drop) as i128, size & ((1 << drop) - 1));
        whole(quotient, rest.cmp(&(1 << (drop - 1))), rest == 0, negative, round)
    };
    let field = (top - SCALE + (1 << (exponent - 1)) - 1) as i128 - 1;
    let bits = (field << (significand - 1)) + kept;
    bits as u64 | u64::from(negative) << (significand - 1 + exponent)
}

impl Lane<'_> {
    fn has(&self, word: &str) -> bool {
        self.words.iter().any(|w| w == word)
    }

    fn types(&self) -> Vec<Ty> {
        self.words.iter().filter_map(|w| named(w)).collect()
    }

    fn raw(&self, name: &str) -> u64 {
        self.sources.get(name).map_or(0, |all| all[0])
    }

    fn round(&self) -> &str {
        let known = ["rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi", "rna"];
        self.words.iter().find(|w| known.contains(&w.as_str())).map_or("rn", |w| w)
    }

    /// See [`Results`].
    pub fn results(&self) -> Results {
        let types = self.types();
        let ty = *types.first()?;
        match self.opcode {
            "setp" | "set" | "selp" | "slct" => self.selected(ty, *types.get(1).unwrap_or(&ty)),
            "cvt" => self.converted(ty, *types.get(1)?),
            "testp" => Some(vec![("p", vec![u64::from(self.has("finite") | self.has("number") | self.has("normal"))])]),
            "and" | "or" | "xor" | "not" if ty == Ty::Pred => {
                Some(vec![("d", vec![self.logic(self.opcode, self.raw("a"), self.raw("b")) & 1])])
            }
            "mov" => self.moved(ty),
            "lop3" if self.sources.contains_key("q") => {
                let d = self.integer(ty, |name| self.raw(name))?;
                let word = if self.has("and") { "and" } else { "or" };
                Some(vec![("d", vec![d]), ("p", vec![self.logic(word, u64::from(d != 0), self.raw("q")) & 1])])
            }
            "addc" | "subc" | "madc" => self.carried(ty),
            _ if self.has("cc") => self.carried(ty),
            _ if packed(ty) => {
                let half = |shift: u32| self.arithmetic(half_of(ty), |name| self.raw(name) >> shift & 0xffff);
                one(half(0)? | half(16)? << 16)
            }
            _ => one(self.arithmetic(ty, |name| self.raw(name))?),
        }
    }

    fn logic(&self, word: &str, a: u64, b: u64) -> u64 {
        match word {
            "and" => a & b,
            "or" => a | b,
            "xor" => a ^ b,
            _ => !a,
        }
    }

    fn arithmetic(&self, ty: Ty, raw: impl Fn(&str) -> u64) -> Option<u64> {
        if is_float(ty) { self.float(ty, raw) } else { self.integer(ty, raw) }
    }

    fn integer(&self, ty: Ty, raw: impl Fn(&str) -> u64) -> Option<u64> {
        let [a, b, c] = ["a", "b", "c"].map(|name| integer(raw(name), ty));
        let (bits, wide) = (ty.bits(), self.has("wide"));
        let (low, high) = limits(ty);
        let width = if wide { 2 * bits } else { bits };
        // The upper half by parts: the whole product of two u64 does not fit.
        let upper =
            || if bits == 64 { (a * (b >> 32) + ((a * (b & 0xffff_ffff)) >> 32)) >> 32 } else { (a * b) >> bits };
        let product = || if self.has("hi") { upper() } else { a.wrapping_mul(b) };
        let low24 = |x: i128| {
            integer((x & 0xff_ffff) as u64 | if ty.signed() && x >> 23 & 1 == 1 { 0xff00_0000 } else { 0 }, ty)
        };
        let product24 = || (low24(a) * low24(b)) >> if self.has("hi") { 16 } else { 0 };
        let saturated = |x: i128| if self.has("sat") { x.clamp(low, high) } else { x };
        let relu = |x: i128| if self.has("relu") { x.max(0) } else { x };
        let bit = |x: i128, at: i128| if (0..i128::from(bits)).contains(&at) { x >> at & 1 } else { 0 };
        let amount = |name: &str| i128::from(raw(name) as u32);
        Some(cut(
            match self.opcode {
                "add" => saturated(a + b),
                "sub" => saturated(a - b),
                "mul" => product(),
                "mad" if wide => (a * b).wrapping_add(i128::from(raw("c"))),
                "mad" => saturated(product().wrapping_add(c)),
                "mul24" => product24(),
                "mad24" => saturated(product24() + c),
                "sad" => c + (a - b).abs(),
                "div" if b == 0 => -1,
                "div" => a / b,
                "rem" if b == 0 => a,
                "rem" => a % b,
                "abs" => a.abs(),
                "neg" => -a,
                "min" => relu(a.min(b)),
                "max" => relu(a.max(b)),
                "and" | "or" | "xor" | "not" => {
                    return Some(cut(self.logic(self.opcode, raw("a"), raw("b")).into(), bits));
                }
                "cnot" => i128::from(a == 0),
                "shl" => (0..i128::from(bits)).map(|i| bit(a, i - amount("b")) << i).sum(),
                "shr" if amount("b") >= i128::from(bits) => {
                    if a < 0 {
                        -1
                    } else {
                        0
                    }
                }
                "shr" => a >> amount("b"),
                "popc" => (0..i128::from(bits)).map(|i| bit(a, i)).sum(),
                "clz" => (0..i128::from(bits)).rev().take_while(|&i| bit(a, i) == 0).count() as i128,
                "brev" => (0..i128::from(bits)).map(|i| bit(a, i) << (i128::from(bits) - 1 - i)).sum(),
                "bfind" => {
                    let found = (0..i128::from(bits)).rev().find(|&i| bit(a, i) != bit(if a < 0 { -1 } else { 0 }, i));
                    let place = found.map_or(-1, |i| if self.has("shiftamt") { i128::from(bits) - 1 - i } else { i });
                    return Some(cut(place, 32));
                }
                "lop3" => {
                    let row = |i| bit(a, i) << 2 | bit(b, i) << 1 | bit(c, i);
                    (0..32).map(|i| i128::from(raw("table")) >> row(i) & 1).enumerate().map(|(i, x)| x << i).sum()
                }
                "shf" => {
                    let by = if self.has("clamp") { amount("c").min(32) } else { amount("c") % 32 };
                    let both = b << 32 | a;
                    if self.has("l") { both << by >> 32 } else { both >> by }
                }
                "dp4a" | "dp2a" => {
                    let types = self.types();
                    let part = |x: i128, at: i128, ty: Ty, bits: u32| {
                        let low = x >> at & ((1 << bits) - 1);
                        if ty.signed() && low >> (bits - 1) == 1 { low - (1 << bits) } else { low }
                    };
                    let (count, width) = if self.opcode == "dp4a" { (4, 8) } else { (2, 16) };
                    let from = if self.has("hi") { 16 } else { 0 };
                    let term =
                        |i: i128| part(a, i * width, types[0], width as u32) * part(b, from + i * 8, types[1], 8);
                    c + (0..count).map(term).sum::<i128>()
                }
                "bfe" => {
                    let (from, len) = (amount("b") & 255, amount("c") & 255);
                    let last = (from + len - 1).min(i128::from(bits) - 1);
                    let fill = if ty.signed() && len > 0 { bit(a, last) } else { 0 };
                    let field = |i: i128| if i < len && from + i < i128::from(bits) { bit(a, from + i) } else { fill };
                    (0..i128::from(bits)).map(|i| field(i) << i).sum()
                }
                "bfi" => {
                    let (from, len) = (amount("c") & 255, amount("e") & 255);
                    let inside = |i: i128| i >= from && i < from + len;
                    (0..i128::from(bits)).map(|i| (if inside(i) { bit(a, i - from) } else { bit(b, i) }) << i).sum()
                }
                "fns" => {
                    let (base, offset) = (amount("b"), integer(raw("c"), Ty::S32));
                    let found = match offset {
                        0 => Some(base).filter(|i| bit(a, *i) == 1),
                        1.. => (base..32).filter(|i| bit(a, *i) == 1).nth(offset as usize - 1),
                        _ => (0..=base).rev().filter(|i| bit(a, *i) == 1).nth(-offset as usize - 1),
                    };
                    found.unwrap_or(-1)
                }
                "szext" => {
                    let len = if self.has("wrap") { amount("b") % 32 } else { amount("b") };
                    let low = if len >= 32 { a } else { a & ((1 << len) - 1) };
                    let negative = ty.signed() && (1..32).contains(&len) && low >> (len - 1) & 1 == 1;
                    if negative { low - (1 << len) } else { low }
                }
                "bmsk" => {
                    let [from, len] = ["a", "b"].map(|n| amount(n) % if self.has("wrap") { 32 } else { 1 << 32 });
                    (from..(from + len).min(32)).map(|i| 1 << i).sum()
                }
                "prmt" => self.permuted(a, b, amount("c")),
                "vabsdiff4" => {
                    let apart = |i: i128| ((a >> (8 * i) & 255) - (b >> (8 * i) & 255)).abs();
                    if self.has("add") {
                        c + (0..4).map(apart).sum::<i128>()
                    } else {
                        (0..4).map(|i| apart(i) << (8 * i)).sum()
                    }
                }
                _ => return None,
            },
            width,
        ))
    }

    /// Byte `i` of the result is the byte of `{b, a}` that the ISA's table says; in the mode without a name each has a
    /// selector of its own, whose fourth bit asks for the sign alone.
    fn permuted(&self, a: i128, b: i128, c: i128) -> i128 {
        let byte = |i: i128| (if i % 8 < 4 { a } else { b }) >> (i % 4 * 8) & 255;
        let (mode, n) = (self.words.iter().find(|w| *w != "b32").map_or("", |w| w), c & 3);
        let of = |i: i128| match mode {
            "" if c >> (4 * i) & 8 == 0 => byte(c >> (4 * i) & 7),
            "" => (byte(c >> (4 * i) & 7) >> 7) * 255,
            "f4e" => byte(n + i),
            "b4e" => byte(n + 8 - i),
            "rc8" => byte(n),
            "ecl" => byte(n.max(i)),
            "ecr" => byte(n.min(i)),
            _ => byte(n % 2 * 2 + i % 2),
        };
        (0..4).map(|i| of(i) << (8 * i)).sum()
    }

    /// With the flag of the instruction before as `carry`, and the flag that it leaves if it has `.cc`.
    fn carried(&self, ty: Ty) -> Results {
        let bits = ty.bits();
        // Neither sum nor difference depends on the sign; the upper half of a product does.
        let unsigned = |name: &str| i128::from(cut(self.raw(name).into(), bits));
        let [x, y] = ["a", "b"].map(|name| integer(self.raw(name), ty));
        let upper = if bits == 64 { (x * (y >> 32) + ((x * (y & 0xffff_ffff)) >> 32)) >> 32 } else { (x * y) >> bits };
        let product = if self.has("hi") { upper } else { x.wrapping_mul(y) };
        let flag = if self.opcode.ends_with('c') { i128::from(self.raw("carry")) } else { 0 };
        let exact = match self.opcode {
            "add" | "addc" => unsigned("a") + unsigned("b") + flag,
            "sub" | "subc" => unsigned("a") - unsigned("b") - flag,
            _ => i128::from(cut(product, bits)) + unsigned("c") + flag,
        };
        let left = if self.has("cc") { u64::from(exact < 0 || exact >> bits > 0) } else { self.raw("carry") };
        Some(vec![("d", vec![cut(exact, bits)]), ("carry", vec![left])])
    }

    /// Of an approximation: what it is near to, and how near the ISA wants it for operands as the tests have them.
    /// NaN is near to NaN.
    pub fn near(&self, ty: Ty, raw: impl Fn(&str) -> u64) -> Option<(f64, f64)> {
        if !self.words.iter().any(|w| ["approx", "full"].contains(&w.as_str())) {
            return None;
        }
        let [a, b] = ["a", "b"].map(|name| fixed(raw(name), ty) as f64 / (1u128 << SCALE) as f64);
        let (value, relative, absolute) = match (self.opcode, ty) {
            // Two units in the last place; one is at most this much of a number.
            ("div", _) => (a / b, 2f64.powi(-22), 0.0),
            // 20 bits of fraction: the lower half of the double is zero.
            ("rcp", Ty::F64) => (1.0 / a, 2f64.powi(-20), 0.0),
            ("rsqrt", Ty::F64) => (1.0 / a.sqrt(), 2f64.powi(-20), 0.0),
            ("rcp", _) => (1.0 / a, 2f64.powi(-23), 0.0),
            ("sqrt", _) => (a.sqrt(), 2f64.powi(-23), 0.0),
            ("rsqrt", _) => (1.0 / a.sqrt(), 2f64.powf(-22.9), 0.0),
            ("sin", _) => (a.sin(), 0.0, 2f64.powf(-14.7)),
            ("cos", _) => (a.cos(), 0.0, 2f64.powf(-14.7)),
            ("lg2", _) => (a.log2(), 2f64.powi(-22), 2f64.powi(-22)),
            ("ex2", Ty::F32) => (a.exp2(), 2f64.powf(-22.5), 0.0),
            ("ex2", Ty::F16) => (a.exp2(), 2f64.powf(-9.9), 2f64.powi(-25)),
            ("ex2", _) => (a.exp2(), 2f64.powi(-7), 0.0),
            ("tanh", Ty::F32) => (a.tanh(), 2f64.powi(-11), 0.0),
            ("tanh", Ty::F16) => (a.tanh(), 0.0, 2f64.powf(-10.987)),
            ("tanh", _) => (a.tanh(), 0.0, 2f64.powi(-8)),
            _ => return None,
        };
        Some((value, value.abs() * relative + absolute))
    }

    /// Whether an approximation gave something near enough; None if it is none.
    pub fn approximated(&self, got: u64) -> Option<bool> {
        let ty = *self.types().first()?;
        let value = |ty: Ty, x: u64| match ty {
            Ty::F64 => f64::from_bits(x),
            Ty::F32 => f32::from_bits(x as u32).into(),
            Ty::F16 => half::f16::from_bits(x as u16).to_f64(),
            _ => half::bf16::from_bits(x as u16).to_f64(),
        };
        let near = |ty: Ty, shift: u32| {
            let (want, bound) = self.near(ty, |name| self.raw(name) >> shift)?;
            let got = value(ty, got >> shift);
            Some(got == want || (got - want).abs() <= bound || want.is_nan() && got.is_nan())
        };
        if packed(ty) { Some(near(half_of(ty), 0)? && near(half_of(ty), 16)?) } else { near(ty, 0) }
    }

    fn float(&self, ty: Ty, raw: impl Fn(&str) -> u64) -> Option<u64> {
        if self.words.iter().any(|w| ["approx", "full"].contains(&w.as_str())) {
            return None;
        }
        let sign = 1u64 << (ty.bits() - 1);
        let round = self.round();
        let [a, b, c] = ["a", "b", "c"].map(|name| fixed(raw(name), ty));
        let one = 1i128 << SCALE;
        // Every factor has its lowest bit above SCALE / 2.
        let product = |x: i128, y: i128| (x >> (SCALE / 2)) * (y >> (SCALE / 2));
        // 66 bits below the point, and one for what is left.
        let ratio = |x: i128, y: i128| {
            let (x, y) = (x >> (SCALE / 2) << 66, y >> (SCALE / 2));
            ((x / y) << 1 | i128::from(x % y != 0)) << (SCALE - 67)
        };
        let clamped = |x: i128| match () {
            () if self.has("sat") => x.clamp(0, one),
            () if self.has("relu") => x.max(0),
            () => x,
        };
        let chosen = |first: bool| {
            let (x, y) = (raw("a"), raw("b"));
            let size = if first { x } else { y };
            let negative = if self.has("xorsign") { (x ^ y) & sign } else { size & sign };
            size & (sign - 1) | negative
        };
        let (x, y) = if self.has("xorsign") { (a.abs(), b.abs()) } else { (a, b) };
        let exact = match self.opcode {
            "abs" => return Some(raw("a") & (sign - 1)),
            "neg" => return Some(raw("a") ^ sign),
            "copysign" => return Some(raw("b") & (sign - 1) | raw("a") & sign),
            "min" => return Some(chosen(x <= y)),
            "max" => return Some(chosen(x >= y)),
            "add" => a + b,
            "sub" => a - b,
            "mul" => product(a, b),
            "fma" | "mad" => product(a, b) + c,
            "div" => signed_ratio(ratio, a, b),
            "rcp" => signed_ratio(ratio, one, a),
            "sqrt" if a < 0 => return Some(if ty == Ty::F32 { 0x7fff_ffff } else { 0xfff8 << 48 }),
            "sqrt" => {
                // The root of a number with an even number of bits below the point has half of them.
                let root = a.isqrt();
                (root << 1 | i128::from(root * root != a)) << (SCALE / 2 - 1)
            }
            _ => return None,
        };
        let negative_zero = exact == 0 && round == "rm" && !self.has("sat");
        Some(if negative_zero { sign } else { float(clamped(exact), ty, round) })
    }

    fn selected(&self, ty: Ty, from: Ty) -> Results {
        let truth = |test: bool| match self.words.iter().find(|w| ["and", "or", "xor"].contains(&w.as_str())) {
            Some(word) => self.logic(word, test.into(), self.raw("c")) & 1,
            None => u64::from(test),
        };
        let value = |x: u64, ty: Ty| if is_float(ty) { fixed(x, ty) } else { integer(x, ty) };
        let pick = |first: bool| one(cut(self.raw(if first { "a" } else { "b" }).into(), ty.bits()));
        let holds = |a: u64, b: u64, ty: Ty| {
            let (a, b) = (value(a, ty), value(b, ty));
            let word = self.words.iter().find_map(|w| {
                let word = w.strip_suffix('u').filter(|w| w.len() == 2).unwrap_or(w.as_str());
                ["eq", "ne", "lt", "lo", "le", "ls", "gt", "hi", "ge", "hs", "num", "nan"].iter().find(|k| **k == word)
            });
            word.map(|word| match *word {
                "eq" => a == b,
                "ne" => a != b,
                "lt" | "lo" => a < b,
                "le" | "ls" => a <= b,
                "gt" | "hi" => a > b,
                "ge" | "hs" => a >= b,
                word => word == "num",
            })
        };
        match self.opcode {
            "selp" => pick(self.raw("c") == 1),
            "slct" => pick(value(self.raw("c"), from) >= 0),
            "setp" if packed(ty) => {
                let half = |shift: u32| holds(self.raw("a") >> shift, self.raw("b") >> shift, half_of(ty));
                Some(vec![("p", vec![truth(half(0)?)]), ("q", vec![truth(half(16)?)])])
            }
            "setp" => {
                let test = holds(self.raw("a"), self.raw("b"), ty)?;
                Some(vec![("p", vec![truth(test)]), ("q", vec![truth(!test)])])
            }
            _ => {
                let yes = |bits: u32| match ty {
                    Ty::F32 => 0x3f80_0000,
                    Ty::F16 | Ty::F16x2 => 0x3c00,
                    Ty::BF16 | Ty::BF16x2 => 0x3f80,
                    _ => cut(-1, bits),
                };
                if !packed(from) {
                    return one(truth(holds(self.raw("a"), self.raw("b"), from)?) * yes(ty.bits()));
                }
                let half = |shift: u32| holds(self.raw("a") >> shift, self.raw("b") >> shift, half_of(from));
                one((truth(half(0)?) | truth(half(16)?) << 16) * yes(16))
            }
        }
    }

    fn converted(&self, to: Ty, from: Ty) -> Results {
        if self.has("pack") {
            let (low, high) = limits(to);
            let part = |name: &str| cut(integer(self.raw(name), Ty::S32).clamp(low, high), to.bits());
            let above = if self.sources.contains_key("c") { self.raw("c") << (2 * to.bits()) } else { 0 };
            return one((part("b") | part("a") << to.bits() | above) & 0xffff_ffff);
        }
        let half = |x: u64, shift: u32| self.value(to, from, x >> shift);
        match (packed(to), packed(from)) {
            (true, true) => one(half(self.raw("a"), 0) | half(self.raw("a"), from.bits() / 2) << (to.bits() / 2)),
            (true, false) => one(half(self.raw("b"), 0) | half(self.raw("a"), 0) << (to.bits() / 2)),
            _ => one(half(self.raw("a"), 0)),
        }
    }

    /// One value of a conversion; `from` of a pair is that of its halves.
    fn value(&self, to: Ty, from: Ty, x: u64) -> u64 {
        let round = self.round();
        let (source, scale) = if is_float(from) { (fixed(x, from), SCALE) } else { (integer(x, from), 0) };
        let to_whole = |value: i128| {
            let (size, unit) = (value.unsigned_abs() as i128, 1i128 << scale);
            let size = whole(size / unit, (2 * (size % unit)).cmp(&unit), size % unit == 0, value < 0, round);
            if value < 0 { -size } else { size }
        };
        if !is_float(to) {
            let value = to_whole(source);
            let (low, high) = limits(to);
            let clamps = self.has("sat") || is_float(from);
            return cut(if clamps { value.clamp(low, high) } else { value }, to.bits());
        }
        if !is_float(from) {
            let value = if self.has("sat") { source.clamp(0, 1) } else { source };
            return whole_float(value, to, round);
        }
        let one = 1i128 << SCALE;
        let source = if round.len() == 3 && round != "rna" { to_whole(source) << SCALE } else { source };
        let negative_zero = source == 0 && x >> (fixed_bits(from) - 1) & 1 == 1;
        let source = match () {
            () if self.has("sat") => source.clamp(0, one),
            () if self.has("relu") => source.max(0),
            () => source,
        };
        let bits = float(source, to, if round.len() == 3 && round != "rna" { "rn" } else { round });
        let keeps = negative_zero && !self.has("sat") && !self.has("relu");
        let bits = if keeps { 1 << (fixed_bits(to) - 1) } else { bits };
        if to == Ty::TF32 { bits << 13 } else { bits }
    }

    fn moved(&self, ty: Ty) -> Results {
        let parts = self.sources.get("a")?;
        if self.parts > 1 {
            let width = ty.bits() / self.parts;
            let part = |i: u32| cut(i128::from(parts[0]) >> (i * width), width);
            return Some(vec![("d", (0..self.parts).map(part).collect())]);
        }
        if parts.len() > 1 {
            let width = ty.bits() / parts.len() as u32;
            return one(parts.iter().enumerate().map(|(i, x)| cut((*x).into(), width) << (i as u32 * width)).sum());
        }
        one(cut(parts[0].into(), ty.bits()))
    }
}

/// The quotient of numbers of any sign.
fn signed_ratio(ratio: impl Fn(i128, i128) -> i128, a: i128, b: i128) -> i128 {
    let size = ratio(a.abs(), b.abs());
    if (a < 0) != (b < 0) { -size } else { size }
}

/// The float of a whole number, which may need more bits than the point leaves.
fn whole_float(value: i128, to: Ty, round: &str) -> u64 {
    let (significand, exponent) = format(to);
    if value == 0 {
        return 0;
    }
    let size = value.unsigned_abs();
    let (top, negative) = (127 - size.leading_zeros(), value < 0);
    let kept = match (top + 1).checked_sub(significand) {
        None | Some(0) => (size << (significand - 1 - top)) as i128,
        Some(drop) => {
            let rest = size & ((1 << drop) - 1);
            whole((size >> drop) as i128, rest.cmp(&(1 << (drop - 1))), rest == 0, negative, round)
        }
    };
    let field = i128::from(top) + (1 << (exponent - 1)) - 2;
    ((field << (significand - 1)) + kept) as u64 | u64::from(negative) << (significand - 1 + exponent)
}

/// Bits of one value of a type: of a pair, of its half.
fn fixed_bits(ty: Ty) -> u32 {
    let (significand, exponent) = format(ty);
    if ty == Ty::TF32 { 19 } else { significand + exponent }
}

fn half_of(ty: Ty) -> Ty {
    match ty {
        Ty::F16x2 => Ty::F16,
        Ty::BF16x2 => Ty::BF16,
        Ty::S16x2 => Ty::S16,
        _ => Ty::U16,
    }
}
