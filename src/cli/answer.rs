//! One answer: runs the engine, streams whole characters, heeds Ctrl-C and a closed stdout.

use super::load::Loaded;
use super::terminal::{Interrupt, Progress, put};
use crate::engine::{Engine, Finish, Generated, Request};
use crate::text::stream::{StreamDecoder, decode};
use crate::text::tokenizer::Show;
use std::ops::ControlFlow;

/// What the model said.
pub struct Answer {
    pub generated: Generated,
    /// Special tokens are left out, but for those around objects and boxes: without them a box is four loose numbers.
    pub text: String,
    /// Ended by Ctrl-C.
    pub interrupted: bool,
    /// The executor that computed it.
    pub device: &'static str,
}

/// Where the text goes while it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Echo {
    Stdout,
    Nowhere,
}

impl Echo {
    /// Text goes to stdout unless JSON does.
    pub fn unless(json: bool) -> Echo {
        if json { Echo::Nowhere } else { Echo::Stdout }
    }
}

/// Generates the answer to `request`.
///
/// # Errors
/// What the engine reports, or [`StdoutClosed`](super::terminal::StdoutClosed).
pub fn answer(
    model: &Loaded,
    engine: &mut Engine,
    request: &Request,
    interrupt: &Interrupt,
    echo: Echo,
) -> anyhow::Result<Answer> {
    let cancel = interrupt.arm();
    let mut progress = Progress::start(what(request));
    let mut stream = StreamDecoder::new(Show::Grounding);
    let mut failed = None;
    let show = |text: &str| if echo == Echo::Stdout && !text.is_empty() { put(text) } else { Ok(()) };
    let generated = engine.generate(request, &cancel, |id| {
        progress.end();
        match show(&stream.push(&model.tokenizer, id)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => {
                failed = Some(e);
                ControlFlow::Break(())
            }
        }
    });
    progress.end();
    interrupt.disarm();
    if let Some(e) = failed {
        return Err(e);
    }
    let generated = generated?;
    show(&stream.finish())?;
    show("\n")?;
    Ok(Answer {
        text: decode(&model.tokenizer, &generated.ids, Show::Grounding),
        interrupted: generated.finish == Finish::Cancelled,
        device: engine.device(),
        generated,
    })
}

fn what(request: &Request) -> String {
    let s = |n: usize| if n == 1 { "" } else { "s" };
    let (tokens, media) = (request.prompt.ids.len(), request.media.len());
    match media {
        0 => format!("reading a prompt of {tokens} tokens"),
        n => format!("looking at {n} picture{}, reading a prompt of {tokens} tokens", s(n)),
    }
}
