//! What loading a text takes at its most: texts that are made to cost much, with a counting allocator.
//!
//! A binary of its own, because everything that it allocates is counted.

use cuda_emulator::device::H100;
use cuda_emulator::memory::Memory;
use cuda_emulator::ptx::load;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MOST.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes of a text.
const TEXT: usize = 1 << 20;
/// What loading may take of memory, in bytes for each of the text.
const RATIO: usize = 64;

const HEAD: &str = ".version 9.0\n.target sm_90a\n.address_size 64\n";

/// How far units are stretched with blanks: not at all, so that there are too many statements, and to where there are
/// just as many as are taken of statements, and of functions.
const WIDTHS: [usize; 3] = [0, 17, 17 * 13];

/// The unit, with its number, as often as it fits into the text between two ends.
fn repeated(width: usize, before: &str, unit: impl Fn(usize) -> String, after: &str) -> String {
    let mut text = HEAD.to_owned() + before;
    for i in 0.. {
        text += &format!("{:width$}", unit(i));
        if text.len() > TEXT {
            return text + after;
        }
    }
    unreachable!("it grows")
}

/// Statements of a kernel with registers `a` to `d` (64 bits) and a predicate `p`.
fn kernel(width: usize, unit: impl Fn(usize) -> String) -> String {
    repeated(width, ".entry k(){.reg .b64 a,b,c,d;.reg .b32 r,s,t,u;.reg .pred p;\n", unit, "ret;}")
}

fn same(unit: &str) -> impl Fn(usize) -> String {
    move |_| unit.to_owned()
}

/// Texts by what there is much of.
fn texts(width: usize) -> Vec<(&'static str, String)> {
    let path = "x".repeat(400);
    let inlined: String = (1..17).map(|i| format!(".loc 1 {i} 1,function_name f,inlined_at 1 {} 1\n", i + 1)).collect();
    let hot = format!(".file 1 \"{path}\"\n.entry k(){{{inlined}");
    vec![
        ("instructions", kernel(width, same("ret;"))),
        ("branches", kernel(width, same("@p ret;"))),
        ("scopes", kernel(width, same("{}"))),
        ("scopes in scopes", kernel(width, same(&("{".repeat(60) + &"}".repeat(60))))),
        ("scopes with a label", kernel(width, same("{a:}"))),
        ("labels", kernel(width, |i| format!("l{i:x}:"))),
        ("constants", kernel(width, |i| format!("mov.b64 a,{i};"))),
        ("three constants", kernel(width, |i| format!("mad.lo.s64 a,{},{},{};", 3 * i, 3 * i + 1, 3 * i + 2))),
        (
            "vectors of constants",
            kernel(width, |i| format!("st.v4.b32[a],{{{},{},{},{}}};", 4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3)),
        ),
        ("registers", repeated(width, ".entry k(){.reg .b64 x", |i| format!(",r{i:x}"), ";ret;}")),
        ("declarations", kernel(width, |i| format!(".reg .b64 r{i:x};"))),
        ("wide ranges", kernel(width, |i| format!(".reg .b64 r{i:x}<9>;"))),
        ("initialisers", repeated(width, ".global .b8 x[]={1", same(",1"), "};")),
        ("addresses in initialisers", repeated(width, ".global .b64 y;.global .b64 x[]={y", same(",y"), "};")),
        ("variables", repeated(width, "", |i| format!(".shared .b8 v{i:x};"), "")),
        ("global variables", repeated(width, "", |i| format!(".extern .global .b8 v{i:x};"), "")),
        ("functions", repeated(width, "", |i| format!(".func f{i:x};"), "")),
        ("kernels", repeated(width, "", |i| format!(".entry k{i:x}(){{ret;}}"), "")),
        ("parameters", repeated(width, ".entry k(.param .b8 x", |i| format!(",.param .b8 p{i:x}"), "){ret;}")),
        ("modifiers", kernel(width, same(&format!("add{}.s64 a,b,c;", ".s".repeat(20))))),
        ("operands", repeated(width, ".entry k(){.reg .b32 a;call f,(a", same(",a"), ");ret;}")),
        ("targets", repeated(width, ".entry k(){L:ret;T:.branchtargets L", same(",L"), ";}")),
        (
            "indexed branches",
            repeated(width, ".entry k(){.reg .b32 a;L:\nT:.branchtargets L,L,L,L,L,L,L,L;", same("brx.idx a,T;"), "}"),
        ),
        ("callers of inlined code", repeated(width, &hot, same("ret;"), "}")),
        ("unwritten registers", kernel(width, same("@p st.b64[a],b;"))),
        (
            "unwritten registers of many names",
            repeated(
                width,
                &format!(
                    ".entry k(){{{}",
                    (0..1000).map(|i| format!(".reg .b64 {}{i};", "n".repeat(40))).collect::<String>()
                ),
                |i| format!("st.b64[a{0}],a{0};", i % 1000).replace('a', &"n".repeat(40)),
                "ret;}",
            ),
        ),
        ("calls", repeated(width, ".func f(){ret;}.entry k(){", same("call f;"), "ret;}")),
        ("files", repeated(width, "", |i| format!(".file {i} \"\"\n"), "")),
        ("pragmas", repeated(width, ".entry k() .maxntid 1", same(",1"), "{ret;}")),
        (
            "products",
            kernel(width, same("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32{r,s,t,u},{r,s},{t},{r,s,t,u};")),
        ),
    ]
}

/// A function that each of thirty kernels calls, and so has a copy of.
fn shared_function() -> String {
    let callers: String = (0..30).map(|i| format!(".entry k{i}(){{call f;ret;}}")).collect();
    repeated(17, ".func f(){", same("exit;"), "ret;}") + &callers
}

/// Loads a text: the most memory that was in use meanwhile, and why it was refused if it was.
fn measured(text: &str, memory: &Memory) -> (usize, String) {
    let before = LIVE.load(Relaxed);
    MOST.store(before, Relaxed);
    let loaded = load(text, &H100, memory);
    let most = MOST.load(Relaxed) - before;
    (most, loaded.map_or_else(|e| e.to_string().chars().take(120).collect(), |_| "loaded".to_owned()))
}

#[test]
fn loading_takes_a_bounded_multiple_of_the_text() {
    let memory = Memory::new(1 << 30).expect("address space");
    let mut over = Vec::new();
    for width in WIDTHS {
        for (what, text) in texts(width) {
            let (most, outcome) = measured(&text, &memory);
            println!("{what}, {width} wide: {} times the text: {outcome}", most / text.len());
            if most > RATIO * text.len() {
                over.push((what, width));
            }
        }
    }
    assert_eq!(over, vec![], "these take more than {RATIO} times their text");
    // Copies are not of the text's length, but there is an end to them.
    let (most, outcome) = measured(&shared_function(), &memory);
    assert!(outcome.contains("above a million instructions"), "{outcome}");
    assert!(most < 256 << 20, "{most} bytes");
}
