//! Programs by hand, for the tests of the machine.
#![allow(dead_code)]

use cuda_emulator::config::{Checks, Config};
use cuda_emulator::counters::Counters;
use cuda_emulator::device::A100;
use cuda_emulator::fault::{Fault, Place};
use cuda_emulator::isa::*;
use cuda_emulator::machine::{self, Launch, Operand};
use cuda_emulator::memory::Memory;
use cuda_emulator::program::{Needs, Program, Special, Tracked};
use cuda_emulator::registers::Row;

/// A program under construction. Instruction `i` stands on "PTX line" `i + 1`.
#[derive(Default)]
pub struct Build {
    code: Vec<Inst>,
    rows: u32,
    predicates: u16,
    constants: Vec<Row>,
    specials: Vec<(Special, Reg)>,
    labels: Vec<Option<u32>>,
    pub tracked: Tracked,
    pub needs: Needs,
}

/// A place to jump to, before it is known.
#[derive(Clone, Copy)]
pub struct Label(usize);

/// Stands for a label until the program is complete.
const UNRESOLVED: u32 = 1 << 30;

impl Build {
    pub fn new() -> Build {
        let needs = Needs { shared_granule: 4, dynamic_align: 16, ..Needs::default() };
        Build { needs, ..Build::default() }
    }

    pub fn r32(&mut self) -> Reg {
        self.rows += 1;
        Reg(self.rows - 1)
    }

    pub fn r64(&mut self) -> Reg {
        self.rows += 2;
        Reg(self.rows - 2)
    }

    pub fn p(&mut self) -> u16 {
        self.predicates += 1;
        self.predicates - 1
    }

    pub fn imm(&mut self, value: u32) -> Reg {
        self.lanes(|_| value)
    }

    pub fn lanes(&mut self, value: impl Fn(u32) -> u32) -> Reg {
        self.constants.push(Row(std::array::from_fn(|i| value(i as u32))));
        Reg::of_constant(self.constants.len() - 1)
    }

    pub fn imm64(&mut self, value: u64) -> Reg {
        let row = Row(std::array::from_fn(|i| (value >> (32 * (i % 2))) as u32));
        self.constants.extend([row, row]);
        Reg::of_constant(self.constants.len() - 2)
    }

    pub fn special(&mut self, special: Special) -> Reg {
        let reg = self.r32();
        self.specials.push((special, reg));
        reg
    }

    pub fn op(&mut self, op: Op) {
        self.when(Pred::Always, op);
    }

    pub fn when(&mut self, guard: Pred, op: Op) {
        self.code.push(Inst { guard, op });
    }

    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    pub fn bind(&mut self, label: Label) {
        self.labels[label.0] = Some(self.code.len() as u32);
    }

    pub fn here(&mut self) -> Label {
        let label = self.label();
        self.bind(label);
        label
    }

    /// The number that stands for the label in an instruction.
    pub fn target(&self, label: Label) -> u32 {
        UNRESOLVED + label.0 as u32
    }

    pub fn jump(&mut self, guard: Pred, label: Label) {
        let target = self.target(label);
        self.when(guard, Op::Branch { target });
    }

    pub fn int(&mut self, op: IntOp, a: Reg, b: Reg) -> Reg {
        let d = self.r32();
        self.int_to(d, op, a, b);
        d
    }

    pub fn int_to(&mut self, d: Reg, op: IntOp, a: Reg, b: Reg) {
        let zero = self.imm(0);
        self.op(Op::Alu(Alu::Int { op, ty: Ty::U32, d, a: [a, b, zero] }));
    }

    pub fn mov(&mut self, d: Reg, a: Reg) {
        self.op(Op::Alu(Alu::Mov { ty: Ty::B32, d, a }));
    }

    pub fn add(&mut self, a: Reg, value: u32) -> Reg {
        let b = self.imm(value);
        self.int(IntOp::Add, a, b)
    }

    /// `a * factor`.
    pub fn times(&mut self, a: Reg, factor: u32) -> Reg {
        let (b, zero, d) = (self.imm(factor), self.imm(0), self.r32());
        self.op(Op::Alu(Alu::Int { op: IntOp::MadLo, ty: Ty::U32, d, a: [a, b, zero] }));
        d
    }

    pub fn setp(&mut self, cmp: Cmp, a: Reg, b: Reg) -> u16 {
        let p = self.p();
        self.setp_to(p, cmp, a, b);
        p
    }

    pub fn setp_to(&mut self, p: u16, cmp: Cmp, a: Reg, b: Reg) {
        let compare = Compare { cmp, ty: Ty::U32, ftz: false, combine: None };
        self.op(Op::Alu(Alu::SetP { compare, p: Some(p), q: None, a, b }));
    }

    /// `%tid.x + %ctaid.x * %ntid.x`.
    pub fn thread(&mut self) -> Reg {
        let (tid, block) = (self.special(Special::Tid(0)), self.special(Special::CtaId(0)));
        let (size, d) = (self.special(Special::NTid(0)), self.r32());
        self.op(Op::Alu(Alu::Int { op: IntOp::MadLo, ty: Ty::U32, d, a: [block, size, tid] }));
        d
    }

    /// The 64-bit kernel parameter number `index`.
    pub fn param(&mut self, index: usize) -> Reg {
        let (base, d) = (self.imm(0), self.r64());
        let at = Address { base, wide: false, offset: 8 * index as i64 };
        self.op(load(Space::Param, Ty::U64, d, at));
        d
    }

