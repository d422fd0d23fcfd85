//! Boxes of tensors, loaded and stored, against a walk over their elements.

use super::{Bench, HEAD, Random, wait};
use cuda_emulator::fault::FaultKind;
use cuda_emulator::gpu::Arg;
use cuda_emulator::machine::matrix::Swizzle;
use cuda_emulator::tensor_map::TensorMap;

/// Loads a box, shows shared memory as it is, and stores the box into the second tensor.
fn kernel(rank: usize, shared: u64, bytes: u64, map: &str) -> String {
    let places: Vec<String> = (0..rank).map(|i| format!("%c{i}")).collect();
    let loads: String = (0..rank).map(|i| format!("    ld.param.u32 %c{i}, [at+{}];\n", 4 * i)).collect();
    let at = format!("{{{}}}", places.join(", "));
    format!(
        "{HEAD}.extern .shared .align 1024 .b8 smem[];
.visible .entry k(.param .align 64 .b8 from[128], .param .align 64 .b8 to[128], .param .u64 out, .param .u64 global,
    .param .align 4 .b8 at[20])
{{
    .shared .align 8 .b64 bar;
    .reg .b32 %t, %i, %s, %v, %c<5>;
    .reg .b64 %from, %to, %out, %o, %x;
    .reg .pred %p, %q;
    ld.param.u64 %out, [out];
    {map}
    mov.b64 %to, to;
    cvta.param.u64 %to, %to;
{loads}    mov.u32 %t, %tid.x;
    setp.eq.u32 %q, %t, 0;
    shl.b32 %i, %t, 2;
CLEAR:
    mov.u32 %s, smem;
    add.u32 %s, %s, %i;
    st.shared.u32 [%s], 0xdddddddd;
    add.u32 %i, %i, 128;
    setp.lt.u32 %p, %i, {shared};
    @%p bra CLEAR;
    @%q prefetch.tensormap [%from];
    @%q mbarrier.init.shared::cta.b64 [bar], 1;
    fence.proxy.async;
    bar.sync 0;
    @%q mbarrier.arrive.expect_tx.shared::cta.b64 %x, [bar], {bytes};
    @%q cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [smem], [%from, {at}], [bar];
    {}
    shl.b32 %i, %t, 2;
SHOW:
    mov.u32 %s, smem;
    add.u32 %s, %s, %i;
    ld.shared.u32 %v, [%s];
    cvt.u64.u32 %o, %i;
    add.u64 %o, %out, %o;
    st.global.u32 [%o], %v;
    add.u32 %i, %i, 128;
    setp.lt.u32 %p, %i, {shared};
    @%p bra SHOW;
    @%q cp.async.bulk.tensor.{rank}d.global.shared::cta.bulk_group [%to, {at}], [smem];
    @%q cp.async.bulk.commit_group;
    @%q cp.async.bulk.wait_group 0;
    ret;
}}
",
        wait("bar", 0, "W")
    )
}

const FROM_PARAM: &str = "mov.b64 %from, from; cvta.param.u64 %from, %from;";
const FROM_GLOBAL: &str = "ld.param.u64 %from, [global];";

fn round(value: u64, to: u64) -> u64 {
    value.next_multiple_of(to)
}

struct Case {
    map: TensorMap,
    at: Vec<i32>,
}

fn case(random: &mut Random, rank: usize, swizzle: Swizzle) -> Case {
    let element = [1, 2, 4, 8][random.below(4) as usize];
    let widest = if swizzle == Swizzle::None { 128 } else { u64::from(swizzle.span()) };
    let inner = (1 + random.below(widest / 16)) * 16 / element;
    let dimensions: Vec<u64> =
        (0..rank).map(|i| if i == 0 { 1 + random.below(80) } else { 1 + random.below(6) }).collect();
    let mut strides = Vec::new();
    let mut bytes = round(dimensions[0] * element, 16) + 16 * random.below(2);
    for d in &dimensions[1..] {
        strides.push(bytes);
        bytes *= d;
    }
    let extents: Vec<u32> = (0..rank).map(|i| if i == 0 { inner as u32 } else { 1 + random.below(4) as u32 }).collect();
    let at = dimensions.iter().map(|d| random.below(d + 6) as i32 - 3).collect();
    Case { map: TensorMap { address: 16, dimensions, strides, extents, element: element as u32, swizzle }, at }
}

impl Case {
    fn tensor_bytes(&self) -> u64 {
        let m = &self.map;
        let last = m.strides.iter().zip(&m.dimensions[1..]).map(|(s, d)| s * (d - 1)).sum::<u64>();
        last + m.dimensions[0] * u64::from(m.element)
    }

