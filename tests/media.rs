//! Preprocessing against transformers 4.57.6 with Pillow 13.0: every golden of `tests/golden`, bit for bit.

use osprey::media::image::load;
use osprey::media::patches::{ImageProcessor, Patches};
use osprey::media::resize::{PassOrder, bicubic, bicubic_ordered, smart_resize};
use osprey::media::rgb::{DecodeLimits, Rgb};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn read_json(name: &str) -> Value {
    let text = std::fs::read_to_string(golden(name)).expect(name);
    serde_json::from_str(&text).expect(name)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn number(v: &Value) -> usize {
    v.as_u64().expect("a number") as usize
}

/// The images of `images.json` with their names.
fn images(json: &Value) -> impl Iterator<Item = (&str, &Value)> {
    json["images"].as_object().expect("images").iter().map(|(name, image)| (name.as_str(), image))
}

fn load_golden(name: &str) -> osprey::error::Result<Rgb> {
    load(&golden("images").join(name), &DecodeLimits::default())
}

#[test]
fn decoded_pixels() {
    let json = read_json("images.json");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (name, expected) in images(&json) {
        seen += 1;
        match load_golden(name) {
            Ok(_) if !expected["load_error"].is_null() => {
                wrong.push(format!("{name}: loads, the reference refuses it"))
            }
            Err(_) if !expected["load_error"].is_null() => {}
            Err(e) => wrong.push(e.to_string()),
            Ok(rgb) => {
                let size = (number(&expected["width"]), number(&expected["height"]));
                if (rgb.width, rgb.height) != size || sha256(&rgb.data) != expected["rgb_sha256"] {
                    wrong.push(format!("{name}: {rgb:?} of {size:?}, {}", distance(&rgb, expected)));
                }
            }
        }
    }
    assert!(seen >= 60, "{seen} images");
    assert!(wrong.is_empty(), "{} of {seen} images:\n{}", wrong.len(), wrong.join("\n"));
}

/// How far the pixels are from the golden ones, where those are stored.
fn distance(rgb: &Rgb, expected: &Value) -> String {
    let Some(file) = expected["decoded"].as_str() else { return "other pixels".into() };
    let reference = load(&golden(file), &DecodeLimits::default()).expect(file);
    let differences = rgb.data.iter().zip(&reference.data).map(|(a, b)| a.abs_diff(*b));
    let max = differences.clone().max().unwrap_or(0);
    format!("{} of {} bytes differ, at most by {max}", differences.filter(|d| *d > 0).count(), rgb.data.len())
}

/// What the reference made of an image under one of the limits. For images 1 or 3 pixels high, what it makes when told the layout.
fn outcome<'a>(image: &'a Value, limit: &str) -> &'a Value {
    let which = if image["quirk"].is_null() { "out" } else { "out_channels_last" };
    &image[which][limit]
}

#[test]
fn patches_of_images() {
    let json = read_json("images.json");
    let limits = json["limits"].as_object().expect("limits");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (name, image) in images(&json).filter(|(_, image)| image["load_error"].is_null()) {
        let rgb = load_golden(name).expect(name);
        for (limit, pixels) in limits {
            seen += 1;
            let processor = ImageProcessor::default()
                .with_pixels(pixels["min_pixels"].as_u64(), pixels["max_pixels"].as_u64())
                .expect(limit);
            let expected = outcome(image, limit);
            if let Err(why) = compare(processor.process_image(&rgb), expected) {
                wrong.push(format!("{name} {limit}: {why}"));
            }
        }
    }
    assert!(seen >= 200, "{seen} cases");
    assert!(wrong.is_empty(), "{} of {seen} cases:\n{}", wrong.len(), wrong.join("\n"));
}

