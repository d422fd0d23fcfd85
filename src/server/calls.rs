//! Tool calls in the text of an answer: `<tool_call>`, a JSON object with `name` and `arguments`, `</tool_call>`, as Qwen's models write them.
//!
//! Text passes on as soon as it cannot become a call; a call passes when it is complete. What stands between the marks and is no call is text.

use serde_json::Value;

/// What calls stand between.
pub const START: &str = "<tool_call>";
pub const END: &str = "</tool_call>";

/// A function that the model wants called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Text(String),
    Call(Call),
}

/// Finds calls in a stream of text.
#[derive(Debug, Default)]
pub struct Calls {
    /// What may be, or become, a call.
    held: String,
    /// A call was the last thing that passed: white space behind it is its own.
    after_call: bool,
}

impl Calls {
    /// What is known once `text` is read.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.held += text;
        let mut parts = Vec::new();
        loop {
            let Some(start) = self.held.find(START) else {
                let keep = partial(&self.held);
                let text: String = self.held.drain(..self.held.len() - keep).collect();
                self.text(&mut parts, text);
                return parts;
            };
            let text: String = self.held.drain(..start).collect();
            self.text(&mut parts, text);
            let Some(end) = self.held.find(END) else { return parts };
            let whole: String = self.held.drain(..end + END.len()).collect();
            match call(&whole[START.len()..end]) {
                Some(call) => {
                    self.after_call = true;
                    parts.push(Part::Call(call));
                }
                None => self.text(&mut parts, whole),
            }
        }
    }

    /// What is left at the end of the answer: a call that was cut off is text.
    pub fn finish(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        let rest = std::mem::take(&mut self.held);
        self.text(&mut parts, rest);
        parts
    }

    fn text(&mut self, parts: &mut Vec<Part>, text: String) {
        let text = if self.after_call { text.trim_start().to_string() } else { text };
        if !text.is_empty() {
            self.after_call = false;
            parts.push(Part::Text(text));
        }
    }
}

/// Bytes at the end of `text` that a call may begin with.
fn partial(text: &str) -> usize {
    (1..START.len()).rev().find(|&n| text.ends_with(&START[..n])).unwrap_or(0)
}

fn call(text: &str) -> Option<Call> {
    let value: Value = serde_json::from_str(text).ok()?;
    let (name, arguments) = (value.get("name")?.as_str()?, value.get("arguments")?);
    Some(Call { name: name.into(), arguments: arguments.is_object().then(|| arguments.to_string())? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Part {
        Part::Text(text.into())
    }

    fn weather(city: &str) -> Part {
        Part::Call(Call { name: "weather".into(), arguments: format!("{{\"city\":\"{city}\"}}") })
    }

    /// Reads pieces of `n` bytes and joins neighbouring text.
    fn parts(whole: &str, n: usize) -> Vec<Part> {
        let mut calls = Calls::default();
        let pieces = whole.as_bytes().chunks(n).map(|piece| std::str::from_utf8(piece).unwrap());
        let mut all: Vec<Part> = pieces.flat_map(|piece| calls.push(piece)).collect();
        all.extend(calls.finish());
        all.into_iter().fold(Vec::new(), |mut joined, part| {
            match (joined.last_mut(), part) {
                (Some(Part::Text(before)), Part::Text(text)) => *before += &text,
                (_, part) => joined.push(part),
            }
            joined
        })
    }

    #[test]
    fn calls_are_found_however_the_text_is_cut() {
        let call = |city: &str| {
            format!("<tool_call>\n{{\"name\": \"weather\", \"arguments\": {{\"city\": \"{city}\"}}}}\n</tool_call>")
        };
        let broken = "<tool_call>{\"name\": 1}</tool_call>";
        for n in [1, 2, 5, 1000] {
            assert_eq!(parts(&format!("{}\n{}", call("Rome"), call("Bonn")), n), [weather("Rome"), weather("Bonn")]);
            assert_eq!(
                parts(&format!("So: {} <tool", call("Rome")), n),
                [text("So: "), weather("Rome"), text("<tool")]
            );
            assert_eq!(parts(&format!("a{broken}b"), n), [text(&format!("a{broken}b"))]);
            assert_eq!(parts("a<tool_call>{\"name\"", n), [text("a<tool_call>{\"name\"")]);
            assert_eq!(parts("1 < 2 <t> ", n), [text("1 < 2 <t> ")]);
        }
    }

    #[test]
    fn text_is_not_held_back_longer_than_it_must() {
        let mut calls = Calls::default();
        assert_eq!(calls.push("a <b <too"), [text("a <b ")]);
        assert_eq!(calls.push("n"), [text("<toon")]);
    }
}
