//! `osprey run`: one prompt, one answer.

use super::Exit;
use super::answer::{Answer, Echo, answer};
use super::args::{ModelArgs, PixelArgs, SamplingArgs, TextArgs, rate};
use super::load::{CHUNK, Loaded};
use super::report::{ReportArgs, report};
use super::sampling::{Choice, MAX_NEW_TOKENS};
use super::terminal::{Interrupt, note};
use crate::engine::Limits;
use crate::error::{Error, Result};
use crate::intake::media::{Budget, Library};
use crate::intake::prepare::{MODEL_LIMIT, Prepared, prepare};
use crate::media::boxes;
use crate::media::image::load;
use crate::media::rgb::DecodeLimits;
use crate::text::messages::{Media, Message, Part, Video, VideoSource};
use clap::Args;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A longer prompt is no prompt.
const MAX_PROMPT_FILE: u64 = 4 << 20;

/// Flags of `run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Pictures, before the text in this order
    #[arg(long, value_name = "IMG", num_args = 1..)]
    input: Vec<PathBuf>,
    /// A video as its frames: pictures of one size
    #[arg(long, value_name = "FRAME", num_args = 1..)]
    video_frames: Vec<PathBuf>,
    /// Frames per second of the video
    #[arg(long, value_name = "F", value_parser = rate, requires = "video_frames")]
    fps: Option<f64>,
    #[command(flatten)]
    prompt: PromptArgs,
    /// What the system turn says [default: the chat template's]
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Draw the boxes of the answer on the first picture, as a PNG
    #[arg(long, value_name = "OUT.png", requires = "input")]
    boxes: Option<PathBuf>,
    #[command(flatten)]
    pixels: PixelArgs,
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    report: ReportArgs,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct PromptArgs {
    /// What to ask
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// A file that says what to ask; - is stdin
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
}

impl PromptArgs {
    fn text(&self) -> Result<String> {
        let (flag, text) = match (&self.prompt, &self.prompt_file) {
            (Some(text), _) => ("--prompt", text.clone()),
            (None, Some(file)) => ("--prompt-file", read_prompt(file)?),
            (None, None) => ("--prompt", String::new()),
        };
        if text.trim().is_empty() {
            return Err(Error::request(flag, "is empty: say what to ask"));
        }
        Ok(text)
    }
}

fn read_prompt(file: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(MAX_PROMPT_FILE + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|f| f.take(MAX_PROMPT_FILE + 1).read_to_end(&mut bytes))
    };
    read.map_err(|e| Error::io(file, e))?;
    let at = file.display().to_string();
    if bytes.len() as u64 > MAX_PROMPT_FILE {
        return Err(Error::request(at, format!("is longer than {MAX_PROMPT_FILE} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| Error::request(at, "is no UTF-8 text"))
}

/// Runs the command.
///
/// # Errors
/// Naming the flag or the file.
pub fn run(args: &RunArgs) -> anyhow::Result<Exit> {
    let text = args.prompt.text()?;
    let interrupt = Interrupt::listen()?;
    let model = Loaded::open(&args.model, &args.pixels)?;
    let choice = Choice::new(&model.files.generation, &args.sampling);
    choice.without_effect().iter().for_each(|line| note(line));
    let messages = messages(args, text);
    let positions = model.files.config.text.max_position_embeddings;
    let (library, budget) = (&mut Library::default(), Budget::new(positions, MODEL_LIMIT));
    let prepared = prepare(&model, library, &messages, args.text.special_tokens_in_text, budget)?;
    let new = prepared.room(args.sampling.max_new_tokens, MAX_NEW_TOKENS, positions, MODEL_LIMIT)?;
    let limits =
        Limits::single(prepared.prompt.ids.len() + new, CHUNK.min(prepared.prompt.ids.len()), prepared.largest(), 1);
    let mut engine = model.engine(limits)?;
    let request = prepared.request(&model, choice.sampling, new);
    let answer = answer(&model, &mut engine, &request, &interrupt, Echo::unless(args.report.json))?;
    finish(args, &model, &prepared, &choice, &answer)
}

/// One user turn: pictures, then the video, then the text.
fn messages(args: &RunArgs, text: String) -> Vec<Message> {
    let media = |p: &PathBuf| Media::Path(p.clone());
    let mut parts: Vec<Part> = args.input.iter().map(|p| Part::Image(media(p))).collect();
    if !args.video_frames.is_empty() {
        let source = VideoSource::Frames(args.video_frames.iter().map(media).collect());
        parts.push(Part::Video(Video { source, fps: args.fps }));
    }
    parts.push(Part::Text(text));
    let system = args.system.iter().map(|text| Message::text("system", text.as_str()));
    system.chain([Message::parts("user", parts)]).collect()
}

/// Everything behind the answer: JSON, boxes, statistics.
fn finish(
    args: &RunArgs,
    model: &Loaded,
    prepared: &Prepared,
    choice: &Choice,
    answer: &Answer,
) -> anyhow::Result<Exit> {
    report(model, prepared, choice, answer, &args.report)?;
    if let Some(out) = &args.boxes {
        let mut image = load(&args.input[0], &DecodeLimits::default())?;
        boxes::draw(&mut image, &boxes::parse(&answer.text));
        boxes::save_png(&image, out)?;
    }
    Ok(if answer.interrupted { Exit::Interrupted } else { Exit::Success })
}
