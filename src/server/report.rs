//! The object that `/v1/responses` answers with, and the events that tell of it while it grows.
//!
//! The surprise: there is one way only. A whole answer is the last object of a stream that nobody was told of.

use super::answer::Usage;
use super::calls::Call;
use super::error::ApiError;
use super::reader::{Delta, Reader};
use super::{now, unique};
use axum::Json;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use std::convert::Infallible;

/// A response under way.
pub struct Report {
    /// As it is now, without its items.
    response: Value,
    /// Items that are complete.
    output: Vec<Value>,
    /// The message that text is added to.
    message: Option<Message>,
    /// Events so far.
    events: usize,
}

struct Message {
    id: String,
    text: String,
}

impl Message {
    fn item(&self, status: &str) -> Value {
        json!({ "type": "message", "id": self.id, "status": status, "role": "assistant", "content": [part(&self.text)] })
    }
}

fn part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}

impl Report {
    /// A response of its own id that repeats `echo`.
    pub fn new(model: &str, echo: Value) -> Report {
        let mut response = json!({
            "id": format!("resp_{}", unique()), "object": "response", "created_at": now(), "model": model, "status": "in_progress",
            "error": null, "incomplete_details": null, "output": [], "usage": null
        });
        if let (Value::Object(response), Value::Object(echo)) = (&mut response, echo) {
            response.extend(echo);
        }
        Report { response, output: Vec::new(), message: None, events: 0 }
    }

    /// What comes before all items.
    fn start(&mut self) -> Vec<Value> {
        ["response.created", "response.in_progress"]
            .map(|kind| self.event(kind, json!({ "response": self.response })))
            .into()
    }

    /// What is told of the next piece of an answer.
    fn push(&mut self, delta: &Delta, usage: Usage) -> Vec<Value> {
        match delta {
            Delta::Text(text) => self.text(text),
            Delta::Call(call) => self.call(call),
            Delta::End(reason) => self.end(reason, usage),
        }
    }

    fn text(&mut self, text: &str) -> Vec<Value> {
        let mut events = if self.message.is_none() { self.open() } else { Vec::new() };
        let Some(message) = &mut self.message else { return events };
        message.text += text;
        let id = message.id.clone();
        events.push(self.of_part("response.output_text.delta", &id, json!({ "delta": text, "logprobs": [] })));
        events
    }

    /// Begins a message.
    fn open(&mut self) -> Vec<Value> {
        let message = Message { id: format!("msg_{}", unique()), text: String::new() };
        let mut item = message.item("in_progress");
        item["content"] = json!([]);
        let events = vec![
            self.of_item("response.output_item.added", json!({ "item": item })),
            self.of_part("response.content_part.added", &message.id, json!({ "part": part("") })),
        ];
        self.message = Some(message);
        events
    }

    /// Ends the message, if there is one.
    fn close(&mut self, status: &str) -> Vec<Value> {
        let Some(message) = self.message.take() else { return Vec::new() };
        let (id, item) = (&message.id, message.item(status));
        let events = vec![
            self.of_part("response.output_text.done", id, json!({ "text": message.text, "logprobs": [] })),
            self.of_part("response.content_part.done", id, json!({ "part": part(&message.text) })),
            self.of_item("response.output_item.done", json!({ "item": item })),
        ];
        self.output.push(item);
        events
    }

    /// A call is told when it is complete.
    fn call(&mut self, Call { name, arguments }: &Call) -> Vec<Value> {
        let mut events = self.close("completed");
        let (id, call_id) = (format!("fc_{}", unique()), format!("call_{}", unique()));
        let item = |status: &str, arguments: &str| json!({ "type": "function_call", "id": id, "call_id": call_id, "name": name, "arguments": arguments, "status": status });
        let whole = item("completed", arguments);
        events.extend([
            self.of_item("response.output_item.added", json!({ "item": item("in_progress", "") })),
            self.of_item("response.function_call_arguments.delta", json!({ "item_id": id, "delta": arguments })),
            self.of_item(
                "response.function_call_arguments.done",
                json!({ "item_id": id, "name": name, "arguments": arguments }),
            ),
            self.of_item("response.output_item.done", json!({ "item": whole })),
        ]);
        self.output.push(whole);
        events
    }

    fn end(&mut self, reason: &str, usage: Usage) -> Vec<Value> {
        let cut = reason == "length";
        let status = if cut { "incomplete" } else { "completed" };
        // An answer without a word is a message all the same.
        let mut events = if self.output.is_empty() && self.message.is_none() { self.open() } else { Vec::new() };
        events.extend(self.close(status));
        match cut {
            true => self.response["incomplete_details"] = json!({ "reason": "max_output_tokens" }),
            false => self.response["completed_at"] = now().into(),
        }
        let Usage { prompt, completion, cached } = usage;
        self.response["usage"] = json!({
            "input_tokens": prompt, "input_tokens_details": { "cached_tokens": cached }, "output_tokens": completion,
            "output_tokens_details": { "reasoning_tokens": 0 }, "total_tokens": prompt + completion
        });
        events.push(self.last(status));
        events
    }

    /// The answer broke off.
    fn fail(&mut self, error: &ApiError) -> Vec<Value> {
        self.output.extend(self.message.take().map(|message| message.item("incomplete")));
        let code = if error.status.is_client_error() { "invalid_prompt" } else { "server_error" };
        self.response["error"] = json!({ "code": code, "message": error.message() });
        vec![self.last("failed")]
    }

