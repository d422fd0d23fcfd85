//! `vprintf` and failed asserts: text out of the kernel. The C library formats each value, so the rules are its own.

use super::access::space_of;
use super::raw::load_narrow;
use super::report::{Run, broken};
use super::state::warp::{Cx, Flow, Warp};
use crate::fault::FaultKind;
use crate::isa::{Reg, Space};
use crate::registers::{Mask, WARP, lanes};
use std::ffi::{CStr, CString};

/// The longest text that is read from a kernel's memory.
const LONGEST: u64 = 1 << 16;

/// One conversion: flags, width and precision as they will be given to C, and its letter.
struct Conversion {
    spec: String,
    wide: bool,
    letter: u8,
}

impl<'g> Warp<'g> {
    /// One byte at a generic address, outside all checks and counters.
    fn peek(&self, cx: &Cx, lane: usize, address: u64) -> Option<u8> {
        let (space, offset) = space_of(address);
        let host = match space {
            Space::Shared => (offset < cx.cta.shared.len()).then(|| cx.cta.shared.base() + offset),
            Space::Local => (offset < cx.grid.local).then(|| self.local.base() + lane as u64 * cx.grid.local + offset),
            Space::Param => (offset < cx.grid.params.len()).then(|| cx.grid.params.base() + offset),
            _ => cx.grid.global.holds(address).then_some(address),
        };
        host.map(|at| load_narrow(at, 1) as u8)
    }

    /// The text up to its zero, as far as it can be read.
    fn text(&self, cx: &Cx, lane: usize, address: u64) -> Vec<u8> {
        let bytes = (address..address.saturating_add(LONGEST)).map(|at| self.peek(cx, lane, at).unwrap_or(0));
        bytes.take_while(|b| *b != 0).collect()
    }

    fn words(&self, cx: &Cx, lane: usize, address: u64, bytes: u64) -> u64 {
        (0..bytes).fold(0, |v, i| v | u64::from(self.peek(cx, lane, address.wrapping_add(i)).unwrap_or(0)) << (8 * i))
    }

    pub(super) fn print(&mut self, cx: &mut Cx, d: Option<Reg>, format: Reg, arguments: Reg, mask: Mask) -> Run {
        let mut counts = [0; WARP];
        for lane in lanes(mask) {
            let format = self.text(cx, lane, self.regs.b64(format)[lane]);
            let (text, count) = self.format(cx, lane, &format, self.regs.b64(arguments)[lane]);
            cx.cta.text.extend_from_slice(&text);
            counts[lane] = count;
        }
        cx.cta.print_lines();
        if let Some(d) = d {
            self.regs.set_b32(d, mask, &counts);
        }
        Ok(())
    }

    /// The text, and how many values it took.
    fn format(&self, cx: &Cx, lane: usize, format: &[u8], mut at: u64) -> (Vec<u8>, u32) {
        let mut next = |bytes: u64| {
            let from = at.wrapping_add(bytes - 1) & !(bytes - 1);
            at = from.wrapping_add(bytes);
            self.words(cx, lane, from, bytes)
        };
        let (mut out, mut rest, mut count) = (Vec::new(), format, 0);
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            if byte != b'%' {
                out.push(byte);
                continue;
            }
            let Some((conversion, after)) = conversion(rest, || next(4) as i32) else {
                out.push(b'%');
                continue;
            };
            rest = after;
            let Conversion { spec, wide, letter } = conversion;
            count += u32::from(letter != b'%');
            out.extend(match letter {
                b'%' => b"%".to_vec(),
                b'd' | b'i' => {
                    formatted(&format!("%{spec}lld"), if wide { next(8) as i64 } else { next(4) as i32 as i64 })
                }
                b'c' => formatted(&format!("%{spec}c"), next(4) as libc::c_int),
                b's' => {
                    let text = CString::new(self.text(cx, lane, next(8))).unwrap_or_default();
                    formatted(&format!("%{spec}s"), text.as_ptr())
                }
                b'p' => formatted(&format!("%{spec}p"), next(8) as *const libc::c_void),
                b'u' | b'o' | b'x' | b'X' => {
                    formatted(&format!("%{spec}ll{}", letter as char), if wide { next(8) } else { next(4) })
                }
                _ => formatted(&format!("%{spec}{}", letter as char), f64::from_bits(next(8))),
            });
        }
        (out, count)
    }

    pub(super) fn assert_failed(&self, cx: &Cx, texts: [Reg; 3], line: Reg, mask: Mask) -> Run<Flow> {
        let lane = mask.trailing_zeros() as usize;
        let [message, file, function] =
            texts.map(|r| String::from_utf8_lossy(&self.text(cx, lane, self.regs.b64(r)[lane])).into_owned());
        let why = format!("{file}:{}: {function}: assertion `{message}` failed", self.regs.b32(line)[lane]);
        broken(FaultKind::Assert, lane as u32, why)
    }
}

