//! What a bad picture costs: no more memory than its file and 64 MiB, whatever size it claims. Each decode runs in a child process, whose
//! peak the kernel keeps (`VmHWM`), so nothing that the test itself holds counts.
#![cfg(target_os = "linux")]

use osprey::media::image::{decode, load};
use osprey::media::rgb::DecodeLimits;
use std::path::{Path, PathBuf};
use std::process::Command;

const SIDE: usize = 13_000;
const BOUND: u64 = 64 << 20;
/// Names the picture to the child.
const PICTURE: &str = "OSPREY_TEST_PICTURE";

fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("kB") * 1024
}

/// The child of [`cost`]; on its own it loads a golden.
#[test]
fn one_picture() {
    let golden = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images/png_rgba.png");
    let path = std::env::var_os(PICTURE).map_or_else(golden, PathBuf::from);
    let before = peak();
    let outcome = match load(&path, &DecodeLimits::default()) {
        Ok(rgb) => format!("{rgb:?}"),
        Err(e) => format!("refused {e}"),
    };
    println!("\nPEAK {} {outcome}", peak() - before);
}

/// Peak memory in bytes of decoding `bytes` in another process, and the error, if any.
fn cost(name: &str, bytes: &[u8]) -> (u64, Option<String>) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).expect("written");
    let mut child = Command::new(std::env::current_exe().expect("this test"));
    let out = child.args(["--exact", "one_picture", "--nocapture"]).env(PICTURE, &path).output().expect("a child");
    let text = String::from_utf8_lossy(&out.stdout);
    let line = text.lines().find_map(|l| l.strip_prefix("PEAK ")).unwrap_or_else(|| panic!("{name}: {text}"));
    let (peak, outcome) = line.split_once(' ').expect("two words");
    (peak.parse().expect("bytes"), outcome.strip_prefix("refused ").map(str::to_string))
}

/// Holds a file to the bound; the error, if any.
fn read_cheaply(name: &str, bytes: &[u8]) -> Option<String> {
    let (peak, error) = cost(name, bytes);
    println!("{name}: {} MB for a file of {} MB: {error:?}", peak / 1_000_000, bytes.len() / 1_000_000);
    assert!(peak <= bytes.len() as u64 + BOUND, "{name}: {peak} bytes for a file of {}", bytes.len());
    error
}

/// Holds a bad file to the bound.
fn refused_cheaply(name: &str, bytes: &[u8]) {
    assert!(read_cheaply(name, bytes).is_some(), "{name} loads");
}

/// Cut to half, cut to its header, cut by a little.
fn cuts(name: &str, bytes: &[u8], tail: usize) {
    refused_cheaply(&format!("half_{name}"), &bytes[..bytes.len() / 2]);
    refused_cheaply(&format!("header_{name}"), &bytes[..bytes.len().min(700)]);
    refused_cheaply(&format!("tail_{name}"), &bytes[..bytes.len() - tail]);
}

/// `bytes` with the middle overwritten.
fn corrupt(name: &str, bytes: &[u8], with: &[u8]) {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle..middle + with.len()].copy_from_slice(with);
    refused_cheaply(&format!("corrupt_{name}"), &bytes);
}

/// Level of a sample: smooth enough to compress, nowhere constant.
fn level(x: usize, y: usize, c: usize) -> u8 {
    (x / 16 + y / 16 * (c + 1)) as u8
}

fn row_rgb(width: usize, y: usize) -> Vec<u8> {
    (0..width * 3).map(|i| level(i / 3, y, i % 3)).collect()
}

fn png(width: usize, height: usize, row: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    use std::io::Write;
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Fastest);
    let mut writer = encoder.write_header().expect("a header");
    let mut stream = writer.stream_writer().expect("a stream");
    (0..height).for_each(|y| stream.write_all(&row(y)).expect("a row"));
    stream.finish().expect("an end");
    drop(writer);
    file
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0, |crc, &b| (0..8).fold(crc ^ b as u32, |c, _| if c & 1 == 1 { c >> 1 ^ 0xEDB8_8320 } else { c >> 1 }))
}

/// The PNG with another header: side and interlacing.
fn with_header(mut file: Vec<u8>, side: usize, interlaced: bool) -> Vec<u8> {
    file[16..20].copy_from_slice(&(side as u32).to_be_bytes());
    file[20..24].copy_from_slice(&(side as u32).to_be_bytes());
    file[28] = interlaced as u8;
    let sum = crc(&file[12..29]);
    file[29..33].copy_from_slice(&sum.to_be_bytes());
    file
}

