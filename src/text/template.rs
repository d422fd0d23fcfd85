//! The chat template of a model folder. Owns where templates are found and how they run (minijinja, set up as transformers sets up
//! Jinja2); knows nothing of ids.
//!
//! The surprise: what a template sees as user text is not quite the user's text, see [`guard`](super::guard). Work is bounded by
//! fuel, output by size, and nesting by a stack that is large enough for whatever fits into the two; a template that doubles a
//! variable over and over can still use memory, so templates deserve the trust that weights get.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, ErrorKind};
use serde_json::Value as Json;

use super::guard::{Rendered, StandIns};
use super::messages::{Content, Media, Message, Part, VideoSource};
use super::tokenizer::Tokenizer;
use super::tokenizer_files::token_content;
use super::{clock, one_line};
use crate::error::{Error, Result};
use crate::file::read_text;

/// The configurations that hold templates have up to some MB of added tokens.
const MAX_FILE: u64 = 16 << 20;
/// Templates have 1 to 20 kB.
const MAX_SOURCE: usize = 64 << 10;
/// minijinja recurses without a limit on `- - - 1`, long `elif` chains and nested values: up to 2 kB of stack per 10 bytes of
/// source, 200 bytes per 6 instructions. A thread's 2 MB overflowed at 2000 `elif`. Only pages that are used cost memory.
const STACK: usize = 256 << 20;
/// Instructions for a rendering, plus some for each string of the conversation. Templates use about 40 per part, tool templates 200.
const FUEL: u64 = 1_000_000;
const FUEL_PER_TEXT: u64 = 2_000;
/// Output bytes for a rendering, plus some for each byte of the conversation.
const MAX_OUTPUT: usize = 1 << 20;
const MAX_OUTPUT_PER_BYTE: usize = 4;
const NAME: &str = "chat_template";

/// A compiled chat template.
pub struct ChatTemplate {
    env: Environment<'static>,
    file: PathBuf,
    /// `bos_token` and the like, which templates may print.
    tokens: BTreeMap<String, String>,
}

/// How to render.
#[derive(Clone, Copy, Debug, Default)]
pub struct RenderOptions {
    /// End with the head of an assistant turn.
    pub add_generation_prompt: bool,
    /// Write `Picture 1: ` and the like before media.
    pub add_vision_id: bool,
    /// Let special tokens in the conversation's text count, as transformers does.
    pub special_tokens_in_text: bool,
}

impl ChatTemplate {
    /// Finds and compiles the template of a model folder: `chat_template.jinja`, else `chat_template.json`, else the one in
    /// `tokenizer_config.json`, the order of transformers 4.57.
    pub fn load(dir: &Path) -> Result<Self> {
        let config = dir.join("tokenizer_config.json");
        let config_json = if config.exists() { read_json(&config)? } else { Json::Null };
        let (file, source) = find(dir, &config, &config_json)?;
        if source.len() > MAX_SOURCE {
            return Err(Error::checkpoint(
                &file,
                NAME,
                format!("has {} bytes, at most {MAX_SOURCE} are taken", source.len()),
            ));
        }
        let mut env = environment();
        on_large_stack(&file, || env.add_template_owned(NAME, source).map_err(|e| broken(&file, &e)))?;
        Ok(ChatTemplate { env, file, tokens: named_tokens(&config_json) })
    }

    /// Renders a conversation.
    pub fn render(&self, tokenizer: &Tokenizer, messages: &[Message], options: &RenderOptions) -> Result<Rendered> {
        let texts = texts(messages);
        let size: usize = texts.iter().map(|text| text.len()).sum();
        let stand_ins = if options.special_tokens_in_text {
            StandIns::default()
        } else {
            tokenizer.guard().stand_ins(texts.iter().map(String::as_str))?
        };
        let grounding = tokenizer.grounding();
        let context = self.context(messages, options, &Hider { stand_ins: &stand_ins, grounding: &grounding });
        let limits =
            Limits { fuel: FUEL + FUEL_PER_TEXT * texts.len() as u64, output: MAX_OUTPUT + MAX_OUTPUT_PER_BYTE * size };
        let bytes = on_large_stack(&self.file, || self.run(context, limits))?;
        let marked =
            String::from_utf8(bytes).map_err(|_| Error::checkpoint(&self.file, NAME, "writes broken UTF-8"))?;
        Ok(Rendered::new(marked, stand_ins))
    }

