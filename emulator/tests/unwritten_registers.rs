//! Registers that some lanes never wrote: values made of them may be moved and computed, not used.

use cuda_emulator::config::Config;
use cuda_emulator::device::A100;
use cuda_emulator::fault::{Fault, FaultKind};
use cuda_emulator::gpu::{Arg, Gpu};

/// Runs one warp; %r0 is the lane, %r1 holds 7 in lanes 0 to 3 only (where %p0 holds), [%rd0] is the lane's own word.
/// What `body` leaves in memory, or the fault.
fn run(body: &str) -> Result<Vec<u32>, Box<Fault>> {
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p)\n{{\n\
         .reg .b32 %r<9>; .reg .pred %p<4>; .reg .b64 %rd<4>;\n\
         ld.param.u64 %rd1, [p]; mov.u32 %r0, %tid.x; mad.wide.u32 %rd0, %r0, 4, %rd1;\n\
         setp.lt.u32 %p0, %r0, 4; @%p0 mov.u32 %r1, 7;\n{body}\nret;\n}}"
    );
    let gpu = Gpu::new(A100, Config::default()).unwrap();
    let module = gpu.load(&text).unwrap();
    let at = gpu.alloc(128).unwrap();
    gpu.write(at, &[0; 128]).unwrap();
    gpu.launch(&module.kernels[0], [1, 1, 1], [32, 1, 1], 0, &[Arg::U64(at)])?;
    Ok(gpu.read(at, 128).unwrap().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect())
}

/// The lane that a use is blamed on, and the register's name.
fn blamed(body: &str) -> (u32, String) {
    let fault = run(body).unwrap_err();
    assert_eq!(fault.kind, FaultKind::UninitialisedRegister, "{fault}");
    (fault.thread.unwrap().thread[0], fault.why.split([' ', ',']).next().unwrap().to_owned())
}

#[test]
fn a_partial_value_is_shuffled_and_used_where_it_is_good() {
    // As Triton ends a reduction: lanes 0 to 3 hold what the warps found.
    let sum = "shfl.sync.bfly.b32 %r2, %r1, 2, 31, -1; add.u32 %r1, %r1, %r2;\n\
               shfl.sync.bfly.b32 %r3, %r1, 1, 31, -1; add.u32 %r4, %r1, %r3;\n";
    let found = run(&format!("{sum} @%p0 st.global.u32 [%rd0], %r4;")).unwrap();
    assert_eq!((&found[..4], &found[4..]), (&[28; 4][..], &[0; 28][..]));
    assert_eq!(blamed(&format!("{sum} st.global.u32 [%rd0], %r4;")), (4, "%r4".into()));
}

#[test]
fn a_shuffle_takes_along_what_is_known_of_the_source_lane() {
    // Every lane takes lane 3, which has a value; then every lane takes lane 4, which has none.
    assert_eq!(run("shfl.sync.idx.b32 %r1, %r1, 3, 31, -1; st.global.u32 [%rd0], %r1;").unwrap(), [7; 32]);
    assert_eq!(blamed("shfl.sync.idx.b32 %r1, %r1, 4, 31, -1; st.global.u32 [%rd0], %r1;"), (0, "%r1".into()));
    assert_eq!(blamed("shfl.sync.up.b32 %r2, %r1, 2, 0, -1; st.global.u32 [%rd0], %r2;"), (6, "%r2".into()));
}

#[test]
fn a_selection_is_as_good_as_what_it_chose() {
    let found = run("selp.b32 %r2, %r1, 9, %p0; st.global.u32 [%rd0], %r2;").unwrap();
    assert_eq!((&found[..4], &found[4..]), (&[7; 4][..], &[9; 28][..]));
    assert_eq!(blamed("selp.b32 %r2, 9, %r1, %p0; st.global.u32 [%rd0], %r2;"), (4, "%r2".into()));
}

#[test]
fn uses_are_addresses_guards_and_stored_values() {
    assert_eq!(blamed("add.u32 %r1, %r1, 1; st.global.u32 [%rd0], %r1;"), (4, "%r1".into()));
    assert_eq!(blamed("setp.eq.u32 %p1, %r1, 7; @%p1 st.global.u32 [%rd0], 1;"), (4, "%p1".into()));
    assert_eq!(blamed("mul.wide.u32 %rd2, %r1, 4; add.u64 %rd2, %rd1, %rd2; ld.global.u32 %r3, [%rd2];").0, 4);
    assert_eq!(blamed("redux.sync.add.u32 %r2, %r1, -1;"), (4, "%r1".into()));
}

#[test]
fn parts_of_a_register_are_taken_on_trust() {
    // As Triton converts to 8 bits, two at a time: the second of the pair is nothing.
    let found = run(".reg .b16 %h<4>; cvt.u16.u32 %h0, %r0; mov.b32 %r2, {%h0, %h1}; add.u32 %r2, %r2, 1;\n\
                     mov.b32 {%h2, _}, %r2; cvt.u32.u16 %r3, %h2; st.global.u32 [%rd0], %r3;");
    assert_eq!(found.unwrap(), (1..=32).collect::<Vec<u32>>());
    let found = run("prmt.b32 %r2, %r0, %r8, 0x3210; st.global.u32 [%rd0], %r2;");
    assert_eq!(found.unwrap(), (0..32).collect::<Vec<u32>>());
    // The whole is not.
    assert_eq!(
        blamed(".reg .b16 %h<2>; cvt.u16.u32 %h0, %r0; mov.b32 %r2, {%h0, %h1}; st.global.u32 [%rd0], %r2;").0,
        0
    );
}

#[test]
fn a_value_written_again_is_good() {
    let body = "add.u32 %r2, %r1, 1; @!%p0 mov.u32 %r2, 3; st.global.u32 [%rd0], %r2;";
    let found = run(body).unwrap();
    assert_eq!((&found[..4], &found[4..]), (&[8; 4][..], &[3; 28][..]));
    // And one that is made of nothing is not, although it was good before.
    assert_eq!(blamed("mov.u32 %r2, 3; mov.u32 %r2, %r1; st.global.u32 [%rd0], %r2;"), (4, "%r2".into()));
}

#[test]
fn a_report_names_where_it_began() {
    let fault = run("add.u32 %r2, %r1, 1; mul.lo.u32 %r3, %r2, %r2; st.global.u32 [%rd0], %r3;").unwrap_err();
    assert!(fault.why.starts_with("%r3, made of %r1, is used"), "{fault}");
    // A ring: each is made of the other.
    let fault = run(
        "L: add.u32 %r2, %r1, 1; sub.u32 %r1, %r2, 1; setp.eq.u32 %p1, %r0, 99; @%p1 bra L; st.global.u32 [%rd0], %r1;",
    );
    assert!(fault.unwrap_err().why.starts_with("%r1"));
}
