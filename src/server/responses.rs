//! `/v1/responses`: its fields, as those of a chat, and the way back.
//!
//! Owns: what items, parts and fields are called here. Refuses to know: how a chat is prompted or drawn, which is [`generate`](super::generate)'s.
//! The surprise: nothing is stored, and whatever would need it is refused with that reason, so that no client builds on an answer that is gone.

use super::answer::Admitted;
use super::body::{Body, ImageUrl, Kind as PartKind, Message, Part, Role, ToolCall, ToolKind, check_messages, refuse};
use super::error::ApiError;
use super::form::TextFormat;
use super::generate::{admit, begin};
use super::json::{self, Content, List, Unsupported};
use super::limits::TOOLS;
use super::report::{Report, streamed, whole};
use super::shape::Kind;
use super::tools::{Tool, ToolChoice};
use super::value::Small;
use super::{App, RequestId};
use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// Answers `POST /v1/responses`.
pub async fn answer(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    body: axum::body::Body,
) -> Result<Response, ApiError> {
    let owner = app.clone();
    let work = async move |bytes: Bytes, admitted: Admitted| {
        let Asked { body, names, echo } = owner.parsing.run(move || parse(&bytes)).await?;
        let begun = begin(&owner, Kind::Chat, body, admitted).await.map_err(|e| names.theirs(e))?;
        Ok((begun, echo))
    };
    let (begun, echo) = admit(&app, id, body, work).await?;
    let report = Report::new(&app.name, echo);
    // A response has one answer.
    let reader = begun.readers.into_iter().next().ok_or_else(ApiError::internal)?;
    match begun.stream {
        Some(_) => Ok(streamed(reader, report)),
        None => whole(reader, report).await,
    }
}

/// A request in the terms of a chat.
#[derive(Debug)]
pub struct Asked {
    pub body: Body,
    names: Names,
    /// What the response repeats of it.
    echo: Value,
}

/// Reads and checks a body.
///
/// # Errors
/// 400, naming the field.
pub fn parse(bytes: &[u8]) -> Result<Asked, ApiError> {
    let asked = json::parse::<Fields>(bytes)?.asked()?;
    let messages = asked.body.messages.as_ref().map_or(&[][..], |list| &list.0);
    let checked = asked.body.check().and_then(|()| check_messages(messages));
    checked.map_err(|e| asked.names.theirs(e))?;
    Ok(asked)
}

/// The fields of the route.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct Fields {
    model: Option<String>,
    input: Option<Content<Item>>,
    instructions: Option<String>,
    max_output_tokens: Option<u64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    stream: Option<bool>,
    text: Option<Text>,
    tools: Option<List<FlatTool, TOOLS>>,
    tool_choice: Option<ToolChoice>,
    parallel_tool_calls: Option<bool>,
    truncation: Option<Truncation>,
    metadata: Option<Small>,
    user: Option<String>,
    store: Unsupported,
    previous_response_id: Unsupported,
    conversation: Unsupported,
    background: Unsupported,
    prompt: Unsupported,
    include: Unsupported,
    reasoning: Unsupported,
    top_logprobs: Unsupported,
    max_tool_calls: Unsupported,
    service_tier: Unsupported,
    stream_options: Unsupported,
    // Labels: they change no answer, here or elsewhere.
    #[serde(rename = "safety_identifier")]
    _safety_identifier: IgnoredAny,
    #[serde(rename = "prompt_cache_key")]
    _prompt_cache_key: IgnoredAny,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct Text {
    format: Option<TextFormat>,
    verbosity: Unsupported,
}

/// What is done with a prompt that is too long.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Truncation {
    /// It is refused.
    Disabled,
}

/// A function, as a chat has it but without a level.
#[derive(Deserialize, Serialize, Debug)]
#[serde(deny_unknown_fields)]
struct FlatTool {
    #[serde(rename = "type")]
    kind: ToolKind,
    name: String,
    description: Option<String>,
    parameters: Option<Small>,
    strict: Option<bool>,
}

/// What was said, called, or came of a call, as its type says.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Item {
    #[serde(rename = "type", default)]
    kind: ItemKind,
    role: Option<Role>,
    content: Option<Content<Piece>>,
    call_id: Option<String>,
    name: Option<String>,
    arguments: Option<String>,
    output: Option<Content<Piece>>,
    // What a response said of its items, and what OpenAI's clients add to them.
    #[serde(rename = "id", default)]
    _id: IgnoredAny,
    #[serde(rename = "status", default)]
    _status: IgnoredAny,
    #[serde(rename = "phase", default)]
    _phase: IgnoredAny,
    #[serde(rename = "parsed_arguments", default)]
    _parsed_arguments: IgnoredAny,
}

#[derive(Deserialize, Debug, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum ItemKind {
    #[default]
    Message,
    FunctionCall,
    FunctionCallOutput,
    ItemReference,
}

