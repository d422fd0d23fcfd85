//! What requests ask of their answers: probabilities, penalties, forms and calls.

use crate::client::*;
use regex::Regex;
use serde_json::{Value, json};

fn star() -> Value {
    with(ask(json!([image(&example("shapes")), text("What color is the star?")])), json!({ "max_tokens": 32 }))
}

fn said(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

/// The text of an answer in pieces, and all entries of its log probabilities.
fn streamed(server: &Server, body: &Value) -> (String, Vec<Value>) {
    let events = server.stream(CHAT, &with(body.clone(), json!({ "stream": true })));
    let choices = || events.iter().map(|event| &event["choices"][0]);
    let entries = choices().filter_map(|choice| choice["logprobs"]["content"].as_array()).flatten().cloned();
    (choices().filter_map(|choice| choice["delta"]["content"].as_str()).collect(), entries.collect())
}

#[test]
fn log_probabilities_come_with_the_text_they_are_of() {
    let server = Server::start(&[]);
    let body = with(star(), json!({ "logprobs": true, "top_logprobs": 3 }));
    let got = server.chat(&body);
    let entries = got["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(got["choices"][0]["finish_reason"], "stop");
    assert_eq!(entries.len() as u64 + 1, got["usage"]["completion_tokens"].as_u64().unwrap(), "the end has none");
    let bytes: Vec<u8> =
        entries.iter().flat_map(|e| e["bytes"].as_array().unwrap()).map(|b| b.as_u64().unwrap() as u8).collect();
    assert_eq!(String::from_utf8(bytes).unwrap(), said(&got));
    for entry in entries {
        let top = entry["top_logprobs"].as_array().unwrap();
        assert_eq!(
            (&top[0]["token"], &top[0]["logprob"], top.len()),
            (&entry["token"], &entry["logprob"], 3),
            "greedy"
        );
        let p: Vec<f64> = top.iter().map(|t| t["logprob"].as_f64().unwrap().exp()).collect();
        assert!(p.is_sorted_by(|a, b| a >= b) && p.iter().sum::<f64>() <= 1.0 + 1e-6, "{p:?}");
    }
    let (words, again) = streamed(&server, &body);
    assert_eq!((&words[..], &again), (said(&got), entries));
    // What a stop string cuts off has no entry.
    let cut = with(body, json!({ "stop": &said(&got)[1..] }));
    let (words, again) = streamed(&server, &cut);
    assert_eq!((&words[..], &again[..]), (&said(&got)[..1], &entries[..1]));
    assert_eq!(server.chat(&star())["choices"][0]["logprobs"], Value::Null);
}

#[test]
fn log_probabilities_of_a_text_are_lists() {
    let server = Server::start(&[]);
    let body = with(long(9), json!({ "logprobs": 2, "stream": false }));
    let read = |choice: &Value| {
        let logprobs = &choice["logprobs"];
        ["tokens", "token_logprobs", "top_logprobs", "text_offset"]
            .map(|name| logprobs[name].as_array().unwrap().clone())
    };
    let reply = server.post(PLAIN, &body);
    let got: Value = serde_json::from_str(&reply.body).unwrap();
    let choice = &got["choices"][0];
    let lists @ [tokens, values, tops, offsets] = &read(choice);
    let words: Vec<&str> = tokens.iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!(words.concat(), choice["text"].as_str().unwrap());
    for (i, word) in words.iter().enumerate() {
        assert_eq!(offsets[i], words[..i].concat().chars().count());
        assert_eq!(tops[i][word], values[i], "what was drawn is listed");
        assert!((2..=3).contains(&tops[i].as_object().unwrap().len()), "{}", tops[i]);
    }
    assert!(words.len() == 9 && words.iter().any(|word| word.len() > 1), "{words:?}");
    let alone = server.post(PLAIN, &with(body.clone(), json!({ "logprobs": 0, "seed": 1, "temperature": 3 })));
    let alone: Value = serde_json::from_str(&alone.body).unwrap();
    let [words, values, tops, _] = &read(&alone["choices"][0]);
    let same =
        |i: usize| tops[i].as_object().unwrap().iter().eq([(&words[i].as_str().unwrap().to_string(), &values[i])]);
    assert!((0..words.len()).all(same), "{alone}");
    let mut all: [Vec<Value>; 4] = Default::default();
    for event in server.stream(PLAIN, &with(body, json!({ "stream": true }))) {
        if event["choices"][0]["logprobs"].is_object() {
            all.iter_mut().zip(read(&event["choices"][0])).for_each(|(all, some)| all.extend(some));
        }
    }
    assert_eq!(&all, lists);
}

#[test]
fn biases_and_penalties_change_what_is_said() {
    let server = Server::start(&[]);
    let plain = server.chat(&star());
    let first = server.chat(&with(star(), json!({ "logprobs": true })));
    let token = first["choices"][0]["logprobs"]["content"][0]["token"].clone();
    let tokens = server.post("/tokenize", &json!({ "prompt": token }));
    let id = serde_json::from_str::<Value>(&tokens.body).unwrap()["tokens"][0].to_string();
    let biased = |bias: i32| server.chat(&with(star(), json!({ "logit_bias": { &id: bias }, "max_tokens": 4 })));
    assert_ne!(said(&biased(-100)), said(&plain));
    assert_eq!(said(&biased(100)), token.as_str().unwrap().repeat(4));
    // A second token of the same kind costs what the bias gives.
    let once = |name: &str| json!({ "logit_bias": { &id: 100 }, "max_tokens": 200, name: 2 });
    let count = |name: &str| said(&server.chat(&with(star(), once(name)))).matches(token.as_str().unwrap()).count();
    assert_eq!(count("presence_penalty"), 200);
    let drawn = |penalty: i32| {
        let drawn = json!({ "temperature": 1, "repetition_penalty": 1, "logit_bias": { "1130": -100, "1132": -100 } });
        let body = with(with(long(40), drawn), json!({ "stream": false, "presence_penalty": penalty }));
        serde_json::from_str::<Value>(&server.post(PLAIN, &body).body).unwrap()["choices"][0]["text"].clone()
    };
    assert_ne!(drawn(2), drawn(0));
    assert!((2..150).contains(&count("frequency_penalty")));
}

#[test]
fn answers_have_the_form_that_is_asked_for() {
    let server = Server::start(&[]);
    let schema = json!({ "type": "object", "required": ["color", "n"], "additionalProperties": false,
        "properties": { "n": { "type": "integer", "minimum": 0, "maximum": 99 }, "color": { "enum": ["red", "green"] } } });
    let strict = json!({ "type": "json_schema", "json_schema": { "name": "x", "strict": true, "schema": schema } });
    let hot = |seed: u64, form: Value| {
        with(star(), with(form, json!({ "temperature": 50, "seed": seed, "max_tokens": 300 })))
    };
    let whole = Regex::new("^[a-c]{2,4}-\\d$").unwrap();
    for seed in 0..8 {
        let body = hot(seed, json!({ "response_format": strict }));
        let got = server.chat(&body);
        let value: Value = serde_json::from_str(said(&got)).unwrap_or_else(|e| panic!("{e}: {got}"));
        assert!(
            value["n"].as_u64().unwrap() < 100 && ["red", "green"].contains(&value["color"].as_str().unwrap()),
            "{got}"
        );
        assert_eq!((value.as_object().unwrap().len(), &got["choices"][0]["finish_reason"]), (2, &json!("stop")));
        assert_eq!(streamed(&server, &body).0, said(&got));
        let got = server.chat(&hot(seed, json!({ "structured_outputs": { "regex": "[a-c]{2,4}-\\d" } })));
        assert!(whole.is_match(said(&got)), "{got}");
        let got = server.chat(&hot(seed, json!({ "structured_outputs": { "choice": ["yes", "no"] } })));
        assert!(["yes", "no"].contains(&said(&got)), "{got}");
        let body = with(hot(seed, json!({ "structured_outputs": { "json": schema } })), json!({ "prompt": "x" }));
        let mut body = body;
        body.as_object_mut().unwrap().remove("messages");
        let reply: Value = serde_json::from_str(&server.post(PLAIN, &body).body).unwrap();
        let value: Value = serde_json::from_str(reply["choices"][0]["text"].as_str().unwrap())
            .unwrap_or_else(|e| panic!("{e}: {reply}"));
        assert!(value["color"].is_string(), "{reply}");
    }
    let got = server.chat(&with(star(), json!({ "response_format": { "type": "json_object" }, "max_tokens": 200 })));
    let whole = got["choices"][0]["finish_reason"] == "stop";
    assert!(said(&got).starts_with('{') && serde_json::from_str::<Value>(said(&got)).is_ok() == whole, "{got}");
}

fn tools() -> Value {
    let digit = json!({ "type": "object", "required": ["d"], "additionalProperties": false,
        "properties": { "d": { "type": "integer", "minimum": 0, "maximum": 9 } } });
    json!([
        { "type": "function", "function": { "name": "digit", "description": "Takes a digit.", "parameters": digit, "strict": true } },
        { "type": "function", "function": { "name": "wait", "parameters": { "type": "object", "properties": {}, "additionalProperties": false } } }
    ])
}

#[test]
fn calls_that_must_be_made_are_made() {
    let server = Server::start(&[]);
    let named = json!({ "type": "function", "function": { "name": "digit" } });
    let any = json!("required");
    let cases = [(&named, true, "stop"), (&any, true, "tool_calls"), (&any, false, "tool_calls")];
    let mut most = 0;
    for (seed, (choice, several, finish)) in (0..12).flat_map(|seed| cases.map(|case| (seed, case))) {
        let more = json!({ "tools": tools(), "tool_choice": choice, "parallel_tool_calls": several, "temperature": 20, "seed": seed,
            "max_tokens": 400 });
        let body = with(star(), more);
        let got = server.chat(&body);
        let (message, why) = (&got["choices"][0]["message"], &got["choices"][0]["finish_reason"]);
        assert_eq!((&message["content"], why), (&Value::Null, &json!(finish)), "{got}");
        let calls = message["tool_calls"].as_array().unwrap();
        assert!(calls.len() == 1 || several && *choice == any, "{got}");
        most = most.max(calls.len());
        for call in calls {
            assert!(call["id"].as_str().unwrap().starts_with("call_") && call["type"] == "function", "{call}");
            let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
            match call["function"]["name"].as_str().unwrap() {
                "digit" => assert!(arguments["d"].as_u64().unwrap() < 10, "{call}"),
                name => assert_eq!((name, arguments), ("wait", json!({}))),
            }
        }
        let events = server.stream(CHAT, &with(body, json!({ "stream": true })));
        assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], finish);
        let deltas = events.iter().filter_map(|event| event["choices"][0]["delta"]["tool_calls"].as_array()).flatten();
        let again: Vec<&Value> = deltas.collect();
        let functions = |calls: Vec<&Value>| calls.iter().map(|call| call["function"].clone()).collect::<Vec<_>>();
        assert_eq!(functions(again.clone()), functions(calls.iter().collect()));
        assert!(again.iter().enumerate().all(|(i, call)| call["index"] == i && call["id"].is_string()), "{again:?}");
    }
    assert!(most > 1, "several calls were never made");
    // A schema need not say that arguments are an object; and a call that is cut off is text.
    let free = json!([{ "type": "function", "function": { "name": "free", "parameters": { "minProperties": 1 } } }]);
    let got = server
        .chat(&with(star(), json!({ "tools": free, "tool_choice": "required", "max_tokens": 40, "temperature": 20 })));
    assert!(said(&got).starts_with("<tool_call>\n{\"name\": \"free\", \"arguments\": {"), "{got}");
}

