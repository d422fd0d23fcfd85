//! Typed access to the JSON files of a model folder: every error names the file and the field.
//!
//! A field may live in one of several objects (`text_config` or the top level); the first one that has it wins. `null` counts as absent.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::file;

/// No JSON file of a model folder is larger than this in bytes, except the tokenizer, which is not read here.
const MAX_JSON: u64 = 64 << 20;

/// The text of a JSON file.
pub(crate) fn read_text(file: &Path) -> Result<String> {
    file::read_text(file, MAX_JSON)
}

/// Reads a file that holds one JSON object.
pub(crate) fn read_object(file: &Path) -> Result<Map<String, Value>> {
    let text = read_text(file)?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(Error::checkpoint(file, "JSON", format!("expected an object, found {}", kind(&other)))),
        Err(e) => Err(Error::checkpoint(file, "JSON", e.to_string())),
    }
}

/// A name out of a file, fit for a one-line message: control characters escaped, cut at 120 characters.
pub(crate) fn shown(name: &str) -> String {
    let mut out: String = name.chars().take(120).flat_map(char::escape_debug).collect();
    if name.chars().nth(120).is_some() {
        out.push_str("...");
    }
    out
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => format!("\"{}\"", shown(s)),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}

/// The fields of one file, looked up in several objects in order.
#[derive(Clone)]
pub(crate) struct Fields<'a> {
    file: &'a Path,
    places: Vec<(String, &'a Map<String, Value>)>,
}

impl<'a> Fields<'a> {
    /// The fields of one object; `prefix` is its path within the file ("" for the top).
    pub fn new(file: &'a Path, prefix: &str, map: &'a Map<String, Value>) -> Self {
        Fields { file, places: vec![(prefix.to_string(), map)] }
    }

    /// Falls back to `other` where this object lacks a field.
    pub fn or(mut self, other: &Fields<'a>) -> Self {
        self.places.extend(other.places.iter().cloned());
        self
    }

    fn find(&self, name: &str) -> Option<(String, &'a Value)> {
        self.places.iter().find_map(|(prefix, map)| {
            let value = map.get(name).filter(|v| !v.is_null())?;
            Some((path(prefix, name), value))
        })
    }

    /// Where a field stands, for messages; where it would stand if it is absent.
    pub fn at(&self, name: &str) -> String {
        match self.find(name) {
            Some((at, _)) => at,
            None => self.places.first().map_or_else(|| name.to_string(), |(prefix, _)| path(prefix, name)),
        }
    }

    /// An error about a field.
    pub fn error(&self, name: &str, why: impl Into<String>) -> Error {
        Error::checkpoint(self.file, self.at(name), why)
    }

    fn typed<T>(&self, name: &str, what: &str, get: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some((at, value)) = self.find(name) else { return Ok(None) };
        match get(value) {
            Some(t) => Ok(Some(t)),
            None => Err(Error::checkpoint(self.file, at, format!("expected {what}, found {}", kind(value)))),
        }
    }

    /// True if the field is there and not null.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// A whole number.
    pub fn uint(&self, name: &str) -> Result<Option<u64>> {
        self.typed(name, "a whole number", Value::as_u64)
    }

    /// A number.
    pub fn float(&self, name: &str) -> Result<Option<f64>> {
        self.typed(name, "a number", Value::as_f64)
    }

    /// True or false.
    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.typed(name, "true or false", Value::as_bool)
    }

    /// A string.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>> {
        self.typed(name, "a string", Value::as_str)
    }

    /// An object, with its own path for messages.
    pub fn object(&self, name: &str) -> Result<Option<Fields<'a>>> {
        let at = self.at(name);
        Ok(self.typed(name, "an object", Value::as_object)?.map(|map| Fields::new(self.file, &at, map)))
    }

    /// The objects in an object, with their own paths; none where it is absent.
    pub fn objects(&self, name: &str) -> Result<Vec<Fields<'a>>> {
        let Some(outer) = self.object(name)? else { return Ok(Vec::new()) };
        let names = outer.places.iter().flat_map(|(_, map)| map.keys());
        Ok(names.map(|name| outer.object(name)).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// True if there is no field at all.
    pub fn is_empty(&self) -> bool {
        self.places.iter().all(|(_, map)| map.is_empty())
    }

    /// A list of whole numbers.
    pub fn uints(&self, name: &str) -> Result<Option<Vec<u64>>> {
        let list = |v: &Value| v.as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<_>>>();
        self.typed(name, "a list of whole numbers", list)
    }

    /// A list of strings.
    pub fn texts(&self, name: &str) -> Result<Option<Vec<&'a str>>> {
        let list = |v: &'a Value| v.as_array()?.iter().map(Value::as_str).collect::<Option<Vec<_>>>();
        self.typed(name, "a list of strings", list)
    }

    /// A whole number within `1..=max`, or `default` where it is absent; an error if there is no default.
    pub fn size(&self, name: &str, max: u64, default: Option<u64>) -> Result<usize> {
        let Some(n) = self.uint(name)?.or(default) else { return Err(self.error(name, "is missing")) };
        if n == 0 || n > max {
            return Err(self.error(name, format!("{n} is outside 1..={max}")));
        }
        Ok(n as usize)
    }

    /// A finite number above 0 and at most `max`, or `default` where it is absent.
    pub fn positive(&self, name: &str, max: f64, default: f64) -> Result<f64> {
        let x = self.float(name)?.unwrap_or(default);
        if x > 0.0 && x <= max { Ok(x) } else { Err(self.error(name, format!("{x} is outside 0 < x <= {max}"))) }
    }

    /// A token id that fits `u32`.
    pub fn token(&self, name: &str) -> Result<Option<u32>> {
        self.typed(name, "a token id", |v| u32::try_from(v.as_u64()?).ok())
    }

    /// A token id or a list of at most 64; empty where the field is absent.
    pub fn tokens(&self, name: &str) -> Result<Vec<u32>> {
        let one = |v: &Value| u32::try_from(v.as_u64()?).ok();
        let get = |v: &Value| match v {
            Value::Array(list) if list.len() <= 64 => list.iter().map(one).collect(),
            Value::Array(_) => None,
            other => Some(vec![one(other)?]),
        };
        Ok(self.typed(name, "a token id or a list of at most 64", get)?.unwrap_or_default())
    }
}

fn path(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") }
}
