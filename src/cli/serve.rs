//! `osprey serve`: an OpenAI-compatible server, closed by default. It says what memory it takes before it takes any.

use super::Exit;
use super::args::{ContextArgs, ModelArgs, PixelArgs, TextArgs, bytes};
use super::budget::Budget;
use super::device::room;
use super::load::{Loaded, context, engine, limits};
use super::memory;
use crate::checkpoint::Summary;
use crate::engine::Limits;
use crate::error::{Error, Result};
use crate::model::qwen2_vl::Qwen2Vl;
use crate::server::{ImageHost, Settings, serve};
use clap::{Args, ValueEnum};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tracing::level_filters::LevelFilter;

/// Where the key is if no flag says it; other users of the machine can read a command line.
pub const KEY_VARIABLE: &str = "OSPREY_API_KEY";

/// Flags of `serve`.
#[derive(Args, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    port: u16,
    /// What clients must send as `Authorization: Bearer KEY` [default: the variable OSPREY_API_KEY]
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Another name that clients reach the server by, as that of a proxy before it; may be repeated
    #[arg(long, value_name = "NAME")]
    allowed_host: Vec<String>,
    /// Fetch pictures that requests name by address from this host: HOST, *.SUFFIX, HOST:PORT, or http://HOST without TLS; may be repeated
    #[arg(long, value_name = "HOST")]
    allow_image_host: Vec<ImageHost>,
    /// Listen on a public address without a key
    #[arg(long)]
    insecure: bool,
    /// Requests that run together
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=256))]
    max_num_seqs: u64,
    /// Tokens that each answer may try ahead of their turn, where it repeats what came before; answers are the same
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=16))]
    num_speculative_tokens: u64,
    /// Memory for the caches and buffers, such as 8GiB; weights do not count [default: caches of 4 contexts, or what is free]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    max_memory: Option<u64>,
    /// Requests that may wait behind those that run; more are answered with 429
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u64).range(0..=4096))]
    max_queue: u64,
    /// Who of those that wait runs first: the first that came, or the one with the lowest `priority`, which any client may then set
    #[arg(long, value_enum, value_name = "POLICY", default_value_t = SchedulingPolicy::Fcfs)]
    scheduling_policy: SchedulingPolicy,
    /// Seconds that a request may take, waiting included
    #[arg(long, value_name = "S", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout_seconds: u64,
    /// Seconds for what is under way when the server is told to end
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    drain_seconds: u64,
    /// How log lines are written, to stderr
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    #[command(flatten)]
    context: ContextArgs,
    #[command(flatten)]
    pixels: PixelArgs,
    #[command(flatten)]
    text: TextArgs,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum SchedulingPolicy {
    Fcfs,
    Priority,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum LogFormat {
    Text,
    Json,
}

/// Runs the command until it is told to end.
///
/// # Errors
/// Naming the flag or the file.
pub fn run(args: &ServeArgs) -> anyhow::Result<Exit> {
    memory::give_back_freed();
    let key = key(args)?;
    log(args.log_format);
    let Loaded { model, placement, .. } = Loaded::open(&args.model, &args.pixels)?;
    let least = limits(context(args.context, &model.files)?, &model.images, 1);
    let seqs = args.max_num_seqs as usize;
    // Each has a row in every step.
    let drafts = args.num_speculative_tokens as usize;
    let least = Limits { seqs, drafts, chunk: least.chunk.max(seqs), ..least };
    let loaded = Qwen2Vl::load(&model.files.config, &model.files.weights, placement.precision)?;
    let budget = Budget::new(&loaded, least, args.max_memory, |needs| room(needs, &loaded.weights, &placement))?;
    announce(&budget, Summary::new(&model.files).total.bytes);
    let limits = budget.limits;
    let settings = Settings {
        address: SocketAddr::new(args.host, args.port),
        key,
        allowed_hosts: args.allowed_host.clone(),
        image_hosts: args.allow_image_host.clone(),
        model_name: public_name(&model.name),
        limits,
        special_tokens_in_text: args.text.special_tokens_in_text,
        queue: args.max_queue as usize,
        priorities: args.scheduling_policy == SchedulingPolicy::Priority,
        deadline: Duration::from_secs(args.timeout_seconds),
        drain: Duration::from_secs(args.drain_seconds),
    };
    let model = Arc::new(model);
    let source = model.clone();
    serve(model, move || engine(&source, &placement, limits), settings)?;
    Ok(Exit::Success)
}

/// Logs where the memory goes.
fn announce(budget: &Budget, weights: u64) {
    tracing::info!(
        weights_bytes = weights,
        kv_blocks = budget.limits.blocks,
        kv_block_bytes = budget.block,
        kv_bytes = budget.kv,
        encoder_rows = budget.limits.images,
        encoder_bytes = budget.encoder,
        arena_bytes = budget.arena,
        state_bytes = budget.state,
        total_bytes = budget.total(),
        "memory beside the weights: {budget}"
    );
}

/// The key that clients must have; on a public address there must be one.
fn key(args: &ServeArgs) -> Result<Option<String>> {
    // What is no text is no key, and must not pass for none.
    let variable = || std::env::var_os(KEY_VARIABLE).map(|key| (KEY_VARIABLE, key.to_string_lossy().into_owned()));
    let given = args.api_key.clone().map(|key| ("--api-key", key)).or_else(variable);
    let key = match given {
        Some((at, key)) if key.is_empty() || !key.chars().all(|c| c.is_ascii_graphic()) => {
            return Err(Error::request(at, "must be visible ASCII characters, and some"));
        }
        given => given.map(|(_, key)| key),
    };
    if key.is_none() && !args.host.is_loopback() && !args.insecure {
        let why =
            format!("{} can be reached by others: set --api-key or {KEY_VARIABLE}, or pass --insecure", args.host);
        return Err(Error::request("--host", why));
    }
    Ok(key)
}

/// What clients call the model: a folder by its last name, since its path is nobody's business.
fn public_name(name: &str) -> String {
    let path = Path::new(name);
    let last = path.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    last.unwrap_or_else(|| name.into())
}

fn log(format: LogFormat) {
    let log =
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(LevelFilter::INFO).with_target(false);
    match format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}
