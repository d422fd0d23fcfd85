//! PNG to RGB with Pillow's conversions, and RGB to PNG.
//!
//! Owns: every colour type, depth and interlacing. Refuses: animation (the default image counts), colour management (`gAMA`, `iCCP`).
//! Surprises: a large picture is read twice, see `rgb::ON_TRUST`. 16-bit greyscale saturates at 255 (Pillow's `I;16`), while 16-bit colour keeps the high byte.

use crate::error::{Error, Result};
use crate::media::orientation;
use crate::media::rgb::{DecodeLimits, Decoded, ON_TRUST, Rgb, broken};
use png::{BitDepth, ColorType, InterlaceInfo, Transformations};
use std::io::{Cursor, Write};
use std::path::Path;

/// The longest row. Longer ones belong to shapes that no processor takes, and the decoder holds several.
const MAX_ROW_BYTES: usize = 2 << 20;
/// Rows that the decoder holds at most, ours included.
const ROWS_HELD: usize = 8;
/// Text and EXIF, with what their reading costs: about thrice their size.
const MAX_METADATA_BYTES: usize = 40 << 20;
/// The longest text that is unpacked, as Pillow's `MAX_TEXT_CHUNK`. What is longer says nothing of orientation.
const MAX_TEXT_BYTES: usize = 1 << 20;

/// Decodes a PNG file, upright or not.
pub(super) fn decode(name: &str, bytes: &[u8], limits: &DecodeLimits) -> Result<Decoded> {
    let fail = |e: png::DecodingError| broken(name, "PNG", e);
    let mut reader = open(name, bytes, limits)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    let rows = ROWS_HELD * reader.info().raw_row_length();
    if 3 * width * height + rows + 3 * metadata_bytes(bytes) > ON_TRUST {
        while reader.next_row().map_err(fail)?.is_some() {}
        drop(reader);
        reader = open(name, bytes, limits)?;
    }
    let mut data = vec![0; width * height * 3];
    read_rows(&mut reader, &mut data).map_err(fail)?;
    // Metadata may follow the pixels; what is broken behind them does not matter.
    let _ = reader.finish();
    Ok(Decoded { rgb: Rgb::new(width, height, data), orientation: read_orientation(reader.info()) })
}

/// The file behind its header and all that precedes the pixels.
fn open<'a>(name: &str, bytes: &'a [u8], limits: &DecodeLimits) -> Result<png::Reader<Cursor<&'a [u8]>>> {
    let fail = |e: png::DecodingError| broken(name, "PNG", e);
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: MAX_METADATA_BYTES });
    decoder.set_transformations(Transformations::IDENTITY);
    decoder.set_ignore_iccp_chunk(true);
    let info = decoder.read_header_info().map_err(fail)?;
    limits.check(name, info.width as usize, info.height as usize)?;
    let row = info.raw_row_length();
    if row > MAX_ROW_BYTES {
        return Err(Error::request(name, format!("rows of {row} bytes, the limit is {MAX_ROW_BYTES}")));
    }
    decoder.read_info().map_err(fail)
}

/// Bytes in chunks other than pixels, as far as the chunks go.
fn metadata_bytes(bytes: &[u8]) -> usize {
    let mut rest = &bytes[8..];
    let mut sum = 0;
    while let [a, b, c, d, kind @ ..] = rest
        && kind.len() >= 4
    {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let end = rest.len().min(length + 12);
        if !kind.starts_with(b"IDAT") {
            sum += end;
        }
        rest = &rest[end..];
    }
    sum
}

/// Reads the pixels into `data` `[height, width, 3]`.
fn read_rows(reader: &mut png::Reader<Cursor<&[u8]>>, data: &mut [u8]) -> std::result::Result<(), png::DecodingError> {
    let info = reader.info();
    let stride = info.width as usize * 3;
    let lookup = Lookup::new(info.color_type, info.bit_depth, info.palette.as_deref().unwrap_or_default());
    let bits = info.bits_per_pixel();
    let mut upright = 0..info.height as usize;
    let mut sparse = vec![0; stride];
    while let Some(row) = reader.next_interlaced_row()? {
        match row.interlace() {
            InterlaceInfo::Null(_) => {
                if let Some(y) = upright.next() {
                    lookup.row(row.data(), &mut data[y * stride..][..stride]);
                }
            }
            InterlaceInfo::Adam7(pass) => {
                // Up to 7 pixels more than there are, where several share a byte.
                let pixels = stride.min(row.data().len() * 8 / bits * 3);
                lookup.row(row.data(), &mut sparse[..pixels]);
                png::expand_interlaced_row(data, stride, &sparse[..pixels], pass, 24);
            }
        }
    }
    Ok(())
}

