//! `osprey serve` as clients meet it: the real binary on a free port, the demo model, plain sockets.

mod command;

#[path = "server/bench.rs"]
mod bench;
#[path = "server/client.rs"]
mod client;
#[path = "server/environment.rs"]
mod environment;
#[path = "server/load.rs"]
mod load;
#[path = "server/output.rs"]
mod output;
#[path = "server/responses.rs"]
mod responses;

use client::*;
use command::call;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

#[test]
fn answers_are_those_of_run_whole_and_streamed() {
    let server = Server::start(&[]);
    let cases = [(vec!["shapes"], QUESTION), (vec![], "Say something."), (vec!["shapes", "digit"], "What do you see?")];
    for (pictures, prompt) in cases {
        let want = run(&pictures, prompt);
        let parts: Vec<Value> = pictures.iter().map(|name| image(&example(name))).chain([text(prompt)]).collect();
        let body = with(ask(json!(parts)), json!({ "max_tokens": 512 }));
        let got = server.chat(&body);
        assert_eq!((&got["object"], &got["model"]), (&json!("chat.completion"), &json!("demo")));
        let choice = &got["choices"][0];
        assert_eq!((&choice["message"]["content"], &choice["message"]["role"]), (&want["text"], &json!("assistant")));
        assert_eq!(choice["finish_reason"], want["finish_reason"]);
        let (read, drawn) = (want["prompt_tokens"].as_u64().unwrap(), want["ids"].as_array().unwrap().len() as u64);
        let usage = json!({ "prompt_tokens": read, "completion_tokens": drawn, "total_tokens": read + drawn });
        assert_eq!(got["usage"], usage);

        let events =
            server.stream(CHAT, &with(body, json!({ "stream": true, "stream_options": { "include_usage": true } })));
        let (last, chunks) = events.split_last().unwrap();
        assert_eq!((&last["usage"], &last["choices"]), (&usage, &json!([])));
        let said: String = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(said, want["text"].as_str().unwrap());
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
        assert!(chunks.iter().all(|c| c["object"] == "chat.completion.chunk" && c["id"] == chunks[0]["id"]));
        assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], want["finish_reason"]);
    }
}

#[test]
fn stop_strings_cut_exactly() {
    let server = Server::start(&[]);
    let body = with(ask(json!([image(&example("shapes")), text(QUESTION)])), json!({ "max_tokens": 64 }));
    let whole = server.chat(&body)["choices"][0]["message"]["content"].as_str().unwrap().to_string();
    assert!(whole.chars().count() >= 3, "{whole:?} is too short to cut");
    let middle: String = whole.chars().skip(1).take(2).collect();
    let before = &whole[..whole.find(&middle).unwrap()];
    for stop in [json!(middle), json!(["never said", middle])] {
        let body = with(body.clone(), json!({ "stop": stop }));
        let got = server.chat(&body);
        assert_eq!(got["choices"][0]["message"]["content"], before);
        assert_eq!(got["choices"][0]["finish_reason"], "stop");
        let events = server.stream(CHAT, &with(body, json!({ "stream": true })));
        let said: String = events.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(said, before);
    }
    let got = server.chat(&with(body, json!({ "stop": "never said" })));
    assert_eq!(got["choices"][0]["message"]["content"], whole);
}

/// Its pieces are streamed as soon as they can be no part of it.
#[test]
fn a_stop_string_may_begin_in_one_token_and_end_in_another() {
    let server = Server::start(&[]);
    let body = with(
        ask(json!([image(&example("shapes")), text("What do you see?")])),
        json!({ "stream": true, "temperature": 0 }),
    );
    let said = |body: &Value| -> Vec<String> {
        let events = server.stream(CHAT, body);
        events.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str().map(str::to_string)).collect()
    };
    let pieces: Vec<String> = said(&body).into_iter().filter(|piece| !piece.is_empty()).collect();
    let whole = pieces.concat();
    // The end of a piece and the beginning of the next, nowhere before.
    let border = |i: usize| {
        let stop = [&pieces[i][pieces[i].len() - 1..], &pieces[i + 1][..1]].concat();
        let at = pieces[..=i].concat().len() - 1;
        (whole.find(&stop) == Some(at)).then_some((stop, at))
    };
    let (stop, at) = (1..pieces.len() - 1).find_map(border).unwrap_or_else(|| panic!("{pieces:?}"));
    assert_eq!(said(&with(body, json!({ "stop": stop }))).concat(), whole[..at]);
}