/// Turns with calls and results are those that Qwen2.5's template would write (`tokenizer_config.json` of Qwen/Qwen2.5-7B-Instruct).
#[test]
fn calls_and_results_are_told_as_the_family_knows_them() {
    let server = Server::start(&[]);
    let ids = |messages: Value| {
        let reply = server.post("/tokenize", &json!({ "messages": messages }));
        assert_eq!(reply.status, 200, "{}", reply.body);
        serde_json::from_str::<Value>(&reply.body).unwrap()["tokens"].clone()
    };
    let call = |name: &str, arguments: &str| json!({ "id": "c", "type": "function", "function": { "name": name, "arguments": arguments } });
    let result = |text: &str| json!({ "role": "tool", "tool_call_id": "c", "content": text });
    let calls = json!([call("digit", "{\"d\":[4,5],\"a\":\"\u{e9}\"}"), call("wait", "")]);
    let told = json!([
        { "role": "user", "content": "Go." },
        { "role": "assistant", "content": "So:", "tool_calls": calls },
        result("four"),
        result("done"),
        { "role": "assistant", "content": null, "tool_calls": [call("wait", "{}")] },
        result("x"),
    ]);
    let written = json!([
        { "role": "user", "content": "Go." },
        { "role": "assistant", "content": "So:\n<tool_call>\n{\"name\": \"digit\", \"arguments\": {\"d\": [4, 5], \"a\": \"\u{e9}\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"wait\", \"arguments\": {}}\n</tool_call>" },
        { "role": "user", "content": "<tool_response>\nfour\n</tool_response>\n<tool_response>\ndone\n</tool_response>" },
        { "role": "assistant", "content": "<tool_call>\n{\"name\": \"wait\", \"arguments\": {}}\n</tool_call>" },
        { "role": "user", "content": "<tool_response>\nx\n</tool_response>" },
    ]);
    assert_eq!(ids(told), ids(written));
    // The signatures stand behind the system prompt.
    let signatures = "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"digit\", \"description\": \"Takes a digit.\", \"parameters\": {\"type\": \"object\", \"required\": [\"d\"], \"additionalProperties\": false, \"properties\": {\"d\": {\"type\": \"integer\", \"minimum\": 0, \"maximum\": 9}}}}}\n{\"type\": \"function\", \"function\": {\"name\": \"wait\", \"parameters\": {\"type\": \"object\", \"properties\": {}, \"additionalProperties\": false}}}\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>";
    let user = json!({ "role": "user", "content": "Hi" });
    // Equal probabilities are those of equal prompts.
    let read = |body: Value| {
        let more = json!({ "max_tokens": 2, "logprobs": true, "top_logprobs": 20, "logit_bias": { "1130": -100, "1132": -100 } });
        let got = server.chat(&with(body, more));
        assert_eq!(got["choices"][0]["logprobs"]["content"].as_array().unwrap().len(), 2, "no end is drawn");
        (got["usage"].clone(), got["choices"][0]["logprobs"].clone())
    };
    for (system, text) in [(None, "You are a helpful assistant."), (Some("Be short."), "Be short.")] {
        let own = system.map(|text| json!({ "role": "system", "content": text }));
        let with_tools: Vec<Value> = own.into_iter().chain([user.clone()]).collect();
        let by_hand = json!([{ "role": "system", "content": format!("{text}{signatures}") }, user]);
        assert_eq!(read(json!({ "messages": with_tools, "tools": tools() })), read(json!({ "messages": by_hand })));
        let without = read(json!({ "messages": with_tools, "tools": tools(), "tool_choice": "none" }));
        assert_eq!(without, read(json!({ "messages": with_tools })));
    }
}

