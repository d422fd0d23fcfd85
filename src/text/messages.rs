//! Chat messages: roles, text, and references to images and videos. Owns the JSON form that `apply_chat_template` takes;
//! refuses to know how media are opened (a path or a URL is only named here).
//!
//! The surprise: as in the chat templates, a part with a key `image` or `image_url` is an image and one with a key `video` is a
//! video, whatever its `type` says.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::one_line;
use crate::error::{Error, Result};
use crate::file::read_text;

/// A conversation file is text and file names; media never are in it.
const MAX_FILE: u64 = 64 << 20;

/// Per-part settings of `qwen_vl_utils` that change pixels. Ignoring them would change results silently.
const PIXEL_KEYS: [&str; 8] = [
    "min_pixels",
    "max_pixels",
    "total_pixels",
    "resized_height",
    "resized_width",
    "nframes",
    "video_start",
    "video_end",
];

/// One turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub role: String,
    pub content: Content,
}

/// What a turn says.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A piece of a turn.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    Text(String),
    Image(Media),
    Video(Video),
}

/// Where media bytes are.
#[derive(Clone, Debug, PartialEq)]
pub enum Media {
    Path(PathBuf),
    /// `http:`, `https:` or `data:`, as given.
    Url(String),
    /// A file that came with the request; `name` is what errors call it.
    Bytes {
        name: String,
        bytes: Arc<[u8]>,
    },
}

/// A video and the rate of its frames, in frames per second, where the request states it.
#[derive(Clone, Debug, PartialEq)]
pub struct Video {
    pub source: VideoSource,
    pub fps: Option<f64>,
}

/// One file, or its frames as images.
#[derive(Clone, Debug, PartialEq)]
pub enum VideoSource {
    File(Media),
    Frames(Vec<Media>),
}

impl Message {
    /// A turn of plain text.
    pub fn text(role: impl Into<String>, text: impl Into<String>) -> Self {
        Message { role: role.into(), content: Content::Text(text.into()) }
    }

    /// A turn of several parts.
    pub fn parts(role: impl Into<String>, parts: Vec<Part>) -> Self {
        Message { role: role.into(), content: Content::Parts(parts) }
    }

    fn media_parts(&self) -> &[Part] {
        match &self.content {
            Content::Text(_) => &[],
            Content::Parts(parts) => parts,
        }
    }
}

impl Media {
    /// Reads a reference as people write it; relative paths are taken from `base`.
    pub fn parse(reference: &str, base: &Path) -> Self {
        if let Some(path) = reference.strip_prefix("file://") {
            return Media::Path(PathBuf::from(path));
        }
        let is_url = ["http://", "https://", "data:"].iter().any(|scheme| reference.starts_with(scheme));
        if is_url { Media::Url(reference.to_string()) } else { Media::Path(base.join(reference)) }
    }

    /// The reference as text, for templates and messages.
    pub fn display(&self) -> String {
        match self {
            Media::Path(path) => path.display().to_string(),
            Media::Url(url) => url.clone(),
            Media::Bytes { name, .. } => name.clone(),
        }
    }
}

/// All images of a conversation, in the order of their placeholders.
pub fn images(messages: &[Message]) -> impl Iterator<Item = &Media> {
    messages.iter().flat_map(|message| message.media_parts()).filter_map(|part| match part {
        Part::Image(image) => Some(image),
        _ => None,
    })
}

/// All videos of a conversation, in the order of their placeholders.
pub fn videos(messages: &[Message]) -> impl Iterator<Item = &Video> {
    messages.iter().flat_map(|message| message.media_parts()).filter_map(|part| match part {
        Part::Video(video) => Some(video),
        _ => None,
    })
}

/// Reads a conversation file: a JSON list of messages. Relative media paths are taken from the file's folder.
pub fn load(path: &Path) -> Result<Vec<Message>> {
    let text = read_text(path, MAX_FILE)?;
    let file = path.display().to_string();
    let value: Value = serde_json::from_str(&text).map_err(|e| Error::request(&file, one_line(&e.to_string())))?;
    parse(&value, &file, path.parent().unwrap_or(Path::new("")))
}

