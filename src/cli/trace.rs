//! `osprey trace`: every tensor of one prompt that is compared with a reference implementation, as a safetensors file.
//!
//! The surprise: the answer is always greedy, whatever the checkpoint's generation_config.json asks for.

use super::Exit;
use super::args::{ModelArgs, PixelArgs, TextArgs};
use super::device::check_memory;
use super::load::Loaded;
use super::terminal::{Progress, note};
use crate::checkpoint::Declared;
use crate::checkpoint::writer::write_file;
use crate::dtype::DType;
use crate::engine::trace::{Detail, Hidden, Trace};
use crate::engine::{Limits, Sampling};
use crate::error::{Error, Result};
use crate::intake::media::{Budget, Library};
use crate::intake::prepare::{MODEL_LIMIT, Prepared, prepare};
use crate::text::messages;
use crate::text::prompt::MediaKind;
use clap::{Args, ValueEnum};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Tokens per step; all their logits are read back.
const CHUNK: usize = 128;
/// Greedy tokens unless `--max-new-tokens` says otherwise.
const MAX_NEW_TOKENS: usize = 32;

/// Flags of `trace`.
#[derive(Args, Debug)]
pub struct TraceArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// A JSON list of messages, as apply_chat_template takes them; media paths are relative to the file
    #[arg(long, value_name = "FILE.json")]
    conversation: PathBuf,
    /// The file to write
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// Greedy tokens to append [default: 32]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=1 << 24))]
    max_new_tokens: Option<u64>,
    /// all adds the hidden states after every block
    #[arg(long, value_enum, default_value_t = Tensors::Basic)]
    tensors: Tensors,
    #[command(flatten)]
    pixels: PixelArgs,
    #[command(flatten)]
    text: TextArgs,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Tensors {
    Basic,
    All,
}

/// Runs the command.
///
/// # Errors
/// Naming the flag or the file.
pub fn run(args: &TraceArgs) -> anyhow::Result<Exit> {
    let model = Loaded::open(&args.model, &args.pixels)?;
    let messages = messages::load(&args.conversation)?;
    let context = model.files.config.text.max_position_embeddings;
    let (library, budget) = (&mut Library::default(), Budget::new(context, MODEL_LIMIT));
    let prepared = prepare(&model, library, &messages, args.text.special_tokens_in_text, budget)?;
    let new = prepared.room(args.max_new_tokens, MAX_NEW_TOKENS, context, MODEL_LIMIT)?;
    let tokens = prepared.prompt.ids.len();
    let vocab = model.files.config.text.vocab_size;
    // All of them are kept.
    let logits = (tokens as u64).saturating_mul(vocab as u64).saturating_mul(size_of::<f32>() as u64);
    let what = format!("a trace: the logits of {tokens} tokens");
    check_memory(logits, what, "shorten the conversation or lower --max-pixels")?;
    let chunk = CHUNK.min(tokens);
    let limits = Limits::single(tokens + new, chunk, prepared.largest(), chunk);
    let mut engine = model.engine(limits)?;
    let detail = if args.tensors == Tensors::All { Detail::All } else { Detail::Basic };
    let mut progress = Progress::start(format!("tracing {tokens} tokens"));
    let trace = engine.trace(&prepared.request(&model, Sampling::GREEDY, new), detail)?;
    progress.end();
    check_logits(&trace, vocab)?;
    let tensors = collect(&prepared, &trace, vocab, model.files.config.vision.patch_dim());
    write_file(&args.out, tensors.0.values())?;
    note(&format!("wrote {} tensors to {}", tensors.0.len(), args.out.display()));
    Ok(Exit::Success)
}

/// Refuses logits that are NaN, which nothing else looks at where no token is drawn.
fn check_logits(trace: &Trace, vocab: usize) -> Result<()> {
    match trace.logits.iter().position(|x| x.is_nan()) {
        Some(at) => Err(Error::Numerics(format!("the logits of token {} of the prompt are NaN", at / vocab))),
        None => Ok(()),
    }
}

/// Tensors by name.
#[derive(Default)]
struct Collected<'a>(BTreeMap<&'a str, (Declared, Cow<'a, [u8]>)>);

impl<'a> Collected<'a> {
    fn i64s(&mut self, name: &'a str, shape: &[usize], values: impl Iterator<Item = i64>) {
        self.add(name, DType::I64, shape, values.flat_map(i64::to_le_bytes).collect());
    }

    fn f32s(&mut self, name: &'a str, shape: &[usize], values: Cow<'a, [f32]>) {
        let bytes = match values {
            Cow::Borrowed(values) => Cow::Borrowed(bytemuck::cast_slice(values)),
            Cow::Owned(values) => Cow::Owned(bytemuck::cast_slice(&values).to_vec()),
        };
        self.add(name, DType::F32, shape, bytes);
    }

    fn add(&mut self, name: &'a str, dtype: DType, shape: &[usize], bytes: Cow<'a, [u8]>) {
        self.0.insert(name, (Declared { name: name.into(), dtype, shape: shape.to_vec() }, bytes));
    }
}

fn collect<'a>(prepared: &'a Prepared, trace: &'a Trace, vocab: usize, patch_dim: usize) -> Collected<'a> {
    let mut out = Collected::default();
    let tokens = prepared.prompt.ids.len();
    out.i64s("input_ids", &[tokens], prepared.prompt.ids.iter().map(|&id| id.into()));
    out.i64s("position_ids", &[3, tokens], prepared.positions.thw.iter().flatten().map(|&p| p.into()));
    out.f32s("logits", &[tokens, vocab], Cow::Borrowed(&trace.logits));
    out.i64s("generated_ids", &[trace.generated.len()], trace.generated.iter().map(|&id| id.into()));
    let names = [
        (MediaKind::Image, ["pixel_values", "image_grid_thw", "image_embeds"]),
        (MediaKind::Video, ["pixel_values_videos", "video_grid_thw", "video_embeds"]),
    ];
    for (kind, [pixels, grids, embeds]) in names {
        let of_kind: Vec<usize> =
            (0..prepared.media.len()).filter(|&i| prepared.prompt.spans[i].kind == kind).collect();
        if of_kind.is_empty() {
            continue;
        }
        let data: Vec<f32> = of_kind.iter().flat_map(|&i| prepared.media[i].data.iter().copied()).collect();
        out.f32s(pixels, &[data.len() / patch_dim, patch_dim], data.into());
        let sides = of_kind.iter().flat_map(|&i| prepared.media[i].grid_thw).map(|n| n as i64);
        out.i64s(grids, &[of_kind.len(), 3], sides);
        let rows: Vec<&Hidden> = of_kind.iter().map(|&i| &trace.embeds[i]).collect();
        let data: Vec<f32> = rows.iter().flat_map(|h| h.data.iter().copied()).collect();
        out.f32s(embeds, &[rows.iter().map(|h| h.rows).sum(), rows[0].cols], data.into());
    }
    for h in &trace.hidden {
        out.f32s(&h.name, &[h.rows, h.cols], Cow::Borrowed(&h.data));
    }
    out
}
