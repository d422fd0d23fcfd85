//! A picture in memory, and what one may cost. Owns the raster type that decoders, resizing and drawing share; refuses to know file formats.

use crate::error::{Error, Result};

/// An 8-bit RGB picture, row by row, three bytes a pixel, no padding.
#[derive(Clone, PartialEq, Eq)]
pub struct Rgb {
    /// Pixels per row, at least 1.
    pub width: usize,
    /// Rows, at least 1.
    pub height: usize,
    /// `[height, width, 3]`
    pub data: Vec<u8>,
}

impl std::fmt::Debug for Rgb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rgb({} x {})", self.width, self.height)
    }
}

impl Rgb {
    /// Wraps `data` `[height, width, 3]`. Panics where the length does not fit: a bug of the caller.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Self {
        assert!(
            width > 0 && height > 0 && data.len() == width * height * 3,
            "{width} x {height} x 3 != {}",
            data.len()
        );
        Self { width, height, data }
    }

    /// Row `y`, `[width, 3]`.
    pub fn row(&self, y: usize) -> &[u8] {
        &self.data[y * self.width * 3..][..self.width * 3]
    }
}

/// What a picture may cost before it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Width times height, in pixels, as stated by the header.
    pub max_pixels: u64,
    /// Bytes of the file.
    pub max_file_bytes: u64,
}

impl Default for DecodeLimits {
    /// 178,956,970 pixels, where Pillow raises `DecompressionBombError`, and 256 MiB of file.
    fn default() -> Self {
        Self { max_pixels: 178_956_970, max_file_bytes: 256 << 20 }
    }
}

impl DecodeLimits {
    /// Refuses a `width` x `height` picture that is empty or above the limit; `name` is the file.
    pub(super) fn check(&self, name: &str, width: usize, height: usize) -> Result<()> {
        let pixels = width as u64 * height as u64;
        if pixels == 0 {
            return Err(Error::request(name, format!("the picture is empty ({width} x {height})")));
        }
        if pixels > self.max_pixels {
            let why =
                format!("{width} x {height} is {pixels} pixels, the limit is {}: shrink the picture", self.max_pixels);
            return Err(Error::request(name, why));
        }
        Ok(())
    }
}

/// Bytes that a file may cost, beyond its own, before it is known to be sound: 20 megapixels and some decoder state. A file that needs more
/// is decoded twice, first into a row that is thrown away.
pub(super) const ON_TRUST: usize = 60 << 20;

/// A decoded picture and the orientation that its metadata asks for.
pub(super) struct Decoded {
    pub rgb: Rgb,
    /// EXIF orientation; 1 and every unknown value mean upright.
    pub orientation: u8,
}

/// A decoder's complaint as one line that names the file.
pub(super) fn broken(name: &str, format: &str, why: impl std::fmt::Display) -> Error {
    let why = why.to_string();
    let line = why.split_whitespace().collect::<Vec<_>>().join(" ");
    Error::request(name, format!("broken {format}: {line}"))
}
