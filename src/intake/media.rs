//! Pictures and videos of a conversation: files, or bytes that came with it, to patches; each file once.
//!
//! The surprises: a file that a conversation names again is not read again, so that what was said stays about the same pixels. What has no
//! room in the context is refused before it is resized, and a video before its second frame is read: tokens bound the memory.

use super::Model;
use crate::engine::Picture;
use crate::error::{Error, Result};
use crate::media::image::{decode, load};
use crate::media::patches::{ImageProcessor, Patches};
use crate::media::rgb::{DecodeLimits, Rgb};
use crate::text::messages::{Media, Video, VideoSource};
use serde::Serialize;
use std::collections::HashMap;
use std::path::PathBuf;

/// One picture or video, ready for the tower.
#[derive(Debug, Clone)]
pub struct Item {
    pub picture: Picture,
    pub info: Info,
}

/// What a picture or video became.
#[derive(Debug, Clone, Serialize)]
pub struct Info {
    /// `image` or `video`.
    pub kind: &'static str,
    /// The picture, or the frames.
    pub files: Vec<String>,
    /// Width and height of the file.
    pub size: [usize; 2],
    /// Width and height that the model sees.
    pub resized: [usize; 2],
    /// Steps of time, patches down, patches across.
    pub grid_thw: [usize; 3],
    /// Tokens of the prompt that it takes.
    pub tokens: usize,
}

/// The tokens that the media of one request may still take.
#[derive(Debug, Clone)]
pub struct Budget {
    left: usize,
    context: usize,
    limit: &'static str,
}

impl Budget {
    /// All of `context`; `limit` says where that comes from.
    pub fn new(context: usize, limit: &'static str) -> Budget {
        Budget { left: context, context, limit }
    }

    /// Takes the tokens of `name`, which becomes `width` x `height`.
    fn take(&mut self, name: &str, tokens: usize, (width, height): (usize, usize)) -> Result<()> {
        let Budget { left, context, limit } = *self;
        self.left = left.checked_sub(tokens).ok_or_else(|| {
            let why = format!(
                "resized to {width} x {height} it takes {tokens} tokens, {left} of {context} are left ({limit}): lower --max-pixels or \
                 --min-pixels"
            );
            Error::request(name, why)
        })?;
        Ok(())
    }
}

/// Reads pictures, and remembers those that are files.
#[derive(Default)]
pub struct Library {
    limits: DecodeLimits,
    known: HashMap<(&'static str, Vec<PathBuf>), Item>,
}

impl Library {
    /// A library of pictures within `limits`.
    pub fn new(limits: DecodeLimits) -> Library {
        Library { limits, ..Library::default() }
    }

    /// The patches of a picture.
    ///
    /// # Errors
    /// Naming the file; also if its tokens exceed the budget.
    pub fn image(&mut self, model: &Model, image: &Media, budget: &mut Budget) -> Result<Item> {
        self.get(model, "image", std::slice::from_ref(image), budget)
    }

    /// The patches of a video.
    ///
    /// # Errors
    /// Naming the file or the frame; also if its tokens exceed the budget.
    pub fn video(&mut self, model: &Model, video: &Video, budget: &mut Budget) -> Result<Item> {
        match &video.source {
            VideoSource::Frames(frames) => self.get(model, "video", frames, budget),
            VideoSource::File(file) => Err(Error::unsupported(
                format!("{}: a video file", file.display()),
                "take its frames as pictures and give the list of them",
            )),
        }
    }

    fn get(&mut self, model: &Model, kind: &'static str, media: &[Media], budget: &mut Budget) -> Result<Item> {
        let key = media.iter().map(path).collect::<Option<Vec<_>>>().map(|paths| (kind, paths));
        if let Some(item) = key.as_ref().and_then(|key| self.known.get(key)) {
            budget.take(&item.info.files[0], item.info.tokens, item.info.resized.into())?;
            return Ok(item.clone());
        }
        let processor = if kind == "image" { &model.images } else { &model.videos };
        let item = read(processor, kind, media, &self.limits, budget)?;
        if let Some(key) = key {
            self.known.insert(key, item.clone());
        }
        Ok(item)
    }
}

/// Reads one picture or the frames of one video, of which as many as make one step of time are in memory together.
fn read(
    processor: &ImageProcessor,
    kind: &'static str,
    media: &[Media],
    limits: &DecodeLimits,
    budget: &mut Budget,
) -> Result<Item> {
    let load = |medium: &Media| open(medium, limits);
    let Some(medium) = media.first() else {
        return Err(Error::request("video", "has no frames"));
    };
    let name = medium.display();
    let in_file = |e| match e {
        // The processor sees pixels only.
        Error::Request { at, why } => Error::request(format!("{name}: {at}"), why),
        other => other,
    };
    let first = load(medium)?;
    let size = [first.width, first.height];
    let (height, width) = processor.resized(first.height, first.width).map_err(in_file)?;
    let steps = media.len().div_ceil(processor.temporal_patch);
    let tokens = steps.saturating_mul((height / processor.factor()) * (width / processor.factor()));
    budget.take(&name, tokens, (width, height))?;
    let patches = if kind == "image" {
        processor.process_image(&first).map_err(in_file)?
    } else {
        let mut video = Patches { data: Vec::new(), grid_thw: [0; 3], resized: (height, width) };
        let mut first = Some(first);
        for (step, media) in media.chunks(processor.temporal_patch).enumerate() {
            let frames = media.iter().map(|medium| first.take().map_or_else(|| load(medium), Ok));
            let frames = frames.collect::<Result<Vec<Rgb>>>()?;
            same_size(&frames, media, size)?;
            let part = processor.process_video(&frames).map_err(in_file)?;
            if step == 0 {
                video.data.reserve_exact(part.data.len() * steps);
            }
            video.data.extend(part.data);
            video.grid_thw = [step + 1, part.grid_thw[1], part.grid_thw[2]];
        }
        video
    };
    let info = Info {
        kind,
        files: media.iter().map(Media::display).collect(),
        size,
        resized: [width, height],
        grid_thw: patches.grid_thw,
        tokens,
    };
    Ok(Item { picture: Picture::new(patches), info })
}

fn same_size(frames: &[Rgb], media: &[Media], [width, height]: [usize; 2]) -> Result<()> {
    match frames.iter().zip(media).find(|(f, _)| (f.width, f.height) != (width, height)) {
        Some((f, medium)) => {
            let why = format!("is {} x {}, the first frame is {width} x {height}", f.width, f.height);
            Err(Error::request(medium.display(), why))
        }
        None => Ok(()),
    }
}

/// Where a file is, of which a library may hold the patches.
fn path(media: &Media) -> Option<PathBuf> {
    match media {
        Media::Path(path) => Some(path.clone()),
        Media::Url(_) | Media::Bytes { .. } => None,
    }
}

fn open(media: &Media, limits: &DecodeLimits) -> Result<Rgb> {
    match media {
        Media::Path(path) => load(path, limits),
        Media::Bytes { name, bytes } => decode(name, bytes, limits),
        // A data URL may be long.
        Media::Url(url) => {
            let start: String = url.chars().take(60).collect();
            Err(Error::unsupported(format!("{start}: a URL"), "download the picture and give its path"))
        }
    }
}
