//! `/v1/responses`: the same answers as chats, in other words.

use crate::client::*;
use serde_json::{Value, json};

/// A response that must succeed.
fn respond(server: &Server, body: &Value) -> Value {
    let reply = server.post(RESPONSES, body);
    assert_eq!(reply.status, 200, "{}", reply.body);
    serde_json::from_str(&reply.body).unwrap()
}

/// The events of a stream: each is named as its type, and they are numbered.
fn told(server: &Server, body: &Value) -> Vec<Value> {
    let reply = server.post(RESPONSES, &with(body.clone(), json!({ "stream": true })));
    assert_eq!((reply.status, &reply.headers["content-type"][..]), (200, "text/event-stream"), "{}", reply.body);
    let blocks: Vec<&str> = reply.body.split_terminator("\n\n").collect();
    let event = |(i, block): (usize, &&str)| {
        let (name, data) = block.split_once("\ndata: ").unwrap_or_else(|| panic!("{block}"));
        let event: Value = serde_json::from_str(data).unwrap();
        assert_eq!(
            (name, &event["sequence_number"]),
            (&*format!("event: {}", event["type"].as_str().unwrap()), &json!(i))
        );
        event
    };
    blocks.iter().enumerate().map(event).collect()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    let kinds = events.iter().map(|event| event["type"].as_str().unwrap());
    kinds.map(|kind| kind.strip_prefix("response.").unwrap()).collect()
}

/// Without what is new in every response.
fn lasting(mut response: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|name, _| !["id", "call_id", "created_at", "completed_at"].contains(&&name[..]));
                map.values_mut().for_each(strip);
            }
            Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut response);
    response
}

fn input_image(name: &str) -> Value {
    json!({ "type": "input_image", "image_url": example(name), "detail": "auto" })
}

fn input_text(text: &str) -> Value {
    json!({ "type": "input_text", "text": text })
}

/// One user's message.
fn asked(parts: Value) -> Value {
    json!({ "model": "demo", "input": [{ "role": "user", "content": parts }] })
}

fn star() -> Value {
    asked(json!([input_image("shapes"), input_text(QUESTION)]))
}

fn usage(chat: &Value, cached: u64) -> Value {
    let chat = &chat["usage"];
    json!({ "input_tokens": chat["prompt_tokens"], "input_tokens_details": { "cached_tokens": cached }, "output_tokens": chat["completion_tokens"],
        "output_tokens_details": { "reasoning_tokens": 0 }, "total_tokens": chat["total_tokens"] })
}

#[test]
fn a_response_says_what_a_chat_says() {
    let server = Server::start(&[]);
    let first = respond(&server, &star());
    let chat = server.chat(&ask(json!([image(&example("shapes")), text(QUESTION)])));
    let said = chat["choices"][0]["message"]["content"].as_str().unwrap();
    let message = json!({ "type": "message", "status": "completed", "role": "assistant",
        "content": [{ "type": "output_text", "text": said, "annotations": [], "logprobs": [] }] });
    assert_eq!(
        lasting(first.clone()),
        json!({ "object": "response", "model": "demo", "status": "completed", "error": null, "incomplete_details": null, "output": [message],
            "usage": usage(&chat, 0), "instructions": null, "max_output_tokens": null, "temperature": null, "top_p": null,
            "text": { "format": { "type": "text" } }, "tools": [], "tool_choice": "auto", "parallel_tool_calls": true, "truncation": "disabled",
            "metadata": {}, "user": null, "store": false, "background": false, "previous_response_id": null,
            "reasoning": { "effort": null, "summary": null } })
    );
    let id = |value: &Value, prefix: &str| value["id"].as_str().unwrap().starts_with(prefix);
    assert!(id(&first, "resp_") && id(&first["output"][0], "msg_"), "{first}");
    assert!(first["completed_at"].as_u64() >= first["created_at"].as_u64() && first["created_at"].as_u64() > Some(0));
    // The second time all is known but the last block, of which at least one token is computed.
    let read = first["usage"]["input_tokens"].as_u64().unwrap();
    let known = (read - 1) / 32 * 32;
    assert!(known > 0);
    let repeated = json!({ "metadata": { "a": "b" }, "user": "me", "max_output_tokens": 64, "temperature": 0.5, "top_p": 0.0, "store": false,
        "truncation": "disabled", "parallel_tool_calls": false });
    let again = respond(&server, &with(star(), repeated.clone()));
    assert_eq!((&again["usage"], &lasting(again.clone())["output"]), (&usage(&chat, known), &json!([message])));
    for (name, value) in repeated.as_object().unwrap() {
        assert_eq!(&again[name], value, "{name}");
    }
}