/// Reads a JSON list of messages. `at` names its origin in errors (`conversation.json`, `messages`).
pub fn parse(value: &Value, at: &str, base: &Path) -> Result<Vec<Message>> {
    let list = value.as_array().ok_or_else(|| wrong(at, "a list of messages", value))?;
    if list.is_empty() {
        return Err(Error::request(at, "the list of messages is empty"));
    }
    list.iter().enumerate().map(|(i, message)| parse_message(message, &format!("{at}: [{i}]"), base)).collect()
}

fn parse_message(value: &Value, at: &str, base: &Path) -> Result<Message> {
    let map = object(value, at)?;
    let role = text_field(map, "role", at)?.to_string();
    let at = format!("{at}.content");
    let content = match map.get("content") {
        Some(Value::String(text)) => Content::Text(text.clone()),
        Some(Value::Array(parts)) => Content::Parts(
            parts
                .iter()
                .enumerate()
                .map(|(i, part)| parse_part(part, &format!("{at}[{i}]"), base))
                .collect::<Result<_>>()?,
        ),
        Some(other) => return Err(wrong(&at, "a string or a list of parts", other)),
        None => return Err(Error::request(at, "is missing")),
    };
    Ok(Message { role, content })
}

fn parse_part(value: &Value, at: &str, base: &Path) -> Result<Part> {
    let map = object(value, at)?;
    if let Some(key) = PIXEL_KEYS.iter().find(|key| map.contains_key(**key)) {
        let why = "is not supported inside a part; the limits are settings of the whole request";
        return Err(Error::request(format!("{at}.{key}"), why));
    }
    let kind = map.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind == "image" || map.contains_key("image") || map.contains_key("image_url") {
        return parse_image(map, at, base).map(Part::Image);
    }
    if kind == "video" || map.contains_key("video") {
        return parse_video(map, at, base).map(Part::Video);
    }
    if map.contains_key("text") {
        return Ok(Part::Text(text_field(map, "text", at)?.to_string()));
    }
    Err(Error::request(at, "is neither text, nor image, nor video: give it a key \"text\", \"image\" or \"video\""))
}

fn parse_image(map: &Map<String, Value>, at: &str, base: &Path) -> Result<Media> {
    if let Some(url) = map.get("image_url") {
        let at = format!("{at}.image_url");
        return match url {
            Value::Object(inner) => Ok(Media::parse(text_field(inner, "url", &at)?, base)),
            other => media(other, &at, base),
        };
    }
    match map.get("image") {
        Some(image) => media(image, &format!("{at}.image"), base),
        None => Err(Error::request(format!("{at}.image"), "is missing")),
    }
}

fn parse_video(map: &Map<String, Value>, at: &str, base: &Path) -> Result<Video> {
    let field = format!("{at}.video");
    let source = match map.get("video") {
        Some(Value::Array(frames)) if frames.is_empty() => return Err(Error::request(field, "has no frames")),
        Some(Value::Array(frames)) => VideoSource::Frames(
            frames
                .iter()
                .enumerate()
                .map(|(i, frame)| media(frame, &format!("{field}[{i}]"), base))
                .collect::<Result<_>>()?,
        ),
        Some(file) => VideoSource::File(media(file, &field, base)?),
        None => return Err(Error::request(field, "is missing")),
    };
    Ok(Video { source, fps: fps(map, at)? })
}

fn fps(map: &Map<String, Value>, at: &str) -> Result<Option<f64>> {
    match map.get("fps") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(fps) if fps.is_finite() && fps > 0.0 => Ok(Some(fps)),
            _ => Err(wrong(&format!("{at}.fps"), "a number above 0", value)),
        },
    }
}

fn media(value: &Value, at: &str, base: &Path) -> Result<Media> {
    match value.as_str() {
        Some("") => Err(Error::request(at, "is empty")),
        Some(reference) => Ok(Media::parse(reference, base)),
        None => Err(wrong(at, "a path or URL", value)),
    }
}

fn object<'v>(value: &'v Value, at: &str) -> Result<&'v Map<String, Value>> {
    value.as_object().ok_or_else(|| wrong(at, "an object", value))
}

fn text_field<'v>(map: &'v Map<String, Value>, key: &str, at: &str) -> Result<&'v str> {
    let at = format!("{at}.{key}");
    match map.get(key) {
        Some(value) => value.as_str().ok_or_else(|| wrong(&at, "a string", value)),
        None => Err(Error::request(at, "is missing")),
    }
}

fn wrong(at: &str, wanted: &str, found: &Value) -> Error {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    Error::request(at, format!("must be {wanted}, found {found}"))
}
