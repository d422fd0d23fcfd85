//! The objects that answers are sent as: whole, or in the chunks of a stream.

use super::answer::Usage;
use super::calls::Call;
use super::logprobs::{self, Entry};
use super::reader::Delta;
use super::{App, now, unique};
use serde_json::{Value, json};
use std::sync::Arc;

/// Which of the two routes an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `POST /v1/chat/completions`
    Chat,
    /// `POST /v1/completions`
    Plain,
}

/// What every object of an answer says, and what its chunks have said so far.
pub struct Shape {
    app: Arc<App>,
    kind: Kind,
    id: String,
    created: u64,
    /// Which of the answers.
    index: usize,
    logprobs: bool,
    calls: usize,
    /// Characters of text.
    offset: usize,
}

impl Shape {
    /// An answer of its own id; `logprobs` if its tokens are to have log probabilities.
    pub fn new(app: Arc<App>, kind: Kind, logprobs: bool) -> Shape {
        let prefix = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
        Shape {
            app,
            kind,
            id: format!("{prefix}-{}", unique()),
            created: now(),
            index: 0,
            logprobs,
            calls: 0,
            offset: 0,
        }
    }

    /// The same for one of the answers.
    pub fn choice(&self, index: usize) -> Shape {
        Shape { app: self.app.clone(), id: self.id.clone(), index, ..*self }
    }

    fn object(&self, object: &str, choices: Value) -> Value {
        let Shape { id, created, app, .. } = self;
        json!({ "id": id, "object": object, "created": created, "model": app.name, "choices": choices })
    }

    /// All answers.
    pub fn answer(&self, choices: Vec<Value>, usage: Usage) -> Value {
        let object = if self.kind == Kind::Chat { "chat.completion" } else { "text_completion" };
        let mut value = self.object(object, choices.into());
        value["usage"] = usage.json();
        value
    }

    /// A whole answer.
    pub fn whole(&mut self, text: &str, calls: &[Call], finish: &str, entries: &[Entry]) -> Value {
        let mut choice = match self.kind {
            Kind::Plain => json!({ "text": text }),
            Kind::Chat => {
                let mut message = json!({ "role": "assistant", "content": text, "refusal": null });
                if !calls.is_empty() {
                    message["tool_calls"] = calls.iter().map(call).collect();
                    if text.is_empty() {
                        message["content"] = Value::Null;
                    }
                }
                json!({ "message": message })
            }
        };
        choice["index"] = self.index.into();
        choice["logprobs"] = self.logprobs(entries);
        choice["finish_reason"] = finish.into();
        choice
    }

    /// The first chunk of a chat, which names the role.
    pub fn first(&self) -> Value {
        let choice = json!({ "index": self.index, "logprobs": null, "finish_reason": null, "delta": { "role": "assistant", "content": "" } });
        self.object(self.chunk_object(), json!([choice]))
    }

    /// A chunk with what comes next.
    pub fn chunk(&mut self, delta: &Delta, entries: &[Entry]) -> Value {
        let mut choice = json!({ "index": self.index, "logprobs": null, "finish_reason": null });
        if !entries.is_empty() {
            choice["logprobs"] = self.logprobs(entries);
        }
        if let Delta::End(reason) = delta {
            choice["finish_reason"] = (*reason).into();
        }
        match (self.kind, delta) {
            (Kind::Plain, Delta::Text(text)) => choice["text"] = text.as_str().into(),
            // A text has no calls.
            (Kind::Plain, Delta::End(_) | Delta::Call(_)) => choice["text"] = "".into(),
            (Kind::Chat, Delta::Text(text)) => choice["delta"] = json!({ "content": text }),
            (Kind::Chat, Delta::End(_)) => choice["delta"] = json!({}),
            (Kind::Chat, Delta::Call(made)) => {
                let mut call = call(made);
                call["index"] = self.calls.into();
                self.calls += 1;
                choice["delta"] = json!({ "tool_calls": [call] });
            }
        }
        self.object(self.chunk_object(), json!([choice]))
    }

    /// The chunk behind all others.
    pub fn usage(&self, usage: Usage) -> Value {
        let mut value = self.object(self.chunk_object(), json!([]));
        value["usage"] = usage.json();
        value
    }

    fn chunk_object(&self) -> &'static str {
        if self.kind == Kind::Chat { "chat.completion.chunk" } else { "text_completion" }
    }

    fn logprobs(&mut self, entries: &[Entry]) -> Value {
        let tokenizer = &self.app.model.tokenizer;
        match self.kind {
            _ if !self.logprobs => Value::Null,
            Kind::Chat => logprobs::chat(tokenizer, entries),
            Kind::Plain => {
                let (value, offset) = logprobs::plain(tokenizer, entries, self.offset);
                self.offset = offset;
                value
            }
        }
    }
}

fn call(Call { name, arguments }: &Call) -> Value {
    let id = format!("call_{}", unique());
    json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } })
}

impl Usage {
    fn json(self) -> Value {
        let Usage { prompt, completion, .. } = self;
        json!({ "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion })
    }
}