#[test]
fn plain_prompts_are_continued_and_tokenised() {
    let server = Server::start(&[]);
    let ids = |body: Value| {
        let reply = server.post("/tokenize", &body);
        assert_eq!(reply.status, 200, "{}", reply.body);
        let body: Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(body["count"], body["tokens"].as_array().unwrap().len());
        body["tokens"].clone()
    };
    let prompt = "one two <|im_end|> three";
    let tokens = ids(json!({ "prompt": prompt }));
    let special = ids(json!({ "prompt": "<|im_end|>" }));
    assert!(special.as_array().unwrap().len() > 1, "typed text became a special token");
    let answer = |prompt: &Value, more: Value| {
        let reply = server.post(PLAIN, &with(json!({ "prompt": prompt, "max_tokens": 5 }), more));
        assert_eq!(reply.status, 200, "{}", reply.body);
        serde_json::from_str::<Value>(&reply.body).unwrap()
    };
    let from_text = answer(&json!(prompt), json!({}));
    let from_ids = answer(&tokens, json!({}));
    assert_eq!(from_text["choices"][0]["text"], from_ids["choices"][0]["text"]);
    assert_eq!(from_text["usage"]["prompt_tokens"], tokens.as_array().unwrap().len());
    // Equal seeds draw equal tokens, others do not.
    let drawn = |seed: u64| answer(&json!(prompt), json!({ "temperature": 3, "top_k": 0, "top_p": 1, "seed": seed }));
    assert_eq!(drawn(5)["choices"], drawn(5)["choices"]);
    assert_ne!(drawn(5)["choices"], drawn(6)["choices"]);
    let chat = ask(json!([image(&example("shapes")), text(QUESTION)]));
    let want = run(&["shapes"], QUESTION)["prompt_tokens"].as_u64().unwrap() as usize;
    assert_eq!(ids(chat).as_array().unwrap().len(), want);
}

