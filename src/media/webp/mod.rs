//! WebP to RGB with Pillow's conversions, through `image-webp`.
//!
//! Owns: the chunks, and the proof that the picture in them is whole before a decoder sees it. Refuses: all but the first frame.
//! Surprise: the decoder takes up to 9 bytes a pixel, several copies of the data, and tables that a few bytes can blow up, and only then
//! finds the damage. So what would take more than `rgb::ON_TRUST` is walked first, by [`lossless`] or [`lossy`], without pixels.

mod lossless;
mod lossy;
mod tables;

use crate::error::Result;
use crate::media::orientation;
use crate::media::raster::read_rgb;
use crate::media::rgb::{DecodeLimits, Decoded, ON_TRUST, broken};
use image::codecs::webp::WebPDecoder;
use std::io::Cursor;

/// Decodes a WebP file, upright or not.
pub(super) fn decode(name: &str, bytes: &[u8], limits: &DecodeLimits) -> Result<Decoded> {
    let metadata = check(name, bytes, limits)?;
    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|e| broken(name, "WebP", e))?;
    let rgb = read_rgb(name, "WebP", decoder, limits)?;
    Ok(Decoded { rgb, orientation: orientation::find(metadata.exif, metadata.xmp) })
}

/// The blocks that may hold the orientation.
#[derive(Default)]
struct Metadata<'a> {
    exif: Option<&'a [u8]>,
    xmp: Option<&'a [u8]>,
}

/// Walks the chunks before the decoder sees them: it forgives a short file, which Pillow does not, and takes memory for what a chunk
/// claims (its own length, the size of its frame) before it compares that with the file and with the canvas.
fn check<'a>(name: &str, bytes: &'a [u8], limits: &DecodeLimits) -> Result<Metadata<'a>> {
    let truncated = || broken(name, "WebP", "the file is truncated");
    let end = 8 + bytes.get(4..8).map(little_endian).ok_or_else(truncated)?;
    let mut rest = bytes.get(12..end).ok_or_else(truncated)?;
    let mut metadata = Metadata::default();
    let mut canvas = None; // in extended files, which alone have metadata
    let mut animated = false;
    let (mut wants_alpha, mut has_alpha) = (false, false);
    while rest.len() >= 8 {
        let (kind, data, after) = chunk(rest).ok_or_else(truncated)?;
        match kind {
            b"VP8X" => {
                canvas = data.get(4..10).map(sides_of_24_bits);
                canvas.map_or(Ok(()), |(width, height)| limits.check(name, width, height))?;
                wants_alpha = data.first().is_some_and(|flags| flags & 0x10 != 0);
            }
            b"EXIF" if canvas.is_some() => metadata.exif = metadata.exif.or(Some(data)),
            b"XMP " if canvas.is_some() => metadata.xmp = metadata.xmp.or(Some(data)),
            b"ANMF" if !animated => {
                animated = true;
                check_frame(name, data, limits)?;
            }
            _ => check_picture(name, kind, data, canvas, limits)?,
        }
        has_alpha |= matches!(kind, b"ALPH" | b"VP8L" | b"ANMF");
        rest = after;
    }
    if wants_alpha && !has_alpha {
        return Err(broken(name, "WebP", "the alpha channel is missing"));
    }
    Ok(metadata)
}

/// The first chunk of `bytes`: its kind, its data and what follows.
fn chunk(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let length = little_endian(bytes.get(4..8)?);
    let data = bytes.get(8..8 + length)?;
    Some((&bytes[..4], data, bytes.get(8 + length + length % 2..).unwrap_or_default()))
}

fn little_endian(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |value, &b| value << 8 | b as usize)
}

/// Width and height, less 1, of 24 bits each.
fn sides_of_24_bits(bytes: &[u8]) -> (usize, usize) {
    (little_endian(&bytes[..3]) + 1, little_endian(&bytes[3..]) + 1)
}

/// Checks the picture of an animation's first frame, perhaps behind its alpha channel. Where its chunk is not whole, or of another kind,
/// the decoder refuses it at once.
fn check_frame(name: &str, frame: &[u8], limits: &DecodeLimits) -> Result<()> {
    let size = frame.get(6..12).map(sides_of_24_bits);
    let Some((kind, data, after)) = frame.get(16..).and_then(chunk) else { return Ok(()) };
    check_picture(name, kind, data, size, limits)?;
    match (kind, chunk(after)) {
        (b"ALPH", Some((b"VP8 ", data, _))) => check_picture(name, b"VP8 ", data, size, limits),
        (b"ALPH", _) => Err(broken(name, "WebP", "an alpha channel without a picture")),
        _ => Ok(()),
    }
}