fn compare(got: osprey::error::Result<Patches>, expected: &Value) -> Result<(), String> {
    let patches = match (got, expected["error"].is_null()) {
        (Ok(patches), true) => patches,
        (Err(_), false) => return Ok(()),
        (Ok(_), false) => return Err("processed, the reference refuses it".into()),
        (Err(e), true) => return Err(e.to_string()),
    };
    let grid: Vec<usize> = expected["grid_thw"].as_array().expect("grid").iter().map(number).collect();
    if patches.grid_thw[..] != grid {
        return Err(format!("grid {:?}, expected {grid:?}", patches.grid_thw));
    }
    match sha256(bytemuck::cast_slice(&patches.data)) == expected["pixel_values_sha256"] {
        true => Ok(()),
        false => Err("other pixel values".into()),
    }
}

/// The generator that `resize.json` describes.
fn noise(seed: u64, kind: &str, len: usize) -> Vec<u8> {
    let mut state = seed;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9E3779B97F4A7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58476D1CE4E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D049BB133111EB);
        z ^ (z >> 31)
    });
    let bytes = words.flat_map(u64::to_le_bytes).take(len);
    match kind {
        "noise" => bytes.collect(),
        "binary" => bytes.map(|b| if b >= 128 { 255 } else { 0 }).collect(),
        "runs" => bytes.map(|b| (b & 3) * 85).collect(),
        other => panic!("kind {other}"),
    }
}

#[test]
fn resizes() {
    let json = read_json("resize.json");
    let check: Vec<usize> = json["check"]["first_16_bytes"].as_array().expect("check").iter().map(number).collect();
    assert_eq!(noise(7, "noise", 16), check.iter().map(|&b| b as u8).collect::<Vec<_>>(), "the generator");
    let cases = json["cases"].as_array().expect("cases");
    let mut wrong = Vec::new();
    let mut other_order = 0;
    for case in cases {
        let [w, h, out_w, out_h, seed] = std::array::from_fn(|i| number(&case[i]));
        let src = Rgb::new(w, h, noise(seed as u64, case[5].as_str().expect("kind"), w * h * 3));
        let result = bicubic(&src, out_w, out_h);
        if sha256(&result.data) != case[6] {
            wrong.push(format!("{w} x {h} -> {out_w} x {out_h}: {:?}, expected {}", &result.data[..3], case[7]));
        }
        other_order += usize::from(bicubic_ordered(&src, out_w, out_h, PassOrder::HorizontalFirst) != result);
    }
    assert!(cases.len() >= 400, "{} cases", cases.len());
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(other_order > 0, "no case tells the pass orders apart");
}

#[test]
fn smart_resize_vectors() {
    let json = read_json("smart_resize.json");
    let factor = number(&json["factor"]);
    let cases = json["cases"].as_array().expect("cases");
    for case in cases {
        let [h, w] = [number(&case[0]), number(&case[1])];
        let [min, max] = [&case[2], &case[3]].map(|v| v.as_u64().expect("pixels"));
        let got = smart_resize(h, w, factor, min, max);
        match case[4].as_u64() {
            Some(height) => assert_eq!(got.expect("a size"), (height as usize, number(&case[5])), "{case}"),
            None => assert!(got.is_err(), "{case}: {got:?}"),
        }
    }
    assert!(cases.len() > 100);
}

#[test]
fn smart_resize_never_gives_nothing() {
    for (h, w) in [(1, 1), (1, 200), (13, 2600), (5, 1000), (28, 28)] {
        for (min, max) in [(0, 1), (0, 784), (1, 10_000), (0, u64::MAX)] {
            let (rh, rw) = smart_resize(h, w, 28, min, max).expect("a size");
            assert!(rh >= 28 && rw >= 28 && rh % 28 == 0 && rw % 28 == 0, "{h} x {w} in {min}..={max}: {rh} x {rw}");
        }
    }
    assert!(smart_resize(0, 5, 28, 1, 100).is_err());
    assert!(smart_resize(1 << 40, 1 << 40, 28, 1, u64::MAX).is_err());
}

/// A small picture that no two pixels of share a colour pattern with.
fn picture(width: usize, height: usize, seed: u64) -> Rgb {
    Rgb::new(width, height, noise(seed, "noise", width * height * 3))
}

