//! `osprey chat`: a conversation, line by line, from a person or a pipe.
//!
//! What was said stays in the engine's cache: a turn computes what is new, and again what did not fill a block of 32 tokens. The surprise: an error ends a piped conversation, since the
//! lines that follow would be about something else; a person is told and may go on.

use super::Exit;
use super::answer::{Echo, answer};
use super::args::{ContextArgs, ModelArgs, PixelArgs, SamplingArgs, TextArgs};
use super::load::{Loaded, context, limits};
use super::report::{ReportArgs, report};
use super::sampling::{Choice, MAX_NEW_TOKENS};
use super::terminal::{Interrupt, is_interactive, note, prompt_sign};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::intake::media::{Budget, Library};
use crate::intake::prepare::prepare;
use crate::text::messages::{self, Content, Media, Message, Part};
use clap::Args;
use std::io::{BufRead, Read};
use std::path::PathBuf;

/// A longer line is no message.
const MAX_LINE: u64 = 4 << 20;
const LIMIT: &str = "the context, see --context and /reset";
const HELP: &str = "/image PATH attaches a picture to the next message, /reset forgets everything, /quit ends";

/// Flags of `chat`.
#[derive(Args, Debug)]
pub struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// What the system turn says [default: the chat template's]
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    context: ContextArgs,
    #[command(flatten)]
    pixels: PixelArgs,
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    report: ReportArgs,
}

struct Chat<'a> {
    args: &'a ChatArgs,
    model: Loaded,
    engine: Engine,
    choice: Choice,
    interrupt: Interrupt,
    library: Library,
    messages: Vec<Message>,
    /// Pictures for the next message.
    attached: Vec<Media>,
}

/// What a line was.
enum Line<'a> {
    Image(&'a str),
    Reset,
    Quit,
    Unknown(&'a str),
    Message(&'a str),
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Line<'a> {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match word {
            "/image" => Line::Image(rest.trim()),
            "/reset" => Line::Reset,
            "/quit" => Line::Quit,
            _ if word.starts_with('/') => Line::Unknown(word),
            _ => Line::Message(line),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// Naming the flag or the file; with a person at the keyboard only what makes going on impossible.
pub fn run(args: &ChatArgs) -> anyhow::Result<Exit> {
    let interrupt = Interrupt::listen()?;
    let model = Loaded::open(&args.model, &args.pixels)?;
    let choice = Choice::new(&model.files.generation, &args.sampling);
    choice.without_effect().iter().for_each(|line| note(line));
    let engine = model.engine(limits(context(args.context, &model.files)?, &model.images, 1))?;
    let (library, attached) = (Library::default(), Vec::new());
    let mut chat = Chat { args, model, engine, choice, interrupt, library, messages: Vec::new(), attached };
    chat.reset();
    if is_interactive() {
        note(HELP);
    }
    chat.talk()
}

impl Chat<'_> {
    fn talk(&mut self) -> anyhow::Result<Exit> {
        while let Some(line) = read_line()? {
            let done = match Line::parse(line.trim()) {
                Line::Quit => break,
                Line::Reset => {
                    self.reset();
                    Ok(Exit::Success)
                }
                Line::Image(path) => self.attach(path),
                Line::Unknown(word) => Err(Error::request(word, format!("no such command: {HELP}")).into()),
                Line::Message("") => Ok(Exit::Success),
                Line::Message(text) => self.turn(text),
            };
            match done {
                Ok(Exit::Success) => {}
                Ok(Exit::Interrupted) if is_interactive() => {}
                Err(e) if is_interactive() && e.is::<Error>() => note(&format!("error: {e}")),
                other => return other,
            }
        }
        Ok(Exit::Success)
    }

    fn reset(&mut self) {
        self.attached.clear();
        self.library = Library::default();
        self.messages = self.args.system.iter().map(|text| Message::text("system", text.as_str())).collect();
    }

    /// Reads the picture now, so that a wrong path is known now.
    fn attach(&mut self, path: &str) -> anyhow::Result<Exit> {
        if path.is_empty() {
            return Err(Error::request("/image", "name a picture: /image PATH").into());
        }
        let picture = Media::Path(PathBuf::from(path));
        let mut budget = self.budget();
        for said in messages::images(&self.messages).chain(&self.attached) {
            self.library.image(&self.model, said, &mut budget)?;
        }
        self.library.image(&self.model, &picture, &mut budget)?;
        self.attached.push(picture);
        Ok(Exit::Success)
    }

    /// One message and its answer. If that fails, neither was said, and the pictures wait for the next one.
    fn turn(&mut self, text: &str) -> anyhow::Result<Exit> {
        let attached = std::mem::take(&mut self.attached);
        let pictures = attached.iter().cloned().map(Part::Image);
        let parts = pictures.chain([Part::Text(text.to_string())]).collect();
        self.messages.push(Message::parts("user", parts));
        let done = self.reply();
        if done.is_err() {
            self.messages.pop();
            self.attached = attached;
        }
        done
    }

    fn budget(&self) -> Budget {
        Budget::new(self.engine.limits().context, LIMIT)
    }

    fn reply(&mut self) -> anyhow::Result<Exit> {
        let special = self.args.text.special_tokens_in_text;
        let budget = self.budget();
        let prepared = prepare(&self.model, &mut self.library, &self.messages, special, budget)?;
        let context = self.engine.limits().context;
        let new = prepared.room(self.args.sampling.max_new_tokens, MAX_NEW_TOKENS, context, LIMIT)?;
        let request = prepared.request(&self.model, self.choice.sampling, new);
        let echo = Echo::unless(self.args.report.json);
        let answer = answer(&self.model, &mut self.engine, &request, &self.interrupt, echo)?;
        report(&self.model, &prepared, &self.choice, &answer, &self.args.report)?;
        // With the boxes' tokens, so that the next turn finds the same ids in the cache.
        self.messages.push(Message { role: "assistant".into(), content: Content::Text(answer.text) });
        Ok(if answer.interrupted { Exit::Interrupted } else { Exit::Success })
    }
}

/// The next line of stdin, or none at its end.
fn read_line() -> Result<Option<String>> {
    prompt_sign();
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(MAX_LINE + 1).read_until(b'\n', &mut bytes);
    match read.map_err(|e| Error::io("stdin", e))? {
        0 => Ok(None),
        n if n as u64 > MAX_LINE => Err(Error::request("stdin", format!("a line is longer than {MAX_LINE} bytes"))),
        _ => String::from_utf8(bytes).map(Some).map_err(|_| Error::request("stdin", "is no UTF-8 text")),
    }
}
