//! Many requests: those that run together, wait, are refused, leave, or are cut off.

use crate::client::*;
use crate::command::call;
use serde_json::{Value, json};
use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn a_full_queue_refuses_and_a_client_that_leaves_frees_it() {
    let server = Server::start(&["--max-num-seqs", "2", "--max-queue", "1"]);
    assert_eq!(server.get("/ready").status, 200);
    let under_way = [0; 3].map(|_| server.open(&message("POST", PLAIN, JSON, long(2000).to_string().as_bytes())));
    server.until("vllm:num_requests_running", 2.0);
    server.until("vllm:num_requests_waiting", 1.0);
    let reply = server.post(CHAT, &ask(json!("hi")));
    error(&reply, 429);
    assert!(reply.headers.contains_key("retry-after"));
    error(&server.get("/ready"), 503);
    assert_eq!(server.get("/health").status, 200);
    under_way.iter().for_each(|stream| stream.shutdown(Shutdown::Both).unwrap());
    drop(under_way);
    server.until("vllm:num_requests_running", 0.0);
    assert_eq!(server.metric("vllm:kv_cache_usage_perc"), 0.0);
    assert!(server.metric("vllm:generation_tokens_total") < 3800.0, "the answers were made to its end for nobody");
    server.chat(&with(ask(json!("hi")), json!({ "max_tokens": 2 })));
    server.until("vllm:request_success_total{model_name=\"demo\",finished_reason=\"abort\"}", 3.0);
}

/// One that hears nothing until it has sent all it has, as most do.
#[test]
fn a_refusal_reaches_a_client_that_still_writes() {
    let server = Server::start(&["--max-num-seqs", "1", "--max-queue", "0", "--api-key", "k"]);
    let key = |more: &str| format!("Authorization: Bearer k\r\n{more}");
    let _long = server.open(&message("POST", PLAIN, &key(JSON), long(1900).to_string().as_bytes()));
    let start = Instant::now();
    while server.get("/ready").status == 200 {
        assert!(start.elapsed() < Duration::from_secs(20), "the only place is never taken");
    }
    let cases = [
        ("POST", CHAT, JSON.to_string(), 401),
        ("POST", CHAT, key("Origin: http://evil.test\r\n"), 403),
        ("POST", "/nowhere", key(JSON), 404),
        ("PUT", CHAT, key(JSON), 405),
        ("POST", CHAT, key("Content-Type: text/plain\r\n"), 415),
        ("POST", CHAT, key(JSON), 429),
    ];
    for (method, path, headers, status) in cases {
        let reply = server.send(method, path, &headers, &vec![b' '; 8 << 20]);
        error(&reply, status);
        assert_eq!(reply.headers.contains_key("retry-after"), status == 429);
    }
}

#[test]
fn clients_set_priorities_only_where_the_server_lets_them() {
    let asked = |priority: Value| json!({ "prompt": "the", "max_tokens": 1, "priority": priority });
    let server = Server::start(&[]);
    for priority in [-1, 1] {
        let reply = server.post(PLAIN, &asked(json!(priority)));
        assert_eq!(error(&reply, 400), "priority");
        assert!(reply.body.contains("--scheduling-policy priority"), "{}", reply.body);
        let chat = with(ask(json!("hi")), json!({ "priority": priority }));
        assert_eq!(error(&server.post(CHAT, &chat), 400), "priority");
    }
    assert_eq!([json!(0), Value::Null].map(|priority| server.post(PLAIN, &asked(priority)).status), [200; 2]);
    let server = Server::start(&["--scheduling-policy", "priority", "--max-num-seqs", "1"]);
    let start = |priority: i32| {
        let body = with(long(1500), json!({ "priority": priority }));
        server.open(&message("POST", PLAIN, JSON, body.to_string().as_bytes()))
    };
    let first = start(0);
    server.until("vllm:num_requests_running", 1.0);
    let last = start(3);
    server.until("vllm:num_requests_waiting", 1.0);
    assert_eq!(server.post(PLAIN, &asked(json!(2))).status, 200);
    // All of the first, the one, and the beginning of the last.
    let drawn = server.metric("vllm:generation_tokens_total");
    assert!((1501.0..3000.0).contains(&drawn), "{drawn}: one that is less important went before");
    assert_eq!([first, last].map(|stream| said_by(stream).is_empty()), [false; 2]);
}