/// Refuses a picture, or the alpha channel of one of `size`, that is too large or not all there. Passes other chunks.
fn check_picture(
    name: &str,
    kind: &[u8],
    data: &[u8],
    size: Option<(usize, usize)>,
    limits: &DecodeLimits,
) -> Result<()> {
    const SIDE: usize = 0x3FFF; // 14 bits
    const ALPHA_CODING: u8 = 0b10_0011; // 0 plain, 1 lossless; the upper bit is reserved
    let stated = match kind {
        b"VP8 " => data.get(6..10).map(|b| (little_endian(&b[..2]) & SIDE, little_endian(&b[2..]) & SIDE)),
        b"VP8L" => data.get(1..5).map(little_endian).map(|b| ((b & SIDE) + 1, (b >> 14 & SIDE) + 1)),
        b"ALPH" if !data.is_empty() => size,
        _ => None,
    };
    let Some((width, height)) = stated else { return Ok(()) };
    limits.check(name, width, height)?;
    if size.is_some_and(|size| size != (width, height)) {
        return Err(broken(name, "WebP", "the picture and its canvas have different sizes"));
    }
    let whole = match (kind, data[0] & ALPHA_CODING) {
        (b"VP8 ", _) if 2 * width * height + 3 * data.len() <= ON_TRUST => Some(()),
        (b"VP8 ", _) => lossy::walk(data, width, height),
        (b"VP8L", _) => lossless::walk(&data[5..], width, height, ON_TRUST),
        (_, 0) => (data.len() > width * height).then_some(()),
        // Read while the decoder holds the picture: twice as much again.
        (_, 1) => lossless::walk(&data[1..], width, height, ON_TRUST / 3),
        _ => None,
    };
    whole.ok_or_else(|| broken(name, "WebP", "the picture's data are damaged or end early"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::ImageDecoder;

    /// Whether `image-webp` decodes a file of this chunk alone.
    fn decodes(kind: &[u8], data: &[u8]) -> bool {
        let padding = &[0][..data.len() % 2];
        let size = (data.len() + padding.len() + 12) as u32;
        let length = data.len() as u32;
        let file = [b"RIFF", &size.to_le_bytes()[..], b"WEBP", kind, &length.to_le_bytes(), data, padding].concat();
        WebPDecoder::new(Cursor::new(&file)).is_ok_and(|decoder| {
            let mut pixels = vec![0; decoder.total_bytes() as usize];
            decoder.read_image(&mut pixels).is_ok()
        })
    }

    /// Whether the chunk passes with nothing on trust.
    fn walks(kind: &[u8], data: &[u8]) -> bool {
        match kind {
            b"VP8L" => {
                let size = little_endian(&data[1..5]);
                lossless::walk(&data[5..], (size & 0x3FFF) + 1, (size >> 14 & 0x3FFF) + 1, 0).is_some()
            }
            _ => lossy::walk(data, little_endian(&data[6..8]), little_endian(&data[8..10])).is_some(),
        }
    }

    /// The walks and the decoder agree on the goldens, whole, cut anywhere, and with bytes changed behind the sizes.
    #[test]
    fn walks_end_where_the_decoder_does() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images");
        let mut seen = [0; 2];
        for entry in std::fs::read_dir(folder).expect("goldens") {
            let path = entry.expect("an entry").path();
            let file = std::fs::read(&path).expect("a file");
            let mut rest = if file.starts_with(b"RIFF") { &file[12..] } else { &[] };
            while let Some((kind, data, after)) = chunk(rest) {
                rest = after;
                if !matches!(kind, b"VP8 " | b"VP8L") {
                    continue;
                }
                assert!(walks(kind, data), "{} is whole", path.display());
                let mut random = 1u32;
                for i in 0..400 {
                    let mut data = data.to_vec();
                    let mut next = |below: usize| {
                        random ^= random << 13;
                        random ^= random >> 17;
                        random ^= random << 5;
                        random as usize % below
                    };
                    if i % 2 == 0 {
                        data.truncate(10 + next(data.len() - 10));
                    } else {
                        // Most often where the codes are.
                        let range = if i % 3 == 0 { data.len() } else { data.len().min(60) };
                        data[10 + next(range - 10)] ^= 1 << next(8);
                    }
                    let walks = walks(kind, &data);
                    assert_eq!(walks, decodes(kind, &data), "{} {i}, {} bytes", path.display(), data.len());
                    seen[walks as usize] += 1;
                }
            }
        }
        assert!(seen.iter().all(|&n| n > 200), "{seen:?}");
    }
}
