//! The command line: one binary, one subcommand per task. Knows the engine and the files; no tensor is computed here.
//!
//! Answers and JSON go to stdout, everything else to stderr. An error is one line, `error: WHAT: WHY`, and exit code 1; wrong usage is 2 (clap),
//! an interrupted answer 130. The surprise: a reader that closes the pipe (`| head -1`) ends the program quietly with 0, as ripgrep does.

mod answer;
mod args;
mod bench;
mod budget;
mod chat;
mod device;
mod eval;
mod inspect;
mod load;
mod memory;
mod merge_lora;
mod page;
mod quantize;
mod report;
mod run;
mod sampling;
mod serve;
mod stats;
mod terminal;
mod trace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use terminal::StdoutClosed;

/// Qwen2-VL on your machine: pictures and text in, text out.
#[derive(Parser)]
#[command(name = "osprey", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer one prompt about pictures or a video
    Run(Box<run::RunArgs>),
    /// Talk, line by line; /image PATH shows a picture
    Chat(Box<chat::ChatArgs>),
    /// Write the tensors of a prompt, to compare with a reference implementation
    Trace(Box<trace::TraceArgs>),
    /// Answer requests over HTTP, as OpenAI's API does
    Serve(Box<serve::ServeArgs>),
    /// Show what a model folder holds and the memory it takes
    Inspect(Box<inspect::InspectArgs>),
    /// Measure how right a model is, and how far it is from the one it was quantized from
    Eval(Box<eval::EvalArgs>),
    /// Add a LoRA adapter to a model's weights and write the result as a model folder
    MergeLora(Box<merge_lora::MergeLoraArgs>),
    /// Round a model's weights to int8 or int4 and write the result as a model folder
    Quantize(Box<quantize::QuantizeArgs>),
    /// Measure the speed of a model's shape with random weights, or of a server
    #[command(subcommand)]
    Bench(bench::BenchCommand),
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Success,
    /// By Ctrl-C.
    Interrupted,
}

/// Parses the command line, runs the command and gives the process's exit code.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::MergeLora(args) => merge_lora::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Bench(command) => bench::run(&command),
    };
    match done {
        Ok(Exit::Success) => ExitCode::SUCCESS,
        Ok(Exit::Interrupted) => ExitCode::from(130),
        Err(e) if e.is::<StdoutClosed>() => ExitCode::SUCCESS,
        Err(e) => {
            terminal::note(&format!("error: {e}"));
            ExitCode::FAILURE
        }
    }
}
