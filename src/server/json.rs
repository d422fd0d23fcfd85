//! JSON as requests may nest it. Owns the readers that derived ones would make too large: lists are capped while they are read, and nothing
//! is buffered, so that a small body cannot become a large structure.

use super::error::ApiError;
use super::limits::{BIASES, MESSAGES, STOPS};
use axum::http::StatusCode;
use serde::de::{DeserializeOwned, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::marker::PhantomData;

/// The most token ids of a prompt; no context is longer.
const IDS: usize = 1 << 20;

/// A list of at most `N`.
#[derive(Debug, Default)]
pub struct List<T, const N: usize>(pub Vec<T>);

/// What a turn says: text, or a list of pieces.
#[derive(Debug)]
pub enum Content<P> {
    Text(String),
    Parts(List<P, MESSAGES>),
}

/// What `/v1/completions` continues.
#[derive(Debug)]
pub enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

/// Strings that end an answer.
#[derive(Debug)]
pub struct Stop(pub Vec<String>);

/// Biases by token id.
#[derive(Debug)]
pub struct Biases(pub Vec<(u32, f64)>);

/// `logprobs`: whether (chats), or how many (texts).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    Flag(bool),
    Count(u64),
}

/// A field that is understood and not supported. It may be there if it asks for nothing: null, false, 0, an empty string, the API's own
/// default (`none`, `auto`, `default`, `text`), and lists and objects of these.
#[derive(Debug, Default)]
pub struct Unsupported {
    pub asked: bool,
}

/// Parses a body.
///
/// # Errors
/// 400, naming the field.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let json = &mut serde_json::Deserializer::from_slice(bytes);
    let read: T = serde_path_to_error::deserialize(&mut *json).map_err(|e| {
        let (path, why) = (e.path().to_string(), e.inner().to_string());
        match why.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
            // Its name is the client's own.
            Some((name, _)) => {
                let at = if path.ends_with(name) { &path } else { name };
                let at: String = at.chars().filter(|c| !c.is_control()).take(100).collect();
                ApiError::field(at, "is no field of this request, and would be ignored: leave it out")
            }
            None if path == "." => ApiError::invalid(StatusCode::BAD_REQUEST, format!("the body: {why}")),
            None => ApiError::field(path, why),
        }
    })?;
    json.end().map_err(|e| ApiError::invalid(StatusCode::BAD_REQUEST, format!("the body: {e}")))?;
    Ok(read)
}

/// Reads a list of at most `most`.
fn capped<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(mut seq: A, most: usize) -> Result<Vec<T>, A::Error> {
    let mut list = Vec::new();
    while let Some(next) = seq.next_element()? {
        if list.len() == most {
            return Err(A::Error::custom(format!("more than {most}")));
        }
        list.push(next);
    }
    Ok(list)
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for List<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<T, const N: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for ListVisitor<T, N> {
            type Value = List<T, N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {N}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                capped(seq, N).map(List)
            }
        }
        deserializer.deserialize_seq(ListVisitor(PhantomData))
    }
}