    fn run(&self, context: Value, limits: Limits) -> Result<Vec<u8>> {
        let mut env = self.env.clone();
        env.set_fuel(Some(limits.fuel));
        let mut out = Bounded { bytes: Vec::new(), limit: limits.output };
        let template = env.get_template(NAME).map_err(|e| broken(&self.file, &e))?;
        template.render_captured_to(context, &mut out).map_err(|e| self.failed(&e))?;
        Ok(out.bytes)
    }

    fn context(&self, messages: &[Message], options: &RenderOptions, hider: &Hider) -> Value {
        let mut context: BTreeMap<&str, Value> =
            self.tokens.iter().map(|(k, v)| (k.as_str(), Value::from(v))).collect();
        context.insert("messages", messages.iter().map(|message| hider.message(message)).collect::<Vec<_>>().into());
        context.insert("add_generation_prompt", options.add_generation_prompt.into());
        context.insert("add_vision_id", options.add_vision_id.into());
        context.insert("tools", ().into());
        context.insert("documents", ().into());
        context.into()
    }

    fn failed(&self, error: &minijinja::Error) -> Error {
        let raised = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source())
            .find_map(|e| e.downcast_ref::<Raised>());
        match raised {
            Some(Raised(why)) => {
                Error::request("messages", format!("the chat template refuses them: {}", one_line(why)))
            }
            None if error.kind() == ErrorKind::OutOfFuel => {
                Error::checkpoint(&self.file, NAME, "runs too long, it may never end")
            }
            None => broken(&self.file, error),
        }
    }
}

/// What one rendering may use.
struct Limits {
    fuel: u64,
    output: usize,
}

/// Runs `work` in a thread with [`STACK`] bytes; a panic in it is an error of the template in `file`.
fn on_large_stack<T: Send>(file: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(NAME.into()).stack_size(STACK).spawn_scoped(scope, work);
        let thread = thread.map_err(|e| Error::checkpoint(file, NAME, format!("no thread to run it: {e}")))?;
        thread.join().unwrap_or_else(|_| Err(Error::checkpoint(file, NAME, "makes the template engine panic")))
    })
}

/// What `raise_exception` was called with: the template's own judgement of the messages.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// Turns messages into template values with user text protected.
struct Hider<'a> {
    stand_ins: &'a StandIns,
    grounding: &'a [String],
}

impl Hider<'_> {
    fn message(&self, message: &Message) -> Value {
        // A model's own answers hold boxes; as text they would come back as other ids than the model wrote.
        let keep = if message.role == "assistant" { self.grounding } else { &[] };
        let content = match &message.content {
            Content::Text(text) => Value::from(self.stand_ins.hide(text, keep)),
            Content::Parts(parts) => parts.iter().map(|part| self.part(part, keep)).collect::<Vec<_>>().into(),
        };
        map([("role", Value::from(self.stand_ins.hide(&message.role, &[]))), ("content", content)])
    }

    fn part(&self, part: &Part, keep: &[String]) -> Value {
        match part {
            Part::Text(text) => map([("type", "text".into()), ("text", self.stand_ins.hide(text, keep).into())]),
            Part::Image(image) => map([("type", "image".into()), ("image", self.media(image))]),
            Part::Video(video) => {
                let source = match &video.source {
                    VideoSource::File(file) => self.media(file),
                    VideoSource::Frames(frames) => {
                        frames.iter().map(|frame| self.media(frame)).collect::<Vec<_>>().into()
                    }
                };
                let fps = video.fps.map(|fps| ("fps", Value::from(fps)));
                map([("type", "video".into()), ("video", source)].into_iter().chain(fps))
            }
        }
    }

    fn media(&self, media: &Media) -> Value {
        self.stand_ins.hide(&media.display(), &[]).into()
    }
}

fn map<'k>(pairs: impl IntoIterator<Item = (&'k str, Value)>) -> Value {
    pairs.into_iter().collect::<BTreeMap<_, _>>().into()
}

