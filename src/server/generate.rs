//! `/v1/chat/completions` and `/v1/completions`: from a body to an answer, whole or as a stream of server-sent events. What all routes of answers share
//! is here too; [`responses`](super::responses) adds another face to it.

use super::answer::{Admitted, Answer, Usage};
use super::body::{Body, StreamOptions, check_messages};
use super::controls::controls;
use super::error::ApiError;
use super::json::{self, List};
use super::reader::{Delta, Reader, Reading};
use super::shape::{Kind, Shape};
use super::tools::Tools;
use super::{App, RequestId, prompt};
use crate::engine::Request;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::{Stream, StreamExt, stream};
use serde_json::Value;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

/// Answers a request of either route.
pub async fn answer(
    kind: Kind,
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    body: axum::body::Body,
) -> Result<Response, ApiError> {
    let owner = app.clone();
    let work = async move |bytes, admitted| {
        let body = owner.parsing.run(move || parse(&bytes, kind)).await?;
        begin(&owner, kind, body, admitted).await
    };
    let Begun { readers, logprobs, stream } = admit(&app, id, body, work).await?;
    let shape = Shape::new(app, kind, logprobs);
    let choices = readers.into_iter().enumerate().map(|(i, reader)| (reader, shape.choice(i))).collect();
    match stream {
        Some(options) => Ok(streamed(choices, shape, kind, options.include_usage)),
        None => whole(choices, shape).await,
    }
}

/// Lets a request in if there is room, reads its body and does `work` with it, all before its deadline.
///
/// # Errors
/// Those of `work`; 4xx for a body that cannot be had, 429 without room, 504 at the deadline.
pub async fn admit<T, F: Future<Output = Result<T, ApiError>>>(
    app: &App,
    id: RequestId,
    body: axum::body::Body,
    work: impl FnOnce(Bytes, Admitted) -> F,
) -> Result<T, ApiError> {
    let arrived = Instant::now();
    // Before the body is read: what is let in bounds the memory.
    let place = app.admission.clone().try_acquire_owned().map_err(|_| ApiError::busy())?;
    let admitted = Admitted { arrived, deadline: arrived + app.deadline, place, log: id.0 };
    let deadline = admitted.deadline;
    let all = async { work(app.read(body).await?, admitted).await };
    tokio::time::timeout_at(deadline.into(), all).await.unwrap_or_else(|_| Err(ApiError::deadline()))
}

/// Answers that are being made.
pub struct Begun {
    /// One for each.
    pub readers: Vec<Reader>,
    /// If tokens are to have log probabilities.
    pub logprobs: bool,
    /// If it is to be a stream.
    pub stream: Option<StreamOptions>,
}

/// From a checked body to the engine, which has taken the request when this ends: until then a refusal has its own status, of a stream too.
///
/// # Errors
/// 400, naming the field; 500 without an engine.
pub async fn begin(app: &Arc<App>, kind: Kind, mut body: Body, admitted: Admitted) -> Result<Begun, ApiError> {
    app.check_model(body.model.as_deref())?;
    if let Some(List(messages)) = &mut body.messages {
        app.fetcher.fill(messages).await?;
    }
    let turn = app.prepared.turn().await?;
    let owner = app.clone();
    // The body and its pictures end here.
    let (request, form) = app.preparing.run(move || prepare(&owner, kind, body)).await?;
    let logprobs = request.controls.top_logprobs.is_some();
    let answers = Answer::begin(app.clone(), request, form.stops, admitted, turn).await?;
    let readers = answers.into_iter().map(|answer| Reader::new(answer, form.reading)).collect();
    Ok(Begun { readers, logprobs, stream: form.stream })
}

/// What a body says about the form of the answer.
struct Form {
    stops: Vec<String>,
    reading: Reading,
    /// If it is to be a stream.
    stream: Option<StreamOptions>,
}

/// Reads and checks a body.
///
/// # Errors
/// 400, naming the field.
pub fn parse(bytes: &Bytes, kind: Kind) -> Result<Body, ApiError> {
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
    let (n, priority) = (body.n, body.priority);
    let stream = (body.stream == Some(true)).then(|| body.stream_options.unwrap_or_default());
    let stops = body.stop.map(|stop| stop.0).unwrap_or_default();
    let (choices, priority) = (choices(app, n)?, self::priority(app, priority)?);
    Ok((Request { controls, choices, priority, ..request }, Form { stops, reading, stream }))
}

