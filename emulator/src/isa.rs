//! The instructions, decoded: what the machine runs and the PTX front end makes.
//!
//! A form of PTX becomes one `Op`. Sources and destinations are registers only: immediates and the special registers
//! that never change (`%tid`, `%ctaid`, ...) are rows prepared by the program. Addresses of variables are immediates
//! by the time a program is made. Names and meanings are those of the PTX ISA document.

/// A register: index of its first row in the warp's file, or (top bit set) in the program's constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reg(pub u32);

impl Reg {
    const CONSTANT: u32 = 1 << 31;

    /// The constant whose first row is `row`.
    pub fn of_constant(row: usize) -> Reg {
        Reg(row as u32 | Self::CONSTANT)
    }

    /// The first row among the constants, if it is one.
    #[inline]
    pub fn constant(self) -> Option<usize> {
        (self.0 & Self::CONSTANT != 0).then_some((self.0 & !Self::CONSTANT) as usize)
    }
}

/// A predicate as a source or a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pred {
    Always,
    If(u16),
    Unless(u16),
}

/// Scalar types of the ISA, with those packed in one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ty {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    BF16,
    BF16x2,
    TF32,
    F32,
    F64,
    U16x2,
    S16x2,
    E4M3x2,
    E5M2x2,
}

impl Ty {
    /// Width in bits; of a predicate, 1.
    pub const fn bits(self) -> u32 {
        match self {
            Ty::Pred => 1,
            Ty::B8 | Ty::U8 | Ty::S8 => 8,
            Ty::B16 | Ty::U16 | Ty::S16 | Ty::F16 | Ty::BF16 | Ty::E4M3x2 | Ty::E5M2x2 => 16,
            Ty::B32 | Ty::U32 | Ty::S32 | Ty::F16x2 | Ty::BF16x2 | Ty::TF32 | Ty::F32 | Ty::U16x2 | Ty::S16x2 => 32,
            Ty::B64 | Ty::U64 | Ty::S64 | Ty::F64 => 64,
            Ty::B128 => 128,
        }
    }

    pub const fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }

    pub const fn signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64 | Ty::S16x2)
    }

    /// Rows of the register file that a register of this type takes.
    pub const fn rows(self) -> u32 {
        self.bits().div_ceil(32)
    }
}

/// One instruction of a program.
#[derive(Clone, Debug)]
pub struct Inst {
    pub guard: Pred,
    pub op: Op,
}

/// Everything that the machine can do.
#[derive(Clone, Debug)]
pub enum Op {
    /// Registers to registers, lane by lane.
    Alu(Alu),
    Load(Load),
    Store(Store),
    Atom(Atom),
    /// `cvta` and `cvta.to` by a constant window base; `isspacep`.
    IsSpace { space: Space, p: u16, a: Reg },
    CpAsync(CpAsync),
    CpAsyncCommit,
    /// Waits until at most `pending` of the lane's newest groups are under way; `None` is `wait_all`.
    CpAsyncWait { pending: Option<u32> },
    Barrier(Barrier),
    /// `bar.warp.sync`.
    WarpSync { members: Reg },
    Shfl(Shfl),
    Vote { kind: VoteKind, d: VoteDest, a: Pred, members: Reg },
    Match { all: bool, ty: Ty, d: Reg, p: Option<u16>, a: Reg, members: Reg },
    Redux { kind: ReduxKind, ty: Ty, d: Reg, a: Reg, members: Reg },
    /// `elect.sync`: the lowest lane of the members; `d` gets its number.
    Elect { d: Option<Reg>, p: u16, members: Reg },
    ActiveMask { d: Reg },
    Mma(Box<Mma>),
    LdMatrix(Box<MatrixAccess>),
    StMatrix(Box<MatrixAccess>),
    /// `movmatrix.sync.aligned.m8n8.trans.b16`.
    MovMatrix { d: Reg, a: Reg },
    MBarrier(Box<MBarrier>),
    /// A special register that changes: `%clock`, `%clock64`, `%globaltimer`.
    Clock { ty: Ty, d: Reg },
    Branch { target: u32 },
    /// `brx.idx`.
    BranchIndexed { index: Reg, targets: Box<[u32]> },
    /// Jumps to a function. Its frame is static (no recursion), so a call only notes where to go back to, in the
    /// callee's own return row; arguments are local memory by then.
    Call { target: u32, link: Reg },
    Return { link: Reg },
    /// `vprintf`: the format's generic address and that of the arguments, in local memory.
    Print { d: Option<Reg>, format: Reg, arguments: Reg },
    /// `__assertfail(message, file, line, function, char size)`: generic addresses in registers.
    AssertFail { message: Reg, file: Reg, line: Reg, function: Reg },
    Exit,
    Trap,
    /// `membar`, `fence`: orders memory. `scope` is what else must see it.
    Fence { scope: Scope, order: Order },
    /// Lets others run: `nanosleep`.
    Yield,
    /// Hints without an effect here: `prefetch`, `griddepcontrol`, `setmaxnreg`, ...
    Nop,
}