/// Every string of a conversation that a template may print.
fn texts(messages: &[Message]) -> Vec<String> {
    let mut texts = Vec::new();
    for message in messages {
        texts.push(message.role.clone());
        match &message.content {
            Content::Text(text) => texts.push(text.clone()),
            Content::Parts(parts) => parts.iter().for_each(|part| match part {
                Part::Text(text) => texts.push(text.clone()),
                Part::Image(image) => texts.push(image.display()),
                Part::Video(video) => match &video.source {
                    VideoSource::File(file) => texts.push(file.display()),
                    VideoSource::Frames(frames) => texts.extend(frames.iter().map(Media::display)),
                },
            }),
        }
    }
    texts
}

fn find(dir: &Path, config: &Path, config_json: &Json) -> Result<(PathBuf, String)> {
    let jinja = dir.join("chat_template.jinja");
    if jinja.exists() {
        let source = read_text(&jinja, MAX_FILE)?;
        return Ok((jinja, source));
    }
    let json = dir.join("chat_template.json");
    if json.exists() {
        let source = select(&json, &read_json(&json)?["chat_template"])?;
        return Ok((json, source));
    }
    if config_json["chat_template"].is_null() {
        let why = "none found: neither chat_template.jinja, nor chat_template.json, nor in tokenizer_config.json";
        return Err(Error::checkpoint(dir, NAME, why));
    }
    Ok((config.to_path_buf(), select(config, &config_json["chat_template"])?))
}

/// A template is a string, or a list of named ones of which `default` is taken.
fn select(file: &Path, value: &Json) -> Result<String> {
    let wrong = |why: &str| Error::checkpoint(file, NAME, why);
    match value {
        Json::String(source) => Ok(source.clone()),
        Json::Array(named) => {
            let default = named.iter().find(|entry| entry["name"] == "default");
            let default = default.ok_or_else(|| wrong("is a list without a template named default"))?;
            default["template"]
                .as_str()
                .map(String::from)
                .ok_or_else(|| wrong("the template named default is not a string"))
        }
        _ => Err(wrong("is neither a string nor a list of named templates")),
    }
}

/// `bos_token`, `eos_token` and the like, with their contents.
fn named_tokens(config: &Json) -> BTreeMap<String, String> {
    let tokens = config.as_object().into_iter().flatten().filter(|(key, _)| key.ends_with("_token"));
    tokens.filter_map(|(key, value)| Some((key.clone(), token_content(value)?.to_string()))).collect()
}

fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("the default delimiters are valid"));
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_function("raise_exception", |why: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(why)))
    });
    env.add_function("strftime_now", |format: String| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        clock::strftime(now, &format).map_err(|why| minijinja::Error::new(ErrorKind::InvalidOperation, why))
    });
    env.add_filter("tojson", tojson);
    env
}

/// `json.dumps(value, ensure_ascii=False)`: transformers replaces Jinja's filter by one that does not escape HTML.
fn tojson(value: &Value, indent: Option<Value>, args: Kwargs) -> Result<String, minijinja::Error> {
    args.get::<Option<bool>>("ensure_ascii")?;
    let escaped = minijinja::filters::tojson(value, indent, args)?.to_string();
    let mut out = String::with_capacity(escaped.len());
    let mut rest = escaped.as_str();
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let (plain, len) = match rest.get(at..at + 6) {
            Some("\\u003c") => ("<", 6),
            Some("\\u003e") => (">", 6),
            Some("\\u0026") => ("&", 6),
            Some("\\u0027") => ("'", 6),
            _ => (&rest[at..at + 2], 2),
        };
        out.push_str(plain);
        rest = &rest[at + len..];
    }
    Ok(out + rest)
}

/// A writer that refuses to grow beyond its limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            return Err(io::Error::other(format!("the output exceeds {} bytes", self.limit)));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn read_json(path: &Path) -> Result<Json> {
    let text = read_text(path, MAX_FILE)?;
    serde_json::from_str(&text).map_err(|e| Error::checkpoint(path, "JSON", one_line(&e.to_string())))
}

fn broken(file: &Path, error: &minijinja::Error) -> Error {
    let line = error.line().map_or(NAME.to_string(), |line| format!("{NAME} line {line}"));
    let why = error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
    let cause = std::error::Error::source(error).map_or(String::new(), |source| format!(": {source}"));
    Error::checkpoint(file, line, one_line(&(why + &cause)))
}
