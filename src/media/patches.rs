//! RGB to the rows that the vision encoder reads: resize, rescale, normalise, patch order.
//!
//! Owns: `preprocessor_config.json`, the limits on pixels, the order of patches. Refuses: choosing frames of a video, placeholder tokens.
//! Surprises: bit-equal to the *slow* `Qwen2VLImageProcessor` of transformers 4.57.6 (Pillow, 8-bit resize), for videos too, where
//! transformers itself would take torchvision's other bicubic. The pixels are 8-bit, so a table of 3 x 256 is the whole arithmetic.

use crate::error::{Error, Result};
use crate::file::read_text;
use crate::media::resize::{bicubic, smart_resize};
use crate::media::rgb::Rgb;
use rayon::prelude::*;
use serde::Deserialize;
use std::ops::Range;
use std::path::Path;

/// Colours per pixel.
const CHANNELS: usize = 3;

/// No processor's configuration is larger, in bytes.
const MAX_CONFIG: u64 = 1 << 20;

/// What the vision encoder reads for one picture or one video.
#[derive(Debug, Clone, PartialEq)]
pub struct Patches {
    /// `[P, 3 * temporal_patch * patch * patch]`: colour, frame, y, x within a patch. The patches of one merge block are adjacent.
    pub data: Vec<f32>,
    /// Steps of time, patches down, patches across; their product is P.
    pub grid_thw: [usize; 3],
    /// Height and width that the pixels were resized to.
    pub resized: (usize, usize),
}

impl Patches {
    /// Embeddings that come out of the encoder: one per merge block.
    pub fn tokens(&self, merge: usize) -> usize {
        self.grid_thw.iter().product::<usize>() / (merge * merge)
    }
}

/// The settings of `Qwen2VLImageProcessor`. The default is the class default of transformers 4.57.6.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageProcessor {
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Frames per patch; single pictures are repeated.
    pub temporal_patch: usize,
    /// Side of a merge block in patches.
    pub merge: usize,
    /// Least area after resizing, in pixels.
    pub min_pixels: u64,
    /// Largest area after resizing, in pixels.
    pub max_pixels: u64,
    /// Red, green, blue, on a scale of 0 to 1.
    pub mean: [f64; CHANNELS],
    /// Red, green, blue, on a scale of 0 to 1.
    pub std: [f64; CHANNELS],
}

impl Default for ImageProcessor {
    fn default() -> Self {
        Self {
            patch: 14,
            temporal_patch: 2,
            merge: 2,
            min_pixels: 56 * 56,
            max_pixels: 28 * 28 * 1280,
            mean: [0.48145466, 0.4578275, 0.40821073],
            std: [0.26862954, 0.26130258, 0.27577711],
        }
    }
}

/// The fields of `preprocessor_config.json` that matter here. All are optional; others are ignored.
#[derive(Deserialize)]
struct ConfigFile {
    patch_size: Option<usize>,
    temporal_patch_size: Option<usize>,
    merge_size: Option<usize>,
    min_pixels: Option<u64>,
    max_pixels: Option<u64>,
    image_mean: Option<[f64; CHANNELS]>,
    image_std: Option<[f64; CHANNELS]>,
    resample: Option<u32>,
    rescale_factor: Option<f64>,
    do_resize: Option<bool>,
    do_rescale: Option<bool>,
    do_normalize: Option<bool>,
    do_convert_rgb: Option<bool>,
}

impl ImageProcessor {
    /// Reads `preprocessor_config.json` (or a video processor's file of the same form).
    ///
    /// `size` has no effect: transformers 4.57.6 overwrites it with the class defaults, and only `min_pixels` and `max_pixels` act.
    pub fn from_file(file: &Path) -> Result<Self> {
        Self::from_json(file, &read_text(file, MAX_CONFIG)?)
    }

