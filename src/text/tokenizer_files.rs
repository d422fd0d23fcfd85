//! Reads tokenizer files: `tokenizer.json`, or `vocab.json` with `merges.txt`, and the added tokens beside them.
//!
//! Owns the check that they describe what the Qwen family uses (byte-level BPE, NFC, a known split pattern); anything else is refused
//! by field. The surprise: nothing unchecked reaches the `tokenizers` crate, because its loader panics on some broken files (a
//! merge whose result is not in the vocabulary) and its regex engine on some patterns.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};
use tokenizers::AddedToken;

use super::one_line;
use crate::error::{Error, Result};
use crate::file::read_text;

/// The largest `tokenizer.json` in the family has 12 MB.
const MAX_FILE: u64 = 256 << 20;

/// How Qwen2, Qwen2-VL, Qwen2.5-VL and Qwen3-VL split text into words.
pub const SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A checked byte-level BPE vocabulary.
pub struct Files {
    /// The file that errors about the vocabulary name.
    pub file: PathBuf,
    pub vocab: HashMap<String, u32>,
    pub merges: Vec<(String, String)>,
    pub added: AddedTokens,
    /// Normalise to NFC first.
    pub nfc: bool,
    /// Take a whole word that is in the vocabulary without merging.
    pub ignore_merges: bool,
}

/// Tokens outside the BPE vocabulary, under declared ids.
#[derive(Default)]
pub struct AddedTokens {
    pub by_id: BTreeMap<u32, AddedToken>,
    ids: HashMap<String, u32>,
}

impl AddedTokens {
    /// Adds a token that `path` declares, unless it is known already.
    fn add(&mut self, path: &Path, id: u32, token: AddedToken) -> Result<()> {
        let wrong = |why: String| Err(Error::checkpoint(path, "added tokens", one_line(&why)));
        if token.content.is_empty() {
            return wrong(format!("token {id} is empty"));
        }
        if let Some(other) = self.ids.insert(token.content.clone(), id).filter(|other| *other != id) {
            return wrong(format!("{:?} has the ids {other} and {id}", token.content));
        }
        match self.by_id.get(&id) {
            Some(known) if known.content != token.content => {
                wrong(format!("id {id} is {:?} and {:?}", known.content, token.content))
            }
            Some(_) => Ok(()),
            None => {
                self.by_id.insert(id, token);
                Ok(())
            }
        }
    }
}

/// Reads the tokenizer of a model folder.
pub fn read(dir: &Path) -> Result<Files> {
    let whole = dir.join("tokenizer.json");
    let mut files = if whole.exists() { read_whole(&whole)? } else { read_pair(dir)? };
    let file = files.file.clone();
    add_from_config(dir, &mut files.added)?;
    check_vocab(&file, &files.vocab)?;
    check_merges(&file, &files.vocab, &files.merges)?;
    Ok(files)
}

