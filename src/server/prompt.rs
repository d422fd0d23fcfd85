//! From a body's messages or prompt to a request that the engine takes. Runs on a thread that may block: pictures are decoded here.

use super::body::{Body, ImageUrl, Message, Role};
use super::error::ApiError;
use super::json::{Content, List, Prompt};
use super::limits::IMAGE;
use super::tools::{self, Tools};
use crate::engine::{Controls, Request, Sampling};
use crate::intake::media::{Budget, Library};
use crate::intake::prepare::{Prepared, prepare};
use crate::intake::{Model, sampling};
use crate::text::messages::{self, Media};
use crate::text::positions::positions;
use crate::text::prompt::Prompt as Ids;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::ops::RangeInclusive;

/// What limits the tokens of a prompt.
const LIMIT: &str = "the server's context";

/// How text becomes tokens.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Tokens of prompt and answer.
    pub context: usize,
    /// Special tokens in text count.
    pub special: bool,
}

/// A conversation, rendered and tokenised, with its pictures decoded and the tools that may be used.
///
/// # Errors
/// 400, naming the field.
pub fn conversation(
    model: &Model,
    messages: &[Message],
    tools: Option<&Tools>,
    rules: Rules,
) -> Result<Prepared, ApiError> {
    let mut messages = turns(messages)?;
    if let Some(tools) = tools {
        tools.describe(&mut messages);
    }
    let budget = Budget::new(rules.context, LIMIT);
    Ok(prepare(model, &mut Library::new(IMAGE), &messages, rules.special, budget)?)
}

/// A prompt's ids, without a chat template.
///
/// # Errors
/// 400, naming the field.
pub fn plain(model: &Model, prompt: &Prompt, rules: Rules) -> Result<Vec<u32>, ApiError> {
    let special = model.tokenizer.special_ids();
    match prompt {
        Prompt::Text(text) if rules.special => Ok(model.tokenizer.encode_with_special(text)?),
        Prompt::Text(text) => Ok(model.tokenizer.encode_text(text)?),
        Prompt::Ids(ids) if ids.iter().any(|id| [special.image_pad, special.video_pad].contains(id)) => Err(
            ApiError::field("prompt", "stands for a picture that is not there: send pictures to /v1/chat/completions"),
        ),
        Prompt::Ids(ids) => Ok(ids.clone()),
    }
}

/// The request to answer `prepared` as `body` asks.
///
/// # Errors
/// 400, naming the field.
pub fn chat_request(model: &Model, prepared: &Prepared, body: &Body, rules: Rules) -> Result<Request, ApiError> {
    let wanted = match (body.max_tokens, body.max_completion_tokens) {
        (Some(a), Some(b)) if a != b => {
            return Err(ApiError::field("max_tokens", "contradicts max_completion_tokens: give one of them"));
        }
        (a, b) => a.or(b),
    };
    let new = room("messages", prepared.prompt.ids.len(), wanted, None, rules)?;
    Ok(prepared.request(model, draw(model, body)?, new))
}

/// The request to continue a plain prompt as `body` asks.
///
/// # Errors
/// 400, naming the field.
pub fn plain_request(model: &Model, ids: Vec<u32>, body: &Body, rules: Rules) -> Result<Request, ApiError> {
    if ids.is_empty() {
        return Err(ApiError::field("prompt", "is empty"));
    }
    // OpenAI's default of this route.
    let max_new_tokens = room("prompt", ids.len(), body.max_tokens, Some(16), rules)?;
    Ok(Request {
        positions: positions(ids.len(), &[], model.files.config.vision.spatial_merge_size as u32)?,
        prompt: Ids { ids, spans: Vec::new() },
        media: Vec::new(),
        sampling: draw(model, body)?,
        controls: Controls::default(),
        choices: 1,
        priority: 0,
        max_new_tokens,
        stop: model.files.eos_token_ids().to_vec(),
    })
}

/// How many tokens may be drawn: `wanted`, or `default`, or what is left of the context.
fn room(
    param: &str,
    have: usize,
    wanted: Option<u64>,
    default: Option<usize>,
    Rules { context, .. }: Rules,
) -> Result<usize, ApiError> {
    let left = context.saturating_sub(have);
    match wanted {
        _ if left == 0 => {
            let why = format!("has {have} tokens, which leaves no room in the context of {context}: shorten it");
            Err(ApiError::context(param, why))
        }
        Some(0) => Err(ApiError::field("max_tokens", "must be at least 1")),
        Some(n) if n > left as u64 => {
            let why = format!("{n} and a prompt of {have} tokens exceed the context of {context}: at most {left} fit");
            Err(ApiError::context("max_tokens", why))
        }
        Some(n) => Ok(n as usize),
        None => Ok(default.unwrap_or(left).min(left)),
    }
}