/// Lane-wise instructions. Sources that an operation does not use are the zero constant.
#[derive(Clone, Debug)]
pub enum Alu {
    Mov { ty: Ty, d: Reg, a: Reg },
    MovPred { d: u16, a: Pred },
    /// `mov.b64 d, {a, b}`: parts of equal width, lowest first.
    Pack { ty: Ty, d: Reg, parts: Box<[Reg]> },
    /// `mov.b64 {a, b}, s`; `_` is None.
    Unpack { ty: Ty, parts: Box<[Option<Reg>]>, a: Reg },
    Int { op: IntOp, ty: Ty, d: Reg, a: [Reg; 3] },
    /// `bfi`, which has four sources: `a` into `b` at `pos` for `len` bits.
    Bfi { ty: Ty, d: Reg, a: Reg, b: Reg, pos: Reg, len: Reg },
    /// `add.cc`, `addc`, `sub.cc`, `subc`, `mad.lo.cc`, `madc.hi`, ...
    Carry { op: CarryOp, ty: Ty, d: Reg, a: [Reg; 3], carry_in: bool, carry_out: bool },
    Float { op: FloatOp, ty: Ty, how: FloatMods, d: Reg, a: [Reg; 3] },
    Lop3 { d: Reg, a: [Reg; 3], table: u8, p: Option<Lop3Pred> },
    Prmt { mode: PrmtMode, d: Reg, a: [Reg; 3] },
    Shf { left: bool, clamp: bool, d: Reg, a: [Reg; 3] },
    SetP { compare: Compare, p: Option<u16>, q: Option<u16>, a: Reg, b: Reg },
    /// `set`: all ones or 1.0 in `d`; for the packed halves one result per half.
    Set { compare: Compare, dty: Ty, d: Reg, a: Reg, b: Reg },
    SelP { ty: Ty, d: Reg, a: Reg, b: Reg, p: Pred },
    /// `slct`: `a` where `c >= 0`, else `b`; `cty` is s32 or f32.
    Slct { ty: Ty, cty: Ty, ftz: bool, d: Reg, a: Reg, b: Reg, c: Reg },
    TestP { test: FloatTest, ty: Ty, d: u16, a: Reg },
    PredLogic { op: BoolOp, d: u16, a: Pred, b: Pred },
    NotPred { d: u16, a: Pred },
    /// An integer source is the low bits of its register, which may hold more than the type's (a register of at most 32).
    Cvt { to: Ty, from: Ty, how: CvtMods, d: Reg, a: Reg, b: Option<Reg> },
    /// `cvt.pack.sat.{u8,s8}.s32.b32 d, a, b, c`, and the two-operand 16-bit form.
    CvtPack { to: Ty, d: Reg, a: Reg, b: Reg, c: Option<Reg> },
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
    /// `dp4a.aty.bty`: `ty` is the type of `c` and `d`; the operands' signs are here. `dp2a` likewise.
    Dp4a { a_signed: bool, b_signed: bool },
    Dp2a { a_signed: bool, b_signed: bool, high: bool },
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

/// State spaces as the machine sees them. Constant memory and kernel parameters are read-only bytes of the launch;
/// parameters of device functions are local.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
    Const,
}

/// `[base + offset]`. The base is a 64-bit register if `wide`, else a 32-bit one; addresses of variables are constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub base: Reg,
    pub wide: bool,
    pub offset: i64,
}

/// The threads that an operation synchronises with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    Cta,
    Cluster,
    Gpu,
    Sys,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    Weak,
    Volatile,
    Relaxed,
    Acquire,
    Release,
    AcqRel,
    SeqCst,
}

/// `ld`, `ldu`. Element type `ty` extends into registers of `reg` (wider integers by its sign).
#[derive(Clone, Debug)]
pub struct Load {
    pub space: Space,
    pub order: Order,
    /// `ld.global.nc`: the location must not be written during the kernel.
    pub nc: bool,
    pub ty: Ty,
    pub reg: Ty,
    /// One per element of a vector; `_` is None.
    pub d: Vector<Option<Reg>>,
    pub at: Address,
}

/// `st`: the low bits of every register of `reg`.
#[derive(Clone, Debug)]
pub struct Store {
    pub space: Space,
    pub order: Order,
    pub ty: Ty,
    pub reg: Ty,
    pub a: Vector<Reg>,
    pub at: Address,
}

/// One to eight operands of a vector access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vector<T> {
    items: [T; 8],
    len: u8,
}