#[test]
fn a_stream_tells_a_response_in_order() {
    let server = Server::start(&[]);
    let body = with(star(), json!({ "instructions": "Be short." }));
    // So that both find the same in the cache.
    respond(&server, &body);
    let whole = respond(&server, &body);
    let events = told(&server, &body);
    let [start @ .., last] = &events[..] else { panic!("{events:?}") };
    let deltas = start.iter().filter(|event| event["type"] == "response.output_text.delta").count();
    assert!(deltas > 0);
    let before = ["created", "in_progress", "output_item.added", "content_part.added"];
    let after = ["output_text.done", "content_part.done", "output_item.done", "completed"];
    let order: Vec<&str> = before.into_iter().chain(vec!["output_text.delta"; deltas]).chain(after).collect();
    assert_eq!(kinds(&events), order);
    for event in &start[..2] {
        let response = &event["response"];
        assert_eq!(
            (&response["status"], &response["output"], &response["usage"]),
            (&json!("in_progress"), &json!([]), &Value::Null)
        );
        assert_eq!((&response["id"], &response["instructions"]), (&last["response"]["id"], &json!("Be short.")));
    }
    assert_eq!(lasting(last["response"].clone()), lasting(whole));
    let item = &last["response"]["output"][0];
    let done = &start[start.len() - 3..];
    let said: String = start.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!((&done[0]["text"], &done[1]["part"], &done[2]["item"]), (&json!(said), &item["content"][0], item));
    assert_eq!(item["content"][0]["text"], said);
    let added =
        json!({ "type": "message", "id": item["id"], "status": "in_progress", "role": "assistant", "content": [] });
    assert_eq!((&start[2]["item"], &start[3]["part"]["text"]), (&added, &json!("")));
    assert!(start[2..].iter().all(|event| event["output_index"] == 0));
    let of_part = start[3..].iter().filter(|event| event["item"].is_null());
    assert!(of_part.clone().count() == deltas + 3);
    assert!(of_part.into_iter().all(|event| event["item_id"] == item["id"] && event["content_index"] == 0));
}

#[test]
fn a_response_that_is_cut_is_incomplete() {
    let server = Server::start(&[]);
    let body = with(star(), json!({ "max_output_tokens": 1 }));
    let whole = respond(&server, &body);
    assert_eq!((&whole["status"], &whole["output"][0]["status"]), (&json!("incomplete"), &json!("incomplete")));
    assert_eq!(whole["incomplete_details"], json!({ "reason": "max_output_tokens" }));
    assert_eq!((&whole["usage"]["output_tokens"], whole.get("completed_at")), (&json!(1), None));
    let events = told(&server, &body);
    assert_eq!(kinds(&events).last(), Some(&"incomplete"));
    assert_eq!(lasting(events.last().unwrap()["response"]["output"].clone()), lasting(whole["output"].clone()));
}

#[test]
fn a_response_that_breaks_off_has_failed() {
    let server = Server::start(&["--timeout-seconds", "1", "--max-num-seqs", "1"]);
    let before = [0; 2].map(|_| server.open(&message("POST", PLAIN, JSON, long(2000).to_string().as_bytes())));
    let events = told(&server, &star());
    assert_eq!([kinds(&events)[0], kinds(&events)[events.len() - 1]], ["created", "failed"]);
    let response = &events.last().unwrap()["response"];
    assert_eq!((&response["status"], &response["error"]["code"]), (&json!("failed"), &json!("server_error")));
    assert!(
        response["error"]["message"].as_str().unwrap().contains("time limit") && response["usage"].is_null(),
        "{response}"
    );
    drop(before);
}