#[test]
fn what_cannot_be_followed_is_refused_by_name() {
    let server = Server::start(&["--context", "600"]);
    let schema = |schema: Value| json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "x", "schema": schema } } });
    let regex = |regex: &str| json!({ "structured_outputs": { "regex": regex } });
    let tool = |function: Value| json!({ "tools": [{ "type": "function", "function": function }] });
    let many: serde_json::Map<String, Value> = (0..1025).map(|i| (i.to_string(), json!(1))).collect();
    let large = "x".repeat(70_000);
    const AT: &str = "response_format.json_schema.schema";
    let cases = [
        (json!({ "logprobs": 3 }), "logprobs"),
        (json!({ "top_logprobs": 3 }), "top_logprobs"),
        (json!({ "logprobs": true, "top_logprobs": 21 }), "top_logprobs"),
        (json!({ "logprobs": true, "top_logprobs": -1 }), "top_logprobs"),
        (json!({ "logit_bias": { "5": 101 } }), "logit_bias"),
        (json!({ "logit_bias": { "99999999": 1 }, "stream": true }), "logit_bias"),
        (json!({ "logit_bias": { "the": 1 } }), "logit_bias"),
        (json!({ "logit_bias": many }), "logit_bias"),
        (json!({ "presence_penalty": 2.5 }), "presence_penalty"),
        (json!({ "frequency_penalty": -2.5 }), "frequency_penalty"),
        (json!({ "response_format": { "type": "xml" } }), "response_format.type"),
        (json!({ "response_format": { "type": "json_schema" } }), AT),
        (
            json!({ "response_format": { "type": "text", "json_schema": { "name": "x" } } }),
            "response_format.json_schema",
        ),
        (schema(json!({ "type": "strange" })), AT),
        (schema(json!([])), AT),
        (schema(json!({ "const": large })), "response_format.json_schema.schema.const"),
        (regex("("), "structured_outputs.regex"),
        (regex(&large), "structured_outputs.regex"),
        (json!({ "structured_outputs": { "choice": [] } }), "structured_outputs.choice"),
        (json!({ "structured_outputs": { "choice": ["a"], "regex": "a" } }), "structured_outputs"),
        (json!({ "structured_outputs": { "grammar": "root ::= x" } }), "structured_outputs.grammar"),
        (with(regex("a"), json!({ "response_format": { "type": "json_object" } })), "structured_outputs"),
        (with(regex("a"), tool(json!({ "name": "f" }))), "structured_outputs.regex"),
        (tool(json!({ "name": "a b" })), "tools[0].function.name"),
        (tool(json!({ "name": "f", "parameters": { "const": large } })), "tools[0].function.parameters.const"),
        (json!({ "tools": [tools()[0], tools()[0]] }), "tools[1].function.name"),
        (json!({ "tool_choice": "required" }), "tool_choice"),
        (json!({ "tools": tools(), "tool_choice": "always" }), "tool_choice"),
        (
            json!({ "tools": tools(), "tool_choice": { "type": "function", "function": { "name": "other" } } }),
            "tool_choice",
        ),
        (
            with(
                tool(json!({ "name": "f", "parameters": { "type": "strange" } })),
                json!({ "tool_choice": "required" }),
            ),
            "tools",
        ),
    ];
    for (more, param) in cases {
        let shown: String = more.to_string().chars().take(200).collect();
        let reply = server.post(CHAT, &with(ask(json!("hi")), more));
        assert_eq!(error(&reply, 400), param, "{shown} {}", reply.body);
    }
    let call = |arguments: &str| json!([{ "type": "function", "function": { "name": "f", "arguments": arguments } }]);
    let turns = [
        (json!({ "role": "tool", "content": "x" }), "messages[0].tool_call_id"),
        (json!({ "role": "judge", "content": "x" }), "messages[0].role"),
        (json!({ "role": "user", "content": "x", "tool_calls": call("{}") }), "messages[0].tool_calls"),
        (json!({ "role": "user", "content": "x", "tool_call_id": "c" }), "messages[0].tool_call_id"),
        (json!({ "role": "assistant" }), "messages[0].content"),
        (json!({ "role": "assistant", "tool_calls": call("[1]") }), "messages[0].tool_calls[0].function.arguments"),
        (json!({ "role": "tool", "tool_call_id": "c", "content": [image(&example("digit"))] }), "messages[0].content"),
    ];
    for (turn, param) in turns {
        let reply = server.post(CHAT, &json!({ "messages": [turn] }));
        assert_eq!(error(&reply, 400), param, "{turn} {}", reply.body);
    }
    let plain = |more: Value| error(&server.post(PLAIN, &with(json!({ "prompt": "x" }), more)), 400);
    assert_eq!(plain(json!({ "logprobs": true })), "logprobs");
    assert_eq!(plain(json!({ "logprobs": 21 })), "logprobs");
    assert_eq!(plain(json!({ "top_logprobs": 2 })), "top_logprobs");
    assert_eq!(plain(json!({ "tools": tools() })), "tools");
    // What only the engine knows is refused before a stream begins.
    for stream in [false, true] {
        assert_eq!(plain(json!({ "prompt": [1_000_000_000], "stream": stream })), "prompt");
    }
    server.until("vllm:request_success_total{model_name=\"demo\",finished_reason=\"error\"}", 2.0);
}

