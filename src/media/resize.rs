//! Bicubic resizing, bit-exact with Pillow 13.0 (`ImagingResample`, 8 bits per channel), and the size that Qwen2-VL resizes to.
//!
//! Owns: coefficients, the two fixed-point passes, their order, `smart_resize`. Refuses: other filters, boxes, alpha.
//! Surprises: the order of the passes changes pixels (each rounds to 8 bits), and Pillow changed its rule twice: see [`PassOrder`].

use crate::error::{Error, Result};
use crate::media::rgb::Rgb;
use crate::media::simd::{self, Kernel};
use rayon::prelude::*;

/// Which pass comes first: what a release of Pillow does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PassOrder {
    /// 13.0: vertical first if the height shrinks, and by more than twice what the width shrinks by.
    #[default]
    Pillow13,
    /// 12.3: vertical first if the height shrinks and the picture is over 100 times as high as wide.
    Pillow12_3,
    /// Up to 12.2: horizontal first, always.
    HorizontalFirst,
}

impl PassOrder {
    fn vertical_first(self, from: (usize, usize), to: (usize, usize)) -> bool {
        let ((w, h), (out_w, out_h)) = (from, to);
        match self {
            PassOrder::Pillow13 => out_h < h && (h - out_h) as i64 > 2 * (w as i64 - out_w as i64),
            PassOrder::Pillow12_3 => out_h < h && h > 100 * w,
            PassOrder::HorizontalFirst => false,
        }
    }
}

/// `src` resized to `width` x `height`, as Pillow 13.0's `Image.resize((width, height), BICUBIC)`. Both must be at least 1.
pub fn bicubic(src: &Rgb, width: usize, height: usize) -> Rgb {
    bicubic_ordered(src, width, height, PassOrder::default())
}

/// [`bicubic`] with the pass order of another Pillow release. A side that does not change is not touched.
pub fn bicubic_ordered(src: &Rgb, width: usize, height: usize, order: PassOrder) -> Rgb {
    assert!(width > 0 && height > 0, "resize to {width} x {height}");
    match (width != src.width, height != src.height) {
        (false, false) => src.clone(),
        (true, false) => horizontal(src, width),
        (false, true) => vertical(src, height),
        (true, true) if order.vertical_first((src.width, src.height), (width, height)) => {
            horizontal(&vertical(src, height), width)
        }
        (true, true) => vertical(&horizontal(src, width), height),
    }
}

/// Fraction bits of the coefficients.
const BITS: u32 = 22;
/// One half, so that the final shift rounds.
const HALF: i32 = 1 << (BITS - 1);

/// The coefficients of one axis. All outputs have `taps` of them: shorter windows are padded with zeros, inside the picture.
struct Axis {
    taps: usize,
    /// `[out]`, the first input of each output.
    starts: Vec<usize>,
    /// `[out, taps]`
    coefficients: Vec<i32>,
}

impl Axis {
    /// Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc`, in f64 as there.
    fn new(from: usize, to: usize) -> Self {
        let windows: Vec<(usize, Vec<i32>)> = (0..to).map(|i| window(i, from, to)).collect();
        let taps = windows.iter().map(|(_, k)| k.len()).max().unwrap_or(1);
        let mut axis = Axis { taps, starts: Vec::with_capacity(to), coefficients: vec![0; to * taps] };
        for ((lo, k), row) in windows.iter().zip(axis.coefficients.chunks_exact_mut(taps)) {
            let start = (*lo).min(from - taps);
            row[lo - start..][..k.len()].copy_from_slice(k);
            axis.starts.push(start);
        }
        axis
    }
}