impl<T: Copy> Vector<T> {
    /// The items, at most eight and at least one.
    pub fn new(items: &[T]) -> Self {
        let mut all = [items[0]; 8];
        all[..items.len()].copy_from_slice(items);
        Vector { items: all, len: items.len() as u8 }
    }

    pub fn as_slice(&self) -> &[T] {
        &self.items[..self.len as usize]
    }

    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.items[..self.len as usize]
    }
}

/// `atom` (with `d`) and `red` (without).
#[derive(Clone, Debug)]
pub struct Atom {
    pub space: Space,
    pub op: AtomOp,
    pub ty: Ty,
    pub order: Order,
    pub scope: Scope,
    /// `.noftz` is the only way of f16/bf16; f32 adds flush on shared and global as the ISA says.
    pub d: Option<Reg>,
    pub at: Address,
    pub b: Reg,
    /// The new value of `cas`.
    pub c: Reg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AtomOp {
    And,
    Or,
    Xor,
    Cas,
    Exch,
    Add,
    Inc,
    Dec,
    Min,
    Max,
}

/// `cp.async.{ca,cg}.shared.global`: `bytes` (4, 8, 16) to shared memory, of which the first `src_size` are read and the rest are zero.
#[derive(Clone, Debug)]
pub struct CpAsync {
    pub to: Address,
    pub from: Address,
    pub bytes: u32,
    pub src_size: Option<Reg>,
    /// `ignore-src`: where it holds, all bytes are zero.
    pub ignore: Option<Pred>,
}

/// `bar`, `barrier`.
#[derive(Clone, Debug)]
pub struct Barrier {
    /// `.aligned` (always so for `bar`): every thread of the warp must execute it.
    pub aligned: bool,
    /// Barrier number, 0 to 15.
    pub id: Reg,
    /// Participating threads; None is the whole block.
    pub threads: Option<Reg>,
    pub kind: BarrierKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarrierKind {
    Sync,
    Arrive,
    RedPopc { d: Reg, a: Pred },
    RedAnd { d: u16, a: Pred },
    RedOr { d: u16, a: Pred },
}

/// `shfl.sync`: `d` and `p` (source in range).
#[derive(Clone, Debug)]
pub struct Shfl {
    pub mode: ShflMode,
    pub d: Reg,
    pub p: Option<u16>,
    pub a: Reg,
    pub b: Reg,
    pub c: Reg,
    pub members: Reg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VoteKind {
    All,
    Any,
    Uni,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteDest {
    Pred(u16),
    Ballot(Reg),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduxKind {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
}

/// Element types of matrix operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatTy {
    F16,
    BF16,
    TF32,
    F64,
    S8,
    U8,
    S4,
    U4,
    /// One bit, with the operation that joins the operands.
    B1Xor,
    B1And,
    E4M3,
    E5M2,
    F32,
    S32,
}

/// `mma.sync.aligned.mMnNkK.row.col`: D = A B + C. Registers in the order of the ISA's fragments.
#[derive(Clone, Debug)]
pub struct Mma {
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub a_ty: MatTy,
    pub b_ty: MatTy,
    pub c_ty: MatTy,
    pub d_ty: MatTy,
    /// Integer results clamp instead of wrapping.
    pub satfinite: bool,
    pub d: Box<[Reg]>,
    pub a: Box<[Reg]>,
    pub b: Box<[Reg]>,
    pub c: Box<[Reg]>,
}

/// `ldmatrix`, `stmatrix`: 1, 2 or 4 matrices of 8x8 16-bit elements.
#[derive(Clone, Debug)]
pub struct MatrixAccess {
    pub transposed: bool,
    pub registers: Box<[Reg]>,
    /// Shared or generic.
    pub space: Space,
    pub at: Address,
}

/// `mbarrier.*` on a 64-bit object in shared memory.
#[derive(Clone, Debug)]
pub struct MBarrier {
    pub at: Address,
    pub space: Space,
    pub op: MBarrierOp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MBarrierOp {
    Init { count: Reg },
    Inval,
    /// `arrive`, with `.expect_tx` bytes; `drop` lowers the expected count for later phases too.
    Arrive { state: Option<Reg>, count: Option<Reg>, expect_tx: Option<Reg>, drop: bool },
    ExpectTx { bytes: Reg },
    CompleteTx { bytes: Reg },
    TestWait { p: u16, state: Reg, may_block: bool },
    TestWaitParity { p: u16, parity: Reg, may_block: bool },
    PendingCount { d: Reg, state: Reg },
    /// `cp.async.mbarrier.arrive{.noinc}`: arrives when the lane's earlier `cp.async` have landed.
    CpAsyncArrive { noinc: bool },
}
