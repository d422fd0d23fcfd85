//! `mbarrier`: one thread goes through a phase, and everything it can see of the object is written down beside what the
//! ISA says of the counts.

use super::spaces::SPACES;
use super::{Kernel, Spelling};
use crate::fault::FaultKind;

/// Code and the values that it shows, in order.
struct Story {
    code: String,
    shown: Vec<(&'static str, u32)>,
}

impl Story {
    /// An object that waits for `count` arrivals, at `%rd{0..4}+16`.
    fn begin(s: &Spelling<'_>, count: u32) -> Story {
        let generic = if s.one_of(SPACES).is_none() { "cvta.shared" } else { "mov" };
        let addresses: String = (0..4).map(|i| format!("mov.b64 %y0, tile; {generic}.u64 %rd{i}, %y0; ")).collect();
        let code = format!(
            "setp.ne.u32 %q0, %t, 0; @%q0 bra DONE; {addresses} mbarrier.init.shared.b64 [tile+16], {count};\n"
        );
        Story { code, shown: Vec::new() }
    }

    fn does(&mut self, code: &str) {
        self.code += code;
        self.code += "\n";
    }

    /// The register has this value now.
    fn shows(&mut self, what: &'static str, register: &str, value: u32) {
        self.does(&format!("st.global.u32 [%out+{}], {register};", 4 * self.shown.len()));
        self.shown.push((what, value));
    }

    /// Whether the phase of a parity is complete.
    fn complete(&mut self, what: &'static str, parity: u32, is: bool) {
        self.does(&format!("mbarrier.test_wait.parity.shared.b64 %q1, [tile+16], {parity}; selp.u32 %x0, 1, 0, %q1;"));
        self.shows(what, "%x0", is.into());
    }

    /// Pending arrivals, as the next arrival finds them; it is one more.
    fn pending(&mut self, what: &'static str, count: u32) {
        self.does("mbarrier.arrive.noComplete.shared.b64 %y0, [tile+16], 1; mbarrier.pending_count.b64 %x0, %y0;");
        self.shows(what, "%x0", count);
    }

    fn arrive(&mut self, count: u32) {
        self.does(&format!("mbarrier.arrive.shared.b64 %y1, [tile+16], {count};"));
    }

