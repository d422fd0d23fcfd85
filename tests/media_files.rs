//! Picture files that are broken, hostile or cut short: one clear line, never a panic. And boxes, from an answer to a file.

use osprey::media::boxes;
use osprey::media::image::{decode, load};
use osprey::media::patches::ImageProcessor;
use osprey::media::rgb::{DecodeLimits, Rgb};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images")
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).expect(name)
}

fn default_decode(name: &str, bytes: &[u8]) -> osprey::error::Result<Rgb> {
    decode(name, bytes, &DecodeLimits::default())
}

/// The error of `bytes`: one line that names the file.
fn refused(name: &str, bytes: &[u8]) -> String {
    let error = default_decode(name, bytes).expect_err(name).to_string();
    assert!(error.starts_with(&format!("{name}: ")) && !error.contains('\n'), "{error}");
    error
}

#[test]
fn empty_and_foreign_files() {
    assert_eq!(refused("a.jpg", b""), "a.jpg: the file is empty");
    assert!(refused("a.txt", b"hello").contains("JPEG, PNG, WebP, GIF or BMP"));
    let missing = load(Path::new("no/such.png"), &DecodeLimits::default()).expect_err("missing").to_string();
    assert!(missing.starts_with("no/such.png: "), "{missing}");
    assert!(load(&folder(), &DecodeLimits::default()).is_err(), "a folder");
}

#[test]
fn every_truncation_is_refused() {
    // All that comes after the pixels may be missing: Pillow does not need it either.
    for (name, tail) in [
        ("jpeg_420.jpg", 2),
        ("jpeg_420_progressive.jpg", 0),
        ("jpeg_grey.jpg", 2),
        ("jpeg_cmyk.jpg", 2),
        ("png_rgba.png", 16),
        ("png_interlaced.png", 16),
        ("png_p.png", 16),
        ("webp_lossy.webp", 0),
        ("webp_lossless.webp", 0),
        ("gif_transparent.gif", 3),
        ("bmp_rgb.bmp", 3),
        ("bmp_p.bmp", 3),
    ] {
        let bytes = read(name);
        let end = bytes.len() - tail;
        for cut in (1..end).step_by(end / 60 + 1).chain(end.saturating_sub(8)..end) {
            let got = default_decode(name, &bytes[..cut]);
            assert!(got.is_err(), "{name} cut to {cut} of {} bytes loads", bytes.len());
        }
    }
}

/// A PNG header that claims a size, with a right checksum.
fn png_of(width: u32, height: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    drop(encoder.write_header().expect("a header"));
    file
}

#[test]
fn bombs_are_refused_by_their_header() {
    let limit = |e: &str| assert!(e.contains("the limit is 178956970"), "{e}");
    limit(&refused("bomb.png", &png_of(60_000, 60_000)));
    let mut jpeg = read("jpeg_420.jpg");
    let sof = jpeg.windows(2).position(|w| w == [0xFF, 0xC0]).expect("SOF0");
    jpeg[sof + 5..sof + 9].fill(0xF0);
    limit(&refused("bomb.jpg", &jpeg));
    let mut gif = read("gif_transparent.gif");
    gif[6..10].fill(0xFF);
    limit(&refused("bomb.gif", &gif));
    let mut bmp = read("bmp_rgb.bmp");
    bmp[18..22].copy_from_slice(&60_000i32.to_le_bytes());
    bmp[22..26].copy_from_slice(&60_000i32.to_le_bytes());
    limit(&refused("bomb.bmp", &bmp));
    let mut webp = read("webp_exif8.webp");
    webp[24..30].copy_from_slice(&[0xFF, 0xEF, 0, 0xFF, 0xEF, 0]); // VP8X canvas, less 1
    limit(&refused("bomb.webp", &webp));
    let mut webp = read("webp_exif8.webp");
    let exif = webp.windows(4).position(|w| w == b"EXIF").expect("EXIF");
    webp[exif + 4..exif + 8].copy_from_slice(&0xF000_0000u32.to_le_bytes());
    assert!(refused("bomb.webp", &webp).contains("truncated"), "a chunk of 4 GB");
    let webp = read("webp_lossy.webp");
    let tight = DecodeLimits { max_pixels: 131 * 90 - 1, ..DecodeLimits::default() };
    assert!(decode("frame.webp", &webp, &tight).is_err());
}

#[test]
fn limits_are_the_callers() {
    let bytes = read("rgb_97x61.png");
    let limits = |max_pixels, max_file_bytes| DecodeLimits { max_pixels, max_file_bytes };
    assert!(decode("a", &bytes, &limits(97 * 61, bytes.len() as u64)).is_ok());
    let error = decode("a", &bytes, &limits(97 * 61 - 1, 1 << 20)).expect_err("pixels").to_string();
    assert_eq!(error, "a: 97 x 61 is 5917 pixels, the limit is 5916: shrink the picture");
    assert!(decode("a", &bytes, &limits(1 << 20, 10)).is_err());
    assert!(load(&folder().join("rgb_97x61.png"), &limits(1 << 20, 10)).is_err());
}

