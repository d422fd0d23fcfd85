//! An answer as its reader is told of it: text, calls of tools, and the end.

use super::answer::{Answer, Piece, Usage};
use super::calls::{Call, Calls, Part};
use super::error::ApiError;
use super::logprobs::Entry;
use std::collections::VecDeque;

/// What an answer gives next.
#[derive(Debug, Clone, PartialEq)]
pub enum Delta {
    Text(String),
    Call(Call),
    /// The reason, as OpenAI names it.
    End(&'static str),
}

/// How calls in an answer are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// They are text.
    Text,
    Calls,
    /// Those behind the first are left out.
    OneCall,
    /// The request named the function: the end is `stop`, since nothing was chosen.
    NamedCall,
}

/// Reads an answer.
pub struct Reader {
    answer: Answer,
    reading: Reading,
    calls: Calls,
    called: bool,
    ready: VecDeque<Delta>,
    entries: Vec<Entry>,
}

impl Reader {
    /// Reads `answer` from its begin.
    pub fn new(answer: Answer, reading: Reading) -> Reader {
        let (calls, ready) = (Calls::default(), VecDeque::new());
        Reader { answer, reading, calls, called: false, ready, entries: Vec::new() }
    }

    /// Tokens so far.
    pub fn usage(&self) -> Usage {
        self.answer.usage
    }

    /// What comes next, with the log probabilities of the tokens read for it.
    ///
    /// # Errors
    /// As [`Answer::next`].
    pub async fn next(&mut self) -> Result<(Delta, Vec<Entry>), ApiError> {
        loop {
            if let Some(delta) = self.ready.pop_front() {
                return Ok((delta, std::mem::take(&mut self.entries)));
            }
            match self.answer.next().await? {
                Piece::Text { text, entries } => {
                    self.entries.extend(entries);
                    self.read(&text);
                }
                Piece::End(reason) => {
                    let rest = self.calls.finish();
                    self.pass(rest);
                    let called = self.called && self.reading != Reading::NamedCall && reason == "stop";
                    self.ready.push_back(Delta::End(if called { "tool_calls" } else { reason }));
                }
            }
        }
    }

    fn read(&mut self, text: &str) {
        if self.reading == Reading::Text {
            self.ready.push_back(Delta::Text(text.into()));
        } else {
            let parts = self.calls.push(text);
            self.pass(parts);
        }
    }

    fn pass(&mut self, parts: Vec<Part>) {
        for part in parts {
            match part {
                Part::Text(text) => self.ready.push_back(Delta::Text(text)),
                Part::Call(_) if self.called && self.reading != Reading::Calls => {}
                Part::Call(call) => {
                    self.called = true;
                    self.ready.push_back(Delta::Call(call));
                }
            }
        }
    }
}