#[derive(Deserialize)]
struct Whole {
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
    #[serde(default)]
    ignore_merges: bool,
    // Named, not flattened into a map: flattening buffers the vocabulary and the merges first.
    dropout: Option<Value>,
    unk_token: Option<Value>,
    continuing_subword_prefix: Option<Value>,
    end_of_word_suffix: Option<Value>,
    fuse_unk: Option<Value>,
    byte_fallback: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

#[derive(Deserialize)]
struct Added {
    id: Option<u32>,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

impl From<Added> for AddedToken {
    fn from(token: Added) -> Self {
        AddedToken::from(token.content, token.special)
            .single_word(token.single_word)
            .lstrip(token.lstrip)
            .rstrip(token.rstrip)
            .normalized(token.normalized)
    }
}

#[derive(Default, Deserialize)]
struct Config {
    #[serde(default)]
    added_tokens_decoder: BTreeMap<u32, Added>,
    #[serde(default)]
    additional_special_tokens: Vec<Value>,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

fn read_whole(path: &Path) -> Result<Files> {
    let whole: Whole = parse(path, &read_text(path, MAX_FILE)?)?;
    check_pipeline(path, &whole)?;
    let mut added = AddedTokens::default();
    for token in whole.added_tokens {
        let id = token
            .id
            .ok_or_else(|| Error::checkpoint(path, "added_tokens", format!("{:?} has no id", token.content)))?;
        added.add(path, id, token.into())?;
    }
    let merges = whole.model.merges.into_iter().map(|merge| match merge {
        Merge::Pair(a, b) => Ok((a, b)),
        Merge::Line(line) => split_merge(path, &line),
    });
    Ok(Files {
        file: path.to_path_buf(),
        vocab: whole.model.vocab,
        merges: merges.collect::<Result<_>>()?,
        added,
        nfc: whole.normalizer.is_some(),
        ignore_merges: whole.model.ignore_merges,
    })
}

fn read_pair(dir: &Path) -> Result<Files> {
    let (vocab, merges) = (dir.join("vocab.json"), dir.join("merges.txt"));
    if !vocab.exists() || !merges.exists() {
        return Err(Error::checkpoint(dir, "tokenizer", "has neither tokenizer.json nor vocab.json with merges.txt"));
    }
    let lines = read_text(&merges, MAX_FILE)?;
    let lines = lines.lines().filter(|line| !line.is_empty() && !line.starts_with("#version"));
    Ok(Files {
        vocab: parse(&vocab, &read_text(&vocab, MAX_FILE)?)?,
        merges: lines.map(|line| split_merge(&merges, line)).collect::<Result<_>>()?,
        file: vocab,
        added: AddedTokens::default(),
        nfc: true,
        ignore_merges: false,
    })
}

/// Tokens that only `tokenizer_config.json` or the older `added_tokens.json` declares.
fn add_from_config(dir: &Path, added: &mut AddedTokens) -> Result<()> {
    let path = dir.join("tokenizer_config.json");
    let config: Config = if path.exists() { parse(&path, &read_text(&path, MAX_FILE)?)? } else { Config::default() };
    let special = special_names(&config);
    for (id, token) in config.added_tokens_decoder {
        added.add(&path, id, token.into())?;
    }
    let path = dir.join("added_tokens.json");
    if path.exists() {
        let tokens: BTreeMap<String, u32> = parse(&path, &read_text(&path, MAX_FILE)?)?;
        for (content, id) in tokens {
            let is_special = special.contains(&content);
            added.add(&path, id, AddedToken::from(content, is_special).normalized(false))?;
        }
    }
    Ok(())
}

/// The contents of every token that the configuration names for a purpose (`eos_token` and the like).
fn special_names(config: &Config) -> HashSet<String> {
    let named = config.other.iter().filter(|(key, _)| key.ends_with("_token")).map(|(_, value)| value);
    config.additional_special_tokens.iter().chain(named).filter_map(token_content).map(String::from).collect()
}

/// A token as configurations write it: a string, or an object with `content`.
pub fn token_content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn check_pipeline(path: &Path, whole: &Whole) -> Result<()> {
    let only = |at: &str, found: Option<&Value>, wanted: Value| match found {
        Some(found) if *found == wanted => Ok(()),
        found => Err(Error::checkpoint(
            path,
            at,
            format!("is {}, only {wanted} is supported", one_line(&found.unwrap_or(&Value::Null).to_string())),
        )),
    };
    if let Some(normalizer) = &whole.normalizer {
        only("normalizer.type", normalizer.get("type"), json!("NFC"))?;
    }
    if let Some(post) = &whole.post_processor {
        only("post_processor.type", post.get("type"), json!("ByteLevel"))?;
    }
    only("decoder.type", whole.decoder.as_ref().and_then(|d| d.get("type")), json!("ByteLevel"))?;
    only("model.type", Some(&json!(whole.model.kind.as_deref().unwrap_or("BPE"))), json!("BPE"))?;
    let model = &whole.model;
    for (at, value) in [
        ("model.dropout", &model.dropout),
        ("model.unk_token", &model.unk_token),
        ("model.continuing_subword_prefix", &model.continuing_subword_prefix),
        ("model.end_of_word_suffix", &model.end_of_word_suffix),
        ("model.fuse_unk", &model.fuse_unk),
        ("model.byte_fallback", &model.byte_fallback),
    ] {
        let neutral = |value: &Value| *value == Value::Bool(false) || value == "";
        if let Some(value) = value.as_ref().filter(|value| !neutral(value)) {
            only(at, Some(value), Value::Null)?;
        }
    }
    let pre = whole.pre_tokenizer.as_ref();
    let field = |pointer: &str| pre.and_then(|pre| pre.pointer(pointer));
    only("pre_tokenizer.type", field("/type"), json!("Sequence"))?;
    only(
        "pre_tokenizer.pretokenizers",
        field("/pretokenizers").and_then(Value::as_array).map(|l| json!(l.len())).as_ref(),
        json!(2),
    )?;
    for (pointer, wanted) in [
        ("/pretokenizers/0/type", json!("Split")),
        ("/pretokenizers/0/pattern/Regex", json!(SPLIT)),
        ("/pretokenizers/0/behavior", json!("Isolated")),
        ("/pretokenizers/0/invert", json!(false)),
        ("/pretokenizers/1/type", json!("ByteLevel")),
        ("/pretokenizers/1/add_prefix_space", json!(false)),
        ("/pretokenizers/1/use_regex", json!(false)),
    ] {
        only(&format!("pre_tokenizer{}", pointer.replace('/', ".")), field(pointer), wanted)?;
    }
    Ok(())
}

/// Ids must be unique, and each of the 256 bytes needs a token, or text would vanish.
fn check_vocab(path: &Path, vocab: &HashMap<String, u32>) -> Result<()> {
    let mut ids = HashSet::with_capacity(vocab.len());
    if let Some((token, id)) = vocab.iter().find(|(_, id)| !ids.insert(**id)) {
        return Err(Error::checkpoint(path, "vocab", format!("two tokens have the id {id}, one is {token:?}")));
    }
    match super::bytes::alphabet().find(|c| !vocab.contains_key(c.encode_utf8(&mut [0; 4]) as &str)) {
        Some(missing) => {
            Err(Error::checkpoint(path, "vocab", format!("has no token for the byte written {missing:?}")))
        }
        None => Ok(()),
    }
}

fn check_merges(path: &Path, vocab: &HashMap<String, u32>, merges: &[(String, String)]) -> Result<()> {
    let known = |token: &str| vocab.contains_key(token);
    match merges.iter().position(|(a, b)| !known(a) || !known(b) || !known(&format!("{a}{b}"))) {
        Some(i) => {
            let (a, b) = &merges[i];
            Err(Error::checkpoint(
                path,
                "merges",
                one_line(&format!("merge {i}, {a:?} + {b:?}, is not in the vocabulary")),
            ))
        }
        None => Ok(()),
    }
}

fn split_merge(path: &Path, line: &str) -> Result<(String, String)> {
    match line.split_once(' ') {
        Some((a, b)) if !b.contains(' ') => Ok((a.to_string(), b.to_string())),
        _ => Err(Error::checkpoint(path, "merges", format!("{:?} is not two tokens", one_line(line)))),
    }
}

fn parse<T: for<'de> Deserialize<'de>>(path: &Path, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::checkpoint(path, "JSON", one_line(&e.to_string())))
}
