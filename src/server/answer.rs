//! The reading end of a job: events to text, cut at stop strings, within the deadline.
//!
//! Dropping an answer cancels its job; that is how a client that went away frees the engine.

use super::App;
use super::error::ApiError;
use super::stop::Stops;
use super::worker::{Event, Job};
use crate::engine::{Cancel, Finish, Request};
use crate::text::stream::StreamDecoder;
use crate::text::tokenizer::Show;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// An answer that is being made.
pub struct Answer {
    app: Arc<App>,
    events: mpsc::Receiver<Event>,
    cancel: Cancel,
    decoder: StreamDecoder,
    stops: Stops,
    arrived: Instant,
    deadline: Instant,
    /// The request's id in the logs.
    log: String,
    /// Set once no more text comes.
    end: Option<&'static str>,
    pub usage: Usage,
}

/// Tokens that were read and drawn.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub prompt: usize,
    pub completion: usize,
}

/// What an answer gives next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
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
    /// Sends a request to the engine. Waits while the engine has others before it.
    ///
    /// # Errors
    /// 503 if the engine is gone, 504 if the deadline passes.
    pub async fn begin(
        app: Arc<App>,
        request: Request,
        stops: Vec<String>,
        admitted: Admitted,
    ) -> Result<Answer, ApiError> {
        let Admitted { arrived, deadline, place, log } = admitted;
        let (sender, events) = mpsc::channel(request.max_new_tokens + 1);
        let cancel = Cancel::default();
        let usage = Usage { prompt: request.prompt.ids.len(), completion: 0 };
        let job = Job { request, cancel: cancel.clone(), events: sender, arrived, place: Some(place) };
        let sent = tokio::time::timeout_at(deadline.into(), app.worker.jobs.send(job)).await;
        sent.map_err(|_| ApiError::deadline())?.map_err(|_| ApiError::unavailable("the engine has ended"))?;
        let (decoder, stops) = (StreamDecoder::new(Show::Grounding), Stops::new(stops));
        Ok(Answer { app, events, cancel, decoder, stops, arrived, deadline, log, end: None, usage })
    }

    /// The next piece of text, and at last the end.
    ///
    /// # Errors
    /// 504 if the deadline passes, 500 if the engine failed.
    pub async fn next(&mut self) -> Result<Piece, ApiError> {
        while self.end.is_none() {
            let event = tokio::time::timeout_at(self.deadline.into(), self.events.recv()).await;
            let text = match event.map_err(|_| ApiError::deadline())? {
                Some(Event::Token(id)) => self.token(id),
                Some(Event::Done(finish)) => self.done(finish)?,
                Some(Event::Failed(e)) => return Err(self.failed(e.into())),
                Some(Event::Broken) | None => return Err(self.failed(ApiError::internal())),
            };
            if !text.is_empty() {
                return Ok(Piece::Text(text));
            }
        }
        Ok(Piece::End(self.end.unwrap_or_default()))
    }

    fn token(&mut self, id: u32) -> String {
        self.usage.completion += 1;
        let piece = self.decoder.push(&self.app.model.tokenizer, id);
        let passed = self.stops.push(&piece);
        if passed.stopped {
            self.cancel.cancel();
            self.end = Some("stop");
        }
        passed.text
    }

    fn done(&mut self, finish: Finish) -> Result<String, ApiError> {
        self.end = match finish {
            Finish::Stop | Finish::Length => Some(finish.name()),
            // Only this side cancels, and reads no further then.
            Finish::Cancelled => return Err(self.failed(ApiError::internal())),
        };
        let piece = self.decoder.finish();
        let passed = self.stops.push(&piece);
        if passed.stopped {
            self.end = Some("stop");
            return Ok(passed.text);
        }
        Ok(passed.text + &self.stops.finish())
    }

    fn failed(&mut self, error: ApiError) -> ApiError {
        self.end = Some("error");
        error
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.cancel.cancel();
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
