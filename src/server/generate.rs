//! `/v1/chat/completions` and `/v1/completions`: from a body to an answer, whole or as a stream of server-sent events.

use super::answer::{Admitted, Answer};
use super::body::{Body, StreamOptions, check_messages};
use super::controls::controls;
use super::error::ApiError;
use super::json::{self, List};
use super::reader::{Delta, Reader, Reading};
use super::shape::Shape;
use super::tools::Tools;
use super::{App, RequestId, prompt};
use crate::engine::Request;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::stream;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

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
    let place = app.admission.clone().try_acquire_owned().map_err(|_| ApiError::busy())?;
    let admitted = Admitted { arrived, deadline: arrived + app.deadline, place, log: id.0 };
    let deadline = admitted.deadline;
    let work = async {
        let bytes = app.read(body).await?;
        let body = app.parsing.run(move || parse(&bytes, kind)).await?;
        app.check_model(body.model.as_deref())?;
        let turn = app.prepared.turn().await?;
        let owner = app.clone();
        // The body and its pictures end here.
        let (request, form) = app.preparing.run(move || prepare(&owner, kind, body)).await?;
        let shape = Shape::new(app.clone(), kind, request.controls.top_logprobs.is_some());
        let answer = Answer::begin(app.clone(), request, form.stops, admitted, turn);
        Ok::<_, ApiError>((Reader::new(answer, form.reading), shape, form.stream))
    };
    let worked = tokio::time::timeout_at(deadline.into(), work).await;
    let (reader, shape, stream) = worked.map_err(|_| ApiError::deadline())??;
    match stream {
        Some(options) => Ok(streamed(reader, shape, kind, options.include_usage)),
        None => whole(reader, shape).await,
    }
}

/// What a body says about the form of the answer.
struct Form {
    stops: Vec<String>,
    reading: Reading,
    /// If it is to be a stream.
    stream: Option<StreamOptions>,
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

/// The engine's request, and the form of its answer.
fn prepare(app: &App, kind: Kind, body: Body) -> Result<(Request, Form), ApiError> {
    let (model, rules) = (&app.model, app.rules);
    let tools = Tools::new(&body)?;
    if kind == Kind::Plain && tools.is_some() {
        return Err(ApiError::field("tools", "is a field of /v1/chat/completions"));
    }
    let controls = controls(app, kind, &body, tools.as_ref())?;
    let reading = tools.as_ref().map_or(Reading::Text, Tools::reading);
    let request = match kind {
        Kind::Chat => {
            let messages = body.messages.as_ref().map_or(&[][..], |list| &list.0);
            let prepared = prompt::conversation(model, messages, tools.as_ref(), rules)?;
            prompt::chat_request(model, &prepared, &body, rules)?
        }
        Kind::Plain => {
            let prompt = body.prompt.as_ref().ok_or_else(|| ApiError::field("prompt", "is missing"))?;
            prompt::plain_request(model, prompt::plain(model, prompt, rules)?, &body, rules)?
        }
    };
    let stream = (body.stream == Some(true)).then(|| body.stream_options.unwrap_or_default());
    let stops = body.stop.map(|stop| stop.0).unwrap_or_default();
    Ok((Request { controls, ..request }, Form { stops, reading, stream }))
}

async fn whole(mut reader: Reader, mut shape: Shape) -> Result<Response, ApiError> {
    let (mut text, mut calls, mut all) = (String::new(), Vec::new(), Vec::new());
    loop {
        let (delta, entries) = reader.next().await?;
        all.extend(entries);
        match delta {
            Delta::Text(piece) => text += &piece,
            Delta::Call(call) => calls.push(call),
            Delta::End(finish) => {
                return Ok(Json(shape.whole(&text, &calls, finish, &all, reader.usage())).into_response());
            }
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
fn streamed(reader: Reader, shape: Shape, kind: Kind, usage: bool) -> Response {
    let start = if kind == Kind::Chat { At::Start } else { At::Middle };
    let events = stream::unfold((reader, shape, start), move |(mut reader, mut shape, at)| async move {
        let (value, next) = match at {
            At::Start => (shape.first(), At::Middle),
            At::Middle => match reader.next().await {
                Ok((delta @ Delta::End(_), entries)) => {
                    (shape.chunk(&delta, &entries), if usage { At::Usage } else { At::Done })
                }
                Ok((delta, entries)) => (shape.chunk(&delta, &entries), At::Middle),
                Err(e) => (e.json(), At::End),
            },
            At::Usage => (shape.usage(reader.usage()), At::Done),
            At::Done => return Some((Ok(Event::default().data("[DONE]")), (reader, shape, At::End))),
            At::End => return None,
        };
        Some((Ok::<_, Infallible>(Event::default().data(value.to_string())), (reader, shape, next)))
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}
