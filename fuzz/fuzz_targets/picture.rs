//! A picture's file, from bytes to patches, within limits that keep a run fast and its memory small.
#![no_main]

use osprey::media::image::decode;
use osprey::media::patches::ImageProcessor;
use osprey::media::rgb::DecodeLimits;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let limits = DecodeLimits { max_pixels: 1 << 16, max_file_bytes: 1 << 20 };
    let Ok(picture) = decode("picture", bytes, &limits) else { return };
    assert!(picture.width * picture.height <= 1 << 16, "{} x {}", picture.width, picture.height);
    assert_eq!(picture.data.len(), picture.width * picture.height * 3);
    let small = ImageProcessor { max_pixels: 1 << 14, ..ImageProcessor::default() };
    // Extreme sides are refused.
    if let Ok(patches) = small.process_image(&picture) {
        assert!(patches.data.iter().all(|x| x.is_finite()));
    }
});
