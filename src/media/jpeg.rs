//! JPEG through mozjpeg's libjpeg, pixel-exact with Pillow's libjpeg-turbo (accurate integer DCT, fancy upsampling: both defaults).
//!
//! Owns: colour spaces, CMYK, what counts as truncated. Refuses: 12-bit, two-component and arithmetic-coded files.
//! Surprises: libjpeg reports a fatal error by unwinding; it is caught here and prints nothing. libjpeg forgives a missing end, Pillow does
//! not: the reader notes whether libjpeg ever asked for bytes beyond the end before the last row was out.

use crate::error::{Error, Result};
use crate::media::orientation;
use crate::media::rgb::{DecodeLimits, Decoded, Rgb, broken};
use mozjpeg::{ColorSpace, Decompress, Marker};
use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A progressive scan may cost a handful of bytes and a pass over every coefficient; real files have about ten.
const MAX_SCANS: usize = 500;

/// Decodes a JPEG file, upright or not.
pub(super) fn decode(name: &str, bytes: &[u8], limits: &DecodeLimits) -> Result<Decoded> {
    let scans = bytes.windows(2).filter(|w| w == &[0xFF, 0xDA]).count();
    if scans > MAX_SCANS {
        return Err(broken(name, "JPEG", format!("{scans} scans, at most {MAX_SCANS} are allowed")));
    }
    let ended = Cell::new(false);
    let mut metadata = Metadata::default();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let reader = Reader { rest: bytes, ended: &ended };
        decode_caught(name, reader, limits, &mut metadata)
    }));
    let decoded = match outcome {
        Ok(result) => result,
        Err(panic) => {
            let why = panic.downcast_ref::<String>().map_or("libjpeg gave up", |s| s.as_str());
            Err(broken(name, "JPEG", why.trim_start_matches("libjpeg fatal error: ")))
        }
    };
    if ended.get() {
        return Err(broken(name, "JPEG", "the file is truncated"));
    }
    // Read out here, where no bug of ours could pass for a broken file.
    let exif = (!metadata.exif.is_empty()).then_some(&metadata.exif[..]);
    Ok(Decoded { rgb: decoded?, orientation: orientation::find(exif, metadata.xmp.as_deref()) })
}

/// The blocks that may hold the orientation.
#[derive(Default)]
struct Metadata {
    exif: Vec<u8>,
    xmp: Option<Vec<u8>>,
}

impl Metadata {
    /// EXIF may be split over several APP1 segments; Pillow joins them.
    fn read<R>(&mut self, file: &Decompress<R>) {
        const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
        for marker in file.markers() {
            if let Some(rest) = marker.data.strip_prefix(b"Exif\0\0") {
                self.exif.extend_from_slice(rest);
            } else if let Some(rest) = marker.data.strip_prefix(XMP) {
                self.xmp = Some(rest.to_vec());
            }
        }
    }
}

/// The part that may unwind.
fn decode_caught(name: &str, reader: Reader<'_>, limits: &DecodeLimits, metadata: &mut Metadata) -> Result<Rgb> {
    let fail = |e: io::Error| broken(name, "JPEG", e);
    let file = Decompress::with_markers(&[Marker::APP(1)]).from_reader(reader).map_err(fail)?;
    let (width, height) = file.size();
    limits.check(name, width, height)?;
    metadata.read(&file);
    let components = file.components().len();
    let space = match components {
        1 => ColorSpace::JCS_GRAYSCALE,
        3 => ColorSpace::JCS_RGB,
        4 => ColorSpace::JCS_CMYK,
        n => return Err(Error::request(name, format!("JPEG files with {n} components are not supported"))),
    };
    let mut started = file.to_colorspace(space).map_err(fail)?;
    let mut data = vec![0; width * height * 3];
    if components == 3 {
        started.read_scanlines_into::<u8>(&mut data).map_err(fail)?;
    } else {
        let mut line = vec![0; width * components];
        for row in data.chunks_exact_mut(width * 3) {
            started.read_scanlines_into::<u8>(&mut line).map_err(fail)?;
            if components == 1 { grey_to_rgb(&line, row) } else { cmyk_to_rgb(&line, row) }
        }
    }
    Ok(Rgb::new(width, height, data))
}

fn grey_to_rgb(line: &[u8], row: &mut [u8]) {
    for (rgb, &v) in row.chunks_exact_mut(3).zip(line) {
        rgb.fill(v);
    }
}

/// Pillow takes every CMYK JPEG for an inverted one (Adobe's habit), then multiplies without a profile (`cmyk2rgb` in Convert.c):
/// with c, k inverted ink, rgb = clip(k - (255 - c) k / 255).
fn cmyk_to_rgb(line: &[u8], row: &mut [u8]) {
    for (rgb, cmyk) in row.chunks_exact_mut(3).zip(line.chunks_exact(4)) {
        let k = cmyk[3] as u32;
        for (out, &ink) in rgb.iter_mut().zip(cmyk) {
            let product = (255 - ink as u32) * k + 128;
            let divided = ((product >> 8) + product) >> 8;
            *out = k.saturating_sub(divided) as u8;
        }
    }
}

/// The bytes of a file, noting when someone wants more than there are.
struct Reader<'a> {
    rest: &'a [u8],
    ended: &'a Cell<bool>,
}

impl Read for Reader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.rest.read(buf)
    }
}

impl BufRead for Reader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest.is_empty() {
            self.ended.set(true);
        }
        Ok(self.rest)
    }

    fn consume(&mut self, n: usize) {
        self.rest = &self.rest[n..];
    }
}
