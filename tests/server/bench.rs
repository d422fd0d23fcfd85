//! `osprey bench serve` against the real server: what it counts is what the server did.

use crate::client::*;
use crate::command::osprey;
use serde_json::{Value, json};
use std::process::Output;

const SMALL: [&str; 6] = ["--input-tokens", "12", "--output-tokens", "8", "--image-size", "56x56"];

/// The command's output, with these flags and no key in the environment.
fn bench(args: &[&str]) -> Output {
    osprey().args(["bench", "serve"]).args(SMALL).args(args).env_remove("OSPREY_API_KEY").output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The report as JSON.
fn report(args: &[&str]) -> Value {
    let out = bench(&[&["--json", "-"], args].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn url(server: &Server) -> String {
    format!("http://127.0.0.1:{}", server.port)
}

#[test]
fn every_answer_and_its_times_are_counted() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let plot = dir.path().join("plot.svg");
    let args = ["--num-prompts", "8", "--image-share", "0.5", "--request-rate", "100", "--goodput", "ttft:60000"];
    let got = report(&[&["--url", &url(&server), "--plot", plot.to_str().unwrap()][..], &args[..]].concat());
    assert_eq!((&got["completed"], &got["model"]), (&json!(8), &json!("demo")));
    assert_eq!((&got["refused"], &got["broken"]), (&json!({}), &json!({})));
    let count = |name: &str| got[name]["count"].as_u64();
    let ttft = ["ttft_ms", "ttft_text_ms", "ttft_new_picture_ms", "ttft_repeated_picture_ms", "e2el_ms"].map(count);
    assert_eq!(ttft, [8, 4, 2, 2, 8].map(Some));
    for name in ["ttft_ms", "e2el_ms"] {
        let spread = ["p50", "p90", "p99", "max"].map(|part| got[name][part].as_f64().unwrap());
        assert!(spread[0] > 0.0 && spread.is_sorted(), "{name}: {spread:?}");
    }
    assert!(got["ttft_ms"]["mean"].as_f64() <= got["e2el_ms"]["mean"].as_f64());
    assert_eq!(got["request_goodput"], got["request_throughput"], "no answer waits for a minute");
    // One chat of at most two tokens went ahead.
    let drawn = server.metric("vllm:generation_tokens_total") - got["total_output_tokens"].as_f64().unwrap();
    assert!((0.0..=2.0).contains(&drawn), "{got}");
    assert_eq!(server.metric("vllm:time_to_first_token_seconds_count"), 9.0);
    assert_eq!(server.metric("osprey:encoder_time_seconds_count"), 2.0, "of four pictures two are repeated");
    let svg = std::fs::read_to_string(&plot).unwrap();
    assert!(svg.starts_with("<svg ") && svg.matches("<polyline").count() == 3, "{svg}");
}

#[test]
fn what_the_server_refuses_is_counted_by_status() {
    let server = Server::start(&["--max-num-seqs", "1", "--max-queue", "0"]);
    let long = server.open(&message("POST", PLAIN, JSON, long(1900).to_string().as_bytes()));
    server.until("vllm:num_requests_running", 1.0);
    let out = bench(&["--url", &url(&server), "--num-prompts", "5"]);
    let table = text(&out.stdout);
    assert!(table.contains("0 answered") && table.contains("5 refused with 429"), "{table}");
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("no request was answered"), "{}", text(&out.stderr));
    // The one that went ahead, too.
    assert_eq!(server.metric("osprey:requests_refused_total"), 6.0);
    drop(long);
    server.until("vllm:num_requests_running", 0.0);
    let got = report(&["--url", &url(&server), "--num-prompts", "4", "--max-concurrency", "1"]);
    assert_eq!((&got["completed"], &got["refused"]), (&json!(4), &json!({})), "one at a time has room");
}

#[test]
fn a_key_is_sent_and_its_lack_is_named() {
    let server = Server::start(&["--api-key", "secret"]);
    let flags = ["--url", &url(&server), "--num-prompts", "1"];
    let out = bench(&flags);
    let said = text(&out.stderr);
    assert!(out.status.code() == Some(1) && said.contains("401") && said.contains("API key"), "{said}");
    assert_eq!(report(&[&flags[..], &["--api-key", "secret"]].concat())["completed"], 1);
}

#[test]
fn without_a_url_it_starts_a_server() {
    let got = report(&["--num-prompts", "3", "--", "--device", "cpu", "--max-num-seqs", "2"]);
    assert_eq!(got["completed"], 3);
    let out = bench(&["--", "--max-queue", "many"]);
    let said = text(&out.stderr);
    assert!(out.status.code() == Some(1) && said.contains("osprey serve") && said.contains("--max-queue"), "{said}");
    let out = bench(&["--url", "http://127.0.0.1:1", "--num-prompts", "1"]);
    assert!(text(&out.stderr).starts_with("error: http://127.0.0.1:1: "), "{}", text(&out.stderr));
}
