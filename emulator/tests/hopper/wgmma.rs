//! `wgmma` of every type against a plain product of integers. Where an element lies in shared memory is written here in
//! rows and columns, after the pictures of the ISA document.

use super::{Bench, HEAD, Random};
use cuda_emulator::gpu::Arg;
use half::f16;

/// How a matrix lies in shared memory.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Bytes of a swizzle line: 16 (none), 32, 64, 128.
    pub span: usize,
    pub transposed: bool,
    /// 32-byte steps in k before the part that is multiplied.
    pub step: usize,
}

/// Straight, 128 bytes.
pub const PLAIN: Layout = Layout { span: 128, transposed: false, step: 0 };

/// Bytes between groups of eight lines, and between the other groups.
const GROUP: usize = 1024;

impl Layout {
    /// The byte of element `k` (of `size` bytes) of line `line`; `lines` in all.
    fn at(self, lines: usize, line: usize, k: usize, size: usize) -> usize {
        let chunk_in = |chunk: usize, row: usize| match self.span {
            16 => chunk,
            32 => chunk ^ (row / 4 % 2),
            64 => chunk ^ (row / 2 % 4),
            _ => chunk ^ (row % 8),
        };
        let chunks = self.span / 16;
        if self.transposed {
            // Lines of 8 to 64 neighbours in m or n, one for every k; `lines` of them side by side.
            let (chunk, row) = (line / 8, k % 8);
            let inside = row * self.span + chunk_in(chunk % chunks, row) * 16 + line % 8 * size;
            return (k / 8 * (lines / 8).div_ceil(chunks) + chunk / chunks) * GROUP + inside;
        }
        let byte = k * size + 32 * self.step;
        if self.span == 16 {
            // 8 lines of 16 bytes are one core matrix.
            return (line / 8 * 2 + byte / 16) * GROUP + line % 8 * 16 + byte % 16;
        }
        line / 8 * GROUP + line % 8 * self.span + chunk_in(byte / 16, line % 8) * 16 + byte % 16
    }

    /// The descriptor of a matrix that begins at `start`, a multiple of 1024.
    pub fn descriptor(self, lines: usize, start: usize) -> u64 {
        let (code, chunks) = match self.span {
            16 => (0u64, 1),
            32 => (3, 2),
            64 => (2, 4),
            _ => (1, 8),
        };
        let across = (lines / 8).div_ceil(chunks) * GROUP;
        let (leading, stride) = match (self.transposed, self.span) {
            (true, 16) => (across, GROUP),
            (true, _) => (GROUP, across),
            (false, 16) => (GROUP, 2 * GROUP),
            (false, _) => (16, GROUP),
        };
        let field = |bytes: usize| (bytes / 16) as u64;
        field(start + 32 * self.step) | field(leading) << 16 | field(stride) << 32 | code << 62
    }

    /// Writes a matrix of `lines` rows (of columns, for B) into an image of shared memory.
    pub fn write(self, image: &mut Vec<u8>, start: usize, lines: &[Vec<i32>], ty: &str) {
        for (line, values) in lines.iter().enumerate() {
            for (k, &value) in values.iter().enumerate() {
                let bytes = encode(ty, value);
                let at = start + self.at(lines.len(), line, k, bytes.len());
                if image.len() < at + bytes.len() {
                    image.resize((at + bytes.len()).next_multiple_of(2048), 0);
                }
                image[at..at + bytes.len()].copy_from_slice(&bytes);
            }
        }
    }
}

/// Whole numbers from -4 to 4 (from 0, of u8) in a type.
fn encode(ty: &str, value: i32) -> Vec<u8> {
    let sign = if value < 0 { 0x80 } else { 0 };
    let small = value.unsigned_abs() as usize;
    match ty {
        "bf16" => (((value as f32).to_bits() >> 16) as u16).to_le_bytes().to_vec(),
        "f16" => f16::from_f32(value as f32).to_le_bytes().to_vec(),
        "tf32" => (value as f32).to_le_bytes().to_vec(),
        "e4m3" => vec![sign | [0, 0x38, 0x40, 0x44, 0x48][small]],
        "e5m2" => vec![sign | [0, 0x3c, 0x40, 0x42, 0x44][small]],
        _ => vec![value as u8],
    }
}

/// One product of the test kernel.
#[derive(Clone, Debug)]
struct Case {
    n: usize,
    d: &'static str,
    a: &'static str,
    b: &'static str,
    a_in_registers: bool,
    a_layout: Layout,
    b_layout: Layout,
    negate: [bool; 2],
    scale: bool,
}

fn case(n: usize, d: &'static str, a: &'static str, b: &'static str) -> Case {
    Case { n, d, a, b, a_in_registers: false, a_layout: PLAIN, b_layout: PLAIN, negate: [false; 2], scale: true }
}

