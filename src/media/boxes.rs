//! The boxes in an answer: parsed, mapped to pixels of the source picture, drawn.
//!
//! Owns: Qwen2-VL's notation, `<|object_ref_start|>cat<|object_ref_end|><|box_start|>(x1,y1),(x2,y2)<|box_end|>`, with coordinates of 0 to
//! 1000 over the whole picture. Refuses: Qwen2.5-VL's JSON with pixels of the resized picture, polygons.
//! Surprises: a model may write anything; what is not a box is passed over in silence. Boxes that follow a label without a new one
//! share it.

use crate::error::Result;
use crate::media::png;
use crate::media::rgb::Rgb;
use std::path::Path;

/// The scale of the coordinates that the model writes.
const SCALE: f64 = 1000.0;

/// A box as the model wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelledBox {
    /// What the model calls it; empty if it gave no name.
    pub label: String,
    /// Left, top, right, bottom, each 0..=1000, left <= right and top <= bottom.
    pub corners: [u32; 4],
}

/// A box in pixels, corners inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PixelBox {
    pub left: usize,
    pub top: usize,
    pub right: usize,
    pub bottom: usize,
}

impl LabelledBox {
    /// The box in a picture of `width` x `height` pixels (the source, not the resized one), both at least 1.
    pub fn in_pixels(&self, width: usize, height: usize) -> PixelBox {
        let map = |v: u32, side: usize| ((v as f64 / SCALE * side as f64).round() as usize).min(side - 1);
        let [left, top, right, bottom] = self.corners;
        PixelBox {
            left: map(left, width),
            top: map(top, height),
            right: map(right, width),
            bottom: map(bottom, height),
        }
    }
}

/// Every box in `text`, in order.
pub fn parse(text: &str) -> Vec<LabelledBox> {
    let mut boxes = Vec::new();
    let mut label = "";
    let mut rest = text;
    while let Some(at) = rest.find("<|") {
        rest = &rest[at..];
        if let Some((inside, after)) = between(rest, "<|object_ref_start|>", "<|object_ref_end|>") {
            label = inside.trim();
            rest = after;
        } else if let Some((inside, after)) = between(rest, "<|box_start|>", "<|box_end|>") {
            let corners = corners(inside);
            boxes.extend(corners.map(|corners| LabelledBox { label: label.to_string(), corners }));
            rest = after;
        } else {
            rest = &rest[2..];
        }
    }
    boxes
}

/// What lies between `open`, at the very start of `text`, and the next `close`; and what follows.
fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<(&'a str, &'a str)> {
    text.strip_prefix(open)?.split_once(close)
}

/// `(x1,y1),(x2,y2)`, clamped to the scale and sorted.
fn corners(text: &str) -> Option<[u32; 4]> {
    let (a, b) = text.trim().strip_prefix('(')?.strip_suffix(')')?.split_once(')')?;
    let b = b.trim_start().strip_prefix(',')?.trim_start().strip_prefix('(')?;
    let ((x1, y1), (x2, y2)) = (point(a)?, point(b)?);
    Some([x1.min(x2), y1.min(y2), x1.max(x2), y1.max(y2)])
}

fn point(text: &str) -> Option<(u32, u32)> {
    let (x, y) = text.split_once(',')?;
    let coordinate = |s: &str| s.trim().parse::<u32>().ok().map(|v| v.min(SCALE as u32));
    Some((coordinate(x)?, coordinate(y)?))
}

/// Colours that stay apart on photographs and for most colour-blind readers (Okabe and Ito's palette, without black).
const PALETTE: [[u8; 3]; 7] =
    [[213, 94, 0], [0, 114, 178], [0, 158, 115], [230, 159, 0], [204, 121, 167], [86, 180, 233], [240, 228, 66]];

/// Draws the outlines of `boxes` into the picture: one colour per label, 2 pixels wide, 3 from 1000 pixels of the longer side on.
pub fn draw(image: &mut Rgb, boxes: &[LabelledBox]) {
    let thickness = if image.width.max(image.height) < 1000 { 2 } else { 3 };
    let mut labels: Vec<&str> = Vec::new();
    for b in boxes {
        let index = labels.iter().position(|l| *l == b.label).unwrap_or_else(|| {
            labels.push(&b.label);
            labels.len() - 1
        });
        outline(image, b.in_pixels(image.width, image.height), thickness, PALETTE[index % PALETTE.len()]);
    }
}

/// Draws inwards from the corners.
fn outline(image: &mut Rgb, b: PixelBox, thickness: usize, colour: [u8; 3]) {
    for y in b.top..=b.bottom {
        let row = &mut image.data[y * image.width * 3..][..image.width * 3];
        let pixels = &mut row.as_chunks_mut::<3>().0[b.left..=b.right];
        let n = pixels.len();
        if y < b.top + thickness || y + thickness > b.bottom {
            pixels.fill(colour);
        } else {
            pixels[..thickness.min(n)].fill(colour);
            pixels[n.saturating_sub(thickness)..].fill(colour);
        }
    }
}

/// Writes the picture as a PNG file.
pub fn save_png(image: &Rgb, path: &Path) -> Result<()> {
    png::save(image, path)
}