    fn check(self, s: &Spelling<'_>) {
        let got = Kernel::new(self.code, Vec::new()).output();
        for (i, (what, value)) in self.shown.into_iter().enumerate() {
            let got = u32::from_le_bytes(got[4 * i..][..4].try_into().expect("four"));
            assert_eq!(got, value, "{}: {what}", s.text);
        }
    }
}

pub fn phase(s: &Spelling<'_>) {
    s.knows(&[
        &["init", "inval", "arrive", "arrive_drop", "noComplete", "expect_tx", "complete_tx", "test_wait", "try_wait"],
        &[
            "parity",
            "pending_count",
            "release",
            "relaxed",
            "acquire",
            "cta",
            "cluster",
            "shared",
            "shared::cta",
            "shared::cluster",
        ],
    ]);
    match s.one_of(&[
        "init",
        "inval",
        "arrive",
        "arrive_drop",
        "test_wait",
        "try_wait",
        "pending_count",
        "expect_tx",
        "complete_tx",
    ]) {
        Some("init") => init(s),
        Some("inval") => {
            let mut story = Story::begin(s, 3);
            story.does(s.text);
            story.pending("an object that is none any more", 0);
            let fault = Kernel::new(story.code, Vec::new()).run().expect_err("invalidated");
            assert_eq!(fault.kind, FaultKind::IllegalInstruction, "{fault}");
        }
        Some("arrive" | "arrive_drop") => arrive(s),
        Some("test_wait" | "try_wait") => wait(s),
        Some("pending_count") => {
            let mut story = Story::begin(s, 9);
            story.arrive(4);
            story.does(&format!("mbarrier.arrive.noComplete.shared.b64 {}, [tile+16], 2; {}", s.name("state"), s.text));
            story.shows("pending before the last arrivals", s.name("d"), 5);
            story.check(s);
        }
        Some(_) => bytes(s),
        None => panic!("{} has no model", s.text),
    }
}

fn init(s: &Spelling<'_>) {
    let mut story = Story::begin(s, 3);
    // A new object at the same place, for 5.
    story.does(&format!("mbarrier.inval.shared.b64 [tile+16]; mov.u32 {}, 5; {}", s.name("n"), s.text));
    story.pending("pending at the start", 5);
    story.complete("complete at the start", 0, false);
    story.arrive(4);
    story.complete("complete after five", 0, true);
    story.pending("pending in the next phase", 5);
    story.check(s);
}

/// Arrivals count down the phase; `arrive_drop` the later ones too.
fn arrive(s: &Spelling<'_>) {
    let count = if s.given("n") { 2 } else { 1 };
    let (drop, bytes) = (s.has("arrive_drop"), s.has("expect_tx"));
    let mut story = Story::begin(s, 9);
    story.pending("pending at the start", 9);
    s.names("n").iter().for_each(|n| story.does(&format!("mov.u32 {n}, {count};")));
    s.names("tx").iter().for_each(|tx| story.does(&format!("mov.u32 {tx}, 32;")));
    story.does(s.text);
    if !s.names("d").is_empty() {
        story.does(&format!("mbarrier.pending_count.b64 %x0, {};", s.name("d")));
        story.shows("pending as the arrival found it", "%x0", 8);
    }
    story.pending("pending after it", 8 - count);
    story.arrive(7 - count);
    if bytes {
        story.complete("complete without the bytes", 0, false);
        story.does("mbarrier.complete_tx.shared.b64 [tile+16], 32;");
    }
    story.complete("complete with everything", 0, true);
    story.complete("the phase before", 1, false);
    story.pending("pending in the next phase", if drop { 9 - count } else { 9 });
    story.check(s);
}

/// `expect_tx` and `complete_tx`.
fn bytes(s: &Spelling<'_>) {
    let (expects, tx) = (s.has("expect_tx"), s.name("tx"));
    let mut story = Story::begin(s, 1);
    story.does(&format!("mov.u32 {tx}, 48;"));
    let other =
        if expects { "mbarrier.complete_tx.shared.b64 [tile+16]" } else { "mbarrier.expect_tx.shared.b64 [tile+16]" };
    if expects {
        story.does(s.text);
        story.arrive(1);
        story.does(&format!("{other}, 32;"));
    } else {
        story.does(&format!("{other}, 64;"));
        story.arrive(1);
        story.does(s.text);
    }
    story.complete("complete with 16 bytes missing", 0, false);
    story.does("mbarrier.complete_tx.shared.b64 [tile+16], 16;");
    story.complete("complete with all bytes", 0, true);
    story.check(s);
}

fn wait(s: &Spelling<'_>) {
    let (parity, p) = (s.has("parity"), s.name("p"));
    for complete in [false, true] {
        let mut story = Story::begin(s, 3);
        if parity {
            story.does(&format!("mov.u32 {}, 0;", s.name("parity")));
            story.arrive(1);
        } else {
            story.does(&format!("mbarrier.arrive.shared.b64 {}, [tile+16];", s.name("state")));
        }
        s.names("ns").iter().for_each(|ns| story.does(&format!("mov.u32 {ns}, 100;")));
        story.arrive(if complete { 2 } else { 1 });
        story.does(&format!("{} selp.u32 %x0, 1, 0, {p};", s.text));
        story.shows("the answer", "%x0", complete.into());
        if parity && complete {
            // The parity of the phase that is now under way.
            story.does(&format!("mov.u32 {}, 1; {} selp.u32 %x0, 1, 0, {p};", s.name("parity"), s.text));
            story.shows("the answer for the phase under way", "%x0", 0);
        }
        story.check(s);
    }
}
