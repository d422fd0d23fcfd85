//! Lane-wise instructions: registers to registers.

use super::{Pred, Reg, Ty};

/// Lane-wise instructions. Sources that an operation does not use are the zero constant.
#[derive(Clone, Debug)]
pub enum Alu {
    Mov {
        ty: Ty,
        d: Reg,
        a: Reg,
    },
    MovPred {
        d: u16,
        a: Pred,
    },
    /// `mov.b64 d, {a, b}`: parts of equal width, lowest first.
    Pack {
        ty: Ty,
        d: Reg,
        parts: Box<[Reg]>,
    },
    /// `mov.b64 {a, b}, s`; `_` is None.
    Unpack {
        ty: Ty,
        parts: Box<[Option<Reg>]>,
        a: Reg,
    },
    Int {
        op: IntOp,
        ty: Ty,
        d: Reg,
        a: [Reg; 3],
    },
    /// `bfi`, which has four sources: `a` into `b` at `pos` for `len` bits.
    Bfi {
        ty: Ty,
        d: Reg,
        a: Reg,
        b: Reg,
        pos: Reg,
        len: Reg,
    },
    /// `add.cc`, `addc`, `sub.cc`, `subc`, `mad.lo.cc`, `madc.hi`, ...
    Carry {
        op: CarryOp,
        ty: Ty,
        d: Reg,
        a: [Reg; 3],
        carry_in: bool,
        carry_out: bool,
    },
    Float {
        op: FloatOp,
        ty: Ty,
        how: FloatMods,
        d: Reg,
        a: [Reg; 3],
    },
    Lop3 {
        d: Reg,
        a: [Reg; 3],
        table: u8,
        p: Option<Lop3Pred>,
    },
    Prmt {
        mode: PrmtMode,
        d: Reg,
        a: [Reg; 3],
    },
    Shf {
        left: bool,
        clamp: bool,
        d: Reg,
        a: [Reg; 3],
    },
    SetP {
        compare: Compare,
        p: Option<u16>,
        q: Option<u16>,
        a: Reg,
        b: Reg,
    },
    /// `set`: all ones or 1.0 in `d`; for the packed halves one result per half.
    Set {
        compare: Compare,
        dty: Ty,
        d: Reg,
        a: Reg,
        b: Reg,
    },
    SelP {
        ty: Ty,
        d: Reg,
        a: Reg,
        b: Reg,
        p: Pred,
    },
    /// `slct`: `a` where `c >= 0`, else `b`; `cty` is s32 or f32.
    Slct {
        ty: Ty,
        cty: Ty,
        ftz: bool,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    TestP {
        test: FloatTest,
        ty: Ty,
        d: u16,
        a: Reg,
    },
    PredLogic {
        op: BoolOp,
        d: u16,
        a: Pred,
        b: Pred,
    },
    NotPred {
        d: u16,
        a: Pred,
    },
    /// An integer source is the low bits of its register, which may hold more than the type's (a register of at most 32).
    Cvt {
        to: Ty,
        from: Ty,
        how: CvtMods,
        d: Reg,
        a: Reg,
        b: Option<Reg>,
    },
    /// `cvt.pack.sat.{u8,s8}.s32.b32 d, a, b, c`, and the two-operand 16-bit form.
    CvtPack {
        to: Ty,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Option<Reg>,
    },
}

/// Integer and bit operations. Shift amounts and field positions are u32 registers; `Wide` ones have results of
/// twice the type's width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IntOp {
    Add,
    AddSat,
    Sub,
    SubSat,
    MulLo,
    MulHi,
    MulWide,
    MadLo,
    MadHi,
    MadHiSat,
    MadWide,
    Mul24Lo,
    Mul24Hi,
    Mad24Lo,
    Mad24Hi,
    Mad24HiSat,
    Sad,
    Div,
    Rem,
    Abs,
    Neg,
    Min,
    Max,
    And,
    Or,
    Xor,
    Not,
    Cnot,
    Shl,
    Shr,
    Popc,
    Clz,
    Bfind,
    BfindShift,
    Brev,
    Bfe,
    Fns,
    /// `szext`/`bmsk` in their two modes.
    SzextClamp,
    SzextWrap,
    BmskClamp,
    BmskWrap,
    /// `vabsdiff4` of unsigned bytes: the differences side by side, or their sum and `c`.
    AbsDiff4,
    AbsDiff4Add,
    /// `dp4a.aty.bty`: `ty` is the type of `c` and `d`; the operands' signs are here. `dp2a` likewise.
    Dp4a {
        a_signed: bool,
        b_signed: bool,
    },
    Dp2a {
        a_signed: bool,
        b_signed: bool,
        high: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CarryOp {
    Add,
    Sub,
    MadLo,
    MadHi,
}

/// Floating-point operations of f16, f16x2, bf16, bf16x2, f32, f64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FloatOp {
    Add,
    Sub,
    Mul,
    /// `fma`; `mad.f32` too.
    Fma,
    /// Correctly rounded, or `.approx`: see [`FloatMods::approx`].
    Div,
    /// `div.full`: unlike `.approx`, it has no divisors that are too large.
    DivFull,
    Abs,
    Neg,
    Min,
    Max,
    Rcp,
    Sqrt,
    Rsqrt,
    Sin,
    Cos,
    Lg2,
    Ex2,
    Tanh,
    Copysign,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub enum Round {
    #[default]
    Nearest,
    Zero,
    Down,
    Up,
    /// `.rna`: nearest, ties away from zero (`cvt.rna.tf32`).
    NearestAway,
}

/// What a floating-point form may say beside its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct FloatMods {
    pub round: Round,
    /// Subnormal inputs and results are zero (of the same sign).
    pub ftz: bool,
    /// Clamped to [0, 1], NaN is 0.
    pub sat: bool,
    /// `fma.relu`: negative and NaN results are handled as the ISA says.
    pub relu: bool,
    /// `.approx` forms.
    pub approx: bool,
    /// `min.NaN`, `max.NaN`.
    pub nan: bool,
    /// `min.xorsign.abs`.
    pub xorsign_abs: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FloatTest {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BoolOp {
    And,
    Or,
    Xor,
}

/// `setp`/`set`: `(a cmp b)`, then combined with `c` by `combine`. `q` gets the combination of the negation. For the
/// packed halves `p` is about the low half and `q` about the high one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compare {
    pub cmp: Cmp,
    pub ty: Ty,
    pub ftz: bool,
    pub combine: Option<(BoolOp, Pred)>,
}

/// Comparisons; the ones ending in `u` hold also where an operand is NaN. `lo`, `ls`, `hi`, `hs` are Lt .. Ge of unsigned types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    /// Both are numbers; one is not.
    Num,
    Nan,
}

/// `lop3.BoolOp.b32 d|p, a, b, c, table, q`: p = (d != 0) op q.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lop3Pred {
    pub op: BoolOp,
    pub p: u16,
    pub q: Pred,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PrmtMode {
    Index,
    F4e,
    B4e,
    Rc8,
    Ecl,
    Ecr,
    Rc16,
}

/// `cvt`: for a float result the rounding of its precision; for an integer result the rounding to an integer
/// (`.rni` .. `.rpi`), as for float to float of one type (`integer`). `b` of the instruction is the low half where two values are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct CvtMods {
    pub round: Round,
    /// The rounding is to an integral value.
    pub integer: bool,
    pub ftz: bool,
    pub sat: bool,
    /// `.satfinite` (tf32, fp8).
    pub satfinite: bool,
    pub relu: bool,
}