#[test]
fn png_files() {
    let file = png(SIDE, SIDE, |y| row_rgb(SIDE, y));
    cuts("rows.png", &file, 17);
    corrupt("rows.png", &file, &[0xFF; 100]);
    let bomb = png(SIDE, SIDE - 1, |_| vec![0; SIDE * 3]);
    refused_cheaply("bomb.png", &with_header(bomb.clone(), SIDE, false));
    refused_cheaply("bomb_interlaced.png", &with_header(bomb, SIDE, true));
    let text = vec![b'a'; 12 << 20];
    let chunk = [&b"tEXtComment\0"[..], &text].concat();
    let sum = crc(&chunk).to_be_bytes();
    let chunk = [&(chunk.len() as u32 - 4).to_be_bytes()[..], &chunk, &sum].concat();
    let small = with_header(png(4400, 4000, |y| row_rgb(4400, y)), 4400, false);
    refused_cheaply("text.png", &[&small[..33], &chunk, &small[33..]].concat());
}

/// Where the orientation is looked for. The picture is sound, so it loads.
#[test]
fn png_texts_that_unpack_to_far_more() {
    use png::text_metadata::{EncodableTextChunk, ITXtChunk, ZTXtChunk};
    fn with_text(chunk: impl EncodableTextChunk) -> Vec<u8> {
        let mut file = Vec::new();
        let mut writer = png::Encoder::new(&mut file, 8, 8).write_header().expect("a header");
        writer.write_text_chunk(&chunk).expect("a text");
        writer.write_image_data(&[0; 64]).expect("pixels");
        drop(writer);
        file
    }
    let zeros = || "0".repeat(128 << 20);
    let packed = with_text(ZTXtChunk::new("Raw profile type exif", zeros()));
    let mut xmp = ITXtChunk::new("XML:com.adobe.xmp", zeros());
    xmp.compressed = true;
    for (name, file) in [("packed.png", packed), ("xmp.png", with_text(xmp))] {
        assert!(file.len() < 1 << 20, "{name} is no bomb");
        assert_eq!(read_cheaply(name, &file), None);
    }
}

fn jpeg(side: usize, progressive: bool) -> Vec<u8> {
    let mut compress = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
    compress.set_size(side, side);
    compress.set_fastest_defaults();
    compress.set_quality(60.0);
    compress.set_chroma_sampling_pixel_sizes((1, 1), (1, 1));
    if progressive {
        compress.set_progressive_mode();
    }
    let mut started = compress.start_compress(Vec::new()).expect("a start");
    (0..side).for_each(|y| started.write_scanlines(&row_rgb(side, y)).expect("a row"));
    started.finish().expect("an end")
}

