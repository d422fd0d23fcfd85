//! `osprey bench serve`: a load of chats against a server, and what its clients feel. Flags are named as those of `vllm bench serve`.
//!
//! The load is open-loop: requests are sent when they are due, however the server does, unless `--max-concurrency` holds them back. Everything is measured
//! where a client would: from the request on the socket to the pieces that come back. Without `--url` it starts `osprey serve` itself. The surprise: a
//! first chat that is not counted goes ahead of all, since it pays for the pages of the weights.

mod child;
mod client;
mod load;
mod plot;
mod report;

use super::size;
use crate::cli::Exit;
use crate::cli::terminal::{put, put_json};
use crate::error::{Error, Result};
use child::Child;
use clap::Args;
use client::Client;
use load::Load;
use report::Report;
use std::path::PathBuf;

/// Flags of `bench serve`.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// A running server, such as http://127.0.0.1:8000 [default: one is started, with the flags behind `--`]
    #[arg(long, value_name = "URL", conflicts_with = "server")]
    url: Option<String>,
    /// The server's key [default: the variable OSPREY_API_KEY]
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Requests a second, at random times as independent clients send them (Poisson); inf sends all at once
    #[arg(long, value_name = "R", default_value = "inf", value_parser = request_rate)]
    request_rate: f64,
    /// Requests to send
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    num_prompts: u64,
    /// Words of a prompt, each about a token
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    input_tokens: u64,
    /// Longest answer, in tokens; the model may end it earlier
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    output_tokens: u64,
    /// Part of the requests that show a picture; every second of them one that was shown before
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    image_share: f64,
    /// Size of the pictures
    #[arg(long, value_name = "WxH", default_value = "448x448", value_parser = size)]
    image_size: (usize, usize),
    /// Requests under way at a time; the others wait at the client, which does not count [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    max_concurrency: Option<u64>,
    /// Equal seeds send equal requests at equal times
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// What an answer must keep to be a good one: most milliseconds of ttft, tpot (a token after the first) or e2el (the whole)
    #[arg(long, value_name = "NAME:MS", num_args = 1.., value_parser = report::goal)]
    goodput: Vec<(report::Goal, f64)>,
    /// Write the report as JSON; - is stdout, in place of the table
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
    /// Draw how the times are distributed
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Flags of `osprey serve` for the server to start, after `--`
    #[arg(last = true, value_name = "SERVE FLAGS")]
    server: Vec<String>,
}

fn request_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 => Ok(rate),
        _ => Err("must be a number above 0, or inf".into()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("must be a number from 0 to 1".into()),
    }
}

/// Runs the command.
///
/// # Errors
/// If the server cannot be started or asked, or answers nothing at all.
pub fn run(args: &ServeArgs) -> anyhow::Result<Exit> {
    let child = if args.url.is_none() { Some(Child::start(&args.server)?) } else { None };
    let url = args.url.as_deref().or(child.as_ref().map(|c| &c.url[..])).unwrap_or_default();
    let client = Client::new(url, args.api_key.clone())?;
    let load = Load::new(args)?;
    // Not counted.
    client.chat(&load.first().body(&client.model));
    let (outcomes, seconds) = load.run(&client);
    let report = Report::new(url, &client.model, args, seconds, &outcomes);
    if let Some(file) = &args.plot {
        std::fs::write(file, plot::svg(&outcomes)).map_err(|e| Error::io(file, e))?;
    }
    match &args.json {
        Some(file) if file.as_os_str() == "-" => put_json(&report)?,
        Some(file) => {
            std::fs::write(file, serde_json::to_string(&report)? + "\n").map_err(|e| Error::io(file, e))?;
            put(&report.text())?;
        }
        None => put(&report.text())?,
    }
    anyhow::ensure!(report.completed > 0, "{url}: no request was answered");
    Ok(Exit::Success)
}
