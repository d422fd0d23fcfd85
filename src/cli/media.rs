//! Pictures and videos of a conversation: files to patches, each file once.
//!
//! The surprises: a file that a conversation names again is not read again, so that what was said stays about the same pixels. What has no
//! room in the context is refused before it is resized, and a video before its second frame is read: tokens bound the memory.

use super::load::Loaded;
use crate::error::{Error, Result};
use crate::media::image::load;
use crate::media::patches::{ImageProcessor, Patches};
use crate::media::rgb::{DecodeLimits, Rgb};
use crate::text::messages::{Media, Video, VideoSource};
use serde::Serialize;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// One picture or video, ready for the tower.
#[derive(Debug, Clone)]
pub struct Item {
    pub patches: Arc<Patches>,
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

/// Reads pictures and remembers them.
#[derive(Default)]
pub struct Library {
    known: HashMap<(&'static str, Vec<PathBuf>), Item>,
}

impl Library {
    /// The patches of a picture.
    ///
    /// # Errors
    /// Naming the file; also if its tokens exceed the budget.
    pub fn image(&mut self, model: &Loaded, image: &Media, budget: &mut Budget) -> Result<Item> {
        self.get(model, "image", vec![path(image)?], budget)
    }

    /// The patches of a video.
    ///
    /// # Errors
    /// Naming the file or the frame; also if its tokens exceed the budget.
    pub fn video(&mut self, model: &Loaded, video: &Video, budget: &mut Budget) -> Result<Item> {
        match &video.source {
            VideoSource::Frames(frames) => {
                self.get(model, "video", frames.iter().map(path).collect::<Result<_>>()?, budget)
            }
            VideoSource::File(file) => Err(Error::unsupported(
                format!("{}: a video file", file.display()),
                "take its frames as pictures and give the list of them",
            )),
        }
    }

    fn get(&mut self, model: &Loaded, kind: &'static str, paths: Vec<PathBuf>, budget: &mut Budget) -> Result<Item> {
        let key = (kind, paths);
        if let Some(Item { info, .. }) = self.known.get(&key) {
            budget.take(&info.files[0], info.tokens, info.resized.into())?;
        } else {
            let processor = if kind == "image" { &model.images } else { &model.videos };
            let item = read(processor, kind, &key.1, budget)?;
            self.known.insert(key.clone(), item);
        }
        Ok(self.known[&key].clone())
    }
}

/// Reads one picture or the frames of one video, of which as many as make one step of time are in memory together.
fn read(processor: &ImageProcessor, kind: &'static str, paths: &[PathBuf], budget: &mut Budget) -> Result<Item> {
    let load = |path: &PathBuf| load(path, &DecodeLimits::default());
    let Some(path) = paths.first() else {
        return Err(Error::request("video", "has no frames"));
    };
    let name = path.display().to_string();
    let in_file = |e| match e {
        // The processor sees pixels only.
        Error::Request { at, why } => Error::request(format!("{name}: {at}"), why),
        other => other,
    };
    let first = load(path)?;
    let size = [first.width, first.height];
    let (height, width) = processor.resized(first.height, first.width).map_err(in_file)?;
    let steps = paths.len().div_ceil(processor.temporal_patch);
    let tokens = steps.saturating_mul((height / processor.factor()) * (width / processor.factor()));
    budget.take(&name, tokens, (width, height))?;
    let patches = if kind == "image" {
        processor.process_image(&first).map_err(in_file)?
    } else {
        let mut video = Patches { data: Vec::new(), grid_thw: [0; 3], resized: (height, width) };
        let mut first = Some(first);
        for (step, paths) in paths.chunks(processor.temporal_patch).enumerate() {
            let frames = paths.iter().map(|path| first.take().map_or_else(|| load(path), Ok));
            let frames = frames.collect::<Result<Vec<Rgb>>>()?;
            same_size(&frames, paths, size)?;
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
        files: paths.iter().map(|p| p.display().to_string()).collect(),
        size,
        resized: [width, height],
        grid_thw: patches.grid_thw,
        tokens,
    };
    Ok(Item { patches: Arc::new(patches), info })
}

fn same_size(frames: &[Rgb], paths: &[PathBuf], [width, height]: [usize; 2]) -> Result<()> {
    match frames.iter().zip(paths).find(|(f, _)| (f.width, f.height) != (width, height)) {
        Some((f, path)) => {
            let why = format!("is {} x {}, the first frame is {width} x {height}", f.width, f.height);
            Err(Error::request(path.display().to_string(), why))
        }
        None => Ok(()),
    }
}

fn path(media: &Media) -> Result<PathBuf> {
    match media {
        Media::Path(path) => Ok(path.clone()),
        // A data URL may be long.
        Media::Url(url) => {
            let start: String = url.chars().take(60).collect();
            Err(Error::unsupported(format!("{start}: a URL"), "download the picture and give its path"))
        }
    }
}