#[test]
fn patch_order_is_that_of_the_formula() {
    // Aligned, so that no resize hides an index: value [gt, 2, C, gh/2, 2, 14, gw/2, 2, 14] -> (gt, gh/2, gw/2, mh, mw, C, tp, ph, pw).
    let frames: Vec<Rgb> = (0..3).map(|i| picture(84, 56, i)).collect();
    let patches = ImageProcessor::default().process_video(&frames).expect("a video");
    assert_eq!((patches.grid_thw, patches.resized), ([2, 4, 6], (56, 84)));
    assert_eq!(patches.tokens(2), 12);
    let processor = ImageProcessor::default();
    let (mean, std) = (processor.mean.map(|x| x as f32), processor.std.map(|x| x as f32));
    for (row, patch) in patches.data.chunks_exact(1176).enumerate() {
        let (gt, block, my, mx) = (row / 24, row % 24 / 4, row / 2 % 2, row % 2);
        let (y0, x0) = ((block / 3 * 2 + my) * 14, (block % 3 * 2 + mx) * 14);
        for (i, &value) in patch.iter().enumerate() {
            let (c, t, y, x) = (i / 392, i / 196 % 2, i / 14 % 14, i % 14);
            let frame = &frames[(gt * 2 + t).min(2)]; // the third of three frames is repeated
            let level = frame.row(y0 + y)[(x0 + x) * 3 + c];
            assert_eq!(value, (level as f32 / 255.0 - mean[c]) / std[c], "row {row}, value {i}");
        }
    }
}

#[test]
fn one_frame_is_a_picture() {
    let frame = picture(70, 130, 3);
    let processor = ImageProcessor::default();
    let image = processor.process_image(&frame).expect("a picture");
    assert_eq!(processor.process_video(std::slice::from_ref(&frame)).expect("a video"), image);
}

#[test]
fn frames_must_agree() {
    let processor = ImageProcessor::default();
    let error = processor.process_video(&[picture(60, 60, 1), picture(60, 61, 2)]).expect_err("two sizes").to_string();
    assert!(error.contains("frame 1") && error.contains("60 x 61"), "{error}");
    assert!(processor.process_video(&[]).is_err());
}

#[test]
fn processor_settings() {
    let read = |text: &str| ImageProcessor::from_json(Path::new("preprocessor_config.json"), text);
    assert_eq!(read("{}").expect("defaults"), ImageProcessor::default());
    let p = read(r#"{"min_pixels": 3136, "max_pixels": 12845056, "size": {"shortest_edge": 1, "longest_edge": 2}}"#);
    assert_eq!(p.map(|p| (p.min_pixels, p.max_pixels)).expect("both"), (3136, 12845056));
    let p = read(r#"{"size": {"shortest_edge": 784, "longest_edge": 100352}, "patch_size": 16}"#).expect("size");
    assert_eq!((p.min_pixels, p.max_pixels, p.factor()), (3136, 1003520, 32));
    let q = p.with_pixels(Some(4000), None).expect("a lower limit");
    assert_eq!((q.min_pixels, q.max_pixels), (4000, 1003520));
    assert_eq!(
        p.with_pixels(None, Some(500)).map(|p| (p.min_pixels, p.max_pixels)).expect("an upper limit"),
        (500, 500)
    );
    assert!(p.with_pixels(Some(10), Some(5)).is_err());
    for bad in
        [r#"{"do_resize": false}"#, r#"{"resample": 2}"#, r#"{"image_std": [1, 0, 1]}"#, r#"{"merge_size": 0}"#, "no"]
    {
        let error = read(bad).expect_err(bad).to_string();
        assert!(error.contains("preprocessor_config.json") && !error.contains('\n'), "{error}");
    }
}

/// A device never ends; a test that fails hangs.
#[cfg(unix)]
#[test]
fn settings_come_from_files_only() {
    let error = ImageProcessor::from_file(Path::new("/dev/zero")).expect_err("a device").to_string();
    assert!(error.contains("/dev/zero") && error.contains("not a regular file"), "{error}");
}
