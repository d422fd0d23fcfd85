//! Runs one instruction on chosen lanes, and makes operands: random ones and those where mistakes hide.
#![allow(dead_code)]

use cuda_emulator::isa::{Alu, Reg};
use cuda_emulator::machine::alu;
use cuda_emulator::registers::{Lanes, Registers};

/// Where instructions of the tests find their operands.
pub const D: Reg = Reg(0);
pub const SOURCES: [Reg; 3] = [Reg(4), Reg(8), Reg(12)];
pub const FOURTH: Reg = Reg(16);
/// What the destination holds before; lanes outside the mask must keep it.
pub const OLD: u64 = 0x5a5a_5a5a_5a5a_5a5a;

/// The result in `D`, of `bits` bits, for sources of their widths in bits. Every second run leaves some lanes out and
/// checks that they are left alone.
pub fn eval(op: &Alu, bits: u32, sources: &[(u32, Lanes<u64>)]) -> Lanes<u64> {
    let full = run(op, bits, sources, u32::MAX);
    let mask = 0x9234_5671;
    let some = run(op, bits, sources, mask);
    let kept = if bits == 64 { OLD } else { OLD & 0xffff_ffff };
    for lane in 0..32 {
        assert_eq!(some[lane], if mask >> lane & 1 == 1 { full[lane] } else { kept }, "{op:?} lane {lane}");
    }
    full
}

fn run(op: &Alu, bits: u32, sources: &[(u32, Lanes<u64>)], mask: u32) -> Lanes<u64> {
    let mut registers = file(sources);
    registers.set_b64(D, u32::MAX, &[OLD; 32]);
    if bits <= 32 {
        registers.set_b32(D, u32::MAX, &[OLD as u32; 32]);
    }
    alu::run(op, &mut registers, mask);
    if bits == 64 { *registers.b64(D) } else { registers.b32(D).map(|x| x as u64) }
}

/// A register file that holds the sources.
pub fn file(sources: &[(u32, Lanes<u64>)]) -> Registers<'static> {
    let mut registers = Registers::new(24, 8, &[]);
    for (i, (bits, values)) in sources.iter().enumerate() {
        let reg = Reg(4 + 4 * i as u32);
        if *bits == 64 {
            registers.set_b64(reg, u32::MAX, values);
        } else {
            registers.set_b32(reg, u32::MAX, &values.map(|x| x as u32));
        }
    }
    registers
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.bits() % end
    }

    /// An integer of `bits` bits, often near zero, near the ends, or a power of two.
    pub fn integer(&mut self, bits: u32) -> u64 {
        let keep = u64::MAX >> (64 - bits);
        let near = self.below(5).wrapping_sub(2);
        keep & match self.below(5) {
            0 => near,
            1 => (1u64 << (bits - 1)).wrapping_add(near),
            2 => (1u64 << self.below(bits as u64)).wrapping_add(near),
            3 => self.bits() >> (64 - bits) >> self.below(bits as u64),
            _ => self.bits(),
        }
    }

    /// A float pattern with `fraction` and `exponent` bits: special values, neighbours of powers of two, long runs of
    /// zeros and ones, anything.
    pub fn float(&mut self, fraction: u32, exponent: u32) -> u64 {
        let sign = self.below(2) << (fraction + exponent);
        let top = (1u64 << exponent) - 1;
        let middle = top / 2;
        let field = match self.below(8) {
            0 => 0,
            1 => top,
            2 => self.below(3),
            3 => top - self.below(3),
            4 | 5 => middle + self.below(2 * fraction as u64).min(middle) - (fraction as u64).min(middle),
            _ => self.below(top + 1),
        };
        let all = (1u64 << fraction) - 1;
        let part = match self.below(6) {
            0 => 0,
            1 => all,
            2 => 1,
            3 => self.bits() & all & !(all >> self.below(fraction as u64)),
            4 => 1 << self.below(fraction as u64),
            _ => self.bits() & all,
        };
        sign | (field.min(top)) << fraction | part
    }

    pub fn lanes(&mut self, mut f: impl FnMut(&mut Random) -> u64) -> Lanes<u64> {
        std::array::from_fn(|_| f(self))
    }
}