impl<'de, P: Deserialize<'de>> Deserialize<'de> for Content<P> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor<P>(PhantomData<P>);
        impl<'de, P: Deserialize<'de>> Visitor<'de> for ContentVisitor<P> {
            type Value = Content<P>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of parts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Content<P>, E> {
                Ok(Content::Text(text.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Content<P>, A::Error> {
                capped(seq, MESSAGES).map(|parts| Content::Parts(List(parts)))
            }
        }
        deserializer.deserialize_any(ContentVisitor(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PromptVisitor;
        impl<'de> Visitor<'de> for PromptVisitor {
            type Value = Prompt;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a list of one string, or a list of token ids")
            }

            fn visit_str<E>(self, text: &str) -> Result<Prompt, E> {
                Ok(Prompt::Text(text.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Prompt, A::Error> {
                let only = |wanted| A::Error::custom(format!("must be a string, {wanted}"));
                match seq.next_element()? {
                    Some(Item::Text(text)) if seq.next_element::<IgnoredAny>()?.is_none() => Ok(Prompt::Text(text)),
                    Some(Item::Text(_)) => Err(only("or a list of one: several prompts are not supported")),
                    Some(Item::Id(first)) => {
                        let rest: Vec<u32> = capped(seq, IDS)?;
                        Ok(Prompt::Ids([first].into_iter().chain(rest).collect()))
                    }
                    None => Err(only("and no empty list")),
                }
            }
        }
        deserializer.deserialize_any(PromptVisitor)
    }
}

/// An element of a list of prompts.
enum Item {
    Id(u32),
    Text(String),
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemVisitor;
        impl Visitor<'_> for ItemVisitor {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a token id")
            }

            fn visit_str<E>(self, text: &str) -> Result<Item, E> {
                Ok(Item::Text(text.into()))
            }

            fn visit_u64<E: serde::de::Error>(self, id: u64) -> Result<Item, E> {
                u32::try_from(id).map(Item::Id).map_err(|_| E::custom("no token has this id"))
            }
        }
        deserializer.deserialize_any(ItemVisitor)
    }
}

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StopVisitor;
        impl<'de> Visitor<'de> for StopVisitor {
            type Value = Stop;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a string or a list of at most {STOPS}")
            }

            fn visit_str<E>(self, text: &str) -> Result<Stop, E> {
                Ok(Stop(vec![text.into()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Stop, A::Error> {
                capped(seq, STOPS).map(Stop)
            }
        }
        deserializer.deserialize_any(StopVisitor)
    }
}

impl<'de> Deserialize<'de> for Biases {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BiasesVisitor;
        impl<'de> Visitor<'de> for BiasesVisitor {
            type Value = Biases;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {BIASES} biases by token id")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Biases, A::Error> {
                let mut list = Vec::new();
                while let Some((id, bias)) = map.next_entry::<String, f64>()? {
                    if list.len() == BIASES {
                        return Err(A::Error::custom(format!("more than {BIASES}")));
                    }
                    let id = id.parse().map_err(|_| A::Error::custom("must have token ids as names"))?;
                    list.push((id, bias));
                }
                Ok(Biases(list))
            }
        }
        deserializer.deserialize_map(BiasesVisitor)
    }
}

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SwitchVisitor;
        impl Visitor<'_> for SwitchVisitor {
            type Value = Switch;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or a count")
            }

            fn visit_bool<E>(self, flag: bool) -> Result<Switch, E> {
                Ok(Switch::Flag(flag))
            }

            fn visit_u64<E>(self, count: u64) -> Result<Switch, E> {
                Ok(Switch::Count(count))
            }
        }
        deserializer.deserialize_any(SwitchVisitor)
    }
}

impl<'de> Deserialize<'de> for Unsupported {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Asks;
        impl<'de> Visitor<'de> for Asks {
            type Value = Unsupported;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_unit<E>(self) -> Result<Unsupported, E> {
                Ok(Unsupported { asked: false })
            }

            fn visit_bool<E>(self, asked: bool) -> Result<Unsupported, E> {
                Ok(Unsupported { asked })
            }

            fn visit_u64<E>(self, n: u64) -> Result<Unsupported, E> {
                Ok(Unsupported { asked: n != 0 })
            }

            fn visit_i64<E>(self, n: i64) -> Result<Unsupported, E> {
                Ok(Unsupported { asked: n != 0 })
            }

            fn visit_f64<E>(self, x: f64) -> Result<Unsupported, E> {
                Ok(Unsupported { asked: x != 0.0 })
            }

            fn visit_str<E>(self, text: &str) -> Result<Unsupported, E> {
                Ok(Unsupported { asked: !["", "none", "auto", "default", "text"].contains(&text) })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Unsupported, A::Error> {
                let mut asked = false;
                while let Some(item) = seq.next_element::<Unsupported>()? {
                    asked |= item.asked;
                }
                Ok(Unsupported { asked })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unsupported, A::Error> {
                let mut asked = false;
                while let Some((_, value)) = map.next_entry::<IgnoredAny, Unsupported>()? {
                    asked |= value.asked;
                }
                Ok(Unsupported { asked })
            }
        }
        deserializer.deserialize_any(Asks)
    }
}
