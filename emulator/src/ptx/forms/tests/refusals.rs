//! What is refused, and that the message says why.

use super::decode;
use super::reader::{Scope, instruction};

fn refused(text: &str, scope: &mut Scope, parts: &[&str]) {
    let why = decode(&instruction(text), scope).expect_err(text);
    assert!(parts.iter().all(|p| why.contains(p)), "{text}: {why}");
}

#[test]
fn a_message_names_what_does_not_fit() {
    let cases: &[(&str, &[&str])] = &[
        ("tcgen05.fence;", &["`tcgen05`", "not supported"]),
        ("vadd2.u32.u32.u32 %r1, %r2, %r3, %r4;", &["`vadd2`"]),
        ("tex.2d.v4.f32.s32 {%r1, %r2, %r3, %r4}, [%rd1];", &["`tex`"]),
        ("add.sat.u32 %r1, %r2, %r3;", &["`.u32`", "add.sat.s32"]),
        ("add.ftz %r1, %r2, %r3;", &["modifier is missing", "add{.ROUND}{.ftz}"]),
        ("ld.mmio.relaxed.sys.global.u32 %r1, [%rd2];", &["`.mmio`"]),
        ("cp.async.bulk.global.shared::cta.mbarrier::complete_tx::bytes [%rd1], [%r1], 16, [%r2];", &["`.mbarrier"]),
        ("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%rd1, {%r1}], [%r2];", &["do not fit"]),
        ("mul.wide.s32 %rd1, %r2;", &["operands do not fit", "mul.wide"]),
        ("add.s32 %r1, %rd2, %r3;", &["`%rd2` has 64 bits", "32"]),
        ("mul.wide.s32 %r1, %r2, %r3;", &["`%r1` has 32 bits", "64"]),
        ("ld.global.u64 %r1, [%rd2];", &["`%r1` has 32 bits"]),
        ("ld.global.v2.u16 {%r1, %rs2}, [%rd2];", &["one width"]),
        ("ld.global.u32 %r1, [shared_v];", &["`shared_v`", "Shared", "Global"]),
        ("ld.global.u32 %r1, [nowhere];", &["`nowhere`"]),
        ("ld.global.u32 %r1, [%rs1];", &["`%rs1`", "address"]),
        ("add.f32 %r1, %r2, 1;", &["`1` is an integer", "f32"]),
        ("add.s32 %r1, %r2, 1.5;", &["floating-point", "s32"]),
        ("mov.u32 %r1, %envreg3;", &["`%envreg3`"]),
        ("mov.u32 %r1, %tid.q;", &["`%tid.q`"]),
        ("add.s32 5, %r2, %r3;", &["register is needed", "`5`"]),
        ("lop3.b32 %r1, %r2, %r3, %r4, 256;", &["0 to 255"]),
        ("cp.async.cg.shared.global [%r1], [%rd2], 8;", &["16 only"]),
        ("bra $nowhere;", &["`$nowhere`", "label"]),
        ("mma.sync.aligned.m16n8k16.row.row.f32.f16.f16.f32 {%r1}, {%r2}, {%r3}, {%r4};", &["`.row`"]),
        ("atom.global.add.v2.f32 {%r1, %r2}, [%rd1], {%r3, %r1};", &["different registers"]),
        ("ld.global.L2::cache_hint.u32 %r1, [%rd2];", &["operands do not fit"]),
        ("setmaxnreg.inc.sync.aligned.u32 41;", &["multiple of 8"]),
        ("selp.b32 %r1, %r2, %r3, !%p1;", &["operands do not fit"]),
        ("wgmma.mma_async.sync.aligned.m64n40k32.s32.s8.s8 {%r1}, %rd1, %rd2, %p1;", &["`.s32`", "nearest form"]),
        ("wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32.tf32 {%r1,%r2}, %rd1, %rd2, %p1, 1, 1;", &["do not fit"]),
        (
            "wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32.tf32 {%r1,%r2,%r3,%r4}, %rd1, %rd2, %p1, 0, 1;",
            &["`na` is 0"],
        ),
    ];
    for (text, parts) in cases {
        refused(text, &mut Scope::default(), parts);
    }
}

#[test]
fn no_number_of_modifiers_is_too_many_to_refuse() {
    for count in 1..70 {
        refused(&format!("add{}.s32 %r1, %r2, %r3;", ".sat".repeat(count + 1)), &mut Scope::default(), &["`.sat`"]);
    }
}

#[test]
fn older_targets_and_versions_lack_newer_forms() {
    let mut scope = Scope { target: ((8, 0), 80), ..Scope::default() };
    refused("add.bf16 %rs1, %rs2, %rs3;", &mut scope, &["sm_90", "sm_80"]);
    refused("ld.shared::cluster.u32 %r1, [%r2];", &mut scope, &["shared::cluster", "sm_90"]);
    assert!(decode(&instruction("fma.rn.bf16 %rs1, %rs2, %rs3, %rs4;"), &mut scope).is_ok());
    let mut scope = Scope { target: ((7, 0), 90), ..Scope::default() };
    refused("szext.clamp.u32 %r1, %r2, %r3;", &mut scope, &["PTX 7.6", "7.0"]);
}
