//! Generated pictures, and what it costs to make one ready: decoding a JPEG, resizing and cutting it into patches.

use super::table::Row;
use super::weights::mix;
use crate::media::image::decode;
use crate::media::patches::ImageProcessor;
use crate::media::rgb::{DecodeLimits, Rgb};
use std::time::{Duration, Instant};

/// The usual size of a picture from the web.
const SIZE: (usize, usize) = (1024, 683);

/// Smooth colours with some grain, as photographs have.
pub fn generate((width, height): (usize, usize)) -> Rgb {
    let pixel = |i: usize| {
        let (x, y) = (i % width, i / width);
        let grain = (mix(i as u64) >> 60) as usize;
        [x * 200 / width, y * 200 / height, (x + y) * 100 / (width + height)].map(|v| (v + grain) as u8)
    };
    Rgb::new(width, height, (0..width * height).flat_map(pixel).collect())
}

/// The PNG file of a picture that no other seed makes.
///
/// # Errors
/// If the PNG encoder fails.
pub fn png(size: (usize, usize), seed: u64) -> anyhow::Result<Vec<u8>> {
    let mut image = generate(size);
    let row = 3 * image.width;
    image.data[..row].iter_mut().enumerate().for_each(|(i, v)| *v = mix(seed ^ i as u64) as u8);
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, image.width as u32, image.height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header()?.write_image_data(&image.data)?;
    Ok(file)
}

/// The time to decode and to preprocess a JPEG; the best of `runs`.
///
/// # Errors
/// If the JPEG encoder fails.
pub fn preprocessing(processor: &ImageProcessor, runs: u64) -> anyhow::Result<[Row; 2]> {
    let jpeg = encode(&generate(SIZE))?;
    let (mut decoding, mut cutting) = (Duration::MAX, Duration::MAX);
    for _ in 0..runs {
        let start = Instant::now();
        let image = decode("generated JPEG", &jpeg, &DecodeLimits::default())?;
        decoding = decoding.min(start.elapsed());
        let start = Instant::now();
        processor.process_image(&image)?;
        cutting = cutting.min(start.elapsed());
    }
    let (w, h) = SIZE;
    Ok([
        Row::timed(format!("decode JPEG {w}x{h}"), decoding, 0),
        Row::timed(format!("resize, patches {w}x{h}"), cutting, 0),
    ])
}

fn encode(image: &Rgb) -> anyhow::Result<Vec<u8>> {
    let mut jpeg = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
    jpeg.set_size(image.width, image.height);
    jpeg.set_fastest_defaults();
    jpeg.set_quality(90.0);
    let mut jpeg = jpeg.start_compress(Vec::new())?;
    jpeg.write_scanlines(&image.data)?;
    Ok(jpeg.finish()?)
}