#[test]
fn what_is_not_supported_or_wrong_is_refused_by_name() {
    let server = Server::start(&["--context", "600"]);
    let hi = || ask(json!("hi"));
    let pictures: Vec<Value> = (0..17).map(|_| image(&example("digit"))).collect();
    let many = vec!["a"; 17];
    let cases = [
        (CHAT, with(hi(), json!({ "n": 17 })), "n"),
        (CHAT, with(hi(), json!({ "best_of": 2 })), "best_of"),
        (CHAT, with(hi(), json!({ "ignore_eos": true })), "ignore_eos"),
        (CHAT, with(hi(), json!({ "temperature": -1 })), "temperature"),
        (CHAT, with(hi(), json!({ "temperature": "hot" })), "temperature"),
        (CHAT, with(hi(), json!({ "top_p": 1.5 })), "top_p"),
        (CHAT, with(hi(), json!({ "top_k": -2 })), "top_k"),
        (CHAT, with(hi(), json!({ "min_p": 2 })), "min_p"),
        (CHAT, with(hi(), json!({ "repetition_penalty": 0 })), "repetition_penalty"),
        (CHAT, with(hi(), json!({ "max_tokens": 0 })), "max_tokens"),
        (CHAT, with(hi(), json!({ "max_tokens": 600 })), "max_tokens"),
        (CHAT, with(hi(), json!({ "max_tokens": 3, "max_completion_tokens": 4 })), "max_tokens"),
        (CHAT, with(hi(), json!({ "stop": many })), "stop"),
        (CHAT, with(hi(), json!({ "stop": "" })), "stop"),
        (CHAT, with(hi(), json!({ "stream_options": { "include_usage": true } })), "stream_options"),
        (CHAT, with(hi(), json!({ "prompt": "hi" })), "prompt"),
        (CHAT, json!({ "model": "demo" }), "messages"),
        (CHAT, json!({ "messages": [] }), "messages"),
        (CHAT, json!({ "messages": [{ "role": "judge", "content": "x" }] }), "messages[0].role"),
        (CHAT, ask(json!("word ".repeat(3000))), "messages"),
        (CHAT, ask(json!(pictures)), "messages"),
        (CHAT, ask(json!([image("http://169.254.169.254/latest")])), "messages[0].content[0].image_url"),
        (CHAT, ask(json!([image("file:///etc/passwd")])), "messages[0].content[0].image_url"),
        (CHAT, ask(json!([image("/etc/passwd")])), "messages[0].content[0].image_url"),
        (CHAT, ask(json!([text("a"), image("data:image/png;base64,!!")])), "messages[0].content[1].image_url"),
        (CHAT, ask(json!([image("data:text/html;base64,aGk=")])), "messages[0].content[0].image_url"),
        (CHAT, ask(json!([image(&data_url("png", b"no picture"))])), "messages[0].content[0].image_url"),
        (CHAT, ask(json!([image(&data_url("bmp", &bomb()))])), "messages[0].content[0].image_url"),
        (CHAT, ask(json!([{ "type": "text", "image_url": { "url": "data:" } }])), "messages[0].content[0]"),
        (PLAIN, json!({ "prompt": "x", "best_of": 2 }), "best_of"),
        (PLAIN, json!({ "prompt": "x", "echo": true }), "echo"),
        (PLAIN, json!({ "prompt": "x", "suffix": "text" }), "suffix"),
        (PLAIN, json!({ "prompt": ["x", "y"] }), "prompt"),
        (PLAIN, json!({ "prompt": [4_000_000_000u32] }), "prompt"),
        (PLAIN, json!({ "prompt": "" }), "prompt"),
        (PLAIN, hi(), "messages"),
        ("/tokenize", json!({}), "prompt"),
    ];
    for (path, body, param) in cases {
        let shown: String = body.to_string().chars().take(200).collect();
        assert_eq!(error(&server.post(path, &body), 400), param, "{shown}");
    }
    // What asks for nothing is no reason to refuse.
    let neutral = json!({
        "n": 1, "logprobs": false, "tools": [], "response_format": { "type": "text" }, "logit_bias": {}, "presence_penalty": 0,
        "tool_choice": "none", "user": "me", "max_tokens": 2, "stop": null
    });
    server.chat(&with(hi(), neutral));
    assert_eq!(error(&server.post(CHAT, &with(hi(), json!({ "model": "gpt" }))), 404), "model");
    for body in [&b"{"[..], b"", b"[]", b"{} {}", b"\xff"] {
        error(&server.send("POST", CHAT, JSON, body), 400);
    }
    error(&server.send("POST", CHAT, "Content-Type: text/plain\r\n", b"{}"), 415);
    error(&server.get("/nowhere"), 404);
    error(&server.get("/v1/models/other"), 404);
    error(&server.get(CHAT), 405);
    let large = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{JSON}Content-Length: {}\r\n\r\n",
        51 << 20
    );
    let mut bytes = Vec::new();
    server.open(large.as_bytes()).read_to_end(&mut bytes).unwrap();
    error(&reply(&bytes), 413);
    assert_eq!(error(&chunked_flood(&server), 413), Value::Null);
    assert!(server.metric("osprey:requests_refused_total") > 40.0);
}

/// A bitmap of 40 bytes that says it has 3,600 megapixels.
fn bomb() -> Vec<u8> {
    let mut file = b"BM".to_vec();
    file.extend(
        [[54u32, 0, 54, 40, 60_000, 60_000].map(u32::to_le_bytes).concat(), vec![1, 0, 24, 0], vec![0; 24]].concat(),
    );
    file
}

