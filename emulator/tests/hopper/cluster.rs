//! Clusters of one block: their barrier orders and waits, their addresses are the block's.

use super::{Bench, HEAD};
use cuda_emulator::fault::FaultKind;
use cuda_emulator::gpu::Arg;

/// Every thread writes its number, and reads that of the thread 33 places on.
fn kernel(between: &str) -> String {
    format!(
        "{HEAD}.visible .entry k(.param .u64 to)
{{
    .shared .align 16 .b8 smem[512];
    .reg .b32 %t, %s, %o, %v, %m, %r;
    .reg .b64 %to;
    .reg .pred %q;
    ld.param.u64 %to, [to];
    mov.u32 %t, %tid.x;
    mad.wide.u32 %to, %t, 4, %to;
    mov.u32 %m, smem;
    mapa.shared::cluster.u32 %m, %m, 0;
    getctarank.shared::cluster.u32 %r, %m;
    mad.lo.u32 %s, %t, 4, %m;
    add.u32 %v, %t, %r;
    st.shared.u32 [%s], %v;
    {between}
    add.u32 %o, %t, 33;
    and.b32 %o, %o, 127;
    mad.lo.u32 %s, %o, 4, %m;
    ld.shared::cluster.u32 %v, [%s];
    st.global.u32 [%to], %v;
    ret;
}}
"
    )
}

const ARRIVE: &str = "barrier.cluster.arrive.release.aligned;";
const WAIT: &str = "barrier.cluster.wait.acquire.aligned;";

#[test]
fn the_barrier_of_a_cluster_is_one_of_the_block() {
    let bench = Bench::new();
    let to = bench.upload(&[0; 512]);
    let args = [Arg::U64(to)];
    let once = format!("{ARRIVE} {WAIT}");
    // Threads that are gone are not waited for.
    let gone = format!("setp.ge.u32 %q, %t, 96; {once} @%q exit; {once}");
    for (between, count) in [(once.clone(), 128), (format!("{once} {once}"), 128), (gone, 96)] {
        bench.0.write(to, &[0; 512]).expect("allocated");
        bench.run(&kernel(&between), 128, 0, &args).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(bench.words(to, count), (0..count as u32).map(|t| (t + 33) % 128).collect::<Vec<_>>());
    }
    let stuck = format!("setp.ge.u32 %q, %t, 96; @%q bra L; {once} L: bar.sync 1;");
    bench.refuses(FaultKind::Deadlock, "spins", &kernel(&stuck), 128, 0, &args);
    let relaxed = format!("barrier.cluster.arrive.relaxed.aligned; {WAIT}");
    bench.refuses(FaultKind::SharedRace, "nothing orders", &kernel(&relaxed), 128, 0, &args);
    let two = kernel("").replace(".param .u64 to)\n", ".param .u64 to)\n.reqnctapercluster 2, 1, 1\n");
    let why = bench.0.load(&two).err().expect("two blocks").to_string();
    assert!(why.contains("clusters of more than one block"), "{why}");
    bench.refuses(FaultKind::ImpossibleBarrier, "again", &kernel(&format!("{ARRIVE} {ARRIVE}")), 128, 0, &args);
}
