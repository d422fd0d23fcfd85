//! Questions with answers, one JSON object a line, in the fields of ms-swift: `query`, `response`, `images`, `history`.
//!
//! It refuses to know what a question is for. The surprise: `<image>` in a query or in the history says where a picture stands; without it all
//! pictures come first.

use super::messages::{Media, Message, Part};
use super::one_line;
use crate::error::{Error, Result};
use crate::file::read_text;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A dataset is text and file names.
const MAX_FILE: u64 = 256 << 20;
/// Where a picture stands in a text.
const PLACE: &str = "<image>";

/// One question.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The turns up to the question.
    pub messages: Vec<Message>,
    /// The answer.
    pub response: String,
    /// Where it was read, for messages: `FILE:LINE`.
    pub at: String,
}

impl Item {
    /// An error that names its line.
    pub fn error(&self, e: Error) -> Error {
        Error::request(self.at.as_str(), e.to_string())
    }
}

#[derive(Deserialize)]
struct Line {
    query: String,
    response: String,
    #[serde(default)]
    images: Option<Paths>,
    /// `[query, response]` of every turn before.
    #[serde(default)]
    history: Option<Vec<(String, String)>>,
    #[serde(default)]
    system: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Paths {
    One(String),
    Many(Vec<String>),
}

/// Reads a dataset; pictures are relative to the file.
///
/// # Errors
/// [`Error::Io`], or [`Error::Request`] naming the line and what is wrong with it.
pub fn load(file: &Path) -> Result<Vec<Item>> {
    let text = read_text(file, MAX_FILE)?;
    let base = file.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let items = lines
        .map(|(i, line)| {
            let at = format!("{}:{}", file.display(), i + 1);
            item(line, &base, at.clone()).map_err(|why| Error::request(at, why))
        })
        .collect::<Result<Vec<_>>>()?;
    if items.is_empty() {
        return Err(Error::request(file.display().to_string(), "has no line"));
    }
    Ok(items)
}

fn item(line: &str, base: &Path, at: String) -> std::result::Result<Item, String> {
    let line: Line = serde_json::from_str(line).map_err(|e| one_line(&e.to_string()))?;
    let paths = match line.images {
        Some(Paths::One(path)) => vec![path],
        Some(Paths::Many(paths)) => paths,
        None => Vec::new(),
    };
    let history = line.history.unwrap_or_default();
    let places: usize = history.iter().map(|(q, _)| q).chain([&line.query]).map(|q| q.matches(PLACE).count()).sum();
    if places > 0 && places != paths.len() {
        return Err(format!("{places} {PLACE} in its texts, but {} images", paths.len()));
    }
    let mut images = paths.iter().map(|path| Part::Image(Media::parse(path, base)));
    let mut messages: Vec<Message> = line.system.iter().map(|text| Message::text("system", text.as_str())).collect();
    let mut turn = |query: &str| {
        let mut parts: Vec<Part> = if places == 0 { images.by_ref().collect() } else { Vec::new() };
        for (i, text) in query.split(PLACE).enumerate() {
            parts.extend((i > 0).then(|| images.next().expect("counted above")));
            parts.extend((!text.is_empty()).then(|| Part::Text(text.into())));
        }
        Message::parts("user", parts)
    };
    for (query, response) in &history {
        messages.push(turn(query));
        messages.push(Message::text("assistant", response.as_str()));
    }
    messages.push(turn(&line.query));
    Ok(Item { messages, response: line.response, at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::messages::Content;

    fn parse(line: &str) -> std::result::Result<Item, String> {
        item(line, Path::new("/d"), "x:1".into())
    }

    fn parts(message: &Message) -> Vec<String> {
        let Content::Parts(parts) = &message.content else { panic!("{message:?}") };
        let shown = |p: &Part| match p {
            Part::Text(text) => text.clone(),
            Part::Image(media) => format!("[{}]", media.display()),
            Part::Video(_) => panic!("no videos here"),
        };
        parts.iter().map(shown).collect()
    }

    #[test]
    fn pictures_stand_where_the_text_says_or_come_first() {
        let one = parse(r#"{"query": "what?", "response": "this", "images": ["a.png", "b.png"]}"#).unwrap();
        assert_eq!(parts(&one.messages[0]), ["[/d/a.png]", "[/d/b.png]", "what?"]);
        assert_eq!(one.response, "this");
        let placed = r#"{"query": "<image>or <image>?", "response": "", "images": ["b.png", "c.png", "d.png"],
            "history": [["see <image>", "yes"]], "system": "be brief"}"#;
        let placed = parse(&placed.replace('\n', " ")).unwrap().messages;
        assert_eq!(placed[0], Message::text("system", "be brief"));
        assert_eq!(parts(&placed[1]), ["see ", "[/d/b.png]"]);
        assert_eq!(placed[2], Message::text("assistant", "yes"));
        assert_eq!(parts(&placed[3]), ["[/d/c.png]", "or ", "[/d/d.png]", "?"]);
    }

    #[test]
    fn lines_that_say_nothing_useful_are_refused() {
        assert_eq!(
            parse(r#"{"query": "<image>", "response": ""}"#).unwrap_err(),
            "1 <image> in its texts, but 0 images"
        );
        assert!(parse(r#"{"query": "x"}"#).unwrap_err().starts_with("missing field `response`"));
        assert!(parse("[").unwrap_err().starts_with("EOF"));
    }
}
