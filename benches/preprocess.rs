//! From the bytes of a JPEG to patches: the whole, and each step. `RAYON_NUM_THREADS=1` gives the time of one core.

use criterion::{Criterion, criterion_group, criterion_main};
use osprey::media::image::decode;
use osprey::media::patches::ImageProcessor;
use osprey::media::resize::bicubic;
use osprey::media::rgb::{DecodeLimits, Rgb};
use std::hint::black_box;

const WIDTH: usize = 1024;
const HEIGHT: usize = 683;

/// Waves and edges: compresses about as well as a photograph.
fn picture() -> Rgb {
    let level = |x: usize, y: usize, c: usize| {
        let (fx, fy) = (x as f64 / 37.0, y as f64 / (23.0 + c as f64));
        let edges = if (x / 64 + y / 48).is_multiple_of(2) { 40.0 } else { 0.0 };
        (110.0 + 60.0 * fx.sin() + 40.0 * (fy + fx * 0.3).cos() + edges) as u8
    };
    let data = (0..WIDTH * HEIGHT * 3).map(|i| level(i / 3 % WIDTH, i / 3 / WIDTH, i % 3));
    Rgb::new(WIDTH, HEIGHT, data.collect())
}

/// A 4:2:0 JPEG of quality 90.
fn jpeg(image: &Rgb) -> Vec<u8> {
    let mut encoder = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
    encoder.set_size(image.width, image.height);
    encoder.set_fastest_defaults();
    encoder.set_quality(90.0);
    encoder.set_chroma_sampling_pixel_sizes((2, 2), (2, 2));
    let mut started = encoder.start_compress(Vec::new()).expect("an encoder");
    started.write_scanlines(&image.data).expect("rows");
    started.finish().expect("a file")
}

fn preprocess(c: &mut Criterion) {
    let image = picture();
    let file = jpeg(&image);
    if let Some(path) = std::env::var_os("JPEG_OUT") {
        std::fs::write(path, &file).expect("the picture, to compare with other programs");
    }
    let limits = DecodeLimits::default();
    let processor = ImageProcessor::default();
    c.bench_function("jpeg to patches", |b| {
        b.iter(|| {
            processor.process_image(&decode("bench", black_box(&file), &limits).expect("decoded")).expect("patches")
        })
    });
    c.bench_function("decode", |b| b.iter(|| decode("bench", black_box(&file), &limits).expect("decoded")));
    c.bench_function("rgb to patches", |b| b.iter(|| processor.process_image(black_box(&image)).expect("patches")));
    let (h, w) = processor.resized(HEIGHT, WIDTH).expect("a size");
    c.bench_function("resize", |b| b.iter(|| bicubic(black_box(&image), w, h)));
    c.bench_function("resize width", |b| b.iter(|| bicubic(black_box(&image), w, HEIGHT)));
    c.bench_function("resize height", |b| b.iter(|| bicubic(black_box(&image), WIDTH, h)));
}

criterion_group!(benches, preprocess);
criterion_main!(benches);
