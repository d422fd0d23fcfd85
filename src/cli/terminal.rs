//! The two streams and the keyboard: whole writes to stdout, notes and progress on stderr, Ctrl-C.
//!
//! Nothing in here panics when a stream is closed, as `println!` would.

use crate::engine::Cancel;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Work that takes less shows no progress.
const PROGRESS_AFTER: Duration = Duration::from_secs(1);

/// The reader of stdout is gone. No error: it has what it wanted.
#[derive(Debug, thiserror::Error)]
#[error("stdout is closed")]
pub struct StdoutClosed;

/// Writes text to stdout at once.
///
/// # Errors
/// [`StdoutClosed`] if nobody reads any more; any other failure as a message.
pub fn put(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
        Err(e) => anyhow::bail!("stdout: {e}"),
    }
}

/// Writes a result to stdout: as one line of JSON, or as `text` has it.
///
/// # Errors
/// As [`put`].
pub fn put_result(result: &impl Serialize, json: bool, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    if json { put_json(result) } else { put(&text()) }
}

/// Writes a result to stdout as one line of JSON.
///
/// # Errors
/// As [`put`].
pub fn put_json(result: &impl Serialize) -> anyhow::Result<()> {
    put(&format!("{}\n", serde_json::to_string(result)?))
}

/// Writes one line to stderr; control characters (a file name may hold them) become blanks.
pub fn note(line: &str) {
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    // Nobody is left to tell if stderr is closed.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// True if a person types on stdin.
pub fn is_interactive() -> bool {
    std::io::stdin().is_terminal()
}

/// Asks a person for a line.
pub fn prompt_sign() {
    if is_interactive() {
        let mut err = std::io::stderr();
        // As in `note`.
        let _ = err.write_all(b"> ").and_then(|()| err.flush());
    }
}

/// Ctrl-C: ends the generation in progress; where there is none, or the second time, the program.
#[derive(Clone)]
pub struct Interrupt {
    current: Arc<Mutex<Option<Cancel>>>,
}

impl Interrupt {
    /// Listens from now on.
    pub fn listen() -> anyhow::Result<Interrupt> {
        let current: Arc<Mutex<Option<Cancel>>> = Arc::default();
        let seen = current.clone();
        ctrlc::set_handler(move || match seen.lock().ok().and_then(|mut c| c.take()) {
            Some(cancel) => cancel.cancel(),
            None => std::process::exit(130),
        })
        .map_err(|e| anyhow::anyhow!("cannot listen to Ctrl-C: {e}"))?;
        Ok(Interrupt { current })
    }

    /// What Ctrl-C ends from now on.
    pub fn arm(&self) -> Cancel {
        let cancel = Cancel::default();
        self.set(Some(cancel.clone()));
        cancel
    }

    /// Ctrl-C ends the program again.
    pub fn disarm(&self) {
        self.set(None);
    }

    fn set(&self, cancel: Option<Cancel>) {
        if let Ok(mut current) = self.current.lock() {
            *current = cancel;
        }
    }
}

/// A spinner on stderr for work that takes long. Ends when dropped.
pub struct Progress {
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Begins; shows `what` after a second, and only on a terminal.
    pub fn start(what: String) -> Progress {
        if !std::io::stderr().is_terminal() {
            return Progress { done: None, thread: None };
        }
        let (done, ended) = channel();
        let thread = std::thread::spawn(move || {
            if ended.recv_timeout(PROGRESS_AFTER) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_message(what);
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.set_elapsed(PROGRESS_AFTER);
            while ended.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout) {
                bar.tick();
            }
            bar.finish_and_clear();
        });
        Progress { done: Some(done), thread: Some(thread) }
    }

    /// Ends and clears the line, if it was shown.
    pub fn end(&mut self) {
        self.done = None;
        if let Some(thread) = self.thread.take() {
            // The thread only draws; if that failed there is nothing to clear.
            let _ = thread.join();
        }
    }
}

/// What a bar counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Items,
}

impl Unit {
    const fn template(self) -> &'static str {
        match self {
            Unit::Bytes => "{msg} {bar:30} {bytes}/{total_bytes} ({elapsed})",
            Unit::Items => "{msg} {bar:30} {pos}/{len} ({elapsed})",
        }
    }
}

/// A bar on stderr. It appears after a second, and only on a terminal.
pub struct Bar {
    start: Instant,
    what: String,
    unit: Unit,
    bar: Option<ProgressBar>,
}

impl Bar {
    /// Begins; `what` is shown before the bar.
    pub fn new(what: String, unit: Unit) -> Bar {
        Bar { start: Instant::now(), what, unit, bar: None }
    }

    /// Shows how much is done.
    pub fn set(&mut self, done: u64, total: u64) {
        if self.bar.is_none() && self.start.elapsed() >= PROGRESS_AFTER && std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template(self.unit.template()) {
                bar.set_style(style);
            }
            bar.set_message(self.what.clone());
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
