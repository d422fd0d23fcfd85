//! `/v1/chat/completions` and `/v1/completions`: from a body to an answer, whole or as a stream of server-sent events.

use super::answer::{Admitted, Answer, Piece, Usage};
use super::body::{Body, StreamOptions, check_messages};
use super::error::ApiError;
use super::json::{self, List};
use super::{App, RequestId, prompt};
use crate::engine::Request;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::stream;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `POST /v1/chat/completions`
    Chat,
    /// `POST /v1/completions`
    Plain,
}

/// Answers a request of either route.
pub async fn answer(
    kind: Kind,
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    body: axum::body::Body,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    // Before the body is read: what is let in bounds the memory.
    let Ok(place) = app.admission.clone().try_acquire_owned() else {
        app.discard(body).await;
        return Err(ApiError::busy());
    };
    let admitted = Admitted { arrived, deadline: arrived + app.deadline, place, log: id.0 };
    let deadline = admitted.deadline;
    let work = async {
        let bytes = app.read(body).await?;
        let body = app.parsing.run(move || parse(&bytes, kind)).await?;
        app.check_model(body.model.as_deref())?;
        let turn = app.prepared.turn().await?;
        let owner = app.clone();
        // The body and its pictures end here.
        let prepare = move || Ok((request(&owner, kind, &body)?, Form::new(body)));
        let (request, form) = app.preparing.run(prepare).await?;
        Ok::<_, ApiError>((Answer::begin(app.clone(), request, form.stops, admitted, turn), form.stream))
    };
    let (answer, stream) = tokio::time::timeout_at(deadline.into(), work).await.map_err(|_| ApiError::deadline())??;
    let head = Head::new(kind, &app.name);
    match stream {
        Some(options) => Ok(streamed(answer, head, options.include_usage)),
        None => whole(answer, &head).await,
    }
}

/// What a body says about the form of the answer.
struct Form {
    stops: Vec<String>,
    /// If it is to be a stream.
    stream: Option<StreamOptions>,
}

impl Form {
    fn new(body: Body) -> Form {
        let options = body.stream_options.unwrap_or_default();
        Form {
            stops: body.stop.map(|stop| stop.0).unwrap_or_default(),
            stream: (body.stream == Some(true)).then_some(options),
        }
    }
}

fn parse(bytes: &Bytes, kind: Kind) -> Result<Body, ApiError> {
    let body: Body = json::parse(bytes)?;
    body.check()?;
    match (kind, &body.messages, &body.prompt) {
        (Kind::Chat, Some(List(messages)), None) => check_messages(messages)?,
        (Kind::Plain, None, Some(_)) => {}
        (Kind::Chat, None, None) => return Err(ApiError::field("messages", "is missing")),
        (Kind::Plain, None, None) => return Err(ApiError::field("prompt", "is missing")),
        (Kind::Chat, _, Some(_)) => return Err(ApiError::field("prompt", "is a field of /v1/completions")),
        (Kind::Plain, Some(_), _) => return Err(ApiError::field("messages", "is a field of /v1/chat/completions")),
    }
    if kind == Kind::Plain && body.max_completion_tokens.is_some() {
        return Err(ApiError::field("max_completion_tokens", "is a field of /v1/chat/completions: give max_tokens"));
    }
    Ok(body)
}

fn request(app: &App, kind: Kind, body: &Body) -> Result<Request, ApiError> {
    let rules = app.rules;
    match kind {
        Kind::Chat => {
            let messages = body.messages.as_ref().map_or(&[][..], |list| &list.0);
            let prepared = prompt::conversation(&app.model, messages, rules)?;
            prompt::chat_request(&app.model, &prepared, body, rules)
        }
        Kind::Plain => {
            let prompt = body.prompt.as_ref().ok_or_else(|| ApiError::field("prompt", "is missing"))?;
            prompt::plain_request(&app.model, prompt::plain(&app.model, prompt, rules)?, body, rules)
        }
    }
}

/// What every object of an answer says.
#[derive(Clone)]
struct Head {
    kind: Kind,
    id: String,
    created: u64,
    model: String,
}

impl Head {
    fn new(kind: Kind, model: &str) -> Head {
        let prefix = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Head { kind, id: format!("{prefix}-{}", super::unique()), created, model: model.into() }
    }

    fn object(&self, object: &str, choices: Value, usage: Value) -> Value {
        let Head { id, created, model, .. } = self;
        let mut value = json!({ "id": id, "object": object, "created": created, "model": model, "choices": choices });
        if !usage.is_null() {
            value["usage"] = usage;
        }
        value
    }

    /// A whole answer.
    fn whole(&self, text: &str, finish: &str, usage: Usage) -> Value {
        let (object, mut choice) = match self.kind {
            Kind::Chat => {
                ("chat.completion", json!({ "message": { "role": "assistant", "content": text, "refusal": null } }))
            }
            Kind::Plain => ("text_completion", json!({ "text": text })),
        };
        choice["index"] = 0.into();
        choice["logprobs"] = Value::Null;
        choice["finish_reason"] = finish.into();
        self.object(object, json!([choice]), usage.json())
    }

    /// A piece of a stream; `first` names the role.
    fn chunk(&self, text: Option<&str>, first: bool, finish: Option<&str>) -> Value {
        let mut choice = json!({ "index": 0, "logprobs": null, "finish_reason": finish });
        match (self.kind, text) {
            (Kind::Plain, text) => choice["text"] = text.unwrap_or_default().into(),
            (Kind::Chat, Some(text)) if first => choice["delta"] = json!({ "role": "assistant", "content": text }),
            (Kind::Chat, Some(text)) => choice["delta"] = json!({ "content": text }),
            (Kind::Chat, None) => choice["delta"] = json!({}),
        }
        self.object(self.chunk_object(), json!([choice]), Value::Null)
    }

    fn chunk_object(&self) -> &'static str {
        if self.kind == Kind::Chat { "chat.completion.chunk" } else { "text_completion" }
    }
}

impl Usage {
    fn json(self) -> Value {
        let Usage { prompt, completion } = self;
        json!({ "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion })
    }
}

async fn whole(mut answer: Answer, head: &Head) -> Result<Response, ApiError> {
    let mut text = String::new();
    loop {
        match answer.next().await? {
            Piece::Text(piece) => text += &piece,
            Piece::End(finish) => return Ok(Json(head.whole(&text, finish, answer.usage)).into_response()),
        }
    }
}

/// Where a stream is.
enum At {
    Start,
    Middle,
    Usage,
    Done,
    End,
}

/// The answer as server-sent events. An error in the middle is an event of its own, after which nothing follows.
fn streamed(answer: Answer, head: Head, usage: bool) -> Response {
    let start = if head.kind == Kind::Chat { At::Start } else { At::Middle };
    let events = stream::unfold((answer, head, start), move |(mut answer, head, at)| async move {
        let (value, next) = match at {
            At::Start => (head.chunk(Some(""), true, None), At::Middle),
            At::Middle => match answer.next().await {
                Ok(Piece::Text(text)) => (head.chunk(Some(&text), false, None), At::Middle),
                Ok(Piece::End(why)) => (head.chunk(None, false, Some(why)), if usage { At::Usage } else { At::Done }),
                Err(e) => (e.json(), At::End),
            },
            At::Usage => (head.object(head.chunk_object(), json!([]), answer.usage.json()), At::Done),
            At::Done => return Some((Ok(Event::default().data("[DONE]")), (answer, head, At::End))),
            At::End => return None,
        };
        Some((Ok::<_, Infallible>(Event::default().data(value.to_string())), (answer, head, next)))
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}