/// Sends a body of no stated length until the server has enough.
fn chunked_flood(server: &Server) -> Reply {
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n"
    );
    let mut stream = server.open(head.as_bytes());
    let chunk = [b"100000\r\n".as_slice(), &vec![b' '; 1 << 20], b"\r\n"].concat();
    // Exactly one byte too many: nothing is left unread that would reset the connection before the answer is read.
    (0..50).for_each(|_| stream.write_all(&chunk).unwrap());
    stream.write_all(b"1\r\n \r\n").unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    reply(&bytes)
}

#[test]
fn a_key_covers_every_route_but_those_of_probes() {
    let server = Server::start(&["--api-key", "secret-key"]);
    let routes: Value = serde_json::from_str(include_str!("../src/server/openapi.json")).unwrap();
    let paths = routes["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 10);
    for (path, methods) in paths {
        let method = methods.as_object().unwrap().keys().next().unwrap().to_uppercase();
        let path = path.replace("{id}", "demo");
        let status = |headers: &str| server.send(&method, &path, &format!("{headers}{JSON}"), b"{}");
        let inside = |reply: Reply| assert!(![401, 404, 405].contains(&reply.status), "{path}: {reply:?}");
        if ["/health", "/ready"].contains(&&path[..]) {
            assert_eq!(status("").status, 200);
            continue;
        }
        for wrong in
            ["", "Authorization: Bearer secret-kez\r\n", "Authorization: Bearer \r\n", "Authorization: secret-key\r\n"]
        {
            let reply = status(wrong);
            error(&reply, 401);
            assert_eq!(reply.headers["www-authenticate"], "Bearer");
        }
        inside(status("Authorization: Bearer secret-key\r\n"));
        inside(status("authorization: bearer secret-key\r\n"));
    }
    error(&server.get("/nowhere"), 401);
}

#[test]
fn only_its_own_names_and_pages_reach_a_local_server() {
    let send = |server: &Server, host: &str, more: &str| {
        let head = format!("GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n");
        let mut bytes = Vec::new();
        server.open(head.as_bytes()).read_to_end(&mut bytes).unwrap();
        reply(&bytes)
    };
    let server = Server::start(&["--allowed-host", "osprey.test"]);
    let own = format!("127.0.0.1:{}", server.port);
    for host in [&own, "localhost", "[::1]:9", "osprey.test"] {
        assert_eq!(send(&server, host, "").status, 200, "{host}");
    }
    for host in ["evil.test", "localhost.evil.test", "", "192.168.0.1"] {
        error(&send(&server, host, ""), 403);
    }
    assert_eq!(send(&server, &own, &format!("Origin: http://{own}\r\n")).status, 200);
    let stranger = send(&server, &own, "Origin: http://evil.test\r\n");
    assert!(error(&stranger, 403).is_null() && stranger.body.contains("--allowed-host"), "{stranger:?}");
    let preflight =
        server.send("OPTIONS", CHAT, "Origin: http://localhost\r\nAccess-Control-Request-Method: POST\r\n", b"");
    assert!((400..500).contains(&preflight.status), "{preflight:?}");
    assert!(!preflight.headers.keys().any(|name| name.starts_with("access-control")), "{preflight:?}");
    let public = Server::start(&["--host", "0.0.0.0", "--insecure"]);
    assert_eq!(send(&public, "any.test", "").status, 200);
    error(&send(&public, "any.test", "Origin: http://evil.test\r\n"), 403);
}

#[test]
fn the_page_needs_no_key_and_nothing_from_elsewhere() {
    let server = Server::start(&["--api-key", "k"]);
    for (path, kind) in [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")] {
        let reply = server.get(path);
        assert_eq!(reply.status, 200, "{path}");
        assert!(reply.headers["content-type"].starts_with(kind), "{reply:?}");
        let policy = &reply.headers["content-security-policy"];
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert!(!reply.body.contains("://") || path == "/page.js", "{path} names another place");
    }
    error(&server.get("/page.html"), 401);
}

#[test]
fn pictures_are_fetched_from_allowed_hosts_with_public_addresses_only() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let here = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let server =
        Server::start(&["--allow-image-host", &format!("http://{here}"), "--allow-image-host", "*.example.org"]);
    let cases = [
        (format!("http://{here}/a.png"), "not public"),
        (format!("http://localhost:{}/a.png", here.port()), "from which pictures are not fetched"),
        ("http://169.254.169.254/latest".into(), "from which pictures are not fetched"),
        ("https://example.org/a.png".into(), "from which pictures are not fetched"),
        ("http://a.example.org/a.png".into(), "from which pictures are not fetched"),
    ];
    for (url, why) in cases {
        let message = json!([{ "role": "user", "content": [image(&url)] }]);
        for path in [CHAT, "/tokenize"] {
            let reply = server.post(path, &json!({ "messages": message }));
            assert_eq!(error(&reply, 400), "messages[0].content[0].image_url");
            assert!(reply.body.contains(why), "{}", reply.body);
        }
    }
    assert!(listener.accept().is_err(), "somebody came");
    let off = Server::start(&[]).post(CHAT, &ask(json!([image("https://example.org/a.png")])));
    assert_eq!(error(&off, 400), "messages[0].content[0].image_url");
    assert!(off.body.contains("are off"), "{}", off.body);
    assert_eq!(call(&["serve", "--allow-image-host", "https://a/b"]).status.code(), Some(2));
}

