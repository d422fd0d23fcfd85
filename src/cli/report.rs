//! What is said about an answer beside its text: the JSON object, and the statistics.

use super::answer::Answer;
use super::load::Loaded;
use super::sampling::Choice;
use super::stats::{self, Setup, Times};
use super::terminal::put_json;
use crate::intake::media::Info;
use crate::intake::prepare::Prepared;
use crate::media::boxes::{self, LabelledBox};
use clap::Args;
use serde::Serialize;

/// What to print beside the text, or in its place.
#[derive(Args, Debug, Clone, Copy)]
pub struct ReportArgs {
    /// Print one JSON object per answer instead of the text
    #[arg(long)]
    pub json: bool,
    /// Say on stderr what ran and how long it took
    #[arg(long)]
    pub stats: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Output<'a> {
    #[serde(flatten)]
    setup: &'a Setup,
    text: &'a str,
    ids: &'a [u32],
    finish_reason: &'static str,
    prompt_tokens: usize,
    generated_tokens: usize,
    sampling: &'a Choice,
    timing: &'a Times,
    media: &'a [Info],
    boxes: Vec<BoxOut>,
}

/// A box of the answer; pixels are those of the first picture as it was given, and absent without one.
#[derive(Serialize)]
struct BoxOut {
    label: String,
    box_1000: [u32; 4],
    box_pixels: Option<[usize; 4]>,
}

/// Prints what the flags ask for.
///
/// # Errors
/// If stdout cannot be written.
pub fn report(
    model: &Loaded,
    prepared: &Prepared,
    choice: &Choice,
    answer: &Answer,
    args: &ReportArgs,
) -> anyhow::Result<()> {
    let (setup, times) = (Setup::new(model, answer.device), Times::new(model, prepared, &answer.generated.timing));
    if args.stats {
        stats::print(&setup, choice, &times);
    }
    if !args.json {
        return Ok(());
    }
    let size = prepared.infos.iter().find(|i| i.kind == "image").map(|i| i.size);
    let output = Output {
        setup: &setup,
        text: &answer.text,
        ids: &answer.generated.ids,
        finish_reason: answer.generated.finish.name(),
        prompt_tokens: prepared.prompt.ids.len(),
        generated_tokens: answer.generated.ids.len(),
        sampling: choice,
        timing: &times,
        media: &prepared.infos,
        boxes: boxes::parse(&answer.text).into_iter().map(|b| box_out(b, size)).collect(),
    };
    put_json(&output)
}

fn box_out(b: LabelledBox, size: Option<[usize; 2]>) -> BoxOut {
    let box_pixels = size.map(|[width, height]| {
        let p = b.in_pixels(width, height);
        [p.left, p.top, p.right, p.bottom]
    });
    BoxOut { label: b.label, box_1000: b.corners, box_pixels }
}
