//! Answers of a given form: JSON schemas, regular expressions, choices and tool calls as constraints on a model's tokens.
//!
//! Owns llguidance, which nobody else sees. What a request may ask is bounded twice: here in bytes, there in work, while a form is compiled and for each
//! token. The surprise: special tokens are never allowed, but for those that end an answer, and these only where the form is complete.

use crate::engine::Constraint;
use crate::error::{Error, Result};
use crate::text::tokenizer::{Show, Tokenizer};
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use std::fmt;
use std::sync::Arc;

/// Bytes of a form: a schema as JSON, an expression, or all choices.
pub const MAX_FORM: usize = 64 << 10;
/// Choices of one form.
pub const MAX_CHOICES: usize = 512;
/// A trie holds at most 1024 bytes of depth; the longest token of the family has 128.
const MAX_TOKEN: usize = 512;
/// White space between the parts of JSON: enough to indent, and no model fills its answer with it.
const SPACE: &str = r"[\x20\x0A\x0D\x09]{1,32}";
/// Stack to compile on: compilers recurse as deep as what they read.
const STACK: usize = 64 << 20;

/// What an answer must be.
#[derive(Debug, Clone)]
pub enum Form {
    /// A JSON value that a schema describes.
    Schema(Value),
    /// Any JSON object.
    Object,
    /// Text that the whole of a regular expression matches, in the syntax of the `regex` crate, without look-around.
    Regex(String),
    /// One of some texts.
    Choice(Vec<String>),
    /// Calls of functions as Qwen2.5's chat template writes them: one, or one after the other.
    Calls { functions: Vec<Function>, several: bool },
}

/// A function that can be called.
#[derive(Debug, Clone)]
pub struct Function {
    pub name: String,
    /// The schema of its arguments, which are an object.
    pub parameters: Value,
}

/// Compiles forms for the vocabulary of one model.
pub struct Grammars {
    factory: ParserFactory,
}

impl Grammars {
    /// Sorts a vocabulary of `vocab` ids, of which `ends` end an answer, once for all requests.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if no token ends an answer.
    pub fn new(tokenizer: &Tokenizer, vocab: usize, ends: &[u32]) -> Result<Grammars> {
        let failed = |e: anyhow::Error| Error::unsupported("structured output", format!("{e:#}"));
        let ends: Vec<u32> = ends.iter().copied().filter(|id| (*id as usize) < vocab).collect();
        let Some(&end) = ends.first() else {
            return Err(Error::unsupported("structured output", "generation_config.json must name an eos_token_id"));
        };
        let words: Vec<Vec<u8>> = (0..vocab as u32).map(|id| word(tokenizer, &ends, id)).collect();
        let trie = TokTrie::from(&TokRxInfo::new(vocab as u32, end), &words).with_eos_tokens(&ends);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices).map_err(failed)?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Grammars { factory })
    }

    /// Compiles a form. `at` names the field that asks for it.
    ///
    /// # Errors
    /// [`Error::Request`] naming the field if the form is too large, or is none.
    pub fn constraint(&self, at: &str, form: &Form) -> Result<Box<dyn Constraint>> {
        let grammar = grammar(form).map_err(|why| Error::request(at, why))?;
        let compile = || {
            let parser = self.factory.create_parser(grammar);
            let mut matcher = Matcher::new(parser);
            // The first mask says whether the form can begin at all.
            let mask = matcher.compute_mask_or_eos().map_err(|e| Error::request(at, short(&e)))?;
            Ok(Box::new(Grammar { at: at.into(), matcher, mask: Some(mask) }) as Box<dyn Constraint>)
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("grammar".into()).stack_size(STACK);
            let thread = thread.spawn_scoped(scope, compile).map_err(|e| Error::io("a thread", e))?;
            thread.join().unwrap_or_else(|_| Err(Error::request(at, "is more than its compiler can read")))
        })
    }
}

