//! GIF and BMP to RGB with Pillow's conversions.
//!
//! Owns: the first frame of each. Refuses: animation. Surprises: a GIF frame smaller than its screen lies on the transparent colour's
//! palette entry, if there is one, otherwise on entry 0; the background colour of the header is not used (Pillow).
//! Known to differ from Pillow: pixels that a run-length BMP leaves out are black here, palette entry 0 there; a GIF without any palette is
//! refused here, grey there; a damaged file that both decode may come out differently.

use crate::error::{Error, Result};
use crate::media::png::palette_table;
use crate::media::rgb::{DecodeLimits, Decoded, ON_TRUST, Rgb, broken};
use image::ImageDecoder;
use image::codecs::bmp::BmpDecoder;
use std::io::Cursor;

/// Decodes a BMP file.
pub(super) fn bmp(name: &str, bytes: &[u8], limits: &DecodeLimits) -> Result<Decoded> {
    let decoder = BmpDecoder::new(Cursor::new(bytes)).map_err(|e| broken(name, "BMP", e))?;
    let (width, height) = decoder.dimensions();
    limits.check(name, width as usize, height as usize)?;
    if !bmp_is_whole(bytes, width as usize, height as usize).unwrap_or(false) {
        return Err(broken(name, "BMP", "the file is truncated, or a run leaves its row"));
    }
    let mut rgb = read_rgb(name, "BMP", decoder, limits)?;
    if let Some(bits) = bits_of_16(bytes) {
        widen_as_pillow(&mut rgb.data, bits);
    }
    Ok(Decoded { rgb, orientation: 1 })
}

const CORE_HEADER: u8 = 12; // OS/2: 16-bit sizes, never compressed

/// Whether the rows that the header promises are there. `None` without a header.
fn bmp_is_whole(bytes: &[u8], width: usize, height: usize) -> Option<bool> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (depth_at, compression) = if bytes[14] == CORE_HEADER { (24, 0) } else { (28, u32_at(30)?) };
    let depth = u32_at(depth_at)? as u16 as usize;
    let rows = bytes.get(u32_at(10)? as usize..)?;
    Some(match compression {
        1 => rle_is_whole(rows, width, height, 8).is_some(),
        2 => rle_is_whole(rows, width, height, 4).is_some(),
        _ => rows.len() >= (width * depth).div_ceil(32) * 4 * height,
    })
}

/// Walks run-length rows of 4 or 8 bits a pixel as the decoder does, without pixels. `None` where it would fail.
fn rle_is_whole(rows: &[u8], width: usize, height: usize, depth: usize) -> Option<()> {
    let inside = |x: usize| (x <= width).then_some(x);
    let mut input = rows.iter().map(|&b| b as usize);
    let mut below = height;
    while below > 0 {
        below -= 1;
        // Long 8-bit runs are cut at the row's end, yet count in full where a later row begins.
        let (mut x, mut counted) = (0, 0);
        loop {
            match (input.next()?, input.next()?) {
                (0, 0) => break,
                (0, 1) => return Some(()),
                (0, 2) => {
                    let (right, down) = (input.next()?, input.next()?);
                    if down > 0 {
                        below = below.checked_sub(down)?;
                        x = inside(counted)?;
                    }
                    x = inside(x + right)?;
                    counted += right;
                }
                (0, n) => {
                    let padded = (n * depth).div_ceil(16) * 2;
                    input.nth(padded - 1)?;
                    x = inside(x + n)?;
                    counted += n;
                }
                (n, _) => {
                    x = if depth == 8 { width.min(x + n) } else { inside(x + n)? };
                    counted += n;
                }
            }
        }
    }
    Some(())
}

/// Bits of red, green and blue, if this is a BMP of 16 bits per pixel.
fn bits_of_16(bytes: &[u8]) -> Option<[u32; 3]> {
    const GREEN_OF_565: u32 = 0x7E0;
    if bytes[14] == CORE_HEADER || bytes.get(28..30)? != [16, 0] {
        return None;
    }
    let fields = bytes.get(30..34)? == [3, 0, 0, 0];
    let green = u32::from_le_bytes(bytes.get(58..62)?.try_into().ok()?);
    Some(if fields && green == GREEN_OF_565 { [5, 6, 5] } else { [5, 5, 5] })
}

