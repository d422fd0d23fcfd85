//! The reading end of a job: events to text, cut at stop strings, within the deadline.
//!
//! Dropping an answer cancels its job; that is how a client that went away, or has read enough, frees the engine. The surprise: its place among the
//! requests is free at once, while the engine is still in the step that is its last: whoever has read an answer finds room for the next request.

use super::App;
use super::error::ApiError;
use super::logprobs::{Entries, Entry};
use super::pool::Turn;
use super::stop::Stops;
use super::worker::Job;
use crate::engine::{Finish, Logprobs, Request, What};
use crate::text::stream::StreamDecoder;
use crate::text::tokenizer::Show;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

/// An answer that is being made.
pub struct Answer {
    app: Arc<App>,
    events: mpsc::Receiver<What>,
    decoder: StreamDecoder,
    stops: Stops,
    entries: Entries,
    arrived: Instant,
    deadline: Instant,
    /// The request's id in the logs.
    log: String,
    /// Set once no more text comes.
    end: Option<&'static str>,
    /// Among the requests that are let in.
    _place: Arc<OwnedSemaphorePermit>,
    pub usage: Usage,
}

/// Tokens that were read and drawn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub prompt: usize,
    pub completion: usize,
    /// Tokens of the prompt that were found in the cache; known at the end.
    pub cached: usize,
}

impl Usage {
    /// With another answer to the same prompt.
    pub fn and(self, other: Usage) -> Usage {
        let (prompt, cached) = (self.prompt.max(other.prompt), self.cached.max(other.cached));
        Usage { prompt, completion: self.completion + other.completion, cached }
    }
}

/// What an answer gives next.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// With the log probabilities of the tokens that begin in it, where they were asked for.
    Text { text: String, entries: Vec<Entry> },
    /// The reason, as OpenAI names it.
    End(&'static str),
}

/// A request that was let in.
pub struct Admitted {
    pub arrived: Instant,
    pub deadline: Instant,
    pub place: OwnedSemaphorePermit,
    /// The request's id in the logs.
    pub log: String,
}

impl Answer {
    /// Sends a request to the engine, and gives its answers when that has taken it; `turn` bounds how many requests are there.
    ///
    /// # Errors
    /// 4xx if the engine refuses the request, 500 if there is none.
    pub async fn begin(
        app: Arc<App>,
        request: Request,
        stops: Vec<String>,
        admitted: Admitted,
        turn: Turn,
    ) -> Result<Vec<Answer>, ApiError> {
        let Admitted { arrived, deadline, place, log } = admitted;
        let place = Arc::new(place);
        let usage = Usage { prompt: request.prompt.ids.len(), ..Usage::default() };
        let channels = (0..request.choices).map(|_| mpsc::channel(request.max_new_tokens + 1));
        let (senders, receivers): (Vec<_>, Vec<_>) = channels.unzip();
        let (taken, told) = oneshot::channel();
        app.worker.submit(Job { request, taken, events: senders, arrived, turn });
        let answer = |events| Answer {
            app: app.clone(),
            events,
            decoder: StreamDecoder::new(Show::Grounding),
            stops: Stops::new(stops.clone()),
            entries: Entries::default(),
            arrived,
            deadline,
            log: log.clone(),
            end: None,
            _place: place.clone(),
            usage,
        };
        let mut answers: Vec<_> = receivers.into_iter().map(answer).collect();
        let refused = match told.await {
            Ok(Ok(())) => return Ok(answers),
            Ok(Err(e)) => e.into(),
            Err(_) => ApiError::internal(),
        };
        answers.iter_mut().for_each(|answer| answer.end = Some("error"));
        Err(refused)
    }

    /// The next piece of text, and at last the end.
    ///
    /// # Errors
    /// 504 if the deadline passes, 500 if the engine failed.
    pub async fn next(&mut self) -> Result<Piece, ApiError> {
        while self.end.is_none() {
            let text = match tokio::time::timeout_at(self.deadline.into(), self.events.recv()).await {
                Ok(Some(What::Token { id, logprobs })) => self.token(id, logprobs),
                Ok(Some(What::Done(finish, timing))) => {
                    self.usage.cached = timing.reused;
                    self.done(finish)
                }
                Ok(Some(What::Failed(e))) => return Err(self.failed(e.into())),
                Ok(None) => return Err(self.failed(ApiError::internal())),
                Err(_) => return Err(ApiError::deadline()),
            };
            if !text.is_empty() {
                return Ok(Piece::Text { entries: self.entries.show(text.len()), text });
            }
        }
        Ok(Piece::End(self.end.unwrap_or_default()))
    }

    fn token(&mut self, id: u32, logprobs: Option<Box<Logprobs>>) -> String {
        self.usage.completion += 1;
        let piece = self.decoder.push(&self.app.model.tokenizer, id);
        self.entries.push(id, logprobs, piece.len());
        let passed = self.stops.push(&piece);
        if passed.stopped {
            self.end = Some("stop");
        }
        passed.text
    }

    fn done(&mut self, finish: Finish) -> String {
        let piece = self.decoder.finish();
        let passed = self.stops.push(&piece);
        if passed.stopped {
            self.end = Some("stop");
            return passed.text;
        }
        self.end = Some(finish.name());
        passed.text + &self.stops.finish()
    }

    fn failed(&mut self, error: ApiError) -> ApiError {
        self.end = Some("error");
        error
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let (reason, time) = (self.end.unwrap_or("abort"), self.arrived.elapsed());
        self.app.metrics.finished(reason, time);
        tracing::info!(
            id = self.log,
            prompt_tokens = self.usage.prompt,
            completion_tokens = self.usage.completion,
            finish = reason,
            seconds = time.as_secs_f64(),
            "answer"
        );
    }
}
