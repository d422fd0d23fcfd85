//! From messages to token ids and positions, and from ids back to text. Knows nothing of models or executors.
//!
//! `messages` -> `template` -> `tokenizer` -> `prompt` -> `positions`; `stream` is the way back.
//! The one surprise: text that a user typed can never become a special token, whatever the chat template does with it (see `guard`).

mod bytes;
pub mod dataset;
pub mod guard;
pub mod messages;
pub mod positions;
pub mod prompt;
pub mod stream;
pub mod template;
pub mod tokenizer;

mod clock;
mod tokenizer_files;

/// `text` as one short line, for messages that quote a file or a library.
fn one_line(text: &str) -> String {
    const LIMIT: usize = 300;
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}