/// Few bits to eight: Pillow truncates v * 255 / max, the decoder rounds. Both keep the upper bits.
fn widen_as_pillow(data: &mut [u8], bits: [u32; 3]) {
    for pixel in data.chunks_exact_mut(3) {
        for (v, bits) in pixel.iter_mut().zip(bits) {
            let max = (1 << bits) - 1;
            *v = ((*v as u32 >> (8 - bits)) * 255 / max) as u8;
        }
    }
}

/// Runs an `image` decoder that yields 8-bit samples and drops the alpha channel.
pub(super) fn read_rgb(name: &str, format: &str, decoder: impl ImageDecoder, limits: &DecodeLimits) -> Result<Rgb> {
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    limits.check(name, width, height)?;
    let channels = decoder.color_type().channel_count() as usize;
    let mut data = vec![0; width * height * channels];
    if decoder.total_bytes() != data.len() as u64 {
        return Err(broken(name, format, "unexpected sample type"));
    }
    decoder.read_image(&mut data).map_err(|e| broken(name, format, e))?;
    let data = match channels {
        3 => data,
        4 => data.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        _ => data.chunks_exact(channels).flat_map(|p| [p[0]; 3]).collect(),
    };
    Ok(Rgb::new(width, height, data))
}

/// Bytes of the extensions before the first frame; the decoder keeps what may be XMP or a colour profile.
fn gif_metadata_bytes(bytes: &[u8]) -> usize {
    const EXTENSION: u8 = 0x21;
    let palette = |flags: u8| if flags & 0x80 != 0 { 6 << (flags & 7) } else { 0 };
    let start = 13 + bytes.get(10).map_or(0, |&flags| palette(flags));
    let mut at = start;
    while bytes.get(at) == Some(&EXTENSION) {
        at += 2;
        while let Some(&length @ 1..) = bytes.get(at) {
            at += 1 + length as usize;
        }
        at += 1;
    }
    at - start
}

/// Decodes the first frame of a GIF file.
pub(super) fn gif(name: &str, bytes: &[u8], limits: &DecodeLimits) -> Result<Decoded> {
    let fail = |e: gif::DecodingError| broken(name, "GIF", e);
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::Indexed);
    options.set_memory_limit(gif::MemoryLimit::Unlimited); // the frame is checked below, before it is decoded
    let metadata = gif_metadata_bytes(bytes);
    if metadata > ON_TRUST {
        return Err(Error::request(name, format!("{metadata} bytes of metadata, the limit is {ON_TRUST}")));
    }
    let open = || options.clone().read_info(bytes).map_err(fail);
    let mut decoder = open()?;
    let screen = (decoder.width() as usize, decoder.height() as usize);
    let Some(frame) = decoder.next_frame_info().map_err(fail)?.cloned() else {
        return Err(broken(name, "GIF", "no picture in the file"));
    };
    let (left, top) = (frame.left as usize, frame.top as usize);
    let (fw, fh) = (frame.width as usize, frame.height as usize);
    let (width, height) = (screen.0.max(left + fw), screen.1.max(top + fh));
    limits.check(name, width, height)?;
    if fw * fh + metadata > ON_TRUST {
        let mut line = vec![0; fw];
        for _ in 0..fh {
            if !decoder.fill_buffer(&mut line).map_err(fail)? {
                return Err(broken(name, "GIF", "the file is truncated"));
            }
        }
        drop(decoder);
        decoder = open()?;
        decoder.next_frame_info().map_err(fail)?;
    }
    let mut indices = vec![0; decoder.buffer_size()];
    decoder.read_into_buffer(&mut indices).map_err(fail)?;
    let table = match decoder.palette() {
        Ok(palette) => palette_table(palette, 256),
        Err(_) => (0..=255).map(|v| [v; 3]).collect(),
    };
    let mut data = table[frame.transparent.unwrap_or(0) as usize].repeat(width * height);
    for (y, line) in indices.chunks_exact(fw.max(1)).take(fh).enumerate() {
        let row = &mut data[((top + y) * width + left) * 3..][..fw * 3];
        for (out, &index) in row.chunks_exact_mut(3).zip(line) {
            out.copy_from_slice(&table[index as usize]);
        }
    }
    Ok(Decoded { rgb: Rgb::new(width, height, data), orientation: 1 })
}