#[test]
fn an_answer_that_ended_holds_no_place() {
    let server = Server::start(&["--max-num-seqs", "1", "--max-queue", "0"]);
    // The engine would go on for long, but its reader has seen enough.
    let body = with(long(1500), json!({ "stop": "the" }));
    for stream in [false, true] {
        let body = with(body.clone(), json!({ "stream": stream }));
        for _ in 0..10 {
            assert_eq!(server.post(PLAIN, &body).status, 200);
        }
    }
    assert!(server.metric("vllm:generation_tokens_total") < 10_000.0, "answers were made to their end for nobody");
}

#[test]
fn requests_run_together_and_answer_as_alone() {
    let server = Server::start(&["--max-num-seqs", "12"]);
    let with_picture = |name: &str, prompt: &str| with(ask(json!([image(&example(name)), text(prompt)])), json!({}));
    let bodies: Vec<Value> = [
        with_picture("shapes", QUESTION),
        with_picture("digit", "What digit is this?"),
        with_picture("shapes", "Where is the star?"),
        ask(json!("Say something.")),
        with(with_picture("shapes", "What do you see?"), json!({ "temperature": 1.5, "seed": 3 })),
        with(ask(json!("Once upon a time")), json!({ "temperature": 1.5, "seed": 4, "repetition_penalty": 1.2 })),
    ]
    .map(|body| with(body, json!({ "max_tokens": 100 })))
    .to_vec();
    let said = |body: &Value| server.chat(body)["choices"].clone();
    let alone: Vec<Value> = bodies.iter().map(said).collect();
    std::thread::scope(|scope| {
        // All of them beside streams that take long, more than prompts are prepared at a time.
        let streams = [0; 5].map(|_| server.open(&message("POST", PLAIN, JSON, long(1500).to_string().as_bytes())));
        server.until("vllm:num_requests_running", 5.0);
        assert!(server.metric("vllm:kv_cache_usage_perc") > 0.0);
        let asked: Vec<_> = bodies.iter().map(|body| scope.spawn(|| said(body))).collect();
        let together: Vec<Value> = asked.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(together, alone);
        // They are still under way.
        assert_eq!(server.metric("vllm:num_requests_running"), 5.0);
        let answers = streams.map(said_by);
        assert!(answers.iter().all(|answer| *answer == answers[0] && answer.len() > 1500));
    });
    server.until("vllm:kv_cache_usage_perc", 0.0);
    assert_eq!(server.metric("vllm:num_requests_running"), 0.0);
    assert_eq!(server.metric("osprey:encoder_cache_usage_perc"), 0.0);
}

