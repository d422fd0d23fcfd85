//! JPEG through mozjpeg's libjpeg, pixel-exact with Pillow's libjpeg-turbo (accurate integer DCT, fancy upsampling: both defaults).
//!
//! Owns: colour spaces, CMYK, what counts as truncated. Refuses: 12-bit, two-component and arithmetic-coded files.
//! Surprises: libjpeg reports a fatal error by unwinding; it is caught here and prints nothing. libjpeg forgives a missing end, Pillow does
//! not: the reader notes whether libjpeg ever asked for bytes beyond the end before the last row was out. A large file is tried before
//! pixels are allocated (`rgb::ON_TRUST`): row by row, or, where libjpeg would keep every coefficient, without its coefficients.

use crate::error::{Error, Result};
use crate::media::jpeg_markers::{SOS, keeps_coefficients, markers, skeleton};
use crate::media::orientation;
use crate::media::rgb::{DecodeLimits, Decoded, ON_TRUST, Rgb, broken};
use mozjpeg::{ColorSpace, Decompress};
use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A progressive scan may cost a handful of bytes and a pass over every coefficient; real files have about ten.
const MAX_SCANS: usize = 500;

/// EXIF blocks that are larger after joining are cut: the orientation stands at their start.
const MAX_EXIF_BYTES: usize = 1 << 20;

/// Decodes a JPEG file, upright or not.
pub(super) fn decode(name: &str, bytes: &[u8], limits: &DecodeLimits) -> Result<Decoded> {
    let scans = bytes.windows(2).filter(|w| w == &[0xFF, 0xDA]).count();
    if scans > MAX_SCANS {
        return Err(broken(name, "JPEG", format!("{scans} scans, at most {MAX_SCANS} are allowed")));
    }
    let (pixels, coefficients) = guarded(name, &[bytes], |file| sizes(name, &file, bytes.len(), limits))?;
    if keeps_coefficients(bytes) {
        if pixels + coefficients > ON_TRUST {
            guarded(name, &skeleton(bytes), |file| try_rows(name, file))?;
        }
    } else if pixels > ON_TRUST {
        guarded(name, &[bytes], |file| try_rows(name, file))?;
    }
    let rgb = guarded(name, &[bytes], |file| read_rows(name, file))?;
    Ok(Decoded { rgb, orientation: read_orientation(bytes) })
}

/// Runs `work` on a file in pieces, where libjpeg may unwind; afterwards the file must have had an end.
fn guarded<T>(name: &str, pieces: &[&[u8]], work: impl FnOnce(Decompress<Reader<'_>>) -> Result<T>) -> Result<T> {
    let ended = Cell::new(false);
    let reader = Reader { piece: &[], rest: pieces, ended: &ended };
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        work(Decompress::builder().from_reader(reader).map_err(|e| broken(name, "JPEG", e))?)
    }));
    let result = outcome.unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<String>().map_or("libjpeg gave up", |s| s.as_str());
        Err(broken(name, "JPEG", why.trim_start_matches("libjpeg fatal error: ")))
    });
    if ended.get() { Err(broken(name, "JPEG", "the file is truncated")) } else { result }
}

/// Bytes of the pixels, and of the coefficients where libjpeg keeps them. Refuses what is above the limits and what cannot be whole: every
/// block takes a bit at least.
fn sizes<R>(name: &str, file: &Decompress<R>, length: usize, limits: &DecodeLimits) -> Result<(usize, usize)> {
    let (width, height) = file.size();
    limits.check(name, width, height)?;
    let blocks: usize =
        file.components().iter().map(|c| c.width_in_blocks as usize * c.height_in_blocks as usize).sum();
    if blocks > length.saturating_mul(8) {
        return Err(broken(name, "JPEG", "the file is truncated"));
    }
    const COEFFICIENTS: usize = 64 * size_of::<i16>();
    Ok((3 * width * height, blocks * COEFFICIENTS))
}

/// A file on its way to rows.
struct Started<R> {
    file: mozjpeg::decompress::DecompressStarted<R>,
    width: usize,
    height: usize,
    /// Samples a pixel: 1 grey, 3 RGB, 4 CMYK.
    components: usize,
}

fn start<R: BufRead>(name: &str, file: Decompress<R>) -> Result<Started<R>> {
    let (width, height) = file.size();
    let components = file.components().len();
    let space = match components {
        1 => ColorSpace::JCS_GRAYSCALE,
        3 => ColorSpace::JCS_RGB,
        4 => ColorSpace::JCS_CMYK,
        n => return Err(Error::request(name, format!("JPEG files with {n} components are not supported"))),
    };
    let file = file.to_colorspace(space).map_err(|e| broken(name, "JPEG", e))?;
    Ok(Started { file, width, height, components })
}

/// Decodes every row and keeps none.
fn try_rows<R: BufRead>(name: &str, file: Decompress<R>) -> Result<()> {
    let mut started = start(name, file)?;
    let mut line = vec![0; started.width * started.components];
    for _ in 0..started.height {
        started.file.read_scanlines_into::<u8>(&mut line).map_err(|e| broken(name, "JPEG", e))?;
    }
    Ok(())
}

fn read_rows<R: BufRead>(name: &str, file: Decompress<R>) -> Result<Rgb> {
    let fail = |e: io::Error| broken(name, "JPEG", e);
    let Started { mut file, width, height, components } = start(name, file)?;
    let mut data = vec![0; width * height * 3];
    if components == 3 {
        file.read_scanlines_into::<u8>(&mut data).map_err(fail)?;
    } else {
        let mut line = vec![0; width * components];
        for row in data.chunks_exact_mut(width * 3) {
            file.read_scanlines_into::<u8>(&mut line).map_err(fail)?;
            if components == 1 { grey_to_rgb(&line, row) } else { cmyk_to_rgb(&line, row) }
        }
    }
    Ok(Rgb::new(width, height, data))
}

/// From the last XMP block, or from EXIF, which may be split over several segments; Pillow joins them.
fn read_orientation(bytes: &[u8]) -> u8 {
    const APP1: u8 = 0xE1;
    let blocks = || markers(bytes).take_while(|m| m.code != SOS).filter(|m| m.code == APP1).map(|m| m.data);
    let parts = blocks().filter_map(|b| b.strip_prefix(b"Exif\0\0"));
    let exif: Vec<u8> = parts.flatten().take(MAX_EXIF_BYTES).copied().collect();
    let xmp = blocks().filter_map(|b| b.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0")).last();
    orientation::find((!exif.is_empty()).then_some(&exif[..]), xmp)
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

/// The bytes of a file in pieces, none of them empty, noting when someone wants more than there are.
struct Reader<'a> {
    piece: &'a [u8],
    rest: &'a [&'a [u8]],
    ended: &'a Cell<bool>,
}

impl Read for Reader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Reader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.piece.is_empty() {
            match self.rest.split_first() {
                Some((first, rest)) => (self.piece, self.rest) = (first, rest),
                None => self.ended.set(true),
            }
        }
        Ok(self.piece)
    }

    fn consume(&mut self, n: usize) {
        self.piece = &self.piece[n..];
    }
}
