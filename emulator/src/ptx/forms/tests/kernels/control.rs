//! Where threads go, and hints to the scheduler.

use super::{Kernel, STRIDE, Spelling, word};
use crate::fault::FaultKind;

/// Every instruction runs between a store of 1 and a store of 2, for odd lanes only where it ends or moves them.
pub fn flow(s: &Spelling<'_>) {
    s.knows(&[&["uni", "idx", "launch_dependents", "wait", "inc", "dec", "sync", "aligned", "mask"]]);
    let odd = "st.global.u32 [%out], 1; and.b32 %x0, %lane, 1; setp.ne.u32 %q0, %x0, 0;";
    let sum = "ld.global.u32 %x1, [%out]; add.u32 %x1, %x1";
    let (body, expected): (String, fn(usize) -> u128) = match s.opcode.as_str() {
        "bra" => {
            let text = s.text.replace("$L_1", "ODD");
            let branch = if s.has("uni") { text } else { format!("@%q0 {text}") };
            let body = format!(
                "{odd} {branch} {sum}, 2; st.global.u32 [%out], %x1; ODD: {sum}, 4; st.global.u32 [%out], %x1;"
            );
            (body, if s.has("uni") { |_| 5 } else { |lane| if lane % 2 == 1 { 5 } else { 7 } })
        }
        "brx" => {
            let index = if s.has("uni") { "mov.u32 %r0, 2;" } else { "rem.u32 %r0, %lane, 3;" };
            let body = format!(
                "T: .branchtargets ZERO, ONE, TWO;
                {odd} {index} {}
                ZERO: {sum}, 2; st.global.u32 [%out], %x1;
                ONE: {sum}, 4; st.global.u32 [%out], %x1;
                TWO: {sum}, 8; st.global.u32 [%out], %x1;",
                s.text.replace("$T_1", "T")
            );
            (body, if s.has("uni") { |_| 9 } else { |lane| [15, 13, 9][lane % 3] })
        }
        "exit" => (format!("{odd} @%q0 {} st.global.u32 [%out], 2;", s.text), |lane| if lane % 2 == 1 { 1 } else { 2 }),
        "trap" | "brkpt" => {
            let fault = Kernel::new(format!("{odd} @%q0 {}", s.text), Vec::new()).run().expect_err("a trap");
            assert_eq!(
                (fault.kind, fault.thread.expect("a thread").thread),
                (FaultKind::Trap, [1, 0, 0]),
                "{}",
                s.text
            );
            return;
        }
        _ => {
            let time = if s.given("a") { format!("mov.u32 {}, 20;", s.name("a")) } else { String::new() };
            (format!("{odd} {time} {} st.global.u32 [%out], 2;", s.text), |_| 2)
        }
    };
    let got = Kernel::new(body, Vec::new()).output();
    (0..32).for_each(|lane| assert_eq!(word(&got, STRIDE, lane, 0, 4), expected(lane), "{} lane {lane}", s.text));
}
