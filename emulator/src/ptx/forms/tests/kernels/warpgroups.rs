//! `wgmma` against a plain product of small integers, in the layout without a swizzle, and its fences.

use super::matrices::{encode, shape, small, width};
use super::{Kernel, Spelling, random_for, word};
use crate::fault::FaultKind;

const TYPES: &[&str] = &["f32", "f16", "bf16", "tf32", "e4m3", "e5m2", "s32", "s8", "u8"];
/// Bytes of eight lines of 16: the unit in which operands lie in shared memory.
const CORE: usize = 128;
const THREADS: usize = 128;

/// A product, or one of the instructions around one.
pub fn product(s: &Spelling<'_>) {
    if s.has("mma_async") {
        return Product::new(s).check();
    }
    s.knows(&[&["fence", "commit_group", "wait_group", "sync", "aligned"]]);
    let product =
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%r0, %r1, %r2, %r3}, %rd300, %rd600, %p3, 1, 1, 0, 0;";
    let around = if s.number("n") == Some(1) {
        // One more group may be under way: of two, only the first is complete, and of that D.
        let other = product.replace("%r0, %r1, %r2, %r3", "%r4, %r5, %r6, %r7");
        format!(
            "mov.b32 %r4, 0; mov.b32 %r5, 0; mov.b32 %r6, 0; mov.b32 %r7, 0; wgmma.fence.sync.aligned; PRODUCT wgmma.commit_group.sync.aligned; {other} wgmma.commit_group.sync.aligned; {}",
            s.text
        )
    } else {
        let part = |of: &str, usual: &str| if s.has(of) { s.text.to_owned() } else { usual.to_owned() };
        [
            part("fence", "wgmma.fence.sync.aligned;"),
            "PRODUCT".to_owned(),
            part("commit_group", "wgmma.commit_group.sync.aligned;"),
            part("wait_group", "wgmma.wait_group.sync.aligned 0;"),
        ]
        .join("\n")
    };
    let kernel = Product::new(&Spelling::new(product)).kernel(&around);
    Product::new(&Spelling::new(product)).compare(&kernel.output());
    kernel.needs(s.text, FaultKind::RegisterRace);
}

struct Product<'s> {
    s: &'s Spelling<'s>,
    n: usize,
    k: usize,
    /// Of D, in a thread.
    registers: usize,
    /// Of D, A and B.
    types: [&'s str; 3],
    /// By line (a row of A, a column of B) and k.
    a: Vec<Vec<i64>>,
    b: Vec<Vec<i64>>,
    scale: bool,
}

/// What D holds before.
fn before(row: usize, column: usize) -> i64 {
    (row * 3 + column * 5) as i64 % 17 - 8
}

