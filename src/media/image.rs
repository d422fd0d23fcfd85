//! Picture files to RGB, exactly as `transformers.image_utils.load_image` does with Pillow 13.0.
//!
//! Owns: which format a file has, the limits, the order decode -> EXIF transpose -> RGB. Refuses: URLs, TIFF, AVIF, video containers.
//! Surprises: alpha is dropped, not blended (what Pillow's `convert("RGB")` does), so pixels hidden under full transparency appear.
//! Sizes are read from the header and held against the limit before any pixel memory exists.

use crate::error::{Error, Result};
use crate::media::rgb::{DecodeLimits, Rgb};
use crate::media::{jpeg, orientation, png, raster, webp};
use std::io::Read;
use std::path::Path;

/// Reads and decodes the picture at `path`.
///
/// `Error::Io` if the file cannot be read, otherwise as [`decode`].
pub fn load(path: &Path, limits: &DecodeLimits) -> Result<Rgb> {
    let name = path.display().to_string();
    // Opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(|e| Error::io(path, e))?.is_file() {
        return Err(Error::request(name, "not a regular file"));
    }
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    let size = file.metadata().map_err(|e| Error::io(path, e))?.len().min(limits.max_file_bytes);
    let mut bytes = Vec::with_capacity(size as usize + 1);
    file.take(limits.max_file_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
    decode(&name, &bytes, limits)
}

/// Decodes the picture in `bytes`; `name` is what errors call it.
///
/// `Error::Request` for anything that is not a whole picture of a known format within the limits.
pub fn decode(name: &str, bytes: &[u8], limits: &DecodeLimits) -> Result<Rgb> {
    if bytes.is_empty() {
        return Err(Error::request(name, "the file is empty"));
    }
    if bytes.len() as u64 > limits.max_file_bytes {
        let why = format!("the file has more than the {} bytes that are allowed", limits.max_file_bytes);
        return Err(Error::request(name, why));
    }
    let decoded = match bytes {
        [0xFF, 0xD8, 0xFF, ..] => jpeg::decode(name, bytes, limits),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => png::decode(name, bytes, limits),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => webp::decode(name, bytes, limits),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => raster::gif(name, bytes, limits),
        [b'B', b'M', ..] => raster::bmp(name, bytes, limits),
        _ => Err(Error::request(name, "not a JPEG, PNG, WebP, GIF or BMP picture")),
    }?;
    Ok(orientation::apply(decoded.rgb, decoded.orientation))
}