/// The checkpoint's sampling with the body's values in their place.
fn draw(model: &Model, body: &Body) -> Result<Sampling, ApiError> {
    let temperature = within("temperature", body.temperature, 0.0..=1e6)?;
    let base = sampling::base(&model.files.generation, temperature);
    let top_k = match body.top_k {
        None => base.top_k,
        Some(-1) => 0,
        Some(k) => u32::try_from(k)
            .ok()
            .filter(|k| *k <= i32::MAX as u32)
            .ok_or_else(|| ApiError::field("top_k", "must be at least 1, or 0 or -1 for no limit"))?,
    };
    Ok(Sampling {
        temperature: temperature.unwrap_or(base.temperature),
        top_k,
        top_p: within("top_p", body.top_p, 0.0..=1.0)?.unwrap_or(base.top_p),
        min_p: within("min_p", body.min_p, 0.0..=1.0)?.unwrap_or(base.min_p),
        repetition_penalty: within("repetition_penalty", body.repetition_penalty, 0.01..=100.0)?
            .unwrap_or(base.repetition_penalty),
        // A negative seed is as good as any.
        seed: body.seed.map_or(base.seed, i64::cast_unsigned),
    })
}

/// A field's number, if it is there and lies in `range`.
///
/// # Errors
/// 400, naming the field.
pub fn within(param: &str, value: Option<f64>, range: RangeInclusive<f64>) -> Result<Option<f32>, ApiError> {
    match value {
        Some(x) if !range.contains(&x) => {
            Err(ApiError::field(param, format!("must be from {} to {}", range.start(), range.end())))
        }
        other => Ok(other.map(|x| x as f32)),
    }
}

/// The turns of a conversation, with the files of their pictures; results of tools that follow each other are one turn of the user.
///
/// # Errors
/// 400, naming the field.
pub fn turns(messages: &[Message]) -> Result<Vec<messages::Message>, ApiError> {
    let mut turns = Vec::new();
    let mut messages = messages.iter().enumerate().peekable();
    while let Some((i, message)) = messages.next() {
        let at = format!("messages[{i}]");
        let calls = message.tool_calls.as_ref().map_or(&[][..], |calls| &calls.0);
        turns.push(match message.role {
            Role::System => messages::Message { role: "system".into(), content: content(&at, message)? },
            Role::User => messages::Message { role: "user".into(), content: content(&at, message)? },
            Role::Assistant if calls.is_empty() => {
                messages::Message { role: "assistant".into(), content: content(&at, message)? }
            }
            Role::Assistant => {
                messages::Message::text("assistant", tools::called(&at, &tools::only_text(&at, message)?, calls)?)
            }
            Role::Tool => {
                let mut results = vec![tools::only_text(&at, message)?];
                while let Some((i, next)) = messages.next_if(|(_, next)| next.role == Role::Tool) {
                    results.push(tools::only_text(&format!("messages[{i}]"), next)?);
                }
                messages::Message::text("user", tools::responses(&results))
            }
        });
    }
    Ok(turns)
}

fn content(at: &str, message: &Message) -> Result<messages::Content, ApiError> {
    Ok(match &message.content {
        None => messages::Content::Text(String::new()),
        Some(Content::Text(text)) => messages::Content::Text(text.clone()),
        Some(Content::Parts(List(parts))) => {
            let parts = parts.iter().enumerate().map(|(k, part)| {
                let picture = part.image_url.as_ref().map(|image| {
                    let name = format!("{at}.content[{k}].image_url");
                    picture(name, image).map(messages::Part::Image)
                });
                picture.unwrap_or_else(|| Ok(messages::Part::Text(part.text.clone().unwrap_or_default())))
            });
            messages::Content::Parts(parts.collect::<Result<_, ApiError>>()?)
        }
    })
}

/// The file that was fetched, or that in a `data:` URL. Nothing else is ever opened for a request.
fn picture(name: String, image: &ImageUrl) -> Result<Media, ApiError> {
    if let Some(file) = &image.file {
        return Ok(Media::Bytes { name, bytes: file.clone() });
    }
    let url = &image.url;
    if !url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:")) {
        return Err(ApiError::field(name, "must be a data: URL, data:image/png;base64,..."));
    }
    let Some((head, data)) = url.split_once(',') else {
        return Err(ApiError::field(name, "the data: URL has no comma before its data"));
    };
    let head = head.to_ascii_lowercase();
    if !head.starts_with("data:image/") || !head.ends_with(";base64") {
        return Err(ApiError::field(name, "the data: URL must be of a picture, in base64: data:image/png;base64,..."));
    }
    if (data.len() / 4 * 3) as u64 > IMAGE.max_file_bytes + 3 {
        return Err(ApiError::field(name, format!("more than {} bytes", IMAGE.max_file_bytes)));
    }
    match BASE64_STANDARD.decode(data) {
        Ok(bytes) => Ok(Media::Bytes { name, bytes: bytes.into() }),
        Err(e) => Err(ApiError::field(name, format!("is no base64: {e}"))),
    }
}