#[test]
fn a_response_has_the_form_that_is_asked_for() {
    let server = Server::start(&[]);
    let schema = json!({ "type": "object", "required": ["n"], "additionalProperties": false,
        "properties": { "n": { "type": "integer", "minimum": 0, "maximum": 99 } } });
    let format = json!({ "type": "json_schema", "name": "x", "strict": true, "schema": schema });
    let body = with(star(), json!({ "text": { "format": format }, "temperature": 20, "max_output_tokens": 200 }));
    let got = respond(&server, &body);
    let value: Value = serde_json::from_str(got["output"][0]["content"][0]["text"].as_str().unwrap()).unwrap();
    assert!(value["n"].as_u64().unwrap() < 100, "{got}");
    assert_eq!(got["text"]["format"], format);
    let body = with(star(), json!({ "text": { "format": { "type": "json_object" } }, "max_output_tokens": 4 }));
    let got = respond(&server, &body);
    assert!(got["output"][0]["content"][0]["text"].as_str().unwrap().starts_with('{'), "{got}");
}

fn tools() -> Value {
    let digit = json!({ "type": "object", "required": ["d"], "additionalProperties": false,
        "properties": { "d": { "type": "integer", "minimum": 0, "maximum": 9 } } });
    json!([
        { "type": "function", "name": "digit", "description": "Takes a digit.", "parameters": digit, "strict": true },
        { "type": "function", "name": "wait", "description": null, "parameters": { "type": "object", "properties": {}, "additionalProperties": false }, "strict": null }
    ])
}

#[test]
fn calls_are_items_of_their_own() {
    let server = Server::start(&[]);
    let named = json!({ "type": "function", "name": "digit" });
    let any = json!("required");
    let mut most = 0;
    let cases = [(&named, true), (&any, true), (&any, false)];
    for (seed, (choice, several)) in (0..4).flat_map(|seed| cases.map(|case| (seed, case))) {
        // Other words for every seed, since responses have none.
        let body = asked(json!([input_image("shapes"), input_text(&format!("Go {seed}"))]));
        let more = json!({ "tools": tools(), "tool_choice": choice, "parallel_tool_calls": several, "temperature": 20, "max_output_tokens": 400 });
        let body = with(body, more);
        respond(&server, &body);
        let got = respond(&server, &body);
        assert_eq!(
            (&got["status"], &got["tools"], &got["tool_choice"]),
            (&json!("completed"), &tools(), choice),
            "{got}"
        );
        let calls = got["output"].as_array().unwrap();
        assert!(!calls.is_empty() && (calls.len() == 1 || several && *choice == any), "{got}");
        most = most.max(calls.len());
        for call in calls {
            let has = |name: &str, prefix: &str| call[name].as_str().unwrap().starts_with(prefix);
            assert!(has("id", "fc_") && has("call_id", "call_") && call["type"] == "function_call", "{call}");
            let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
            match call["name"].as_str().unwrap() {
                "digit" => assert!(arguments["d"].as_u64().unwrap() < 10, "{call}"),
                name => assert_eq!((name, arguments), ("wait", json!({}))),
            }
        }
        let events = told(&server, &body);
        let one =
            ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"];
        let order = ["created", "in_progress"].into_iter().chain(vec![one; calls.len()].concat()).chain(["completed"]);
        assert_eq!(kinds(&events), order.collect::<Vec<_>>());
        let response = &events.last().unwrap()["response"];
        assert_eq!(lasting(response.clone()), lasting(got.clone()));
        for (i, events) in events[2..events.len() - 1].chunks(4).enumerate() {
            let item = &response["output"][i];
            assert!(events.iter().all(|event| event["output_index"] == i), "{events:?}");
            assert_eq!((&events[1]["item_id"], &events[1]["delta"]), (&item["id"], &item["arguments"]));
            assert_eq!((&events[2]["item_id"], &events[2]["arguments"]), (&item["id"], &item["arguments"]));
            let added = with(item.clone(), json!({ "arguments": "", "status": "in_progress" }));
            assert_eq!((&events[0]["item"], &events[3]["item"]), (&added, item));
        }
    }
    assert!(most > 1, "several calls were never made");
}