    /// [`Self::from_file`] for text that is already read; `file` is what errors call it.
    pub fn from_json(file: &Path, text: &str) -> Result<Self> {
        let bad = |at: &str, why: String| Err(Error::checkpoint(file, at, why));
        let config: ConfigFile = match serde_json::from_str(text) {
            Ok(config) => config,
            Err(e) => return bad("JSON", e.to_string()),
        };
        let steps = [
            ("do_resize", config.do_resize),
            ("do_rescale", config.do_rescale),
            ("do_normalize", config.do_normalize),
            ("do_convert_rgb", config.do_convert_rgb),
        ];
        if let Some((at, _)) = steps.iter().find(|(_, on)| *on == Some(false)) {
            return bad(at, "false is not supported".into());
        }
        if config.resample.is_some_and(|r| r != 3) {
            return bad("resample", "only 3 (bicubic) is supported".into());
        }
        if config.rescale_factor.is_some_and(|f| f != 1.0 / 255.0) {
            return bad("rescale_factor", "only 1/255 is supported".into());
        }
        let default = Self::default();
        let processor = Self {
            patch: config.patch_size.unwrap_or(default.patch),
            temporal_patch: config.temporal_patch_size.unwrap_or(default.temporal_patch),
            merge: config.merge_size.unwrap_or(default.merge),
            min_pixels: config.min_pixels.unwrap_or(default.min_pixels),
            max_pixels: config.max_pixels.unwrap_or(default.max_pixels),
            mean: config.image_mean.unwrap_or(default.mean),
            std: config.image_std.unwrap_or(default.std),
        };
        match processor.problem() {
            Some((at, why)) => bad(at, why),
            None => Ok(processor),
        }
    }

    /// The first setting that makes no sense, and why.
    fn problem(&self) -> Option<(&'static str, String)> {
        let sides =
            [("patch_size", self.patch), ("temporal_patch_size", self.temporal_patch), ("merge_size", self.merge)];
        if let Some((at, value)) = sides.into_iter().find(|(_, v)| !(1..=1024).contains(v)) {
            return Some((at, format!("{value} is out of range")));
        }
        if self.std.iter().chain(&self.mean).any(|x| !x.is_finite()) || self.std.contains(&0.0) {
            return Some(("image_std", "must be finite and not 0".into()));
        }
        if self.max_pixels == 0 || self.min_pixels > self.max_pixels {
            return Some(("min_pixels", format!("{} is above max_pixels {}", self.min_pixels, self.max_pixels)));
        }
        None
    }

    /// The same settings with the limits of one call. A lone limit moves the other one where they would cross, so that
    /// `--max-pixels 1000` works without `--min-pixels`; two that cross are an error.
    pub fn with_pixels(&self, min: Option<u64>, max: Option<u64>) -> Result<Self> {
        let mut new = self.clone();
        match (min, max) {
            (Some(min), Some(max)) => (new.min_pixels, new.max_pixels) = (min, max),
            (Some(min), None) => (new.min_pixels, new.max_pixels) = (min, self.max_pixels.max(min)),
            (None, Some(max)) => (new.min_pixels, new.max_pixels) = (self.min_pixels.min(max), max),
            (None, None) => {}
        }
        match new.problem() {
            Some((at, why)) => Err(Error::request(at, why)),
            None => Ok(new),
        }
    }

    /// The factor that both sides become a multiple of: pixels per merge block.
    pub fn factor(&self) -> usize {
        self.patch * self.merge
    }

    /// Height and width that a picture of `height` x `width` is resized to. See [`smart_resize`].
    pub fn resized(&self, height: usize, width: usize) -> Result<(usize, usize)> {
        smart_resize(height, width, self.factor(), self.min_pixels, self.max_pixels)
    }

    /// One picture; its frame is repeated to fill the temporal patch, so `grid_thw[0]` is 1.
    pub fn process_image(&self, image: &Rgb) -> Result<Patches> {
        self.process(&[image])
    }

    /// The frames of one video, in order. All must have one size: a video has, and a list of pictures that has not is more likely a
    /// mistake (transformers would squeeze all of them into the shape of the first). A last temporal patch that is not full is filled
    /// with the last frame.
    pub fn process_video(&self, frames: &[Rgb]) -> Result<Patches> {
        self.process(&frames.iter().collect::<Vec<_>>())
    }