/// How the samples of a row become RGB.
enum Lookup {
    /// Packed indices of 1, 2, 4 or 8 bits into a table.
    Table { bits: usize, rgb: Vec<[u8; 3]> },
    /// Big-endian 16-bit grey, saturating.
    Grey16,
    /// `stride` bytes a pixel, of which those at `at` are red, green and blue.
    Pick { stride: usize, at: [usize; 3] },
}

impl Lookup {
    fn new(color: ColorType, depth: BitDepth, palette: &[u8]) -> Self {
        let bits = depth as usize;
        let bytes = bits.div_ceil(8);
        match color {
            ColorType::Indexed => Lookup::Table { bits, rgb: palette_table(palette, 1 << bits) },
            ColorType::Grayscale if depth == BitDepth::Sixteen => Lookup::Grey16,
            ColorType::Grayscale => {
                let top = (1 << bits) - 1;
                Lookup::Table { bits, rgb: (0..=top).map(|v| [(v * 255 / top) as u8; 3]).collect() }
            }
            ColorType::GrayscaleAlpha => Lookup::Pick { stride: 2 * bytes, at: [0; 3] },
            ColorType::Rgb => Lookup::Pick { stride: 3 * bytes, at: [0, bytes, 2 * bytes] },
            ColorType::Rgba => Lookup::Pick { stride: 4 * bytes, at: [0, bytes, 2 * bytes] },
        }
    }

    fn row(&self, line: &[u8], row: &mut [u8]) {
        let pixels = row.chunks_exact_mut(3).enumerate();
        match self {
            Lookup::Table { bits, rgb } => pixels.for_each(|(x, out)| {
                let bit = x * bits;
                let index = line[bit / 8] >> (8 - bits - bit % 8) & (0xFF >> (8 - bits));
                out.copy_from_slice(&rgb[index as usize]);
            }),
            Lookup::Grey16 => pixels.for_each(|(x, out)| {
                let v = u16::from_be_bytes([line[2 * x], line[2 * x + 1]]);
                out.fill(v.min(255) as u8);
            }),
            Lookup::Pick { stride, at } => pixels.for_each(|(x, out)| {
                let pixel = &line[x * stride..][..*stride];
                for (o, &i) in out.iter_mut().zip(at) {
                    *o = pixel[i];
                }
            }),
        }
    }
}

/// The palette as `entries` colours; indices beyond a short palette are black, as in Pillow.
pub(super) fn palette_table(palette: &[u8], entries: usize) -> Vec<[u8; 3]> {
    let mut table: Vec<[u8; 3]> = palette.chunks_exact(3).map(|c| [c[0], c[1], c[2]]).collect();
    table.resize(entries, [0; 3]);
    table
}

/// `eXIf`, or ImageMagick's hexadecimal text chunk, or XMP.
fn read_orientation(info: &png::Info<'_>) -> u8 {
    const RAW_PROFILE: &str = "Raw profile type exif";
    let exif = info.exif_metadata.as_deref().map(<[u8]>::to_vec).or_else(|| {
        let plain = info.uncompressed_latin1_text.iter().find(|t| t.keyword == RAW_PROFILE).map(|t| t.text.clone());
        let packed = || {
            let mut text = info.compressed_latin1_text.iter().find(|t| t.keyword == RAW_PROFILE)?.clone();
            text.decompress_text_with_limit(MAX_TEXT_BYTES).and_then(|()| text.get_text()).ok()
        };
        raw_profile(&plain.or_else(packed)?)
    });
    let xmp = info.utf8_text.iter().find(|t| t.keyword == "XML:com.adobe.xmp").and_then(|text| {
        let mut text = text.clone();
        text.decompress_text_with_limit(MAX_TEXT_BYTES).and_then(|()| text.get_text()).ok()
    });
    orientation::find(exif.as_deref(), xmp.as_deref().map(str::as_bytes))
}

/// A blank line, the profile's name, its length, then lines of hexadecimal digits.
fn raw_profile(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.split('\n').skip(3).flat_map(str::bytes).filter(u8::is_ascii_hexdigit).collect();
    digits.chunks_exact(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok()).collect()
}

/// Writes the picture as an 8-bit RGB PNG.
pub(super) fn save(image: &Rgb, path: &Path) -> Result<()> {
    let file = std::fs::File::create(path).map_err(|e| Error::io(path, e))?;
    let mut file = std::io::BufWriter::new(file);
    write(image, &mut file).map_err(|e| Error::io(path, e))?;
    file.flush().map_err(|e| Error::io(path, e))
}

fn write(image: &Rgb, to: &mut impl Write) -> std::io::Result<()> {
    let too_large = |_| std::io::Error::from(std::io::ErrorKind::InvalidInput);
    let width = u32::try_from(image.width).map_err(too_large)?;
    let mut encoder = png::Encoder::new(to, width, u32::try_from(image.height).map_err(too_large)?);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.write_header()?.write_image_data(&image.data)?;
    Ok(())
}