/// What follows a percent sign, and the rest behind it. `star` gives the values for `*`.
fn conversion(text: &[u8], mut star: impl FnMut() -> i32) -> Option<(Conversion, &[u8])> {
    let (mut spec, mut wide) = (String::new(), false);
    for (i, &byte) in text.iter().enumerate() {
        match byte {
            b'*' => match star() {
                // As C has it: no precision at all.
                none if none < 0 && spec.ends_with('.') => drop(spec.pop()),
                number => spec += &number.to_string(),
            },
            b'-' | b'+' | b' ' | b'#' | b'.' | b'0'..=b'9' => spec.push(byte as char),
            b'l' | b'z' | b't' | b'j' => wide = true,
            b'h' => {}
            b'%' | b'd' | b'i' | b'u' | b'o' | b'x' | b'X' | b'c' | b's' | b'p' | b'f' | b'F' | b'e' | b'E' | b'g'
            | b'G' | b'a' | b'A' => return Some((Conversion { spec, wide, letter: byte }, &text[i + 1..])),
            _ => return None,
        }
    }
    None
}

/// A value that C's formatting takes as one argument.
trait Printed: Copy {
    /// # Safety
    /// `spec` converts exactly one argument of this type.
    unsafe fn print(self, to: &mut [u8], spec: &CStr) -> libc::c_int;
}

macro_rules! printed {
    ($($ty:ty),*) => {$(
        impl Printed for $ty {
            unsafe fn print(self, to: &mut [u8], spec: &CStr) -> libc::c_int {
                // SAFETY: the buffer is as long as it says; the caller matches the type.
                unsafe { libc::snprintf(to.as_mut_ptr().cast(), to.len(), spec.as_ptr(), self) }
            }
        }
    )*};
}
printed!(i64, u64, f64, libc::c_int, *const libc::c_char, *const libc::c_void);

/// The value in C's words, at most `LONGEST` bytes of them. `spec` must convert one argument of the value's type.
fn formatted(spec: &str, value: impl Printed) -> Vec<u8> {
    let spec = CString::new(spec).unwrap_or_default();
    let mut buffer = vec![0; 128];
    loop {
        // SAFETY: `spec` is a percent sign, flags and numbers, and the letter of the value's type.
        let needed = unsafe { value.print(&mut buffer, &spec) }.clamp(0, LONGEST as libc::c_int) as usize;
        if needed < buffer.len() {
            buffer.truncate(needed);
            return buffer;
        }
        buffer = vec![0; needed + 1];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &[u8], stars: &[i32]) -> Option<(String, bool, u8, usize)> {
        let mut stars = stars.iter().copied();
        let (c, rest) = conversion(text, || stars.next().unwrap_or(0))?;
        Some((c.spec, c.wide, c.letter, rest.len()))
    }

    #[test]
    fn conversions_are_told_from_text() {
        assert_eq!(parsed(b"-08.3f tail", &[]), Some(("-08.3".into(), false, b'f', 5)));
        assert_eq!(parsed(b"llu", &[]), Some((String::new(), true, b'u', 0)));
        assert_eq!(parsed(b"*.*e", &[12, 4]), Some(("12.4".into(), false, b'e', 0)));
        assert_eq!(parsed(b"hhd", &[]), Some((String::new(), false, b'd', 0)));
        assert_eq!(parsed(b"y", &[]), None);
        assert_eq!(parsed(b"", &[]), None);
    }

    #[test]
    fn values_look_as_c_writes_them() {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("ASCII");
        assert_eq!(text(formatted("%5lld|", -42i64)), "  -42|");
        assert_eq!(text(formatted("%#llx", 255u64)), "0xff");
        assert_eq!(text(formatted("%.2e", 12345.678)), "1.23e+04");
        assert_eq!(text(formatted("%g", 0.0001)), "0.0001");
        assert_eq!(text(formatted("%200lld", 7i64)).len(), 200);
    }
}