/// How many answers are asked for; they run together.
fn choices(app: &App, n: Option<u64>) -> Result<usize, ApiError> {
    let most = app.sequences;
    match n.unwrap_or(1) {
        n if (1..=most as u64).contains(&n) => Ok(n as usize),
        n => Err(ApiError::field("n", format!("{n} answers: 1 to {most} can be given"))),
    }
}

/// How important a request is; lower runs first.
fn priority(app: &App, asked: Option<i32>) -> Result<i32, ApiError> {
    match asked.unwrap_or_default() {
        priority if priority == 0 || app.priorities => Ok(priority),
        _ => {
            Err(ApiError::field("priority", "must be 0: the server was not started with --scheduling-policy priority"))
        }
    }
}

async fn whole(choices: Vec<(Reader, Shape)>, shape: Shape) -> Result<Response, ApiError> {
    let (mut all, mut usage) = (Vec::new(), Usage::default());
    // One after the other: what the others say meanwhile waits in their channels.
    for (mut reader, mut shape) in choices {
        let (mut text, mut calls, mut entries) = (String::new(), Vec::new(), Vec::new());
        loop {
            let (delta, more) = reader.next().await?;
            entries.extend(more);
            match delta {
                Delta::Text(piece) => text += &piece,
                Delta::Call(call) => calls.push(call),
                Delta::End(finish) => {
                    all.push(shape.whole(&text, &calls, finish, &entries));
                    break;
                }
            }
        }
        usage = usage.and(reader.usage());
    }
    Ok(Json(shape.answer(all, usage)).into_response())
}

/// Where the stream of an answer is.
enum At {
    Start,
    Middle,
    End,
}

/// What the stream of an answer gives.
enum Sent {
    Chunk(Value),
    /// The last chunk, and the tokens that it took.
    Last(Value, Usage),
    Error(ApiError),
}

/// The chunks of one answer.
fn chunks(reader: Reader, shape: Shape, kind: Kind) -> impl Stream<Item = Sent> {
    let start = if kind == Kind::Chat { At::Start } else { At::Middle };
    stream::unfold((reader, shape, start), |(mut reader, mut shape, at)| async move {
        let (sent, next) = match at {
            At::Start => (Sent::Chunk(shape.first()), At::Middle),
            At::Middle => match reader.next().await {
                Ok((delta @ Delta::End(_), entries)) => {
                    (Sent::Last(shape.chunk(&delta, &entries), reader.usage()), At::End)
                }
                Ok((delta, entries)) => (Sent::Chunk(shape.chunk(&delta, &entries)), At::Middle),
                Err(e) => (Sent::Error(e), At::End),
            },
            At::End => return None,
        };
        Some((sent, (reader, shape, next)))
    })
}

/// The answers as server-sent events, as they come. An error in the middle is an event of its own, after which nothing follows.
fn streamed(choices: Vec<(Reader, Shape)>, shape: Shape, kind: Kind, with_usage: bool) -> Response {
    let mut left = choices.len();
    let mut usage = Usage::default();
    let all = stream::select_all(choices.into_iter().map(|(reader, shape)| chunks(reader, shape, kind).boxed()));
    let said = all.map(move |sent| match sent {
        Sent::Chunk(chunk) => (vec![chunk.to_string()], false),
        Sent::Error(e) => (vec![e.json().to_string()], true),
        Sent::Last(chunk, of) => {
            left -= 1;
            usage = usage.and(of);
            let last = with_usage.then(|| shape.usage(usage).to_string()).into_iter().chain(["[DONE]".into()]);
            let last = last.filter(|_| left == 0);
            ([chunk.to_string()].into_iter().chain(last).collect(), left == 0)
        }
    });
    let until_end = said.scan(false, |ended, (events, ends)| {
        let before = std::mem::replace(ended, ends || *ended);
        std::future::ready((!before).then_some(events))
    });
    let events = until_end.flat_map(stream::iter).map(|data| Ok::<_, Infallible>(Event::default().data(data)));
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}