    /// Elements of the box: place in shared memory, and offset in the tensor if they are in it.
    fn elements(&self) -> Vec<(usize, Option<usize>)> {
        let m = &self.map;
        let element = m.element as usize;
        let span = m.swizzle.span() as usize;
        let inner = m.extents[0] as usize * element;
        let pitch = if m.swizzle == Swizzle::None { inner } else { span };
        let mut all = Vec::new();
        for number in 0..m.extents.iter().product::<u32>() {
            let (mut rest, mut offset, mut inside, mut line, mut lines) = (number, 0i64, true, 0, 1);
            for i in 0..m.extents.len() {
                let step = rest % m.extents[i];
                rest /= m.extents[i];
                let place = i64::from(self.at[i]) + i64::from(step);
                inside &= place >= 0 && place < m.dimensions[i] as i64;
                let stride = if i == 0 { element as i64 } else { m.strides[i - 1] as i64 };
                offset += place * stride;
                if i > 0 {
                    line += step as usize * lines;
                    lines *= m.extents[i] as usize;
                }
            }
            let byte = (number % m.extents[0]) as usize * element;
            // The row of 128 bytes decides how the chunks of a swizzled line change places.
            let row = line * pitch / 128 % 8;
            let chunk = byte / 16;
            let moved = match m.swizzle {
                Swizzle::None => chunk,
                Swizzle::B32 => chunk ^ (row % 2),
                Swizzle::B64 => chunk ^ (row % 4),
                Swizzle::B128 => chunk ^ row,
            };
            all.push((line * pitch + moved * 16 + byte % 16, inside.then_some(offset as usize)));
        }
        all
    }

    fn check(&self, random: &mut Random, map: &str) {
        let bench = Bench::new();
        let tensor: Vec<u8> = (0..self.tensor_bytes()).map(|_| random.below(256) as u8).collect();
        let from = TensorMap { address: bench.upload(&tensor), ..self.map.clone() };
        let to = TensorMap { address: bench.upload(&vec![0xaa; tensor.len()]), ..self.map.clone() };
        let lines: u32 = self.map.extents[1..].iter().product();
        let pitch = if self.map.swizzle == Swizzle::None {
            self.map.extents[0] * self.map.element
        } else {
            self.map.swizzle.span()
        };
        let shared = round(u64::from(lines * pitch), 1024);
        let out = bench.upload(&vec![0; shared as usize]);
        let in_global = bench.upload(&from.encode());
        let mut at: Vec<u8> = self.at.iter().flat_map(|c| c.to_le_bytes()).collect();
        at.resize(20, 0);
        let args = [
            Arg::Bytes(from.encode().into()),
            Arg::Bytes(to.encode().into()),
            Arg::U64(out),
            Arg::U64(in_global),
            Arg::Bytes(at),
        ];
        let text = kernel(self.at.len(), shared, self.map.box_bytes(), map);
        // The dynamic part begins behind the mbarrier, at the next multiple of 1024.
        bench
            .run(&text, 32, shared as u32, &args)
            .unwrap_or_else(|fault| panic!("{:?} at {:?}: {fault}", self.map, self.at));
        let (mut image, mut copied) = (vec![0xdd; shared as usize], vec![0xaa; tensor.len()]);
        let element = self.map.element as usize;
        for (place, offset) in self.elements() {
            let value = offset.map_or(&[0; 8][..element], |at| &tensor[at..at + element]);
            image[place..place + element].copy_from_slice(value);
            if let Some(at) = offset {
                copied[at..at + element].copy_from_slice(&tensor[at..at + element]);
            }
        }
        let name = format!("{:?} at {:?}", self.map, self.at);
        assert!(bench.0.read(out, image.len()).expect("allocated") == image, "{name}");
        assert!(bench.0.read(to.address, copied.len()).expect("allocated") == copied, "{name}");
    }
}

#[test]
fn boxes_of_every_rank_and_swizzle() {
    let mut random = Random(11);
    for rank in 1..=5 {
        for swizzle in [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128] {
            for i in 0..6 {
                let map = if i % 2 == 0 { FROM_PARAM } else { FROM_GLOBAL };
                case(&mut random, rank, swizzle).check(&mut random, map);
            }
        }
    }
}

#[test]
fn what_is_no_map_or_has_another_rank_is_refused() {
    let bench = Bench::new();
    let map = TensorMap {
        address: bench.upload(&[0; 1024]),
        dimensions: vec![64, 4],
        strides: vec![128],
        extents: vec![32, 4],
        element: 2,
        swizzle: Swizzle::None,
    };
    let out = bench.upload(&[0; 1024]);
    let run = |kind, part: &str, from: [u8; 128], text: &str| {
        let (from, to) = (Arg::Bytes(from.into()), Arg::Bytes(map.encode().into()));
        let args = [from, to, Arg::U64(out), Arg::U64(0), Arg::Bytes(vec![0; 20])];
        bench.refuses(kind, part, text, 32, 1024, &args);
    };
    let text = kernel(2, 1024, 256, FROM_PARAM);
    run(FaultKind::IllegalInstruction, "no tensor map", [0; 128], &text);
    run(FaultKind::IllegalInstruction, "1 coordinates", map.encode(), &kernel(1, 1024, 256, FROM_PARAM));
    run(FaultKind::Misaligned, "multiple of 128", map.encode(), &text.replace("bytes [smem]", "bytes [smem+64]"));
    run(FaultKind::Deadlock, "0 arrivals and 16 bytes", map.encode(), &kernel(2, 1024, 272, FROM_PARAM));
    let far = TensorMap { dimensions: vec![64, 9], ..map.clone() };
    let coordinates = text.replace("ld.param.u32 %c1, [at+4];", "mov.u32 %c1, 5;");
    run(FaultKind::OutOfBounds, "past the end", far.encode(), &coordinates);
}