#[test]
fn several_answers_are_those_of_their_seeds() {
    // Tokens that are tried ahead change nothing.
    for more in [&[][..], &["--num-speculative-tokens", "3"]] {
        let server = Server::start(more);
        let body = with(star(), json!({ "temperature": 3, "top_k": 0, "top_p": 1, "max_tokens": 24, "seed": 5 }));
        let alone = [5, 6, 7].map(|seed| said(&server.chat(&with(body.clone(), json!({ "seed": seed })))).to_string());
        assert!(alone[0] != alone[1] && alone[1] != alone[2], "{alone:?}");
        let three = with(body, json!({ "n": 3 }));
        let got = server.chat(&three);
        let choices = got["choices"].as_array().unwrap();
        let texts: Vec<&str> = choices.iter().map(|c| c["message"]["content"].as_str().unwrap()).collect();
        assert_eq!(texts, alone);
        assert_eq!(choices.iter().map(|c| c["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
        let more = json!({ "stream": true, "stream_options": { "include_usage": true } });
        let events = server.stream(CHAT, &with(three, more));
        let mut streamed = [const { String::new() }; 3];
        for choice in events.iter().filter_map(|event| event["choices"].get(0)) {
            let text = choice["delta"]["content"].as_str().unwrap_or_default();
            streamed[choice["index"].as_u64().unwrap() as usize] += text;
        }
        assert_eq!(streamed, alone);
        assert_eq!(events.last().unwrap()["usage"], got["usage"]);
        server.until("vllm:num_requests_running", 0.0);
        server.until("vllm:kv_cache_usage_perc", 0.0);
    }
}
