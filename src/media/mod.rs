//! From picture files to patches: decode, orient, resize, normalise, and the boxes that come back.
//!
//! Owns: everything between the bytes of a picture and the f32 rows that the vision encoder reads.
//! Refuses to know: models, executors, video containers, where bytes come from (no network, no URLs).
//! Surprises: every step is bit-exact with Pillow 13.0 and the slow image processor of transformers 4.57.6, because a resize that is
//! one level off moves the boxes that a model draws. The goldens in `tests/golden` hold that.
//!
//! Memory, per picture of W x H pixels resized to w x h, at the peak of each step: decoding takes the file plus 3 WH bytes for the result
//! plus at most 8 WH of decoder state (16-bit RGBA PNG; progressive JPEG 6 WH; most files 0 to 4 WH). Preprocessing takes 3 WH
//! (source) + 3 max(wH, Wh) (between the two passes) + 3 wh (resized), then 3 WH + 3 wh + 24 wh (patches, f32, each pixel twice).
//! 1024 x 683 peaks at 21 MB, 12.8 megapixels at 385 MB, of which 308 MB are the result.

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