/// The worst that was found: 3 s to compile a form of 64 KiB, 40 ms for a token, 20 MB.
fn limits() -> ParserLimits {
    ParserLimits {
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_lexer_states: 10_000,
        max_grammar_size: 100_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// What a token is to a grammar: its bytes. Special tokens have a marker before them that no text contains, or nothing.
fn word(tokenizer: &Tokenizer, ends: &[u32], id: u32) -> Vec<u8> {
    let bytes = tokenizer.bytes(id).unwrap_or_default();
    if ends.contains(&id) {
        return [&[TokTrie::SPECIAL_TOKEN_MARKER], &bytes[..]].concat();
    }
    let marked = bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER);
    let usable = tokenizer.shows(id, Show::Text) && bytes.len() <= MAX_TOKEN && !marked;
    if usable { bytes } else { Vec::new() }
}

fn grammar(form: &Form) -> Result<TopLevelGrammar, String> {
    match form {
        Form::Schema(schema) => {
            sized(schema.to_string().len())?;
            Ok(TopLevelGrammar::from_json_schema(with_space(schema)?))
        }
        Form::Object => grammar(&Form::Schema(json!({ "type": "object" }))),
        Form::Regex(regex) => {
            sized(regex.len())?;
            // The compiler takes it inside other text; what is no expression by itself must not become one there.
            regex_syntax(regex)?;
            Ok(TopLevelGrammar::from_regex(regex))
        }
        Form::Calls { functions, several } => calls(functions, *several),
        Form::Choice(choices) => {
            sized(choices.iter().map(String::len).sum())?;
            match choices.len() {
                0 => Err("is empty".into()),
                n if n > MAX_CHOICES => Err(format!("has {n} choices, at most {MAX_CHOICES} are taken")),
                _ if choices.iter().any(String::is_empty) => Err("a choice is empty".into()),
                _ => {
                    let choices: Vec<String> = choices.iter().map(|choice| regex::escape(choice)).collect();
                    Ok(TopLevelGrammar::from_regex(&choices.join("|")))
                }
            }
        }
    }
}

/// A grammar in llguidance's language. Names and schemas stand in it as JSON, which nothing in them can leave.
fn calls(functions: &[Function], several: bool) -> Result<TopLevelGrammar, String> {
    let mut lines = vec![format!("start: call{}", if several { " (\"\\n\" call)*" } else { "" })];
    let names: Vec<String> = (0..functions.len()).map(|i| format!("call_{i}")).collect();
    lines.push(format!("call: \"<tool_call>\\n\" ({}) \"\\n</tool_call>\"", names.join(" | ")));
    for (i, Function { name, parameters }) in functions.iter().enumerate() {
        let head = Value::from(format!("{{\"name\": {}, \"arguments\": ", Value::from(name.as_str())));
        lines.push(format!("call_{i}: {head} arguments_{i} \"}}\""));
        lines.push(format!("arguments_{i}: %json {}", with_space(parameters)?));
    }
    let grammar = lines.join("\n");
    sized(grammar.len())?;
    Ok(TopLevelGrammar::from_lark(grammar))
}

/// A schema with the white space that may stand between the parts of what it describes.
fn with_space(schema: &Value) -> Result<Value, String> {
    let mut schema = schema.clone();
    let map = schema.as_object_mut().ok_or("must be an object")?;
    map.insert("x-guidance".into(), json!({ "whitespace_pattern": SPACE }));
    Ok(schema)
}

fn regex_syntax(regex: &str) -> Result<(), String> {
    let parsed = regex::RegexBuilder::new(regex).size_limit(1 << 20).build();
    match parsed {
        Ok(_) => Ok(()),
        // What is too large for one engine may fit the other, which has limits of its own.
        Err(regex::Error::CompiledTooBig(_)) => Ok(()),
        // It shows the expression first, and last what is wrong.
        Err(e) => Err(e.to_string().lines().next_back().unwrap_or_default().chars().take(300).collect()),
    }
}

fn sized(bytes: usize) -> Result<(), String> {
    if bytes > MAX_FORM { Err(format!("has {bytes} bytes, at most {MAX_FORM} are taken")) } else { Ok(()) }
}

/// What the compiler says first; behind it come its state and advice that no request can follow.
fn short(error: &impl fmt::Display) -> String {
    let text = error.to_string();
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    match line.split(" Enable ").next().unwrap_or_default() {
        line if line.starts_with("panic: ") => "is more than its compiler can follow".into(),
        // Its name for a form that cannot even begin.
        "NoExtensionBias" => "describes no text".into(),
        line => line.chars().take(300).collect(),
    }
}

/// A form and how far an answer has come in it.
struct Grammar {
    at: String,
    matcher: Matcher,
    /// Once it was asked for.
    mask: Option<SimpleVob>,
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Grammar").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Constraint for Grammar {
    fn allowed(&mut self) -> Result<&[u32]> {
        let mask = match self.mask.take() {
            Some(mask) => mask,
            None => self.matcher.compute_mask_or_eos().map_err(|e| Error::request(&*self.at, short(&e)))?,
        };
        Ok(self.mask.insert(mask).as_slice())
    }

    fn take(&mut self, id: u32) -> Result<()> {
        self.mask = None;
        // Where nothing can follow, an end is all that was allowed, and no part of the form.
        if self.matcher.stop_reason().is_ok() && self.matcher.is_stopped() {
            return Ok(());
        }
        self.matcher.consume_token(id).map_err(|e| Error::request(&*self.at, short(&e)))
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(Grammar { at: self.at.clone(), matcher: self.matcher.deep_clone(), mask: self.mask.clone() })
    }
}