    fn process(&self, frames: &[&Rgb]) -> Result<Patches> {
        let Some(first) = frames.first() else {
            return Err(Error::request("video", "has no frames"));
        };
        let size = (first.height, first.width);
        if let Some((i, f)) = frames.iter().enumerate().find(|(_, f)| (f.height, f.width) != size) {
            let why = format!("is {} x {}, the first frame is {} x {}", f.width, f.height, first.width, first.height);
            return Err(Error::request(format!("frame {i}"), why));
        }
        let resized = self.resized(first.height, first.width)?;
        let (h, w) = resized;
        let grid_thw = [frames.len().div_ceil(self.temporal_patch), h / self.patch, w / self.patch];
        let step = h * w * CHANNELS * self.temporal_patch;
        let mut data = vec![0.0; grid_thw[0] * step];
        let table = self.table();
        for (out, group) in data.chunks_exact_mut(step).zip(frames.chunks(self.temporal_patch)) {
            for (t, frame) in group.iter().enumerate() {
                let end = if t + 1 == group.len() { self.temporal_patch } else { t + 1 };
                self.write_frame(&table, &bicubic(frame, w, h), t..end, out);
            }
        }
        Ok(Patches { data, grid_thw, resized })
    }

    /// The normalised value of each channel and level: `f32(f64(v) * (1/255))`, then `(x - mean) / std` in f32.
    fn table(&self) -> [[f32; 256]; CHANNELS] {
        std::array::from_fn(|c| {
            let (mean, std) = (self.mean[c] as f32, self.std[c] as f32);
            std::array::from_fn(|v| ((v as f64 * (1.0 / 255.0)) as f32 - mean) / std)
        })
    }

    /// Writes the resized `frame` as the frames `times` of the patches of one temporal step, `out` `[gh/m, gw/m, m, m, 3, tp, p, p]`.
    /// Patch after patch, so that the stores, 24 bytes for each pixel of a picture, are sequential.
    fn write_frame(&self, table: &[[f32; 256]; CHANNELS], frame: &Rgb, times: Range<usize>, out: &mut [f32]) {
        let (p, m) = (self.patch, self.merge);
        let row_of_blocks = self.factor() * frame.width * CHANNELS * self.temporal_patch;
        let patch_len = CHANNELS * self.temporal_patch * p * p;
        out.par_chunks_exact_mut(row_of_blocks).enumerate().for_each(|(block_y, out)| {
            for (i, patch) in out.chunks_exact_mut(patch_len).enumerate() {
                let (block_x, my, mx) = (i / (m * m), i / m % m, i % m);
                let corner = ((block_y * m + my) * p, (block_x * m + mx) * p);
                self.write_patch(table, frame, corner, times.clone(), patch);
            }
        });
    }

    /// Writes one patch, whose upper left pixel is at `(y0, x0)`: the first of `times` from the pixels, the others as copies.
    fn write_patch(
        &self,
        table: &[[f32; 256]; CHANNELS],
        frame: &Rgb,
        (y0, x0): (usize, usize),
        times: Range<usize>,
        patch: &mut [f32],
    ) {
        let (p, plane) = (self.patch, self.patch * self.patch);
        for (c, (table, planes)) in table.iter().zip(patch.chunks_exact_mut(self.temporal_patch * plane)).enumerate() {
            let first = times.start * plane;
            for (y, values) in planes[first..first + plane].chunks_exact_mut(p).enumerate() {
                normalise(table, &frame.row(y0 + y)[x0 * CHANNELS + c..], values);
            }
            for t in times.start + 1..times.end {
                planes.copy_within(first..first + plane, t * plane);
            }
        }
    }
}

/// `values.len()` pixels of one colour, `bytes` starting at it. The side of today's patches is unrolled.
#[inline]
fn normalise(table: &[f32; 256], bytes: &[u8], values: &mut [f32]) {
    const PATCH: usize = 14;
    if let (Some(bytes), Ok(values)) =
        (bytes.first_chunk::<{ PATCH * CHANNELS - 2 }>(), <&mut [f32; PATCH]>::try_from(&mut *values))
    {
        for (x, value) in values.iter_mut().enumerate() {
            *value = table[bytes[x * CHANNELS] as usize];
        }
    } else {
        for (value, &byte) in values.iter_mut().zip(bytes.iter().step_by(CHANNELS)) {
            *value = table[byte as usize];
        }
    }
}