impl<'s> Product<'s> {
    fn new(s: &'s Spelling<'s>) -> Product<'s> {
        s.knows(&[TYPES, &["mma_async", "sync", "aligned", "satfinite"], &[&s.words[3]]]);
        let [_, n, k] = shape(&s.words[3]);
        let types: Vec<&str> = s.words.iter().map(String::as_str).filter(|w| TYPES.contains(w)).collect();
        let types: [&str; 3] = types.try_into().expect("three types");
        let random = &mut random_for(s);
        let scale = !random.bits().is_multiple_of(4);
        let mut fill = |lines: usize, ty| (0..lines).map(|_| (0..k).map(|_| small(random, ty)).collect()).collect();
        Product { s, n, k, registers: s.names("acc").len(), types, a: fill(64, types[1]), b: fill(n, types[2]), scale }
    }

    /// Lines of an operand as they lie in shared memory; `across`: neighbours are of one k, not of one line.
    fn image(lines: &[Vec<i64>], ty: &str, across: bool) -> Vec<u8> {
        let size = width(ty) / 8;
        let mut image = vec![0; lines.len() * lines[0].len() * size];
        for (line, values) in lines.iter().enumerate() {
            for (k, value) in values.iter().enumerate() {
                let at = if across {
                    (k / 8 * (lines.len() / 8) + line / 8) * CORE + k % 8 * 16 + line % 8 * size
                } else {
                    (line / 8 * 2 + k * size / 16) * CORE + line % 8 * 16 + k * size % 16
                };
                image[at..at + size].copy_from_slice(&encode(ty, *value).to_le_bytes()[..size]);
            }
        }
        image
    }

    /// Start, leading and stride offsets, in units of 16 bytes.
    fn descriptor(start: usize, lines: usize, across: bool) -> u64 {
        let (leading, stride) = if across { (lines / 8 * CORE, CORE) } else { (CORE, 2 * CORE) };
        [start, leading, stride].into_iter().rev().fold(0, |all, bytes| all << 16 | (bytes / 16) as u64)
    }

    fn across(&self, operand: &str) -> bool {
        self.s.number(operand) == Some(1)
    }

    fn columns_of_a_register(&self) -> usize {
        32 / width(self.types[0])
    }

    /// A fragment of D: for thread and element, row and column.
    fn place(thread: usize, i: usize) -> (usize, usize) {
        (thread / 32 * 16 + thread % 32 / 4 + if i % 4 < 2 { 0 } else { 8 }, i / 4 * 8 + thread % 4 * 2 + i % 2)
    }

    fn stride(&self) -> usize {
        4 * self.registers + 16
    }

    /// The product between `before` and `after` of `around`.
    fn kernel(&self, around: &str) -> Kernel {
        let (s, [d_ty, a_ty, b_ty]) = (self.s, self.types);
        let (start, mut input) = (self.stride() * THREADS, Vec::new());
        for thread in 0..THREADS {
            for r in 0..self.registers {
                let part = |i| {
                    let (row, column) = Self::place(thread, r * self.columns_of_a_register() + i);
                    encode(d_ty, before(row, column)) << (i * width(d_ty))
                };
                input.extend(
                    (0..self.columns_of_a_register()).fold(0, |all, i| all | part(i)).to_le_bytes()[..4].to_vec(),
                );
            }
            // A in registers: two rows eight apart, then the same of the other half of k.
            for (below, half) in [(0, 0), (8, 0), (0, 1), (8, 1)] {
                let (row, per) = (thread / 32 * 16 + thread % 32 / 4 + below, self.k / 8);
                let from = half * self.k / 2 + thread % 4 * per;
                self.a[row][from..from + per]
                    .iter()
                    .for_each(|x| input.extend(&encode(a_ty, *x).to_le_bytes()[..width(a_ty) / 8]));
            }
        }
        let images = [(&self.a, a_ty, self.across("ta")), (&self.b, b_ty, self.across("tb"))]
            .map(|(m, ty, across)| Self::image(m, ty, across));
        let b_start = images[0].len();
        input.extend(images.concat());
        input.resize(start + (input.len() - start).next_multiple_of(16 * THREADS), 0);
        let mut body = "mov.u32 %x4, tile; mad.lo.u32 %x4, %t, 16, %x4; mad.wide.u32 %y0, %t, 16, %base;\n".to_owned();
        for at in (0..input.len() - start).step_by(16 * THREADS) {
            body += &format!("ld.global.v4.b32 {{%x0, %x1, %x2, %x3}}, [%y0+{}];\n", start + at);
            body += &format!("st.shared.v4.b32 [%x4+{at}], {{%x0, %x1, %x2, %x3}};\n");
        }
        body += "fence.proxy.async.shared::cta; bar.sync 0; mov.u32 %x0, tile; shr.u32 %x0, %x0, 4; cvt.u64.u32 %y0, %x0;\n";
        let descriptors = [("a", 0, 64, self.across("ta")), ("b", b_start, self.n, self.across("tb"))];
        for (name, at, lines, across) in descriptors {
            if s.names(name).len() == 1 {
                body += &format!("add.u64 {}, %y0, {};\n", s.name(name), Self::descriptor(at, lines, across));
            }
        }
        let accumulators = s.names("acc");
        let in_registers = s.names("a").into_iter().filter(|_| s.names("a").len() > 1);
        for (i, r) in accumulators.iter().copied().enumerate().chain((accumulators.len()..).zip(in_registers)) {
            body += &format!("ld.global.b32 {r}, [%in+{}];\n", 4 * i);
        }
        body += &format!(
            "setp.ne.u32 {}, {}, 0;\n{}\n",
            s.name("scale"),
            u32::from(self.scale),
            around.replace("PRODUCT", s.text)
        );
        for (i, r) in accumulators.iter().enumerate() {
            body += &format!("st.global.b32 [%out+{}], {r};\n", 4 * i);
        }
        Kernel { front: String::new(), body, threads: THREADS, stride: self.stride(), input }
    }

    fn compare(&self, got: &[u8]) {
        let (d_ty, per) = (self.types[0], self.columns_of_a_register());
        let sign = |operand: &str| self.s.number(operand).unwrap_or(1) as i64;
        let factor = sign("na") * sign("nb");
        for (thread, i) in (0..THREADS).flat_map(|t| (0..self.n / 2).map(move |i| (t, i))) {
            let (row, column) = Self::place(thread, i);
            let product: i64 = (0..self.k).map(|k| self.a[row][k] * self.b[column][k]).sum();
            let sum = factor * product + if self.scale { before(row, column) } else { 0 };
            let got = word(got, self.stride(), thread, (i / per) * 4 + i % per * width(d_ty) / 8, width(d_ty) / 8);
            assert_eq!(got as u64, encode(d_ty, sum), "{} ({row}, {column})", self.s.text);
        }
    }

    fn check(&self) {
        let around =
            "wgmma.fence.sync.aligned; PRODUCT wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;";
        self.compare(&self.kernel(around).output());
    }
}
