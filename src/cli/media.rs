//! Pictures and videos of a conversation: files to patches, each file once.
//!
//! The surprise: a file that a conversation names again is not read again, so that what was said stays about the same pixels.

use super::load::Loaded;
use crate::error::{Error, Result};
use crate::media::image::load;
use crate::media::patches::Patches;
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

/// Reads pictures and remembers them.
#[derive(Default)]
pub struct Library {
    known: HashMap<(&'static str, Vec<PathBuf>), Item>,
}

impl Library {
    /// The patches of a picture.
    ///
    /// # Errors
    /// Naming the file.
    pub fn image(&mut self, model: &Loaded, image: &Media) -> Result<Item> {
        self.get(model, "image", vec![path(image)?])
    }

    /// The patches of a video.
    ///
    /// # Errors
    /// Naming the file or the frame.
    pub fn video(&mut self, model: &Loaded, video: &Video) -> Result<Item> {
        match &video.source {
            VideoSource::Frames(frames) => self.get(model, "video", frames.iter().map(path).collect::<Result<_>>()?),
            VideoSource::File(file) => Err(Error::unsupported(
                format!("{}: a video file", file.display()),
                "take its frames as pictures and give the list of them",
            )),
        }
    }

    fn get(&mut self, model: &Loaded, kind: &'static str, paths: Vec<PathBuf>) -> Result<Item> {
        let key = (kind, paths);
        if let Some(item) = self.known.get(&key) {
            return Ok(item.clone());
        }
        let item = read(model, kind, &key.1)?;
        self.known.insert(key, item.clone());
        Ok(item)
    }
}

fn read(model: &Loaded, kind: &'static str, paths: &[PathBuf]) -> Result<Item> {
    let frames = paths.iter().map(|path| load(path, &DecodeLimits::default())).collect::<Result<Vec<Rgb>>>()?;
    let processor = if kind == "image" { &model.images } else { &model.videos };
    let name = |e| match e {
        // The processor sees pixels only.
        Error::Request { at, why } => Error::request(format!("{}: {at}", paths[0].display()), why),
        other => other,
    };
    let patches = match (kind, &frames[..]) {
        ("image", [image]) => processor.process_image(image),
        _ => processor.process_video(&frames),
    };
    let patches = patches.map_err(name)?;
    let info = Info {
        kind,
        files: paths.iter().map(|p| p.display().to_string()).collect(),
        size: [frames[0].width, frames[0].height],
        resized: [patches.resized.1, patches.resized.0],
        grid_thw: patches.grid_thw,
        tokens: patches.tokens(processor.merge),
    };
    Ok(Item { patches: Arc::new(patches), info })
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