impl Case {
    fn k(&self) -> usize {
        match self.a {
            "f16" | "bf16" => 16,
            "tf32" => 8,
            _ => 32,
        }
    }

    /// 32-bit registers of D in a thread.
    fn registers(&self) -> usize {
        if self.d == "f16" { self.n / 4 } else { self.n / 2 }
    }

    fn instruction(&self) -> String {
        let list = |prefix: &str, count: usize| {
            let names: Vec<String> = (0..count).map(|i| format!("{prefix}{i}")).collect();
            format!("{{{}}}", names.join(", "))
        };
        let a = if self.a_in_registers { list("%a", 4) } else { "%da".into() };
        let factor = |negated: bool| if negated { "-1" } else { "1" };
        let trans = |layout: Layout| if layout.transposed { "1" } else { "0" };
        let mut tail = String::new();
        if self.d != "s32" {
            tail += &format!(", {}, {}", factor(self.negate[0]), factor(self.negate[1]));
        }
        if self.k() == 16 && !self.a_in_registers {
            tail += &format!(", {}", trans(self.a_layout));
        }
        if self.k() == 16 {
            tail += &format!(", {}", trans(self.b_layout));
        }
        let Case { n, d, a: a_ty, b: b_ty, .. } = self;
        let (k, c) = (self.k(), list("%c", self.registers()));
        format!("wgmma.mma_async.sync.aligned.m64n{n}k{k}.{d}.{a_ty}.{b_ty} {c}, {a}, %db, %p{tail};")
    }

    fn check(&self, random: &mut Random) {
        let mut matrix = |lines: usize, ty: &str| -> Vec<Vec<i32>> {
            let low = if ty == "u8" { 0 } else { 4 };
            let mut line = || (0..self.k()).map(|_| random.below(5 + low as u64) as i32 - low).collect();
            (0..lines).map(|_| line()).collect()
        };
        let (a, b) = (matrix(64, self.a), matrix(self.n, self.b));
        let (a_start, b_start) = (1024, 48 << 10);
        let mut image = Vec::new();
        self.a_layout.write(&mut image, a_start, &a, self.a);
        self.b_layout.write(&mut image, b_start, &b, self.b);
        let before = |row: usize, column: usize| (row * 3 + column * 5) as i32 % 17 - 8;
        let bench = Bench::new();
        let c = self.fragments(before);
        let (image_at, c_at) = (bench.upload(&image), bench.upload(&c));
        let a_at = bench.upload(&self.fragment_of_a(&a));
        let args = [
            Arg::U64(image_at),
            Arg::U64(c_at),
            Arg::U64(a_at),
            Arg::U64(self.a_layout.descriptor(64, a_start)),
            Arg::U64(self.b_layout.descriptor(self.n, b_start)),
            Arg::U32(self.scale.into()),
            Arg::U32(image.len() as u32),
        ];
        let text = kernel(self.registers(), &self.instruction());
        bench.run(&text, 128, image.len() as u32, &args).unwrap_or_else(|fault| panic!("{self:?}: {fault}"));
        let sign = if self.negate[0] != self.negate[1] { -1 } else { 1 };
        let expected = self.fragments(|row, column| {
            let sum: i32 = (0..self.k()).map(|k| a[row][k] * b[column][k]).sum();
            sign * sum + if self.scale { before(row, column) } else { 0 }
        });
        assert!(bench.0.read(c_at, expected.len()).expect("allocated") == expected, "{self:?}");
    }

    /// D as its threads hold it, thread by thread.
    fn fragments(&self, value: impl Fn(usize, usize) -> i32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for thread in 0..128 {
            let (warp, lane) = (thread / 32, thread % 32);
            for i in 0..self.n / 2 {
                let row = 16 * warp + lane / 4 + if i % 4 < 2 { 0 } else { 8 };
                let column = i / 4 * 8 + lane % 4 * 2 + i % 2;
                let x = value(row, column);
                match self.d {
                    "f16" => bytes.extend(f16::from_f32(x as f32).to_le_bytes()),
                    "f32" => bytes.extend((x as f32).to_le_bytes()),
                    _ => bytes.extend(x.to_le_bytes()),
                }
            }
        }
        bytes
    }