/// A piece of a message: text or a picture, as its type says.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Piece {
    #[serde(rename = "type")]
    kind: PieceKind,
    text: Option<String>,
    image_url: Option<String>,
    detail: Option<String>,
    #[serde(default)]
    file_id: Unsupported,
    // As above, of its text.
    #[serde(rename = "annotations", default)]
    _annotations: IgnoredAny,
    #[serde(rename = "logprobs", default)]
    _logprobs: IgnoredAny,
    #[serde(rename = "parsed", default)]
    _parsed: IgnoredAny,
}

#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum PieceKind {
    InputText,
    OutputText,
    InputImage,
}

impl Fields {
    fn asked(self) -> Result<Asked, ApiError> {
        self.check()?;
        let echo = self.echo();
        let mut turns = Turns::default();
        if let Some(text) = self.instructions {
            turns.push(Message::new(Role::System, Content::Text(text)), Origin::default());
        }
        match self.input {
            None => return Err(ApiError::field("input", "is missing")),
            Some(Content::Text(text)) => {
                turns.push(Message::new(Role::User, Content::Text(text)), Origin::default());
            }
            Some(Content::Parts(List(items))) if items.is_empty() => {
                return Err(ApiError::field("input", "is empty"));
            }
            Some(Content::Parts(List(items))) => {
                items.into_iter().enumerate().try_for_each(|(i, item)| turns.add(i, item))?;
            }
        }
        let tool = |FlatTool { name, description, parameters, .. }| Tool::new(name, description, parameters);
        let mut body = Body::default();
        body.model = self.model;
        body.messages = Some(List(turns.messages));
        body.max_tokens = self.max_output_tokens;
        body.temperature = self.temperature;
        body.top_p = self.top_p;
        body.stream = self.stream;
        body.response_format = self.text.and_then(|text| text.format).map(Into::into);
        body.tools = self.tools.map(|List(tools)| List(tools.into_iter().map(tool).collect()));
        body.tool_choice = self.tool_choice;
        body.parallel_tool_calls = self.parallel_tool_calls;
        Ok(Asked { body, names: Names(turns.origins), echo })
    }

    /// Refuses what is not supported.
    fn check(&self) -> Result<(), ApiError> {
        const STORED: &str = "is not supported, since nothing is stored here: send the whole conversation as input";
        let stored = [
            ("store", &self.store),
            ("previous_response_id", &self.previous_response_id),
            ("conversation", &self.conversation),
            ("background", &self.background),
            ("prompt", &self.prompt),
        ];
        if let Some((name, _)) = stored.iter().find(|(_, field)| field.asked) {
            return Err(ApiError::field(*name, STORED));
        }
        let metadata = self.metadata.as_ref().map_or(&Value::Null, |metadata| &metadata.0);
        let labels = metadata.as_object().is_some_and(|map| map.values().all(Value::is_string));
        if !labels && !metadata.is_null() {
            return Err(ApiError::field("metadata", "must be an object of strings"));
        }
        let verbosity = self.text.as_ref().map(|text| ("text.verbosity", &text.verbosity));
        let unsupported = [
            ("include", &self.include),
            ("reasoning", &self.reasoning),
            ("top_logprobs", &self.top_logprobs),
            ("max_tool_calls", &self.max_tool_calls),
            ("service_tier", &self.service_tier),
            ("stream_options", &self.stream_options),
        ];
        refuse(&unsupported.into_iter().chain(verbosity).collect::<Vec<_>>())
    }

    fn echo(&self) -> Value {
        let tools = self.tools.as_ref().map_or(&[][..], |tools| &tools.0);
        let format = self.text.as_ref().and_then(|text| text.format.as_ref());
        json!({
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "text": { "format": format.unwrap_or(&TextFormat::default()) },
            "tools": tools,
            "tool_choice": self.tool_choice.as_ref().unwrap_or(&ToolChoice::Auto),
            "parallel_tool_calls": self.parallel_tool_calls.unwrap_or(true),
            "truncation": "disabled",
            "metadata": self.metadata.as_ref().map_or(json!({}), |metadata| json!(metadata)),
            "user": self.user,
            "store": false,
            "background": false,
            "previous_response_id": null,
            "reasoning": { "effort": null, "summary": null },
        })
    }
}

/// Items as the turns of a chat.
#[derive(Debug, Default)]
struct Turns {
    messages: Vec<Message>,
    /// One for each.
    origins: Vec<Origin>,
}

/// The items that a turn was made of; of no use where it was a field of its own.
#[derive(Debug, Default)]
struct Origin {
    /// What it says, and what its content is called there.
    said: usize,
    content: &'static str,
    /// The first of its calls, which follow each other.
    called: usize,
}

impl Origin {
    fn item(i: usize, content: &'static str) -> Origin {
        Origin { said: i, content, called: i }
    }
}

impl Turns {
    fn push(&mut self, message: Message, origin: Origin) {
        self.messages.push(message);
        self.origins.push(origin);
    }