/// First input and fixed-point coefficients of output `i`.
fn window(i: usize, from: usize, to: usize) -> (usize, Vec<i32>) {
    let scale = from as f64 / to as f64;
    let filter_scale = scale.max(1.0);
    let support = 2.0 * filter_scale;
    let center = (i as f64 + 0.5) * scale;
    let lo = (center - support + 0.5) as usize; // truncates, negative to 0
    let hi = ((center + support + 0.5) as usize).min(from);
    let inverse = 1.0 / filter_scale;
    let weights: Vec<f64> = (lo..hi).map(|j| cubic((j as f64 - center + 0.5) * inverse)).collect();
    let sum: f64 = weights.iter().sum();
    (lo, weights.iter().map(|w| fixed(w / sum)).collect())
}

/// Keys' cubic with a = -0.5.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    } else {
        0.0
    }
}

/// To 22 fraction bits, halves away from zero.
fn fixed(w: f64) -> i32 {
    (w * f64::from(1u32 << BITS) + 0.5f64.copysign(w)) as i32
}

/// An accumulator as a pixel.
#[inline(always)]
fn clip(acc: i32) -> u8 {
    (acc >> BITS).clamp(0, 255) as u8
}

/// Bytes that go through the arithmetic together: four AVX2 registers of accumulators.
const LANES: usize = 32;

/// The sum of coefficients times pixels for as many columns as there are lanes.
#[inline(always)]
fn convolve<'a>(k: &[i32], pixels: impl Iterator<Item = &'a [u8; LANES]>) -> [u8; LANES] {
    let mut acc = [HALF; LANES];
    for (k, pixels) in k.iter().zip(pixels) {
        for (a, &p) in acc.iter_mut().zip(pixels) {
            *a = a.wrapping_add(k.wrapping_mul(p as i32));
        }
    }
    let mut out = [0; LANES];
    for (out, acc) in out.iter_mut().zip(acc) {
        *out = clip(acc);
    }
    out
}

/// Rows that the horizontal pass takes together, four lanes each. Along a row, the taps of neighbouring outputs begin at different
/// pixels, which no compiler vectorises; across rows, they are the same.
const ROWS: usize = LANES / 4;

/// `[height, out_w, 3]`
fn horizontal(src: &Rgb, out_w: usize) -> Rgb {
    let axis = Axis::new(src.width, out_w);
    let mut data = vec![0; src.height * out_w * 3];
    let groups = data.par_chunks_mut(ROWS * out_w * 3).zip(src.data.par_chunks(ROWS * src.width * 3));
    groups.for_each_init(
        || (vec![[0; LANES]; src.width], vec![[0; LANES]; out_w]),
        |(lanes, results), (out, rows)| {
            gather(rows, src.width, lanes);
            simd::widest(Horizontal { axis: &axis, lanes, results });
            scatter(results, out_w, out);
        },
    );
    Rgb::new(out_w, src.height, data)
}

/// Up to [`ROWS`] rows side by side: `lanes[x]` holds pixel x of each, in four bytes.
fn gather(rows: &[u8], width: usize, lanes: &mut [[u8; LANES]]) {
    for (r, row) in rows.chunks_exact(width * 3).enumerate() {
        for (lanes, &[red, green, blue]) in lanes.iter_mut().zip(row.as_chunks::<3>().0) {
            lanes.as_chunks_mut::<4>().0[r] = [red, green, blue, 0];
        }
    }
}

/// The way back.
fn scatter(results: &[[u8; LANES]], width: usize, rows: &mut [u8]) {
    for (r, row) in rows.chunks_exact_mut(width * 3).enumerate() {
        for (lanes, pixel) in results.iter().zip(row.as_chunks_mut::<3>().0) {
            let [red, green, blue, _] = lanes.as_chunks::<4>().0[r];
            *pixel = [red, green, blue];
        }
    }
}

/// The horizontal pass over one group of rows.
struct Horizontal<'a> {
    axis: &'a Axis,
    lanes: &'a [[u8; LANES]],
    results: &'a mut [[u8; LANES]],
}

impl Kernel for Horizontal<'_> {
    #[inline(always)]
    fn run(self) {
        let outputs = self.axis.coefficients.chunks_exact(self.axis.taps).zip(&self.axis.starts);
        for (result, (k, &start)) in self.results.iter_mut().zip(outputs) {
            *result = convolve(k, self.lanes[start..].iter());
        }
    }
}