    /// A in registers: four per thread, two halves of k for two rows.
    fn fragment_of_a(&self, a: &[Vec<i32>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for thread in 0..128 {
            let (warp, lane) = (thread / 32, thread % 32);
            for (row, half) in [(0, 0), (8, 0), (0, 1), (8, 1)] {
                let per = self.k() / 8;
                let k = half * self.k() / 2 + lane % 4 * per;
                let elements = &a[16 * warp + lane / 4 + row][k..k + per];
                bytes.extend(elements.iter().flat_map(|&x| encode(self.a, x)));
            }
        }
        bytes
    }
}

/// Copies the image to shared memory, runs the product on C, and puts D where C was.
pub fn kernel(registers: usize, product: &str) -> String {
    let each = |line: &dyn Fn(usize) -> String| (0..registers).map(line).collect::<String>();
    let loads = each(&|i| format!("    ld.global.b32 %c{i}, [%out+{}];\n", 4 * i));
    let stores = each(&|i| format!("    st.global.b32 [%out+{}], %c{i};\n", 4 * i));
    format!(
        "{HEAD}.extern .shared .align 1024 .b8 smem[];
.visible .entry k(.param .u64 image, .param .u64 out, .param .u64 a, .param .u64 da, .param .u64 db,
    .param .u32 scale, .param .u32 bytes)
{{
    .reg .b32 %c<{registers}>, %a<4>, %t, %i, %n, %s, %x<4>;
    .reg .b64 %image, %out, %pa, %da, %db, %o, %at;
    .reg .pred %p, %q;
    ld.param.u64 %image, [image];
    ld.param.u64 %out, [out];
    ld.param.u64 %pa, [a];
    ld.param.u64 %da, [da];
    ld.param.u64 %db, [db];
    ld.param.u32 %s, [scale];
    ld.param.u32 %n, [bytes];
    setp.ne.u32 %p, %s, 0;
    mov.u32 %t, %tid.x;
    shl.b32 %i, %t, 4;
COPY:
    cvt.u64.u32 %o, %i;
    add.u64 %at, %image, %o;
    ld.global.v4.b32 {{%x0, %x1, %x2, %x3}}, [%at];
    mov.u32 %s, smem;
    add.u32 %s, %s, %i;
    st.shared.v4.b32 [%s], {{%x0, %x1, %x2, %x3}};
    add.u32 %i, %i, 2048;
    setp.lt.u32 %q, %i, %n;
    @%q bra COPY;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    mad.wide.u32 %out, %t, {}, %out;
    mad.wide.u32 %pa, %t, 16, %pa;
{loads}    ld.global.v4.b32 {{%a0, %a1, %a2, %a3}}, [%pa];
    wgmma.fence.sync.aligned;
    {product}
    wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 0;
{stores}    ret;
}}
",
        4 * registers
    )
}

/// Result, A and B of every product, with fewer columns and more.
const TYPES: &[(&str, &str, &str)] = &[
    ("f32", "bf16", "bf16"),
    ("f32", "f16", "f16"),
    ("f16", "f16", "f16"),
    ("f32", "tf32", "tf32"),
    ("f32", "e4m3", "e5m2"),
    ("f16", "e5m2", "e4m3"),
    ("f32", "e4m3", "e4m3"),
    ("s32", "s8", "s8"),
    ("s32", "u8", "s8"),
    ("s32", "s8", "u8"),
];

#[test]
fn every_type_from_shared_memory_and_from_registers() {
    let mut random = Random(1);
    for &(d, a, b) in TYPES {
        for n in [8, 24, 96] {
            case(n, d, a, b).check(&mut random);
            Case { a_in_registers: true, ..case(n, d, a, b) }.check(&mut random);
        }
    }
    case(256, "f32", "bf16", "bf16").check(&mut random);
}

#[test]
fn d_is_replaced_and_signs_are_turned() {
    let mut random = Random(2);
    for &(d, a, b) in TYPES {
        Case { scale: false, ..case(16, d, a, b) }.check(&mut random);
        if d != "s32" {
            Case { negate: [true, false], ..case(16, d, a, b) }.check(&mut random);
            Case { negate: [true, true], ..case(16, d, a, b) }.check(&mut random);
            Case { negate: [false, true], a_in_registers: true, ..case(16, d, a, b) }.check(&mut random);
        }
    }
}

#[test]
fn every_layout_of_both_operands() {
    let mut random = Random(3);
    for span in [16, 32, 64, 128] {
        for step in 0..span / 32 {
            let layout = Layout { span, transposed: false, step };
            for &(d, a, b) in TYPES {
                Case { a_layout: layout, b_layout: layout, ..case(32, d, a, b) }.check(&mut random);
            }
        }
        let across = Layout { span, transposed: true, step: 0 };
        for n in [64, 128] {
            Case { a_layout: across, ..case(n, "f32", "f16", "f16") }.check(&mut random);
            Case { b_layout: across, ..case(n, "f32", "bf16", "bf16") }.check(&mut random);
            Case { a_layout: across, b_layout: across, ..case(n, "f16", "f16", "f16") }.check(&mut random);
            Case { b_layout: across, a_in_registers: true, ..case(n, "f32", "f16", "f16") }.check(&mut random);
        }
    }
}