#[test]
fn jpeg_files() {
    const BAD_TABLE: [u8; 24] = [0xFF, 0xC4, 0, 20, 0, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let file = jpeg(SIDE, false);
    cuts("baseline.jpg", &file, 100);
    // A short scan is filled with grey, as everywhere; a file that is too short even for one bit a block is not a picture.
    let start = file.windows(2).position(|w| w == [0xFF, 0xDA]).expect("a scan") + 14;
    refused_cheaply("bomb.jpg", &[&file[..start], &[0; 1000], &[0xFF, 0xD9]].concat());
    let file = jpeg(SIDE, true);
    cuts("progressive.jpg", &file, 2);
    corrupt("progressive.jpg", &file, &BAD_TABLE);
}

/// An indexed BMP of 1, 4 or 8 bits a pixel with two colours.
fn bmp(depth: u16, compression: u32, rows: &[u8]) -> Vec<u8> {
    let mut file = b"BM".to_vec();
    for field in
        [0, 0, 62, 40, SIDE as u32, SIDE as u32, 1 | (depth as u32) << 16, compression, 0, 0, 0, 2, 0, 0, 0xFF_FFFF]
    {
        file.extend(field.to_le_bytes());
    }
    file.extend(rows);
    file
}

#[test]
fn bmp_files() {
    cuts("plain.bmp", &bmp(1, 0, &vec![0x5A; SIDE.div_ceil(32) * 4 * SIDE]), 1);
    let row = [[255, 1].repeat(SIDE / 255), vec![(SIDE % 255) as u8, 0, 0, 0]].concat();
    let runs = bmp(8, 1, &row.repeat(SIDE));
    cuts("runs.bmp", &runs, 1);
    corrupt("runs.bmp", &runs, &[0, 2, 255, 255].repeat(60));
    refused_cheaply("bomb.bmp", &bmp(4, 2, &[0, 0].repeat(SIDE - 1)));
}

#[test]
fn gif_files() {
    let mut file = Vec::new();
    let mut encoder =
        gif::Encoder::new(&mut file, SIDE as u16, SIDE as u16, &[0, 0, 0, 255, 255, 255]).expect("a header");
    let pixels: Vec<u8> = (0..SIDE * SIDE).map(|i| (i / 29 % 7 == 0) as u8).collect();
    encoder.write_frame(&gif::Frame::from_indexed_pixels(SIDE as u16, SIDE as u16, pixels, None)).expect("a frame");
    drop(encoder);
    cuts("frame.gif", &file, 40);
    corrupt("frame.gif", &file, &[0xFF; 600]);
    // The same rows under a header that wants more of them.
    let frame = file.iter().position(|&b| b == 0x2C).expect("a frame");
    file[frame + 7..frame + 9].copy_from_slice(&(SIDE as u16 + 1).to_le_bytes());
    refused_cheaply("bomb.gif", &file);
}

/// A RIFF file of these chunks.
fn riff(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let mut body = b"WEBP".to_vec();
    for (kind, data) in chunks {
        body.extend(*kind);
        body.extend((data.len() as u32).to_le_bytes());
        body.extend(*data);
        body.resize(body.len().next_multiple_of(2), 0);
    }
    [&b"RIFF"[..], &(body.len() as u32).to_le_bytes(), &body].concat()
}

/// Bits, the lowest first.
fn pack(fields: &[(u64, u32)]) -> Vec<u8> {
    let mut bits =
        fields.iter().flat_map(|&(value, n)| (0..n).map(move |i| (value >> i & 1) as u8)).collect::<Vec<_>>();
    bits.resize(bits.len().next_multiple_of(8), 0);
    bits.chunks(8).map(|b| b.iter().rev().fold(0, |v, bit| v << 1 | bit)).collect()
}

/// A VP8L chunk without transforms: green is 0 or 255 by one bit a pixel, the other samples take none.
fn lossless(pixel_bytes: usize) -> Vec<u8> {
    let side = SIDE as u64 - 1;
    let one = [(1, 1), (0, 1), (0, 1), (0, 1)]; // a code of symbol 0 alone
    let two = [(1, 1), (1, 1), (0, 1), (0, 1), (255, 8)];
    let head = [(0x2F, 8), (side, 14), (side, 14), (0, 4), (0, 1), (0, 1), (0, 1)];
    let mut data = pack(&[&head[..], &two, &one, &one, &one, &one].concat());
    data.resize(data.len() + pixel_bytes, 0x5A);
    data
}

/// A VP8 chunk whose every bit is 0, as its boolean decoder reads it: block modes everywhere, and no coefficients.
fn lossy(modes: usize, coefficients: usize) -> Vec<u8> {
    let side = (SIDE as u16).to_le_bytes();
    let tag = ((modes as u32) << 5 | 1 << 4).to_le_bytes();
    let mut data = [&tag[..3], &[0x9D, 1, 0x2A], &side, &side].concat();
    data.resize(data.len() + modes + coefficients, 0);
    data
}

#[test]
fn webp_files() {
    let pixels = SIDE * SIDE / 8 + 1;
    let canvas = |flags: u8| {
        let side = &(SIDE as u32 - 1).to_le_bytes()[..3];
        [&[flags, 0, 0, 0], side, side].concat()
    };
    cuts("lossless.webp", &riff(&[(b"VP8L", &lossless(pixels))]), 2);
    refused_cheaply("short_lossless.webp", &riff(&[(b"VP8L", &lossless(pixels - 100))]));
    refused_cheaply("short_lossy.webp", &riff(&[(b"VP8 ", &lossy(500_000, 300_000))]));
    let whole = lossy(500_000, 900_000);
    cuts("lossy.webp", &riff(&[(b"VP8 ", &whole)]), 2);
    refused_cheaply("no_alpha.webp", &riff(&[(b"VP8X", &canvas(0x10)), (b"VP8 ", &whole)]));
    let alpha = [&[1], &lossless(pixels - 100)[5..]].concat();
    refused_cheaply("short_alpha.webp", &riff(&[(b"VP8X", &canvas(0x10)), (b"ALPH", &alpha), (b"VP8 ", &whole)]));
}

/// 48 megapixels: tried first, then decoded as ever.
#[test]
fn large_pictures_come_out_as_they_went_in() {
    const SIDE: usize = 7000;
    let decoded = |bytes: &[u8]| decode("large", bytes, &DecodeLimits::default()).expect("a picture").data;
    let got = decoded(&png(SIDE, SIDE, |y| row_rgb(SIDE, y)));
    (0..SIDE).for_each(|y| assert!(got[y * SIDE * 3..][..SIDE * 3] == row_rgb(SIDE, y), "row {y}"));
    for progressive in [false, true] {
        let file = jpeg(SIDE, progressive);
        let mut reference = mozjpeg::Decompress::new_mem(&file).and_then(|file| file.rgb()).expect("a picture");
        assert!(decoded(&file) == reference.read_scanlines::<u8>().expect("rows"), "progressive {progressive}");
    }
}
