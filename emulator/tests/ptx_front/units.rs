//! Texts of several units: what a linker makes of modules that were compiled apart.

use super::HEAD;
use cuda_emulator::config::Config;
use cuda_emulator::device::A100;
use cuda_emulator::gpu::{Arg, Gpu, kernel};

/// `scaled(x)` is `x * own` with the unit's own number; `both` is weak.
const LIBRARY: &str = "
.global .align 4 .u32 own = 2;
.visible .global .align 4 .u32 common = 1000;
.weak .func (.param .b32 r) both() { .reg .b32 %r; mov.u32 %r, 100; st.param.b32 [r], %r; ret; }
.visible .func (.param .b32 r) scaled(.param .b32 x)
{
    .reg .b32 %r<4>;
    ld.param.b32 %r1, [x]; ld.global.u32 %r2, [own]; mul.lo.u32 %r3, %r1, %r2; st.param.b32 [r], %r3;
    ret;
}
";

/// Stores `scaled(own) + both() + common`, with its own number; a register hides the name in a scope.
const PROGRAM: &str = "
.extern .func (.param .b32 r) scaled(.param .b32 x);
.extern .global .align 4 .u32 common;
.global .align 4 .u32 own = 5;
.weak .func (.param .b32 r) both() { .reg .b32 %r; mov.u32 %r, 200; st.param.b32 [r], %r; ret; }
.visible .entry k(.param .u64 to)
{
    .reg .b32 %r<9>; .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [to];
    { .param .b32 a; .param .b32 b; .param .b32 c;
      ld.global.u32 %r1, [own]; st.param.b32 [a], %r1;
      call (b), scaled, (a); ld.param.b32 %r2, [b];
      call (c), both; ld.param.b32 %r3, [c]; }
    { .reg .b32 own; mov.u32 own, 7; add.u32 %r2, %r2, own; }
    ld.global.u32 %r4, [common];
    add.u32 %r2, %r2, %r3; add.u32 %r2, %r2, %r4; st.global.u32 [%rd1], %r2;
    ret;
}
";

fn value(units: &[&str]) -> Result<u32, String> {
    let text: String = units.iter().map(|unit| format!("{HEAD}{unit}")).collect();
    let gpu = Gpu::new(A100, Config::default()).unwrap();
    let module = gpu.load(&text).map_err(|e| e.to_string())?;
    let out = gpu.alloc(4).unwrap();
    gpu.launch(kernel(&module, "k").unwrap(), [1; 3], [1; 3], 0, &[Arg::U64(out)]).map_err(|f| f.to_string())?;
    Ok(u32::from_le_bytes(gpu.read(out, 4).unwrap().try_into().unwrap()))
}

#[test]
fn units_share_what_is_visible_and_keep_what_is_their_own() {
    // 5 * 2 + 7 + 1000, and the first `both`.
    assert_eq!(value(&[LIBRARY, PROGRAM]), Ok(1117));
    assert_eq!(value(&[PROGRAM, LIBRARY]), Ok(1217));
}

#[test]
fn what_is_missing_or_twice_is_refused() {
    let error = |units: &[&str]| value(units).unwrap_err();
    assert!(error(&[PROGRAM]).contains("`common` is defined in no module"));
    let without = LIBRARY.replace(".visible .func", ".func");
    assert!(error(&[&without, PROGRAM]).contains("`scaled` has no body"), "it is the other unit's own");
    assert!(error(&[LIBRARY, PROGRAM, LIBRARY]).contains("defined twice"));
}
