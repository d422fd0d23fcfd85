//! Instructions of the machine from PTX text: what only a whole kernel shows.

use cuda_emulator::config::Config;
use cuda_emulator::counters::Counters;
use cuda_emulator::device::H100;
use cuda_emulator::gpu::{Arg, Gpu};
use half::{bf16, f16};
use std::fmt::Write;
use std::process::Command;

const HEAD: &str = ".version 8.6\n.target sm_90\n.address_size 64\n";

/// Runs one warp of a kernel whose body finds its number in `%lane` and its place of 32 bits in `[%out]`, with
/// `%r`, `%rd`, `%rs`, `%p` to use. What the lanes stored.
fn run(module: &str, body: &str) -> (Vec<u32>, Counters) {
    let text = format!(
        "{HEAD}{module}
        .visible .entry k(.param .u64 to)
        {{
            .reg .b16 %rs<20>; .reg .b32 %r<40>; .reg .b64 %rd<20>; .reg .pred %p<4>;
            .reg .b32 %lane; .reg .b64 %out, %at;
            ld.param.u64 %at, [to];
            mov.u32 %lane, %laneid;
            mad.wide.u32 %out, %lane, 4, %at;
            {body}
            ret;
        }}"
    );
    let gpu = Gpu::new(H100, Config::default()).expect("address space");
    let module = gpu.load(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let out = gpu.alloc(128).expect("memory");
    gpu.write(out, &[0; 128]).expect("allocated");
    let counters = gpu.launch(&module.kernels[0], [1; 3], [32, 1, 1], 0, &[Arg::U64(out)]);
    let counters = counters.unwrap_or_else(|fault| panic!("{fault}"));
    let bytes = gpu.read(out, 128).expect("allocated");
    (bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().expect("four"))).collect(), counters)
}

