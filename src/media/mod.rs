//! From picture files to patches: decode, orient, resize, normalise, and the boxes that come back.
//!
//! Owns: everything between the bytes of a picture and the f32 rows that the vision encoder reads.
//! Refuses to know: models, executors, video containers, where bytes come from (no network, no URLs).
//! Surprises: every step is bit-exact with Pillow 13.0 and the slow image processor of transformers 4.57.6, because a resize that is
//! one level off moves the boxes that a model draws. The goldens in `tests/golden` hold that.
//!
//! Memory, per picture of W x H pixels resized to w x h, at the peak of each step: decoding takes the file plus 3 WH bytes for the result
//! plus the decoder's state: some rows for PNG and baseline JPEG, WH for GIF, 4 WH for BMP with alpha, 2 bytes a sample (up to 6 WH) for
//! progressive JPEG, 2 WH (lossy) to 10 WH (lossy with alpha) for WebP. Preprocessing takes 3 WH
//! (source) + 3 max(wH, Wh) (between the two passes) + 3 wh (resized), then 3 WH + 3 wh + 24 wh (patches, f32, each pixel twice).
//! 1024 x 683 peaks at 21 MB, 12.8 megapixels at 385 MB, of which 308 MB are the result.
//!
//! A picture that is refused (cut short, damaged, a bomb) has cost its file and at most 64 MiB, whatever size it claims. What would take
//! more than `rgb::ON_TRUST` before the damage shows is read once to its end without pixels, and only then decoded; above 20 megapixels a
//! PNG or baseline JPEG so takes twice its time. Damage that Pillow shows, such as wrong coefficients of a JPEG, is shown here too: the
//! picture is then not refused and costs what its size does. `tests/media_memory.rs` holds the bound.

pub mod boxes;
pub mod image;
mod jpeg;
mod jpeg_markers;
mod orientation;
pub mod patches;
mod png;
mod raster;
pub mod resize;
pub mod rgb;
mod simd;
mod webp;