#[test]
fn a_public_address_needs_a_key() {
    let refused = |args: &[&str], word: &str| {
        let out = call(&[&["serve", "--port", "0"], args].concat());
        let line = String::from_utf8(out.stderr).unwrap();
        assert_eq!((out.status.code(), line.lines().count()), (Some(1), 1), "{line}");
        assert!(line.contains(word), "{line}");
    };
    refused(&["--host", "0.0.0.0"], "--api-key");
    refused(&["--host", "::"], "--api-key");
    refused(&["--host", "0.0.0.0", "--api-key", ""], "--api-key");
    refused(&["--model", "/nowhere"], "/nowhere");
    assert_eq!(Server::start(&["--host", "0.0.0.0", "--api-key", "k"]).get("/health").status, 200);
    assert_eq!(Server::start(&["--host", "0.0.0.0", "--insecure"]).get("/ready").status, 200);
}

#[test]
fn logs_have_ids_and_no_prompts() {
    let server = Server::start(&[]);
    let body = with(ask(json!("a very secret question")), json!({ "max_tokens": 1 })).to_string();
    let own = server.send("POST", CHAT, &format!("{JSON}X-Request-Id: mine-1\r\n"), body.as_bytes());
    assert_eq!(own.headers["x-request-id"], "mine-1");
    let bad = server.send("POST", CHAT, &format!("{JSON}X-Request-Id: a b\r\n"), b"{\"secret\":1}");
    let given = &bad.headers["x-request-id"];
    assert!(given.len() > 16 && !given.contains(' '));
    // The last line that is waited for; the log is read by a thread.
    let start = Instant::now();
    while !server.log().contains(given.as_str()) && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let log = server.log();
    assert!(log.contains("mine-1") && log.contains(given.as_str()) && !log.contains("secret"), "{log}");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let answer = lines.iter().find(|line| line["message"] == "answer").unwrap();
    assert_eq!((&answer["id"], &answer["completion_tokens"]), (&json!("mine-1"), &json!(1)));
}

#[test]
fn metrics_count_what_happened() {
    let server = Server::start(&[]);
    let body = with(ask(json!([image(&example("shapes")), text(QUESTION)])), json!({ "max_tokens": 3 }));
    let usage = server.chat(&body)["usage"].clone();
    server.chat(&body);
    let (read, drawn) = (usage["prompt_tokens"].as_f64().unwrap(), usage["completion_tokens"].as_f64().unwrap());
    assert_eq!(server.metric("vllm:prompt_tokens_total"), 2.0 * read);
    assert_eq!(server.metric("vllm:generation_tokens_total"), 2.0 * drawn);
    assert_eq!(server.metric("vllm:time_to_first_token_seconds_count"), 2.0);
    assert_eq!(server.metric("vllm:inter_token_latency_seconds_count"), 2.0 * (drawn - 1.0));
    assert_eq!(server.metric("vllm:e2e_request_latency_seconds_bucket{model_name=\"demo\",le=\"+Inf\"}"), 2.0);
    assert_eq!(server.metric("vllm:num_requests_waiting"), 0.0);
    // The second time all is known but the last block, of which at least one token is computed.
    let known = (usage["prompt_tokens"].as_u64().unwrap() - 1) / 32 * 32;
    assert!(known > 0);
    assert_eq!(server.metric("vllm:prefix_cache_hits_total"), known as f64);
    assert_eq!(server.metric("vllm:prefix_cache_queries_total"), 2.0 * read);
    assert_eq!(server.metric("vllm:request_queue_time_seconds_count"), 2.0);
    assert_eq!(server.metric("vllm:num_preemptions_total"), 0.0);
}