    /// `base + index * size`.
    pub fn element(&mut self, base: Reg, index: Reg, size: u32) -> Reg {
        let (size, d) = (self.imm(size), self.r64());
        self.op(Op::Alu(Alu::Int { op: IntOp::MadWide, ty: Ty::U32, d, a: [index, size, base] }));
        d
    }

    /// Stores `value` as element `thread` of the buffer that parameter `index` points to.
    pub fn output(&mut self, index: usize, value: Reg) {
        let (base, thread) = (self.param(index), self.thread());
        let at = self.element(base, thread, 4);
        self.op(store(Space::Global, Ty::B32, value, wide(at)));
    }

    pub fn load_shared(&mut self, base: Reg) -> Reg {
        let d = self.r32();
        self.op(load(Space::Shared, Ty::B32, d, narrow(base)));
        d
    }

    pub fn store_shared(&mut self, base: Reg, value: Reg) {
        self.op(store(Space::Shared, Ty::B32, value, narrow(base)));
    }

    pub fn sync(&mut self) {
        let id = self.imm(0);
        self.op(Op::Barrier(Barrier { aligned: true, id, threads: None, kind: BarrierKind::Sync }));
    }

    pub fn done(mut self) -> Program {
        self.op(Op::Exit);
        let labels = self.labels;
        let resolve = |t: &mut u32| {
            if *t >= UNRESOLVED {
                *t = labels[(*t - UNRESOLVED) as usize].expect("a bound label");
            }
        };
        for inst in &mut self.code {
            match &mut inst.op {
                Op::Branch { target } | Op::Call { target, .. } => resolve(target),
                Op::BranchIndexed { targets, .. } => targets.iter_mut().for_each(resolve),
                _ => {}
            }
        }
        let place = |i| Place { ptx: i as u32 + 1, text: format!("instruction {i}").into(), ..Place::default() };
        Program {
            name: "test".into(),
            places: (0..self.code.len()).map(place).collect(),
            code: self.code,
            rows: self.rows,
            predicates: self.predicates.into(),
            constants: self.constants,
            specials: self.specials,
            tracked: self.tracked,
            params: Vec::new(),
            needs: self.needs,
        }
    }
}

pub fn wide(base: Reg) -> Address {
    Address { base, wide: true, offset: 0 }
}

pub fn narrow(base: Reg) -> Address {
    Address { base, wide: false, offset: 0 }
}

pub fn load(space: Space, ty: Ty, d: Reg, at: Address) -> Op {
    Op::Load(Load { space, order: Order::Weak, nc: false, ty, reg: ty, d: Vector::new(&[Some(d)]), at })
}

pub fn store(space: Space, ty: Ty, a: Reg, at: Address) -> Op {
    Op::Store(Store { space, order: Order::Weak, ty, reg: ty, a: Vector::new(&[a]), at })
}

/// A relaxed atomic on 32 bits.
pub fn atom(space: Space, op: AtomOp, d: Option<Reg>, at: Address, b: Reg, c: Reg) -> Op {
    Op::Atom(Atom { space, op, ty: Ty::U32, order: Order::Relaxed, scope: Scope::Gpu, d, at, b, c })
}

/// How to run a program.
pub struct Run<'a> {
    pub program: &'a Program,
    pub memory: &'a Memory,
    pub grid: u32,
    pub block: u32,
    pub dynamic_shared: u32,
    pub params: Vec<u64>,
    pub cooperative: bool,
    pub operands: Option<Vec<Operand>>,
    pub checks: Checks,
    pub seed: u64,
    pub threads: usize,
}

impl<'a> Run<'a> {
    pub fn new(program: &'a Program, memory: &'a Memory) -> Run<'a> {
        Run {
            program,
            memory,
            grid: 1,
            block: 32,
            dynamic_shared: 0,
            params: Vec::new(),
            cooperative: false,
            operands: None,
            checks: Checks::ALL,
            seed: 1,
            threads: 1,
        }
    }

    pub fn go(&self) -> Result<Counters, Box<Fault>> {
        let params: Vec<u8> = self.params.iter().flat_map(|p| p.to_le_bytes()).collect();
        let launch = Launch {
            program: self.program,
            device: &A100,
            grid: [self.grid, 1, 1],
            block: [self.block, 1, 1],
            dynamic_shared: self.dynamic_shared,
            params: &params,
            cooperative: self.cooperative,
            operands: self.operands.as_deref(),
        };
        let config = Config { checks: self.checks, seed: self.seed, threads: self.threads, ..Config::default() };
        machine::launch(&launch, self.memory, &config)
    }
}

pub fn memory() -> Memory {
    Memory::new(1 << 30).expect("address space")
}

pub fn upload(memory: &Memory, values: &[u32]) -> u64 {
    let at = memory.alloc(values.len() as u64 * 4, "input").expect("memory");
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    memory.write(at, &bytes).expect("just allocated");
    at
}

pub fn download(memory: &Memory, at: u64, count: usize) -> Vec<u32> {
    let mut bytes = vec![0; count * 4];
    memory.read(at, &mut bytes).expect("allocated");
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().expect("four"))).collect()
}

/// Runs one block (or more) of `block` threads and returns what every thread output.
pub fn outputs(program: &Program, grid: u32, block: u32) -> Vec<u32> {
    let memory = memory();
    let count = (grid * block) as usize;
    let out = memory.alloc(4 * count as u64, "output").expect("memory");
    let run = Run { grid, block, params: vec![out], ..Run::new(program, &memory) };
    run.go().unwrap_or_else(|fault| panic!("{fault}"));
    download(&memory, out, count)
}