/// `[out_h, width, 3]`
fn vertical(src: &Rgb, out_h: usize) -> Rgb {
    let axis = Axis::new(src.height, out_h);
    let stride = src.width * 3;
    let mut data = vec![0; out_h * stride];
    data.par_chunks_exact_mut(stride).enumerate().for_each(|(y, out)| {
        let rows = &src.data[axis.starts[y] * stride..];
        let k = &axis.coefficients[y * axis.taps..][..axis.taps];
        simd::widest(VerticalRow { k, rows, out });
    });
    Rgb::new(src.width, out_h, data)
}

/// One output row from as many input rows of its length, which begin at `rows`.
struct VerticalRow<'a> {
    k: &'a [i32],
    rows: &'a [u8],
    out: &'a mut [u8],
}

impl Kernel for VerticalRow<'_> {
    #[inline(always)]
    fn run(self) {
        let (k, stride) = (self.k, self.out.len());
        let (blocks, tail) = self.out.as_chunks_mut::<LANES>();
        let done = blocks.len() * LANES;
        for (b, block) in blocks.iter_mut().enumerate() {
            let columns = self.rows.chunks_exact(stride).map(|row| &row.as_chunks::<LANES>().0[b]);
            *block = convolve(k, columns);
        }
        for (i, out) in tail.iter_mut().enumerate() {
            let mut acc = HALF;
            for (k, row) in k.iter().zip(self.rows.chunks_exact(stride)) {
                acc = acc.wrapping_add(k.wrapping_mul(row[done + i] as i32));
            }
            *out = clip(acc);
        }
    }
}

/// The largest ratio of the sides that `smart_resize` takes.
const MAX_RATIO: f64 = 200.0;

/// The height and width that Qwen2-VL resizes an `h` x `w` picture to: multiples of `factor`, about the same shape, and an area
/// within `min_pixels..=max_pixels` where the shape allows it.
///
/// `transformers` 4.57.6, `smart_resize`: f64 arithmetic, halves to even. There is no minimum side. Sides never come out below
/// `factor`, so thin pictures may end above `max_pixels`. Where the reference could give 0 (`min_pixels` 0), this gives `factor`.
///
/// Errors: a side of 0, a ratio above 200 (200 passes), or a result beyond the address space.
pub fn smart_resize(h: usize, w: usize, factor: usize, min_pixels: u64, max_pixels: u64) -> Result<(usize, usize)> {
    let refuse = |why: String| Err(Error::request(format!("picture of {w} x {h}"), why));
    if h == 0 || w == 0 || factor == 0 {
        return refuse("has no pixels".into());
    }
    let ratio = h.max(w) as f64 / h.min(w) as f64;
    if ratio > MAX_RATIO {
        return refuse(format!("one side is {ratio} times the other, at most {MAX_RATIO} is possible: crop it"));
    }
    let (hf, wf, f) = (h as f64, w as f64, factor as f64);
    let rounded = |side: f64| (side / f).round_ties_even() * f;
    let (mut hb, mut wb) = (rounded(hf), rounded(wf));
    if hb * wb > max_pixels as f64 {
        let beta = (hf * wf / max_pixels as f64).sqrt();
        hb = (hf / beta / f).floor() * f;
        wb = (wf / beta / f).floor() * f;
    } else if hb * wb < min_pixels as f64 {
        let beta = (min_pixels as f64 / (hf * wf)).sqrt();
        hb = (hf * beta / f).ceil() * f;
        wb = (wf * beta / f).ceil() * f;
    }
    let (hb, wb) = (hb.max(f), wb.max(f));
    if hb * wb > f64::from(u32::MAX) {
        return refuse(format!("would be resized to {wb} x {hb}: lower max_pixels or min_pixels"));
    }
    Ok((hb as usize, wb as usize))
}