#[test]
fn a_jpeg_of_scans_is_refused() {
    let mut jpeg = read("jpeg_420_progressive.jpg");
    jpeg.extend([0xFF, 0xDA].repeat(501));
    assert!(refused("scans.jpg", &jpeg).contains("scans"));
}

/// The smaller golden files, whole, one of each kind.
static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let names = std::fs::read_dir(folder()).expect("goldens").map(|e| e.expect("an entry").path());
    let mut files: Vec<_> = names.filter(|p| p.metadata().is_ok_and(|m| m.len() < 20_000)).collect();
    files.sort();
    files.iter().map(|p| std::fs::read(p).expect("a file")).collect()
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Up to six bytes changed (most often near the start, where the headers are), perhaps cut: Ok or one line.
    #[test]
    fn mutations_never_panic(
        seed in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), any::<u8>()), 1..7),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut bytes = SEEDS[seed.index(SEEDS.len())].clone();
        for (at, header, value) in changes {
            let range = if header { bytes.len().min(80) } else { bytes.len() };
            if range > 0 {
                bytes[at.index(range)] = value;
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        let limits = DecodeLimits { max_pixels: 1 << 20, ..DecodeLimits::default() };
        match decode("mutant", &bytes, &limits) {
            Ok(rgb) => prop_assert_eq!(rgb.data.len(), rgb.width * rgb.height * 3),
            Err(e) => prop_assert!(!e.to_string().contains('\n')),
        }
    }

    /// Any EXIF block leaves the picture standing or turns it. Small numbers make offsets that lie inside the block.
    #[test]
    fn any_exif_is_survived(
        block in prop::collection::vec(prop_oneof![Just(0u8), Just(1), 2u8..16, any::<u8>()], 0..80),
        order in prop::sample::select(vec![*b"II*\0", *b"MM\0*"]),
    ) {
        let mut jpeg = read("jpeg_grey.jpg");
        let segment = [&b"Exif\0\0"[..], &order, &block].concat();
        let length = (segment.len() as u16 + 2).to_be_bytes();
        jpeg.splice(2..2, [&[0xFF, 0xE1][..], &length, &segment].concat());
        let rgb = default_decode("exif", &jpeg).expect("a picture");
        prop_assert_eq!(rgb.width * rgb.height, 109 * 75);
    }

    /// Any shape either resizes to whole patches or is refused for its ratio.
    #[test]
    fn any_shape_is_processed_or_refused(w in 1usize..400, h in 1usize..400, min in 0u64..100_000, extra in 0u64..100_000) {
        let processor = ImageProcessor::default().with_pixels(Some(min), Some(min + extra + 1)).expect("limits");
        match processor.process_image(&Rgb::new(w, h, vec![9; w * h * 3])) {
            Ok(p) => prop_assert_eq!(p.data.len(), p.grid_thw.iter().product::<usize>() * 1176),
            Err(_) => prop_assert!(w.max(h) > 200 * w.min(h)),
        }
    }

    #[test]
    fn any_text_parses(text in r"(<\|(object_ref|box)_(start|end)\|>|\(|\)|,|[0-9]{1,12}|.){0,40}") {
        let mut image = Rgb::new(7, 3, vec![0; 63]);
        boxes::draw(&mut image, &boxes::parse(&text));
    }
}

#[test]
fn boxes_of_an_answer() {
    let text = "<|object_ref_start|>the cat<|object_ref_end|><|box_start|>(100,200),(500,999)<|box_end|> and \
        <|box_start|>(900, 0),(1001, 20)<|box_end|><|object_ref_start|>dog<|object_ref_end|>\
        <|box_start|>(1,2),(3<|box_end|><|box_start|>(30,40),(10,20)<|box_end|><|im_end|>";
    let found = boxes::parse(text);
    let flat: Vec<_> = found.iter().map(|b| (b.label.as_str(), b.corners)).collect();
    assert_eq!(flat, [("the cat", [100, 200, 500, 999]), ("the cat", [900, 0, 1000, 20]), ("dog", [10, 20, 30, 40])]);
    let b = found[0].in_pixels(640, 480);
    assert_eq!((b.left, b.top, b.right, b.bottom), (64, 96, 320, 479));
    let b = found[1].in_pixels(640, 480);
    assert_eq!((b.right, b.bottom), (639, 10));
}

#[test]
fn drawn_boxes_are_outlines_and_reach_a_file() {
    let mut image = Rgb::new(100, 50, vec![0; 100 * 50 * 3]);
    boxes::draw(&mut image, &boxes::parse("<|box_start|>(100,200),(500,800)<|box_end|>"));
    let painted = |x: usize, y: usize| image.row(y)[x * 3] != 0;
    for (x, y) in [(10, 10), (11, 11), (50, 40), (49, 39), (30, 10), (10, 25)] {
        assert!(painted(x, y), "({x}, {y})");
    }
    for (x, y) in [(9, 10), (10, 9), (51, 40), (50, 41), (12, 12), (30, 25), (48, 38)] {
        assert!(!painted(x, y), "({x}, {y})");
    }
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("boxes.png");
    boxes::save_png(&image, &file).expect("saved");
    assert_eq!(load(&file, &DecodeLimits::default()).expect("loaded"), image);
}