/// What a response gave can be given back, and is read as a chat's turns are.
#[test]
fn items_are_the_turns_of_a_chat() {
    let server = Server::start(&[]);
    let call = |id: &str, arguments: &str| json!({ "type": "function_call", "id": "fc_1", "call_id": id, "name": "digit", "arguments": arguments, "status": "completed", "parsed_arguments": {} });
    let result = |id: &str, output: Value| json!({ "type": "function_call_output", "call_id": id, "output": output });
    let said = json!([{ "type": "output_text", "text": "So:", "annotations": [], "logprobs": [], "parsed": null }]);
    let input = json!([
        { "role": "developer", "content": "Be brief." },
        { "type": "message", "role": "user", "content": [input_image("shapes"), input_text("Go.")] },
        { "type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": said },
        call("a", "{\"d\":4}"),
        call("b", "{\"d\":5}"),
        result("a", json!("four")),
        result("b", json!([input_text("five")])),
        call("c", "{\"d\":6}"),
        result("c", json!("six")),
    ]);
    let called = |id: &str, arguments: &str| json!({ "id": id, "type": "function", "function": { "name": "digit", "arguments": arguments } });
    let tool = |id: &str, text: &str| json!({ "role": "tool", "tool_call_id": id, "content": text });
    let messages = json!([
        { "role": "system", "content": "Be kind." },
        { "role": "system", "content": "Be brief." },
        { "role": "user", "content": [image(&example("shapes")), text("Go.")] },
        { "role": "assistant", "content": "So:", "tool_calls": [called("a", "{\"d\":4}"), called("b", "{\"d\":5}")] },
        tool("a", "four"),
        tool("b", "five"),
        { "role": "assistant", "tool_calls": [called("c", "{\"d\":6}")] },
        tool("c", "six"),
    ]);
    let chat_tools: Vec<Value> = tools()
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| {
            let mut function = tool.clone();
            function.as_object_mut().unwrap().remove("type");
            json!({ "type": "function", "function": function })
        })
        .collect();
    let more = json!({ "instructions": "Be kind.", "tools": tools(), "tool_choice": "auto" });
    let got = respond(
        &server,
        &with(json!({ "input": input }), with(more, json!({ "max_output_tokens": 12, "temperature": 0 }))),
    );
    let chat = server.chat(&json!({ "messages": messages, "tools": chat_tools, "max_tokens": 12, "temperature": 0 }));
    assert_eq!(got["usage"]["input_tokens"], chat["usage"]["prompt_tokens"]);
    assert_eq!(got["output"][0]["content"][0]["text"], chat["choices"][0]["message"]["content"]);
    // All of the prompt that the two share is in the cache: it is the same one.
    let again = respond(
        &server,
        &with(
            json!({ "input": input }),
            json!({ "instructions": "Be kind.", "tools": tools(), "max_output_tokens": 1 }),
        ),
    );
    let read = again["usage"]["input_tokens"].as_u64().unwrap();
    assert_eq!(again["usage"]["input_tokens_details"]["cached_tokens"], (read - 1) / 32 * 32);
    assert_eq!(server.metric("vllm:prefix_cache_hits_total"), 2.0 * ((read - 1) / 32 * 32) as f64);
}