/// Room for one context, and three that grow into most of one each.
#[test]
fn requests_that_do_not_fit_together_answer_as_alone() {
    let out = call(&["serve", "--port", "0", "--device", "cpu", "--max-memory", "1"]);
    let line = String::from_utf8(out.stderr).unwrap();
    let least =
        line.split(" needs ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_else(|| panic!("{line}"));
    let server = Server::start(&["--max-memory", least]);
    let start = || server.open(&message("POST", PLAIN, JSON, long(1500).to_string().as_bytes()));
    let alone = said_by(start());
    assert_eq!(server.metric("vllm:num_preemptions_total"), 0.0);
    assert_eq!([0; 3].map(|_| start()).map(said_by), [0; 3].map(|_| alone.clone()));
    assert!(server.metric("vllm:num_preemptions_total") > 0.0);
    server.until("vllm:kv_cache_usage_perc", 0.0);
}

/// The blocks of those who left are free at once, and those who stay go on.
#[test]
fn clients_that_leave_take_nothing_with_them() {
    let server = Server::start(&[]);
    let mut stay = server.open(&message("POST", PLAIN, JSON, long(1000).to_string().as_bytes()));
    let leave = [0; 4].map(|_| server.open(&message("POST", PLAIN, JSON, long(1900).to_string().as_bytes())));
    server.until("vllm:num_requests_running", 5.0);
    drop(leave);
    server.until("vllm:num_requests_running", 1.0);
    let mut bytes = Vec::new();
    stay.read_to_end(&mut bytes).unwrap();
    assert!(reply(&bytes).body.ends_with("data: [DONE]\n\n"));
    server.until("vllm:kv_cache_usage_perc", 0.0);
    assert_eq!(server.metric("vllm:request_success_total{model_name=\"demo\",finished_reason=\"abort\"}"), 4.0);
}

#[test]
fn memory_is_budgeted_and_announced() {
    let refused = |args: &[&str], words: &[&str]| {
        let out = call(&[&["serve", "--port", "0", "--device", "cpu"], args].concat());
        let line = String::from_utf8(out.stderr).unwrap();
        assert_ne!(out.status.code(), Some(0), "{line}");
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
    };
    refused(&["--max-memory", "1MiB"], &["1048576", "2048 tokens", "--max-memory", "--context"]);
    refused(&["--max-memory", "many"], &["--max-memory", "8GiB"]);
    let server = Server::start(&["--max-memory", "200MB", "--max-num-seqs", "3"]);
    let budget: Value = serde_json::from_str(server.log().lines().next().unwrap()).unwrap();
    let bytes = |name: &str| budget[name].as_u64().unwrap();
    let parts = ["kv_bytes", "encoder_bytes", "arena_bytes", "state_bytes"].map(bytes);
    assert_eq!(parts.iter().sum::<u64>(), bytes("total_bytes"));
    assert!((190_000_000..=200_000_000).contains(&bytes("total_bytes")), "{budget}");
    assert_eq!(bytes("kv_blocks") * bytes("kv_block_bytes"), bytes("kv_bytes"));
    assert!(bytes("weights_bytes") > 10_000_000);
    server.chat(&with(ask(json!("hi")), json!({ "max_tokens": 2 })));
}

#[test]
fn a_slow_reader_does_not_hold_up_the_engine() {
    let server = Server::start(&[]);
    let slow = server.open(&message("POST", PLAIN, JSON, long(1500).to_string().as_bytes()));
    // Nothing is read of the first answer, and the second one comes all the same.
    server.chat(&with(ask(json!("hi")), json!({ "max_tokens": 2 })));
    let mut bytes = Vec::new();
    (&slow).read_to_end(&mut bytes).unwrap();
    assert!(reply(&bytes).body.ends_with("data: [DONE]\n\n"), "the slow reader lost something");
}

#[test]
fn a_request_that_takes_too_long_is_ended() {
    let server = Server::start(&["--timeout-seconds", "1", "--max-num-seqs", "1"]);
    let start = Instant::now();
    // Two before it: the third cannot be done in time on any machine.
    let first = server.open(&message("POST", PLAIN, JSON, long(2000).to_string().as_bytes()));
    let second = server.open(&message("POST", PLAIN, JSON, long(2000).to_string().as_bytes()));
    error(&server.post(PLAIN, &with(long(2000), json!({ "stream": false }))), 504);
    for mut stream in [first, second] {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let body = reply(&bytes).body;
        assert!(body.contains("deadline_exceeded") && !body.contains("[DONE]"), "{body}");
    }
    assert!(start.elapsed() < Duration::from_secs(20));
    server.until("vllm:num_requests_running", 0.0);
}

#[test]
fn sigterm_lets_what_is_under_way_finish() {
    let mut server = Server::start(&["--drain-seconds", "60"]);
    let mut stream = server.open(&message("POST", PLAIN, JSON, long(400).to_string().as_bytes()));
    let mut bytes = vec![0; 64];
    stream.read_exact(&mut bytes).unwrap();
    let pid = server.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    stream.read_to_end(&mut bytes).unwrap();
    assert!(reply(&bytes).body.ends_with("data: [DONE]\n\n"), "the answer was cut");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert!(TcpStream::connect(("127.0.0.1", server.port)).is_err());
}

#[test]
fn a_drain_that_lasts_too_long_is_ended() {
    let mut server = Server::start(&["--drain-seconds", "0"]);
    let others = [0; 3].map(|_| server.open(&message("POST", PLAIN, JSON, long(2000).to_string().as_bytes())));
    let mut stream = server.open(&message("POST", PLAIN, JSON, long(2000).to_string().as_bytes()));
    stream.read_exact(&mut [0; 64]).unwrap();
    let pid = server.child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let start = Instant::now();
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5));
    // The log is read by a thread.
    let at = |words: &str| server.log().find(words);
    while at("ended with requests under way").is_none() {
        assert!(start.elapsed() < Duration::from_secs(20), "{}", server.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    let engine = at("the engine has ended").expect("the process was taken down while its engine was at work");
    assert!(Some(engine) < at("ended with requests under way"));
    drop(others);
}
