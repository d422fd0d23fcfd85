//! `osprey eval`: how often a model answers questions right, and how far a quantized one has moved from the model it was made of.
//!
//! Answers are greedy. Distances are taken where the wanted answers' tokens are predicted, with both models reading the same tokens.

mod metrics;
mod report;
mod sensitivity;

use super::Exit;
use super::args::{CacheDtype, ContextArgs, ModelArgs, PixelArgs, WeightFormat, group_size};
use super::load::{Loaded, context, limits};
use super::terminal::{Bar, Unit, put_result};
use crate::checkpoint::Weights;
use crate::engine::{Cancel, Engine, Request, Sampling};
use crate::error::{Error, Result};
use crate::intake::media::{Budget, Library};
use crate::intake::prepare::{Prepared, prepare};
use crate::text::dataset::{self, Item};
use crate::text::stream::decode;
use crate::text::tokenizer::Show;
use clap::Args;
use metrics::{Answered, Compared, answered, compared};
use report::{Report, Set};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Tokens of an answer unless `--max-new-tokens` says otherwise.
const MAX_NEW_TOKENS: usize = 64;
/// Tokens of an answer whose logits are read at a time.
const SCORED: usize = 32;
/// What limits the tokens of a question.
const LIMIT: &str = "the context, see --context";

/// Flags of `eval`.
#[derive(Args, Debug)]
pub struct EvalArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Questions and answers, a JSON object a line: query, response, images, history; pictures are relative to the file
    #[arg(long, value_name = "FILE.jsonl", num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    /// The model to compare with, before it or its cache was quantized: folder or hub id
    #[arg(long, value_name = "DIR|HF_ID")]
    reference: Option<String>,
    /// Instead of asking, round each linear of the decoder alone to this format, and measure how far that moves the model
    #[arg(long, value_enum, value_name = "FORMAT", conflicts_with_all = ["reference", "max_new_tokens"])]
    sensitivity: Option<WeightFormat>,
    /// Columns that share a scale; -1 is all of a row [default: 128; -1 for w8a8]
    #[arg(long, value_name = "128|64|32|-1", value_parser = group_size, allow_negative_numbers = true, requires = "sensitivity")]
    group_size: Option<i64>,
    /// Take this many questions of each file [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Longest answer, in tokens [default: 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    max_new_tokens: Option<u64>,
    #[command(flatten)]
    context: ContextArgs,
    #[command(flatten)]
    pixels: PixelArgs,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    /// Write the report as one page that needs nothing else
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// Naming the flag, or the file and its line.
pub fn run(args: &EvalArgs) -> anyhow::Result<Exit> {
    let data = args.data.iter().map(|file| questions(args, file)).collect::<Result<Vec<_>>>()?;
    match args.sensitivity {
        Some(format) => sensitivity::run(args, format.scheme(), &data)?,
        None => evaluate(args, &data)?,
    }
    Ok(Exit::Success)
}

/// Asks every question and reports the answers.
fn evaluate(args: &EvalArgs, data: &[(String, Vec<Item>)]) -> anyhow::Result<()> {
    let mut model = Side::open(args, &args.model)?;
    let mut reference = match &args.reference {
        Some(name) => Some(Side::open(
            args,
            &ModelArgs { model: Some(name.clone()), kv_cache_dtype: CacheDtype::Auto, ..args.model.clone() },
        )?),
        None => None,
    };
    let total = data.iter().map(|(_, items)| items.len()).sum::<usize>() as u64;
    let (mut bar, mut done) = (Bar::new("asking".into(), Unit::Items), 0);
    let mut sets = Vec::new();
    for (name, items) in data {
        let mut set = Set::new(name);
        for item in items {
            ask(args, &mut model, reference.as_mut(), item, &mut set).map_err(|e| item.error(e))?;
            done += 1;
            bar.set(done, total);
        }
        sets.push(set);
    }
    drop(bar);
    let report = Report::new(&model, reference.as_ref(), &sets);
    if let Some(file) = &args.html {
        std::fs::write(file, report::html(&report)).map_err(|e| Error::io(file, e))?;
    }
    put_result(&report, args.json, || report::text(&report))
}

/// The questions of a file, and how reports call them.
fn questions(args: &EvalArgs, file: &Path) -> Result<(String, Vec<Item>)> {
    let mut items = dataset::load(file)?;
    items.truncate(args.limit.map_or(items.len(), |n| n as usize));
    let name = file.file_stem().unwrap_or(file.as_os_str());
    Ok((name.to_string_lossy().into_owned(), items))
}

/// A model with its engine.
struct Side {
    model: Loaded,
    engine: Engine,
}

impl Side {
    fn open(args: &EvalArgs, which: &ModelArgs) -> Result<Side> {
        let model = Loaded::open(which, &args.pixels)?;
        let engine = model.engine(limits(context(args.context, &model.files)?, &model.images, SCORED))?;
        Ok(Side { model, engine })
    }

    /// The same with other weights. Its engine ends before theirs begins: two may be more than there is memory for.
    fn with(self, weights: Weights) -> Result<Side> {
        let Side { mut model, engine } = self;
        let limits = *engine.limits();
        drop(engine);
        model.model.files.weights = weights;
        Ok(Side { engine: model.engine(limits)?, model })
    }

    fn prepare(&self, item: &Item, library: &mut Library) -> Result<Prepared> {
        prepare(&self.model, library, &item.messages, false, Budget::new(self.engine.limits().context, LIMIT))
    }

    /// The greedy answer.
    fn answer(&mut self, prepared: &Prepared, new: usize) -> Result<String> {
        let request = prepared.request(&self.model, Sampling::GREEDY, new);
        let said = self.engine.generate(&request, &Cancel::default(), |_| ControlFlow::Continue(()))?;
        Ok(decode(&self.model.tokenizer, &said.ids, Show::Grounding))
    }
}

/// One question to both models.
fn ask(args: &EvalArgs, model: &mut Side, reference: Option<&mut Side>, item: &Item, set: &mut Set) -> Result<()> {
    let mut library = Library::default();
    let prepared = model.prepare(item, &mut library)?;
    let new = prepared.room(args.max_new_tokens, MAX_NEW_TOKENS, model.engine.limits().context, LIMIT)?;
    set.answers.push(answered(&model.answer(&prepared, new)?, &item.response));
    let Some(reference) = reference else { return Ok(()) };
    if reference.model.images != model.model.images {
        library = Library::default();
    }
    let theirs = reference.prepare(item, &mut library)?;
    if theirs.prompt != prepared.prompt {
        let why = "the two models read this question as different tokens: they are not one model in two formats";
        return Err(Error::request("--reference", why));
    }
    set.reference.push(answered(&reference.answer(&theirs, new)?, &item.response));
    let (request, first) = prepared.with_answer(&model.model, &item.response)?;
    let (ours, theirs) = (model.engine.score(&request, first)?, reference.engine.score(&request, first)?);
    set.tokens.extend(answer_compared(&request, first, &theirs, &ours));
    Ok(())
}

/// The tokens of an answer, which begins at `first`, by the logits of a reference and a model that predict them.
fn answer_compared(request: &Request, first: usize, reference: &[f32], model: &[f32]) -> Vec<Compared> {
    let wanted = &request.prompt.ids[first..];
    let vocab = model.len() / wanted.len();
    let rows = reference.chunks_exact(vocab).zip(model.chunks_exact(vocab));
    rows.zip(wanted).map(|((r, m), &id)| compared(r, m, id)).collect()
}