#[test]
fn what_a_response_cannot_be_is_refused_by_its_own_names() {
    let server = Server::start(&["--context", "600"]);
    let item = |item: Value| json!({ "input": [{ "role": "user", "content": "x" }, item] });
    let piece = |piece: Value| item(json!({ "role": "user", "content": [input_text("a"), piece] }));
    let call =
        |arguments: &str| json!({ "type": "function_call", "call_id": "c", "name": "f", "arguments": arguments });
    let format = |format: Value| json!({ "text": { "format": format } });
    let tool = |tool: Value| json!({ "tools": [with(json!({ "type": "function" }), tool)] });
    let large = "x".repeat(70_000);
    let cases = [
        (json!({ "store": true }), "store"),
        (json!({ "previous_response_id": "resp_1" }), "previous_response_id"),
        (json!({ "conversation": "conv_1" }), "conversation"),
        (json!({ "background": true }), "background"),
        (json!({ "prompt": { "id": "pmpt_1" } }), "prompt"),
        (json!({ "include": ["message.output_text.logprobs"] }), "include"),
        (json!({ "reasoning": { "effort": "high" } }), "reasoning"),
        (json!({ "text": { "verbosity": "low" } }), "text.verbosity"),
        (json!({ "top_logprobs": 2 }), "top_logprobs"),
        (json!({ "max_tool_calls": 2 }), "max_tool_calls"),
        (json!({ "truncation": "auto" }), "truncation"),
        (json!({ "metadata": { "a": 1 } }), "metadata"),
        (json!({ "metadata": [] }), "metadata"),
        (json!({ "messages": [] }), "messages"),
        (json!({ "max_tokens": 3 }), "max_tokens"),
        (json!({ "max_output_tokens": 0 }), "max_output_tokens"),
        (json!({ "max_output_tokens": 600 }), "max_output_tokens"),
        (json!({ "temperature": -1 }), "temperature"),
        (json!({ "top_p": 2 }), "top_p"),
        (json!({ "input": null }), "input"),
        (json!({ "input": [] }), "input"),
        (json!({ "input": "word ".repeat(3000) }), "input"),
        (json!({ "input": "x", "instructions": "word ".repeat(3000) }), "input"),
        (item(json!({ "type": "item_reference", "id": "msg_1" })), "input[1]"),
        (item(json!({ "type": "reasoning", "summary": [] })), "input[1].type"),
        (item(json!({ "role": "tool", "content": "x" })), "input[1]"),
        (item(json!({ "role": "user" })), "input[1]"),
        (item(json!({ "role": "user", "content": "x", "output": "x" })), "input[1]"),
        (item(json!({ "type": "function_call", "name": "f", "arguments": "{}" })), "input[1]"),
        (item(json!({ "type": "function_call_output", "output": "x" })), "input[1]"),
        (item(call("[1]")), "input[1].arguments"),
        (json!({ "input": [{ "role": "assistant", "content": "x" }, call("{}"), call("x")] }), "input[2].arguments"),
        (piece(json!({ "type": "input_file", "file_id": "x" })), "input[1].content[1].type"),
        (piece(json!({ "type": "input_image", "file_id": "x" })), "input[1].content[1].file_id"),
        (piece(json!({ "type": "input_image" })), "input[1].content[1]"),
        (piece(json!({ "type": "input_text", "image_url": "data:" })), "input[1].content[1]"),
        (piece(with(input_image("digit"), json!({ "detail": "low" }))), "input[1].content[1].detail"),
        (
            piece(json!({ "type": "input_image", "image_url": "https://example.org/a.png" })),
            "input[1].content[1].image_url",
        ),
        (
            piece(json!({ "type": "input_image", "image_url": data_url("png", b"no picture") })),
            "input[1].content[1].image_url",
        ),
        (
            item(json!({ "type": "function_call_output", "call_id": "c", "output": [input_image("digit")] })),
            "input[1].output",
        ),
        (format(json!({ "type": "xml" })), "text.format.type"),
        (format(json!({ "type": "json_schema", "name": "x" })), "text.format.schema"),
        (format(json!({ "type": "json_schema", "name": "x", "schema": { "type": "strange" } })), "text.format.schema"),
        (format(json!({ "type": "text", "schema": {} })), "text.format"),
        (tool(json!({ "name": "a b" })), "tools[0].name"),
        (tool(json!({ "name": "f", "parameters": { "const": large } })), "tools[0].parameters.const"),
        (json!({ "tools": [{ "type": "web_search" }] }), "tools[0].type"),
        (json!({ "tool_choice": "required" }), "tool_choice"),
        (json!({ "tools": tools(), "tool_choice": { "type": "function", "name": "other" } }), "tool_choice"),
        (
            json!({ "tools": tools(), "tool_choice": { "type": "allowed_tools", "mode": "auto", "tools": [] } }),
            "tool_choice.type",
        ),
    ];
    for (more, param) in cases {
        let shown: String = more.to_string().chars().take(200).collect();
        let reply = server.post(RESPONSES, &with(json!({ "input": "hi" }), more));
        assert_eq!(error(&reply, 400), param, "{shown} {}", reply.body);
        assert!(reply.body.contains(&format!("\"message\":\"{param}: ")), "{}", reply.body);
    }
    let stored = server.post(RESPONSES, &json!({ "input": "hi", "previous_response_id": "resp_1" }));
    assert!(stored.body.contains("nothing is stored"), "{}", stored.body);
    assert_eq!(error(&server.post(RESPONSES, &json!({ "input": "hi", "model": "gpt" })), 404), "model");
    // What asks for nothing is no reason to refuse.
    let neutral = json!({ "store": false, "background": false, "previous_response_id": null, "include": [], "tools": [], "truncation": null,
        "reasoning": { "effort": null }, "text": { "format": { "type": "text" } }, "service_tier": "auto", "max_output_tokens": 2,
        "stream_options": { "include_obfuscation": false }, "prompt_cache_key": "k", "safety_identifier": "s" });
    respond(&server, &with(json!({ "input": "hi" }), neutral));
}
