//! Ids of a prompt with room for its media: each placeholder becomes as many pad tokens as its image or video has embeddings.
//! Owns the matching of placeholders and media; knows neither files nor pixels.
//!
//! The surprise: placeholders are counted as ids, so one typed by a user is text and does not count.

use super::tokenizer::SpecialIds;
use crate::error::{Error, Result};

/// A prompt that is ready to be embedded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    pub ids: Vec<u32>,
    /// In order, not overlapping.
    pub spans: Vec<MediaSpan>,
}

/// The pad tokens of one image or video.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaSpan {
    /// The first pad token.
    pub start: usize,
    /// How many there are: `t * h * w / merge^2`.
    pub len: usize,
    pub kind: MediaKind,
    /// In patches, as the image processor gives it.
    pub grid_thw: [u32; 3],
    /// Among the prompt's media of the same kind.
    pub index: usize,
}

/// What a placeholder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaKind {
    Image,
    Video,
}

impl Prompt {
    /// Expands the placeholders in `ids` for these grids, in order, images and videos apart. `merge` is the side of the square of
    /// patches that makes one embedding.
    pub fn new(
        ids: &[u32],
        special: &SpecialIds,
        images: &[[u32; 3]],
        videos: &[[u32; 3]],
        merge: u32,
    ) -> Result<Self> {
        check_count(ids, special.image_pad, images.len(), "image")?;
        check_count(ids, special.video_pad, videos.len(), "video")?;
        let mut prompt = Prompt { ids: Vec::with_capacity(ids.len()), spans: Vec::new() };
        let (mut images, mut videos) = (images.iter().enumerate(), videos.iter().enumerate());
        for &id in ids {
            let medium = if id == special.image_pad {
                images.next().map(|image| (MediaKind::Image, image))
            } else if id == special.video_pad {
                videos.next().map(|video| (MediaKind::Video, video))
            } else {
                None
            };
            match medium {
                Some((kind, (index, grid))) => prompt.push_media(id, kind, index, *grid, merge)?,
                None => prompt.ids.push(id),
            }
        }
        Ok(prompt)
    }

    fn push_media(&mut self, id: u32, kind: MediaKind, index: usize, grid_thw: [u32; 3], merge: u32) -> Result<()> {
        let len = embeddings(grid_thw, merge)?;
        self.spans.push(MediaSpan { start: self.ids.len(), len, kind, grid_thw, index });
        self.ids.resize(self.ids.len() + len, id);
        Ok(())
    }
}

/// Embeddings of a grid of patches.
pub fn embeddings(grid_thw: [u32; 3], merge: u32) -> Result<usize> {
    let [t, h, w] = merged(grid_thw, merge)?;
    let len = u64::from(t) * u64::from(h) * u64::from(w);
    // No context is near 2^31 tokens, and positions are i32.
    usize::try_from(len)
        .ok()
        .filter(|len| *len <= i32::MAX as usize)
        .ok_or_else(|| Error::contract("prompt", format!("a grid of {grid_thw:?} patches has too many")))
}

/// A grid in embeddings instead of patches.
pub(super) fn merged([t, h, w]: [u32; 3], merge: u32) -> Result<[u32; 3]> {
    let sides_fit = merge > 0 && h % merge == 0 && w % merge == 0;
    if !sides_fit || t == 0 || h == 0 || w == 0 {
        return Err(Error::contract(
            "prompt",
            format!("a grid of {:?} patches is not made of {merge} x {merge} squares", [t, h, w]),
        ));
    }
    // Sides below 2^16 keep t * h * w in 64 bits.
    if h > u32::from(u16::MAX) || w > u32::from(u16::MAX) {
        return Err(Error::contract("prompt", format!("a grid of {:?} patches is too large", [t, h, w])));
    }
    Ok([t, h / merge, w / merge])
}

fn check_count(ids: &[u32], pad: u32, media: usize, kind: &str) -> Result<()> {
    let placeholders = ids.iter().filter(|id| **id == pad).count();
    if placeholders == media {
        return Ok(());
    }
    let s = |n: usize| if n == 1 { "" } else { "s" };
    let why =
        format!("the prompt has {placeholders} {kind} placeholder{} for {media} {kind}{}", s(placeholders), s(media));
    Err(Error::request("messages", why))
}