#[test]
fn metrics_count_tokens_that_were_tried_ahead() {
    let names = ["drafts", "draft_tokens", "accepted_tokens"];
    let counts = |server: &Server| names.map(|name| server.metric(&format!("vllm:spec_decode_num_{name}_total")));
    // Boxes have numbers that come back.
    let point = ask(json!([image(&example("shapes")), text("Point to the red circle.")]));
    let said = |server: &Server, seed: u64| {
        let drawn = json!({ "temperature": 1, "top_k": 0, "top_p": 1, "seed": seed });
        server.chat(&with(point.clone(), drawn))["choices"].clone()
    };
    let (plain, server) = (Server::start(&[]), Server::start(&["--num-speculative-tokens", "3"]));
    (0..8).for_each(|seed| assert_eq!(said(&server, seed), said(&plain, seed)));
    assert_eq!(counts(&plain), [0.0; 3]);
    let [drafts, tried, right] = counts(&server);
    let drawn = server.metric("vllm:generation_tokens_total");
    assert!(0.0 < drafts && drafts < tried && tried <= 3.0 * drafts, "{drafts} {tried}");
    assert!(0.0 < right && right <= tried && drafts + right < drawn, "{drafts} {tried} {right} {drawn}");
}

/// Values that bodies are made of.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..40).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        "[a-z<|>_]{0,12}|\\PC{0,6}".prop_map(Value::from),
        Just(json!("data:image/png;base64,iVBORw0KGgo=")),
        Just(json!("<|image_pad|>")),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let keys = prop::sample::select(vec![
            "role",
            "content",
            "type",
            "text",
            "image_url",
            "url",
            "detail",
            "json",
            "regex",
            "choice",
            "5",
            "x",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(keys, inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

#[test]
fn no_body_is_a_server_error() {
    let server = Server::start(&["--context", "128"]);
    let fields = vec![
        "messages",
        "prompt",
        "model",
        "stream",
        "stream_options",
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "seed",
        "stop",
        "n",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "presence_penalty",
        "tools",
        "tool_choice",
        "response_format",
        "structured_outputs",
        "user",
        "priority",
        "input",
        "instructions",
        "text",
        "metadata",
    ];
    let more = prop::collection::btree_map(prop::sample::select(fields), value(), 0..4).prop_map(|map| json!(map));
    let parts = prop::collection::vec(value(), 0..3);
    let body = (0..3, more, parts).prop_map(|(route, more, parts)| {
        let turns = json!([{ "role": "user", "content": parts }]);
        let (start, path) = match route {
            0 => (json!({ "messages": turns, "max_tokens": 2 }), CHAT),
            1 => (json!({ "input": turns, "max_output_tokens": 2 }), RESPONSES),
            _ => (json!({ "prompt": "x", "max_tokens": 2 }), PLAIN),
        };
        (path, with(start, more))
    });
    let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    runner
        .run(&(body, any::<u16>()), |((path, body), cut)| {
            let text = body.to_string();
            let reply = server.post(path, &body);
            prop_assert!(reply.status < 500, "{text}: {reply:?}");
            // And cut somewhere.
            let bytes = &text.as_bytes()[..usize::from(cut) % text.len()];
            let reply = server.send("POST", path, JSON, bytes);
            prop_assert_eq!(reply.status, 400);
            Ok(())
        })
        .unwrap();
    assert_eq!(server.get("/health").status, 200);
}