    fn last(&mut self, status: &str) -> Value {
        self.response["status"] = status.into();
        self.response["output"] = std::mem::take(&mut self.output).into();
        let response = self.response.clone();
        self.event(&format!("response.{status}"), json!({ "response": response }))
    }

    /// An event of the item that comes next, or is under way.
    fn of_item(&mut self, kind: &str, mut fields: Value) -> Value {
        fields["output_index"] = self.output.len().into();
        self.event(kind, fields)
    }

    /// An event of the only part of the message under way.
    fn of_part(&mut self, kind: &str, id: &str, mut fields: Value) -> Value {
        fields["item_id"] = id.into();
        fields["content_index"] = 0.into();
        self.of_item(kind, fields)
    }

    fn event(&mut self, kind: &str, mut fields: Value) -> Value {
        fields["type"] = kind.into();
        fields["sequence_number"] = self.events.into();
        self.events += 1;
        fields
    }
}

/// The response, once it is complete.
///
/// # Errors
/// As [`Reader::next`].
pub async fn whole(mut reader: Reader, mut report: Report) -> Result<Response, ApiError> {
    loop {
        let (delta, _) = reader.next().await?;
        report.push(&delta, reader.usage());
        if matches!(delta, Delta::End(_)) {
            return Ok(Json(report.response).into_response());
        }
    }
}

/// The response as server-sent events, as it comes.
pub fn streamed(reader: Reader, mut report: Report) -> Response {
    let start = report.start();
    let rest = stream::unfold(Some((reader, report)), |under_way| async {
        let (mut reader, mut report) = under_way?;
        let (events, ends) = match reader.next().await {
            Ok((delta, _)) => (report.push(&delta, reader.usage()), matches!(delta, Delta::End(_))),
            Err(e) => (report.fail(&e), true),
        };
        Some((events, (!ends).then_some((reader, report))))
    });
    let events = stream::iter([start]).chain(rest).flat_map(stream::iter);
    let named =
        |event: Value| Event::default().event(event["type"].as_str().unwrap_or_default()).data(event.to_string());
    Sse::new(events.map(move |event| Ok::<_, Infallible>(named(event))))
        .keep_alive(KeepAlive::default())
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kinds of events, with the items they are of.
    fn told(events: &[Value]) -> Vec<(&str, u64)> {
        let kinds = events.iter().map(|event| event["type"].as_str().unwrap().strip_prefix("response.").unwrap());
        kinds.zip(events.iter().map(|event| event["output_index"].as_u64().unwrap_or(9))).collect()
    }

    #[test]
    fn text_before_and_behind_a_call_are_messages_of_their_own() {
        let mut report = Report::new("m", json!({}));
        let call = Call { name: "f".into(), arguments: "{}".into() };
        let deltas = [
            Delta::Text("a".into()),
            Delta::Text("b".into()),
            Delta::Call(call),
            Delta::Text("c".into()),
            Delta::End("length"),
        ];
        let events: Vec<Value> = deltas.iter().flat_map(|delta| report.push(delta, Usage::default())).collect();
        let begin = |i| [("output_item.added", i), ("content_part.added", i), ("output_text.delta", i)];
        let end = |i| [("output_text.done", i), ("content_part.done", i), ("output_item.done", i)];
        let arguments = [("function_call_arguments.delta", 1), ("function_call_arguments.done", 1)];
        let want = [
            &begin(0)[..],
            &[("output_text.delta", 0)],
            &end(0),
            &[("output_item.added", 1)],
            &arguments,
            &[("output_item.done", 1)],
            &begin(2),
            &end(2),
            &[("incomplete", 9)],
        ];
        assert_eq!(told(&events), want.concat());
        let items = report.response["output"].as_array().unwrap();
        let text = |item: &Value| item["content"][0]["text"].as_str().map(str::to_string);
        assert_eq!(items.iter().map(text).collect::<Vec<_>>(), [Some("ab".into()), None, Some("c".into())]);
        let status: Vec<_> = items.iter().map(|item| item["status"].as_str().unwrap()).collect();
        assert_eq!(status, ["completed", "completed", "incomplete"]);
    }

    #[test]
    fn an_answer_without_a_word_is_a_message() {
        let mut report = Report::new("m", json!({}));
        let events = report.push(&Delta::End("stop"), Usage::default());
        assert_eq!(told(&events).iter().map(|told| told.1).collect::<Vec<_>>(), [0, 0, 0, 0, 0, 9]);
        assert_eq!(report.response["output"][0]["content"][0]["text"], "");
        assert_eq!(report.response["status"], "completed");
    }

    #[test]
    fn what_broke_off_keeps_what_was_said() {
        let refused = ApiError::field("prompt", "is odd");
        for (error, code) in [(refused, "invalid_prompt"), (ApiError::internal(), "server_error")] {
            let mut report = Report::new("m", json!({}));
            report.push(&Delta::Text("a".into()), Usage::default());
            let events = report.fail(&error);
            let response = &events[0]["response"];
            assert_eq!((events[0]["type"].as_str(), &response["status"]), (Some("response.failed"), &json!("failed")));
            assert_eq!(response["error"], json!({ "code": code, "message": error.message() }));
            let item = &response["output"][0];
            assert_eq!((&item["status"], &item["content"][0]["text"]), (&json!("incomplete"), &json!("a")));
        }
    }
}
