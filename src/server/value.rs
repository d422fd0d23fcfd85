//! JSON values of a bounded size inside a body: schemas, and what they stand in. The bound is on what they take in memory, not on their text, and holds
//! while they are read.

use crate::intake::grammar::MAX_FORM;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// What a value costs beside its strings.
const NODE: usize = 4;

/// Any value of at most [`MAX_FORM`] bytes: each string its length, and each value four more.
#[derive(Debug, Serialize)]
pub struct Small(pub Value);

/// Reads a value and takes what it costs from what is left.
struct Bounded<'a>(&'a mut usize);

impl Bounded<'_> {
    fn spend<E: Error>(&mut self, bytes: usize) -> Result<(), E> {
        let left = self.0.checked_sub(bytes + NODE);
        *self.0 = left.ok_or_else(|| E::custom(format!("more than {MAX_FORM} bytes")))?;
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Small {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Bounded(&mut { MAX_FORM }).deserialize(deserializer).map(Small)
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: Error>(mut self) -> Result<Value, E> {
        self.spend(0).map(|()| Value::Null)
    }

    fn visit_bool<E: Error>(mut self, value: bool) -> Result<Value, E> {
        self.spend(0).map(|()| value.into())
    }

    fn visit_u64<E: Error>(mut self, value: u64) -> Result<Value, E> {
        self.spend(0).map(|()| value.into())
    }

    fn visit_i64<E: Error>(mut self, value: i64) -> Result<Value, E> {
        self.spend(0).map(|()| value.into())
    }

    fn visit_f64<E: Error>(mut self, value: f64) -> Result<Value, E> {
        self.spend(0).map(|()| value.into())
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<Value, E> {
        self.spend(text.len()).map(|()| text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let mut list = Vec::new();
        while let Some(value) = seq.next_element_seed(Bounded(self.0))? {
            list.push(value);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let mut map = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            self.spend(name.len())?;
            map.insert(name, entries.next_value_seed(Bounded(self.0))?);
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_are_up_to_their_bound() {
        let text = r#"{"b":[1,-2,0.5,null,true,"x"],"a":{}}"#;
        let Small(value) = serde_json::from_str(text).unwrap();
        assert_eq!(value.to_string(), text, "in the order of the text");
        let lists = |n: usize| format!("[{}]", vec!["[]"; n].join(","));
        assert!(serde_json::from_str::<Small>(&lists(MAX_FORM / NODE - 1)).is_ok());
        let error = serde_json::from_str::<Small>(&lists(MAX_FORM / NODE)).unwrap_err().to_string();
        assert!(error.contains("more than 65536 bytes"), "{error}");
        assert!(serde_json::from_str::<Small>(&format!("\"{}\"", "x".repeat(MAX_FORM))).is_err());
        assert!(serde_json::from_str::<Small>(&format!("{{\"{}\":1}}", "x".repeat(MAX_FORM))).is_err());
    }
}
