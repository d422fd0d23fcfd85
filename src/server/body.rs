//! Request bodies: the fields of OpenAI's API that are understood, and which of them are refused.
//!
//! Nothing is ignored that would change an answer: an unknown field is an error, and so is a known one that asks for what is not supported.

use super::error::ApiError;
use super::form::{ResponseFormat, StructuredOutputs};
use super::json::{Biases, Content, List, Prompt, Stop, Switch, Unsupported};
use super::limits::{IMAGES, MESSAGES, STOP_BYTES, TOOLS};
use super::tools::{Tool, ToolChoice};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The fields of `/v1/chat/completions` and `/v1/completions`.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Body {
    pub model: Option<String>,
    pub messages: Option<List<Message, MESSAGES>>,
    pub prompt: Option<Prompt>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    pub max_tokens: Option<u64>,
    pub max_completion_tokens: Option<u64>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    /// 0 and -1 are no limit.
    pub top_k: Option<i64>,
    pub min_p: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub seed: Option<i64>,
    pub stop: Option<Stop>,
    pub logprobs: Option<Switch>,
    pub top_logprobs: Option<u64>,
    pub logit_bias: Option<Biases>,
    pub presence_penalty: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub response_format: Option<ResponseFormat>,
    pub structured_outputs: Option<StructuredOutputs>,
    pub tools: Option<List<Tool, TOOLS>>,
    pub tool_choice: Option<ToolChoice>,
    pub parallel_tool_calls: Option<bool>,
    pub n: Option<u64>,
    /// Lower runs first, as in vLLM; 0 unless the server allows others.
    pub priority: Option<i32>,
    best_of: Option<u64>,
    suffix: Option<String>,
    functions: Unsupported,
    function_call: Unsupported,
    modalities: Unsupported,
    audio: Unsupported,
    prediction: Unsupported,
    reasoning_effort: Unsupported,
    web_search_options: Unsupported,
    service_tier: Unsupported,
    store: Unsupported,
    echo: Unsupported,
    // Labels: they change no answer, here or elsewhere.
    #[serde(rename = "user")]
    _user: IgnoredAny,
    #[serde(rename = "metadata")]
    _metadata: IgnoredAny,
    #[serde(rename = "safety_identifier")]
    _safety_identifier: IgnoredAny,
    #[serde(rename = "prompt_cache_key")]
    _prompt_cache_key: IgnoredAny,
}

/// What `/tokenize` takes, as vLLM's.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Tokenize {
    pub model: Option<String>,
    pub prompt: Option<Prompt>,
    pub messages: Option<List<Message, MESSAGES>>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub struct StreamOptions {
    pub include_usage: bool,
    include_obfuscation: Unsupported,
}

/// A turn.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Message {
    pub role: Role,
    /// May be left out beside calls.
    pub content: Option<Content<Part>>,
    /// What an assistant called.
    pub tool_calls: Option<List<ToolCall, TOOLS>>,
    /// Which call a tool's message answers. Results are told in order, as the template has it.
    pub tool_call_id: Option<String>,
    #[serde(default)]
    name: Unsupported,
    #[serde(default)]
    refusal: Unsupported,
    #[serde(default)]
    audio: Unsupported,
    #[serde(default)]
    function_call: Unsupported,
}

/// Whose turn it is.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    // OpenAI's newer name of the system.
    #[serde(alias = "developer")]
    System,
    User,
    Assistant,
    Tool,
}

/// A call that an assistant made.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    #[serde(rename = "id")]
    _id: Option<String>,
    #[serde(rename = "type")]
    _kind: ToolKind,
    pub function: FunctionCall,
}

/// What can be called.
#[derive(Deserialize, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum ToolKind {
    Function,
}

impl ToolCall {
    /// A call of a function; `arguments` are a JSON object, as text.
    pub fn new(name: String, arguments: String) -> ToolCall {
        ToolCall { _id: None, _kind: ToolKind::Function, function: FunctionCall { name, arguments } }
    }
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct FunctionCall {
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}

/// A piece of a turn: text or a picture, as its type says.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Part {
    #[serde(rename = "type")]
    pub kind: Kind,
    pub text: Option<String>,
    pub image_url: Option<ImageUrl>,
}

/// What a part is.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Text,
    ImageUrl,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct ImageUrl {
    pub url: String,
    detail: Option<String>,
    /// The file, once it is fetched.
    #[serde(skip)]
    pub file: Option<Arc<[u8]>>,
}

impl Message {
    /// A turn without calls.
    pub fn new(role: Role, content: Content<Part>) -> Message {
        let [name, refusal, audio, function_call] = Default::default();
        let (content, tool_calls, tool_call_id) = (Some(content), None, None);
        Message { role, content, tool_calls, tool_call_id, name, refusal, audio, function_call }
    }
}

