//! One client: a chat as a stream of events over plain HTTP, and the time of each piece.

use crate::error::{Error, Result};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};
use ureq::http::header::AUTHORIZATION;
use ureq::{Agent, Body};

/// Longer than any server takes.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What one server is asked with.
pub struct Client {
    agent: Agent,
    url: String,
    key: Option<String>,
    /// The name of the model that the server has.
    pub model: String,
}

/// What became of a chat.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Answered(Answer),
    /// By a status that is not 200.
    Refused(u16),
    /// Without a whole answer, and why.
    Broken(String),
}

/// An answer and its times, in seconds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// From the request to the first piece of text.
    pub ttft: f64,
    /// Between every two pieces.
    pub gaps: Vec<f64>,
    /// From the request to the end of the stream.
    pub whole: f64,
    /// Tokens as the server counts them.
    pub prompt: u64,
    pub completion: u64,
}

impl Answer {
    /// Seconds of a token after the first; none of an answer that has no second.
    pub fn tpot(&self) -> Option<f64> {
        (self.completion > 1).then(|| (self.whole - self.ttft) / (self.completion - 1) as f64)
    }
}

type Reply = ureq::http::Response<Body>;

impl Client {
    /// A client of the server at `url`, which is asked for its model.
    ///
    /// # Errors
    /// If the server does not answer, or wants another key.
    pub fn new(url: &str, key: Option<String>) -> Result<Client> {
        let key = key.or_else(|| std::env::var(crate::cli::serve::KEY_VARIABLE).ok());
        let config = Agent::config_builder().http_status_as_error(false).proxy(None).max_idle_connections(0);
        let agent: Agent = config.timeout_global(Some(PATIENCE)).build().into();
        let mut client = Client { agent, url: url.trim_end_matches('/').into(), key, model: String::new() };
        let broken = |why: String| Error::request(url, why);
        let mut reply = client.get("/v1/models").map_err(|e| broken(e.to_string()))?;
        let status = reply.status().as_u16();
        let body = reply.body_mut().read_to_string().map_err(|e| broken(e.to_string()))?;
        let body: Value = serde_json::from_str(&body).unwrap_or_default();
        match body["data"][0]["id"].as_str() {
            Some(model) if status == 200 => client.model = model.into(),
            _ => {
                let why = body["error"]["message"].as_str().unwrap_or("is this an OpenAI-compatible server?");
                return Err(broken(format!("status {status} for /v1/models: {why}")));
            }
        }
        Ok(client)
    }

    fn get(&self, path: &str) -> Result<Reply, ureq::Error> {
        let mut request = self.agent.get(format!("{}{path}", self.url));
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, format!("Bearer {key}"));
        }
        request.call()
    }

    fn post(&self, path: &str, body: &[u8]) -> Result<Reply, ureq::Error> {
        let mut request = self.agent.post(format!("{}{path}", self.url)).content_type("application/json");
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, format!("Bearer {key}"));
        }
        request.send(body)
    }

    /// Sends a chat, in JSON, and reads its answer to the end.
    pub fn chat(&self, body: &str) -> Outcome {
        let start = Instant::now();
        match self.post("/v1/chat/completions", body.as_bytes()) {
            Ok(reply) if reply.status() == 200 => {
                let lines = BufReader::new(reply.into_body().into_reader()).lines();
                follow(lines.map(|line| line.map_err(|e| e.to_string())), || start.elapsed().as_secs_f64())
            }
            Ok(reply) => Outcome::Refused(reply.status().as_u16()),
            Err(e) => Outcome::Broken(e.to_string()),
        }
    }
}

/// Reads a stream of events, line by line, as it comes; `now` says how long the request is under way.
fn follow(lines: impl Iterator<Item = Result<String, String>>, now: impl Fn() -> f64) -> Outcome {
    let (mut answer, mut last) = (Answer::default(), None);
    for line in lines {
        let line = match line {
            Ok(line) => line,
            Err(e) => return Outcome::Broken(e),
        };
        let Some(data) = line.strip_prefix("data: ") else { continue };
        let at = now();
        if data == "[DONE]" {
            // Without a piece of text, the end is the first that a client sees.
            answer.ttft = if last.is_some() { answer.ttft } else { at };
            return Outcome::Answered(Answer { whole: at, ..answer });
        }
        let event: Value = serde_json::from_str(data).unwrap_or_default();
        if let Some(why) = event["error"]["message"].as_str() {
            return Outcome::Broken(why.into());
        }
        if let Some(tokens) = event["usage"]["completion_tokens"].as_u64() {
            answer.completion = tokens;
            answer.prompt = event["usage"]["prompt_tokens"].as_u64().unwrap_or(0);
        }
        if event["choices"][0]["delta"]["content"].as_str().is_some_and(|text| !text.is_empty()) {
            match last {
                None => answer.ttft = at,
                Some(before) => answer.gaps.push(at - before),
            }
            last = Some(at);
        }
    }
    Outcome::Broken("the stream broke off".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Follows lines that come a second after each other.
    fn followed(lines: &[&str]) -> Outcome {
        let clock = Cell::new(0.0);
        let lines = lines.iter().map(|line| {
            clock.set(clock.get() + 1.0);
            Ok(line.to_string())
        });
        follow(lines, || clock.get())
    }

    #[test]
    fn every_piece_of_text_has_its_time() {
        let piece = r#"data: {"choices":[{"delta":{"content":"a"}}]}"#;
        let role = r#"data: {"choices":[{"delta":{"role":"assistant","content":""}}]}"#;
        let usage = r#"data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":4}}"#;
        let lines = [role, "", piece, piece, ": still here", piece, usage, "data: [DONE]"];
        let answer = Answer { ttft: 3.0, gaps: vec![1.0, 2.0], whole: 8.0, prompt: 7, completion: 4 };
        assert_eq!(followed(&lines), Outcome::Answered(answer.clone()));
        assert_eq!(answer.tpot(), Some(5.0 / 3.0));
        let silent = Answer { ttft: 3.0, whole: 3.0, prompt: 7, completion: 4, ..Answer::default() };
        assert_eq!(followed(&[role, usage, "data: [DONE]"]), Outcome::Answered(silent));
        assert_eq!(followed(&[role, piece]), Outcome::Broken("the stream broke off".into()));
        let error = r#"data: {"error":{"message":"the engine is gone"}}"#;
        assert_eq!(followed(&[piece, error, "data: [DONE]"]), Outcome::Broken("the engine is gone".into()));
    }
}