    /// Adds the `i`-th item. What an assistant says and calls without a turn of others in between is one turn.
    fn add(&mut self, i: usize, item: Item) -> Result<(), ApiError> {
        let at = format!("input[{i}]");
        let Item { kind, role, content, call_id, name, arguments, output, .. } = item;
        match (kind, role, content, (call_id, name, arguments), output) {
            (ItemKind::Message, Some(role), Some(content), (None, None, None), None) if role != Role::Tool => {
                let content = parts(&format!("{at}.content"), content)?;
                self.push(Message::new(role, content), Origin::item(i, "content"));
                Ok(())
            }
            (ItemKind::FunctionCall, None, None, (Some(_), Some(name), Some(arguments)), None) => {
                self.call(i, ToolCall::new(name, arguments))
            }
            (ItemKind::FunctionCallOutput, None, None, (Some(id), _, None), Some(output)) => {
                let mut message = Message::new(Role::Tool, parts(&format!("{at}.output"), output)?);
                message.tool_call_id = Some(id);
                self.push(message, Origin::item(i, "output"));
                Ok(())
            }
            (ItemKind::ItemReference, ..) => {
                Err(ApiError::field(at, "refers to what is not stored here: send the item itself"))
            }
            (ItemKind::Message, ..) => Err(ApiError::field(at, "a message has a role and content, and no more")),
            (ItemKind::FunctionCall, ..) => {
                Err(ApiError::field(at, "a function_call has call_id, name and arguments, and no more"))
            }
            (ItemKind::FunctionCallOutput, ..) => {
                Err(ApiError::field(at, "a function_call_output has call_id and output, and no more"))
            }
        }
    }

    fn call(&mut self, i: usize, call: ToolCall) -> Result<(), ApiError> {
        if self.messages.last().is_none_or(|message| message.role != Role::Assistant) {
            let nothing = Message::new(Role::Assistant, Content::Text(String::new()));
            self.push(nothing, Origin::item(i, "content"));
        }
        let (Some(message), Some(origin)) = (self.messages.last_mut(), self.origins.last_mut()) else { return Ok(()) };
        let calls = &mut message.tool_calls.get_or_insert_with(|| List(Vec::new())).0;
        if calls.is_empty() {
            origin.called = i;
        }
        if calls.len() == TOOLS {
            return Err(ApiError::field(format!("input[{i}]"), format!("more than {TOOLS} calls in one turn")));
        }
        calls.push(call);
        Ok(())
    }
}

/// What a message at `at` says, as parts of a chat.
fn parts(at: &str, content: Content<Piece>) -> Result<Content<Part>, ApiError> {
    let List(pieces) = match content {
        Content::Text(text) => return Ok(Content::Text(text)),
        Content::Parts(pieces) => pieces,
    };
    let part = |(k, Piece { kind, text, image_url, detail, file_id, .. })| {
        refuse(&[(format!("{at}[{k}].file_id"), &file_id)])?;
        let kind = match kind {
            PieceKind::InputText | PieceKind::OutputText => PartKind::Text,
            PieceKind::InputImage => PartKind::ImageUrl,
        };
        Ok(Part { kind, text, image_url: image_url.map(|url| ImageUrl::new(url, detail)) })
    };
    let parts: Result<_, ApiError> = pieces.into_iter().enumerate().map(part).collect();
    Ok(Content::Parts(List(parts?)))
}

/// What the client calls the fields of the chat that its request was made to.
#[derive(Debug)]
struct Names(Vec<Origin>);

impl Names {
    /// An error by the client's own names.
    fn theirs(&self, error: ApiError) -> ApiError {
        error.renamed(|param| {
            if let Some(item) = self.item(param) {
                return item;
            }
            match param.split_once('.').unwrap_or((param, "")) {
                ("messages", _) => "input".into(),
                ("max_tokens", _) => "max_output_tokens".into(),
                ("response_format", rest) => match rest.strip_prefix("json_schema") {
                    Some(rest) => format!("text.format{rest}"),
                    None => "text.format".into(),
                },
                _ => param.replacen(".function.", ".", 1),
            }
        })
    }

    /// The name of a part of `messages[...]`.
    fn item(&self, param: &str) -> Option<String> {
        let (turn, rest) = param.strip_prefix("messages[")?.split_once(']')?;
        let origin = self.0.get(turn.parse::<usize>().ok()?)?;
        match rest.strip_prefix(".tool_calls[").and_then(|rest| rest.split_once(']')) {
            Some((call, rest)) => {
                let item = origin.called + call.parse::<usize>().ok()?;
                Some(format!("input[{item}]{}", rest.replacen(".function", "", 1)))
            }
            None => {
                let rest = rest.replacen("content", origin.content, 1).replacen(".image_url.detail", ".detail", 1);
                Some(format!("input[{}]{rest}", origin.said))
            }
        }
    }
}