impl ImageUrl {
    /// The picture at `url`, to be seen in `detail`.
    pub fn new(url: String, detail: Option<String>) -> ImageUrl {
        ImageUrl { url, detail, file: None }
    }
}

impl Body {
    /// Refuses what is understood and not supported, and what has no meaning.
    ///
    /// # Errors
    /// 400, naming the field.
    pub fn check(&self) -> Result<(), ApiError> {
        let unsupported = [
            ("functions", &self.functions),
            ("function_call", &self.function_call),
            ("modalities", &self.modalities),
            ("audio", &self.audio),
            ("prediction", &self.prediction),
            ("reasoning_effort", &self.reasoning_effort),
            ("web_search_options", &self.web_search_options),
            ("service_tier", &self.service_tier),
            ("store", &self.store),
            ("echo", &self.echo),
        ];
        refuse(&unsupported)?;
        if self.best_of.is_some_and(|best_of| Some(best_of) != self.n.or(Some(1))) {
            return Err(ApiError::field("best_of", "must be n: all answers are given"));
        }
        if self.suffix.as_ref().is_some_and(|s| !s.is_empty()) {
            return Err(ApiError::field("suffix", "is not supported"));
        }
        match &self.stream_options {
            Some(_) if self.stream != Some(true) => {
                return Err(ApiError::field("stream_options", "needs \"stream\": true"));
            }
            Some(options) => refuse(&[("stream_options.include_obfuscation", &options.include_obfuscation)])?,
            None => {}
        }
        let stops = self.stop.iter().flat_map(|stop| &stop.0);
        match stops.map(String::len).find(|len| !(1..=STOP_BYTES).contains(len)) {
            Some(_) => Err(ApiError::field("stop", format!("each must have 1 to {STOP_BYTES} bytes"))),
            None => Ok(()),
        }
    }
}

/// Refuses what is not supported inside messages.
///
/// # Errors
/// 400, naming the field.
pub fn check_messages(messages: &[Message]) -> Result<(), ApiError> {
    if messages.is_empty() {
        return Err(ApiError::field("messages", "is empty"));
    }
    let (mut parts, mut images) = (0, 0);
    for (i, message) in messages.iter().enumerate() {
        let unsupported = [
            (format!("messages[{i}].name"), &message.name),
            (format!("messages[{i}].refusal"), &message.refusal),
            (format!("messages[{i}].audio"), &message.audio),
            (format!("messages[{i}].function_call"), &message.function_call),
        ];
        refuse(&unsupported)?;
        check_calls(i, message)?;
        let Some(Content::Parts(List(list))) = &message.content else { continue };
        parts += list.len();
        for (k, part) in list.iter().enumerate() {
            let at = format!("messages[{i}].content[{k}]");
            let (given, other) = match part.kind {
                Kind::Text => (part.text.is_some(), part.image_url.is_some()),
                Kind::ImageUrl => (part.image_url.is_some(), part.text.is_some()),
            };
            if !given || other {
                return Err(ApiError::field(at, "must have the field that its type names, and no other"));
            }
            let Some(image_url) = &part.image_url else { continue };
            images += 1;
            if !matches!(image_url.detail.as_deref(), None | Some("auto" | "high")) {
                let why = "must be auto or high: the server's --max-pixels bounds pictures";
                return Err(ApiError::field(format!("{at}.image_url.detail"), why));
            }
        }
    }
    match () {
        _ if parts > MESSAGES => Err(ApiError::field("messages", format!("more than {MESSAGES} parts"))),
        _ if images > IMAGES => Err(ApiError::field("messages", format!("{images} pictures, {IMAGES} are allowed"))),
        _ => Ok(()),
    }
}

/// Refuses calls, their results and empty turns where they have no place.
fn check_calls(i: usize, message: &Message) -> Result<(), ApiError> {
    let wrong = |field: &str, why: &str| Err(ApiError::field(format!("messages[{i}].{field}"), why));
    let calls = message.tool_calls.as_ref().is_some_and(|calls| !calls.0.is_empty());
    match message.role {
        Role::System | Role::User | Role::Tool if calls => wrong("tool_calls", "are an assistant's"),
        Role::Tool if message.tool_call_id.is_none() => wrong("tool_call_id", "is missing"),
        Role::System | Role::User | Role::Assistant if message.tool_call_id.is_some() => {
            wrong("tool_call_id", "is a tool's")
        }
        _ if message.content.is_none() && !calls => wrong("content", "is missing"),
        _ => Ok(()),
    }
}

/// Refuses those of `fields` that ask for something.
///
/// # Errors
/// 400, naming the field.
pub fn refuse<S: AsRef<str>>(fields: &[(S, &Unsupported)]) -> Result<(), ApiError> {
    match fields.iter().find(|(_, field)| field.asked) {
        Some((name, _)) => Err(ApiError::field(name.as_ref(), "is not supported")),
        None => Ok(()),
    }
}