#[test]
fn reductions_of_every_kind() {
    let value = |lane: u32| lane.wrapping_mul(0x9e37_79b9) ^ 0x8000_00f0;
    let members: Vec<u32> = (0..32).filter(|lane| lane % 3 != 0).map(value).collect();
    let signed = || members.iter().map(|&v| v as i32);
    let cases: [(&str, u32); 9] = [
        ("add.u32", members.iter().fold(0, |sum, v| sum.wrapping_add(*v))),
        ("add.s32", signed().fold(0i32, i32::wrapping_add) as u32),
        ("min.u32", *members.iter().min().expect("some")),
        ("max.u32", *members.iter().max().expect("some")),
        ("min.s32", signed().min().expect("some") as u32),
        ("max.s32", signed().max().expect("some") as u32),
        ("and.b32", members.iter().fold(u32::MAX, |all, v| all & v)),
        ("or.b32", members.iter().fold(0, |all, v| all | v)),
        ("xor.b32", members.iter().fold(0, |all, v| all ^ v)),
    ];
    let mask = (0..32).filter(|lane| lane % 3 != 0).fold(0u32, |mask, lane| mask | 1 << lane);
    for (kind, expected) in cases {
        let body = format!(
            "mul.lo.u32 %r1, %lane, 0x9e3779b9; xor.b32 %r1, %r1, 0x800000f0;
            rem.u32 %r2, %lane, 3; setp.ne.u32 %p1, %r2, 0; mov.u32 %r3, 7;
            @%p1 redux.sync.{kind} %r3, %r1, {mask:#x};
            st.global.u32 [%out], %r3;"
        );
        for (lane, got) in run("", &body).0.into_iter().enumerate() {
            assert_eq!(got, if lane % 3 == 0 { 7 } else { expected }, "{kind} lane {lane}");
        }
    }
}

/// Sums that two roundings get wrong: a tie of the format, and a little more or less far below.
const CLOSE: [(f32, f32); 7] =
    // The fifth: half a unit of f16 and 2^-21 more.
    [
        (1.0, 0.001_953_125),
        (1.0, 0.003_906_25),
        (256.0, 1.000_001),
        (-3.0, 1.0e-30),
        (1.0, 0.000_488_758_1),
        (65504.0, 8.0),
        (3.0e-8, 3.0e-8),
    ];

/// The nearest pattern of a format to the exact sum of two patterns: by distance to all of them, ties to even.
fn nearest(value: impl Fn(u16) -> f64, a: u16, b: u16) -> u16 {
    let (a, b) = (value(a), value(b));
    // The sum of two 16-bit floats may not fit a double; its error does.
    let sum = a + b;
    let part = sum - a;
    let error = (a - (sum - part)) + (b - part);
    let distance = |bits: u16| ((value(bits) - sum) - error).abs();
    let finite = (0..=u16::MAX).filter(|&bits| value(bits).is_finite());
    finite.min_by(|x, y| distance(*x).total_cmp(&distance(*y)).then((x & 1).cmp(&(y & 1)))).expect("some")
}

#[test]
fn atomic_sums_of_halves_round_once() {
    let f16s = |bits: u16| f16::from_bits(bits).to_f64();
    let bf16s = |bits: u16| bf16::from_bits(bits).to_f64();
    for (a, b) in CLOSE {
        let (x, y) = (f16::from_f32(a).to_bits(), f16::from_f32(b).to_bits());
        let (bx, by) = (bf16::from_f32(a).to_bits(), bf16::from_f32(b).to_bits());
        for (ty, x, y, sum) in [("f16", x, y, nearest(f16s, x, y)), ("bf16", bx, by, nearest(bf16s, bx, by))] {
            let (got, _) = run(
                "",
                &format!(
                    "mov.b16 %rs1, {x}; mov.b16 %rs2, {y}; setp.ne.u32 %p1, %lane, 0; @%p1 ret;
                    st.global.b16 [%out], %rs1;
                    atom.global.add.noftz.{ty} %rs3, [%out], %rs2;
                    cvt.u32.u16 %r1, %rs3; st.global.u32 [%out+4], %r1;
                    mov.b32 %r2, {{%rs1, %rs2}}; mov.b32 %r3, {{%rs2, %rs1}};
                    st.global.b32 [%out+8], %r2;
                    red.global.add.noftz.{ty}x2 [%out+8], %r3;"
                ),
            );
            let both = u32::from(sum) | u32::from(sum) << 16;
            assert_eq!(got[..3], [sum.into(), x.into(), both], "{ty} {a} + {b}");
        }
    }
    // A sum that no double holds: 2^127 and the smallest number of the format.
    let (large, tiny) = (0x7f00u16, 0x0001u16);
    let body = format!(
        "setp.ne.u32 %p1, %lane, 0; @%p1 ret; mov.b16 %rs1, {large}; mov.b16 %rs2, {tiny};
        st.global.b16 [%out], %rs1; red.global.add.noftz.bf16 [%out], %rs2;"
    );
    assert_eq!(run("", &body).0[0], u32::from(large));
}

#[test]
fn atomic_extremes_of_vectors() {
    let body = "setp.ne.u32 %p1, %lane, 0; @%p1 ret;
        mov.b32 %r1, 0x3c00c000; st.global.b32 [%out], %r1; mov.b32 %r2, 0x80007fff; st.global.b32 [%out+4], %r2;
        mov.b32 %r3, 0xbc000000; mov.b32 %r4, 0x00003c00;
        atom.global.max.noftz.v2.f16x2 {%r5, %r6}, [%out], {%r3, %r4};
        st.global.b32 [%out+8], %r5; st.global.b32 [%out+12], %r6;";
    // (-2, 1) and (0, -1); (NaN, -0) and (1, 0).
    assert_eq!(run("", body).0[..4], [0x3c00_0000, 0x0000_3c00, 0x3c00_c000, 0x8000_7fff]);
}

#[test]
fn matrices_are_stored_as_they_are_loaded() {
    for (transposed, trans) in [(false, ""), (true, ".trans")] {
        // Lane i gives row i of the second matrix, and the first 8 also rows of the first.
        let body = format!(
            "mov.u32 %r1, tile; shl.b32 %r2, %lane, 4; add.u32 %r1, %r1, %r2;
            shl.b32 %r3, %lane, 17; add.u32 %r3, %r3, 0x10000; shl.b32 %r4, %lane, 1; or.b32 %r3, %r3, %r4;
            add.u32 %r5, %r3, 0x400040;
            stmatrix.sync.aligned.m8n8.x2{trans}.shared.b16 [%r1], {{%r3, %r5}};
            bar.sync 0;
            mov.u32 %r6, tile; shl.b32 %r7, %lane, 2; add.u32 %r6, %r6, %r7;
            ld.shared.u32 %r8, [%r6+128]; st.global.u32 [%out], %r8;"
        );
        let (got, _) = run(".shared .align 16 .b8 tile[512];", &body);
        // Lane 4r + c holds elements 2c and 2c + 1 of row r, which are numbered 64 on in the second matrix.
        for (place, element) in got.iter().flat_map(|word| [word & 0xffff, word >> 16]).enumerate() {
            let (row, column) = (place / 8, place % 8);
            let held = if transposed { column * 8 + row } else { row * 8 + column };
            assert_eq!(element as usize, 64 + held, "row {row} column {column} {trans}");
        }
    }
}

#[test]
fn copies_arrive_at_a_barrier_in_memory() {
    let body = "mov.u32 %r1, bar; setp.ne.u32 %p1, %lane, 0;
        @!%p1 mbarrier.init.shared.b64 [%r1], 32;
        st.global.u32 [%out], %lane;
        bar.sync 0;
        mov.u32 %r2, tile; shl.b32 %r3, %lane, 2; add.u32 %r2, %r2, %r3;
        cp.async.ca.shared.global [%r2], [%out], 4;
        cp.async.mbarrier.arrive.noinc.shared.b64 [%r1];
    wait:
        mbarrier.test_wait.parity.shared.b64 %p2, [%r1], 0;
        @!%p2 bra wait;
        xor.b32 %r4, %r2, 4; ld.shared.u32 %r5, [%r4]; st.global.u32 [%out], %r5;";
    let module = ".shared .align 8 .b64 bar; .shared .align 16 .b8 tile[128];";
    let (got, _) = run(module, body);
    assert_eq!(got, (0..32).map(|lane| lane ^ 1).collect::<Vec<u32>>());
    // Without `.noinc` the copies' own arrivals are added first, so everyone still has to arrive.
    let more = body.replace(".noinc", "").replace("wait:", "mbarrier.arrive.shared.b64 %rd1, [%r1]; wait:");
    assert_eq!(run(module, &more).0, got);
}

#[test]
fn registers_of_128_bits_keep_their_halves() {
    let body = "setp.ne.u32 %p1, %lane, 0; @%p1 ret; .reg .b128 %rq<4>;
        mov.u64 %rd1, 0x1122334455667788; mov.u64 %rd2, 0x99aabbccddeeff00;
        mov.b128 %rq1, {%rd1, %rd2}; mov.b128 %rq2, %rq1; st.global.b128 [%out], %rq2;
        ld.global.b128 %rq3, [%out]; mov.b128 {%rd3, %rd4}, %rq3; st.global.v2.b64 [%out+16], {%rd4, %rd3};";
    let (low, high) = ([0x5566_7788, 0x1122_3344], [0xddee_ff00, 0x99aa_bbcc]);
    assert_eq!(run("", body).0[..8], [low, high, high, low].concat());
}

#[test]
fn clocks_count_the_instructions_between_two_looks() {
    let body = "mov.u32 %r1, %clock; add.u32 %r3, %lane, 1; add.u32 %r3, %r3, 1; mov.u64 %rd1, %clock64;
        cvt.u32.u64 %r2, %rd1; sub.u32 %r1, %r2, %r1; st.global.u32 [%out], %r1;";
    // A look is an instruction, and `mov` takes what it saw to its destination: mov, add, add, look.
    assert_eq!(run("", body).0, [4; 32]);
}

/// What `printf` makes of formats and arguments: by the C standard.
const PRINTED: &[(&str, &[u64], &str)] = &[
    ("plain %% text", &[], "plain % text"),
    ("%d %i", &[-5i32 as u32 as u64, 7], "-5 7"),
    ("%5d|%-5d|%05d|%+d", &[42, 42, 42, 42], "   42|42   |00042|+42"),
    ("%u %x %X %#x %o", &[u32::MAX as u64, 255, 255, 255, 8], "4294967295 ff FF 0xff 10"),
    ("%lld %llu %lx", &[1 << 63, u64::MAX, 1 << 40], "-9223372036854775808 18446744073709551615 10000000000"),
    ("%zu %hhd", &[1 << 33, 9], "8589934592 9"),
    ("%c%c", &[b'o' as u64, b'k' as u64], "ok"),
    ("%f %.2f %8.3f", &[0x3ff8000000000000, 0x4009_21fb_5444_2d18, 0xc009_21fb_5444_2d18], "1.500000 3.14   -3.142"),
    ("%e %g %G", &[0x40c81cd6e631f8a1, 0x3f1a36e2eb1c432d, 0x7ff0000000000000], "1.234568e+04 0.0001 INF"),
    ("%a", &[0x3ff8000000000000], "0x1.8p+0"),
    ("%*d|%-*d|%.*f", &[4, 7, 4, 7, 1, 0x3ff8000000000000], "   7|7   |1.5"),
    ("%.*f", &[-1i32 as u32 as u64, 0x3ff8000000000000], "1.500000"),
    ("%p", &[0x1234], "0x1234"),
    ("100%", &[], "100%"),
    ("%y", &[], "%y"),
];

/// Whether an argument of a conversion has eight bytes.
fn widths(format: &str) -> Vec<u64> {
    let mut widths = Vec::new();
    for part in format.replace("%%", "").split('%').skip(1) {
        let end = part.find(|c: char| c.is_ascii_alphabetic() && !"lhz".contains(c));
        let Some(end) = end.filter(|&end| !part[end..].starts_with('y')) else { continue };
        widths.extend(part[..end].matches('*').map(|_| 4));
        let wide = part[..end].contains(['l', 'z']) || "feEgGap".contains(&part[end..=end]);
        widths.push(if wide { 8 } else { 4 });
    }
    widths
}

/// Run by `kernels_print_as_c_does` in a process of its own, whose output it reads.
#[test]
fn printing() {
    let (mut module, mut body) = (String::new(), String::new());
    module += ".extern .func (.param .b32 count) vprintf (.param .b64 format, .param .b64 values);\n";
    body += "setp.ne.u32 %p1, %lane, 0; @%p1 ret; .local .align 8 .b8 values[64];
        mov.u64 %rd1, values; cvta.local.u64 %rd2, %rd1;\n";
    for (i, (format, values, _)) in PRINTED.iter().enumerate() {
        let bytes: Vec<String> = format!("{format}\n\0").bytes().map(|b| b.to_string()).collect();
        writeln!(module, ".global .align 1 .b8 f{i}[{}] = {{{}}};", bytes.len(), bytes.join(",")).unwrap();
        let mut at = 0u64;
        for (value, bytes) in values.iter().zip(widths(format)) {
            at = at.next_multiple_of(bytes);
            writeln!(body, "mov.u64 %rd3, {value}; st.local.b{} [%rd1+{at}], %rd3;", 8 * bytes).unwrap();
            at += bytes;
        }
        writeln!(
            body,
            "{{ .param .b64 f; .param .b64 v; .param .b32 n;
            mov.u64 %rd4, f{i}; cvta.global.u64 %rd5, %rd4; st.param.b64 [f], %rd5; st.param.b64 [v], %rd2;
            call.uni (n), vprintf, (f, v); ld.param.b32 %r1, [n]; st.global.u32 [%out+{}], %r1; }}",
            4 * i
        )
        .unwrap();
    }
    let (counts, _) = run(&module, &body);
    for (count, (format, ..)) in counts.iter().zip(PRINTED) {
        let conversions = widths(format).len() - format.matches('*').count();
        assert_eq!(*count as usize, conversions, "{format}");
    }
}

#[test]
fn kernels_print_as_c_does() {
    let this = std::env::current_exe().expect("a path");
    let child = Command::new(this).args(["--exact", "printing", "--nocapture"]).output().expect("it runs");
    let text = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(child.status.success(), "{text}{}", String::from_utf8_lossy(&child.stderr));
    let expected: String = PRINTED.iter().map(|(_, _, line)| format!("{line}\n")).collect();
    assert!(text.contains(&expected), "{text}\nis not\n{expected}");
}
