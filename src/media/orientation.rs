//! The EXIF orientation: found in EXIF or XMP, applied as `PIL.ImageOps.exif_transpose` does.
//!
//! Owns: one tag of IFD0 and the eight transpositions. Refuses: the rest of EXIF.
//! Surprises: metadata that cannot be parsed means "upright" here; Pillow fails to load some such files. XMP counts only where EXIF has no
//! orientation.

use crate::media::rgb::Rgb;
use rayon::prelude::*;

/// Tag 0x0112 of IFD0.
const ORIENTATION: u16 = 0x0112;

/// The orientation that the metadata asks for; 1 where there is none.
pub(super) fn find(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> u8 {
    exif.and_then(from_exif).or_else(|| xmp.and_then(from_xmp)).unwrap_or(1)
}

/// Byte order of a TIFF block.
#[derive(Clone, Copy)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u16(self, b: &[u8], at: usize) -> Option<u16> {
        let b: [u8; 2] = b.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(match self {
            Order::Little => u16::from_le_bytes(b),
            Order::Big => u16::from_be_bytes(b),
        })
    }

    fn u32(self, b: &[u8], at: usize) -> Option<u32> {
        let b: [u8; 4] = b.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(match self {
            Order::Little => u32::from_le_bytes(b),
            Order::Big => u32::from_be_bytes(b),
        })
    }
}

/// The tag's value in an EXIF block, with or without its `Exif\0\0` prefix (some writers put two).
fn from_exif(mut data: &[u8]) -> Option<u8> {
    for _ in 0..2 {
        data = data.strip_prefix(b"Exif\0\0").unwrap_or(data);
    }
    let order = match data.get(..4)? {
        b"II*\0" => Order::Little,
        b"MM\0*" => Order::Big,
        _ => return None,
    };
    let ifd = order.u32(data, 4)? as usize;
    let entries = order.u16(data, ifd)? as usize;
    (0..entries).find_map(|i| entry(order, data, ifd.checked_add(2 + 12 * i)?))
}

/// The orientation, if the 12-byte entry at `at` is one: a single SHORT or LONG, stored in place.
fn entry(order: Order, data: &[u8], at: usize) -> Option<u8> {
    if order.u16(data, at)? != ORIENTATION || order.u32(data, at + 4)? != 1 {
        return None;
    }
    let value = match order.u16(data, at + 2)? {
        3 => order.u16(data, at + 8)? as u32,
        4 => order.u32(data, at + 8)?,
        _ => return None,
    };
    Some(u8::try_from(value).unwrap_or(1))
}

/// The digit after `tiff:Orientation="` or `tiff:Orientation>`, as Pillow's regular expression finds it.
fn from_xmp(xmp: &[u8]) -> Option<u8> {
    const NAME: &[u8] = b"tiff:Orientation";
    (0..xmp.len()).filter(|&i| xmp[i..].starts_with(NAME)).find_map(|i| {
        let rest = &xmp[i + NAME.len()..];
        let rest = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"))?;
        rest.first().filter(|c| c.is_ascii_digit()).map(|c| c - b'0')
    })
}

/// Turns the picture upright. Takes a second buffer of its size, except for 1 and unknown values.
pub(super) fn apply(image: Rgb, orientation: u8) -> Rgb {
    if !(2..=8).contains(&orientation) {
        return image;
    }
    let (w, h) = (image.width, image.height);
    let (width, height) = if orientation >= 5 { (h, w) } else { (w, h) };
    let mut data = vec![0; image.data.len()];
    data.par_chunks_exact_mut(width * 3).enumerate().for_each(|(y, row)| {
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let (sx, sy) = source(orientation, x, y, w, h);
            pixel.copy_from_slice(&image.data[(sy * w + sx) * 3..][..3]);
        }
    });
    Rgb::new(width, height, data)
}

/// Where the upright pixel (x, y) lies in the stored `w` x `h` picture.
fn source(orientation: u8, x: usize, y: usize, w: usize, h: usize) -> (usize, usize) {
    match orientation {
        2 => (w - 1 - x, y),
        3 => (w - 1 - x, h - 1 - y),
        4 => (x, h - 1 - y),
        5 => (y, x),
        6 => (y, h - 1 - x),
        7 => (w - 1 - y, h - 1 - x),
        _ => (w - 1 - y, x),
    }
}
