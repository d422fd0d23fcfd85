//! Tools in a request: what may be called, what was called and what came of it, as text of ordinary turns.
//!
//! The chat templates of the family's first models know no tools. So they are written as Qwen2.5's template writes them
//! (`tokenizer_config.json` of Qwen/Qwen2.5-7B-Instruct): the signatures behind the system prompt, calls in the assistant's turns, results in
//! turns of the user. The surprise: functions are named in text only, so a name is what JSON and a grammar can both take.

use super::body::{Body, FunctionCall, Message, ToolCall, ToolKind};
use super::calls::{END, START};
use super::error::ApiError;
use super::json::{Content, List};
use super::limits::TOOL_NAME;
use super::reader::Reading;
use super::value::Small;
use crate::intake::grammar::{Form, Function, MAX_FORM};
use crate::text::messages;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::ser::Formatter;
use serde_json::{Value, json};
use std::fmt;
use std::io;

/// What Qwen2-VL's template says where nobody says anything.
const SYSTEM: &str = "You are a helpful assistant.";

/// A function that may be called.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    #[serde(rename = "type")]
    _kind: ToolKind,
    function: Signature,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Signature {
    name: String,
    description: Option<String>,
    parameters: Option<Small>,
    // Calls that must be made follow their schema always, others never.
    #[serde(rename = "strict")]
    _strict: Option<bool>,
}

/// Whether the model calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice {
    None,
    Auto,
    /// Some function, one or several times.
    Required,
    /// This one, once.
    Named(String),
}

impl Tool {
    /// A function of that name.
    pub fn new(name: String, description: Option<String>, parameters: Option<Small>) -> Tool {
        Tool { _kind: ToolKind::Function, function: Signature { name, description, parameters, _strict: None } }
    }
}

/// The tools of a request that may be used.
#[derive(Debug)]
pub struct Tools<'a> {
    tools: &'a [Tool],
    choice: ToolChoice,
    several: bool,
}

impl<'a> Tools<'a> {
    /// Reads `tools`, `tool_choice` and `parallel_tool_calls`; none if no tool may be called.
    ///
    /// # Errors
    /// 400, naming the field.
    pub fn new(body: &'a Body) -> Result<Option<Tools<'a>>, ApiError> {
        let tools = body.tools.as_ref().map_or(&[][..], |list| &list.0);
        for (i, tool) in tools.iter().enumerate() {
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            let name = &tool.function.name;
            if name.is_empty() || name.len() > TOOL_NAME || !name.chars().all(fits) {
                let why = format!("must be 1 to {TOOL_NAME} letters, digits, _ or -");
                return Err(ApiError::field(format!("tools[{i}].function.name"), why));
            }
            if tools[..i].iter().any(|other| other.function.name == *name) {
                return Err(ApiError::field(format!("tools[{i}].function.name"), "is there twice"));
            }
        }
        let choice = body.tool_choice.clone().unwrap_or(ToolChoice::Auto);
        match &choice {
            ToolChoice::Required | ToolChoice::Named(_) if tools.is_empty() => {
                Err(ApiError::field("tool_choice", "asks for a call, but there are no tools"))
            }
            ToolChoice::Named(name) if tools.iter().all(|tool| tool.function.name != *name) => {
                Err(ApiError::field("tool_choice", "names no function of tools"))
            }
            ToolChoice::None => Ok(None),
            _ if tools.is_empty() => Ok(None),
            _ => {
                let several = body.parallel_tool_calls != Some(false);
                let tools = Tools { tools, choice, several };
                match tools.signatures().len() {
                    bytes if bytes > MAX_FORM => {
                        Err(ApiError::field("tools", format!("have {bytes} bytes, at most {MAX_FORM} are taken")))
                    }
                    _ => Ok(Some(tools)),
                }
            }
        }
    }

    /// What the answer must be, if calls must be made.
    pub fn form(&self) -> Option<Form> {
        let function = |Tool { function, .. }: &Tool| {
            let mut parameters = function.parameters.as_ref().map_or_else(|| json!({}), |p| p.0.clone());
            if let Some(map) = parameters.as_object_mut() {
                map.entry("type").or_insert_with(|| "object".into());
            }
            Function { name: function.name.clone(), parameters }
        };
        let named = |name: &str| self.tools.iter().filter(|tool| tool.function.name == name).map(function).collect();
        match &self.choice {
            ToolChoice::None | ToolChoice::Auto => None,
            ToolChoice::Required => {
                Some(Form::Calls { functions: self.tools.iter().map(function).collect(), several: self.several })
            }
            ToolChoice::Named(name) => Some(Form::Calls { functions: named(name), several: false }),
        }
    }

    /// How an answer is read.
    pub fn reading(&self) -> Reading {
        match self.choice {
            ToolChoice::Named(_) => Reading::NamedCall,
            _ if self.several => Reading::Calls,
            _ => Reading::OneCall,
        }
    }

    /// One line of JSON for each tool.
    fn signatures(&self) -> String {
        let signature = |tool: &Tool| {
            let Signature { name, description, parameters, .. } = &tool.function;
            let mut function = json!({ "name": name });
            if let Some(description) = description {
                function["description"] = description.as_str().into();
            }
            if let Some(Small(parameters)) = parameters {
                function["parameters"] = parameters.clone();
            }
            format!("\n{}", spaced(&json!({ "type": "function", "function": function })))
        };
        self.tools.iter().map(signature).collect()
    }

    /// Puts the signatures behind the system prompt.
    pub fn describe(&self, messages: &mut Vec<messages::Message>) {
        if messages.first().is_none_or(|message| message.role != "system") {
            messages.insert(0, messages::Message::text("system", SYSTEM));
        }
        let signatures = self.signatures();
        let text = format!(
            "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within \
             <tools></tools> XML tags:\n<tools>{signatures}\n</tools>\n\nFor each function call, return a json object with function name and arguments \
             within <tool_call></tool_call> XML tags:\n{START}\n{{\"name\": <function-name>, \"arguments\": <args-json-object>}}\n{END}"
        );
        match &mut messages[0].content {
            messages::Content::Text(system) => *system += &text,
            messages::Content::Parts(parts) => parts.push(messages::Part::Text(text)),
        }
    }
}

/// What an assistant said and called, as text.
///
/// # Errors
/// 400, naming the field, if arguments are no JSON object.
pub fn called(at: &str, said: &str, calls: &[ToolCall]) -> Result<String, ApiError> {
    let mut text = said.to_string();
    for (i, ToolCall { function: FunctionCall { name, arguments }, .. }) in calls.iter().enumerate() {
        let value: Value =
            serde_json::from_str(if arguments.is_empty() { "{}" } else { arguments }).unwrap_or_default();
        if !value.is_object() {
            let at = format!("{at}.tool_calls[{i}].function.arguments");
            return Err(ApiError::field(at, "must be a JSON object, as a string"));
        }
        let call = format!("{START}\n{}\n{END}", spaced(&json!({ "name": name, "arguments": value })));
        text = if text.is_empty() { call } else { format!("{text}\n{call}") };
    }
    Ok(text)
}

/// Results that follow each other, as the text of one turn.
pub fn responses(results: &[String]) -> String {
    let response = |result: &String| format!("<tool_response>\n{result}\n</tool_response>");
    results.iter().map(response).collect::<Vec<_>>().join("\n")
}

/// The text of a turn that may have no pictures.
///
/// # Errors
/// 400, naming the field.
pub fn only_text(at: &str, message: &Message) -> Result<String, ApiError> {
    match &message.content {
        None => Ok(String::new()),
        Some(Content::Text(text)) => Ok(text.clone()),
        Some(Content::Parts(List(parts))) => {
            let texts = parts.iter().map(|part| part.text.as_deref());
            let why = "may have text only, beside tools";
            texts
                .collect::<Option<Vec<&str>>>()
                .map(|t| t.concat())
                .ok_or_else(|| ApiError::field(format!("{at}.content"), why))
        }
    }
}

/// JSON as Python writes it, and so the templates that models were trained with: a space behind commas and colons.
fn spaced(value: &Value) -> String {
    struct Spaced;
    impl Formatter for Spaced {
        fn begin_array_value<W: io::Write + ?Sized>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
            if first { Ok(()) } else { w.write_all(b", ") }
        }

        fn begin_object_key<W: io::Write + ?Sized>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
            if first { Ok(()) } else { w.write_all(b", ") }
        }

        fn begin_object_value<W: io::Write + ?Sized>(&mut self, w: &mut W) -> io::Result<()> {
            w.write_all(b": ")
        }
    }
    let mut bytes = Vec::new();
    let written = value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Spaced));
    // Neither a `Vec` nor a `Value` can fail, nor give what is no UTF-8.
    written.ok().and_then(|()| String::from_utf8(bytes).ok()).unwrap_or_default()
}

impl Serialize for ToolChoice {
    /// As responses have it.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ToolChoice::None => "none".serialize(serializer),
            ToolChoice::Auto => "auto".serialize(serializer),
            ToolChoice::Required => "required".serialize(serializer),
            ToolChoice::Named(name) => json!({ "type": "function", "name": name }).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ToolChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Name {
            name: String,
        }
        struct Choice;
        impl<'de> Visitor<'de> for Choice {
            type Value = ToolChoice;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("none, auto, required, or a function by its name")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ToolChoice, E> {
                match text {
                    "none" => Ok(ToolChoice::None),
                    "auto" => Ok(ToolChoice::Auto),
                    "required" => Ok(ToolChoice::Required),
                    _ => Err(E::custom("must be none, auto, required or a function")),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ToolChoice, A::Error> {
                let mut name = None;
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "type" => drop(map.next_value::<ToolKind>()?),
                        // A chat has it inside, a response beside the type.
                        "function" => name = Some(map.next_value::<Name>()?.name),
                        "name" => name = Some(map.next_value()?),
                        _ => return Err(A::Error::custom("must have a type and a function, and no more")),
                    }
                }
                name.map(ToolChoice::Named).ok_or_else(|| A::Error::missing_field("function"))
            }
        }
        deserializer.deserialize_any(Choice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::json;

    /// What a request's calls must be, and how they are read: both are needed, since what a grammar lets through is drawn and paid for.
    fn read(choice: Value, several: Value) -> (Option<(usize, bool)>, Reading) {
        let tool = |name| json!({ "type": "function", "function": { "name": name } });
        let body = json!({ "tools": [tool("a"), tool("b")], "tool_choice": choice, "parallel_tool_calls": several });
        let body: Body = json::parse(body.to_string().as_bytes()).unwrap();
        let tools = Tools::new(&body).unwrap().unwrap();
        let form = tools.form().map(|form| match form {
            Form::Calls { functions, several } => (functions.len(), several),
            other => panic!("{other:?}"),
        });
        (form, tools.reading())
    }

    #[test]
    fn one_call_is_drawn_where_no_more_are_wanted() {
        let named = json!({ "type": "function", "function": { "name": "b" } });
        for several in [Value::Null, true.into()] {
            assert_eq!(read("required".into(), several.clone()), (Some((2, true)), Reading::Calls));
            assert_eq!(read("auto".into(), several.clone()), (None, Reading::Calls));
            assert_eq!(read(named.clone(), several), (Some((1, false)), Reading::NamedCall));
        }
        assert_eq!(read("required".into(), false.into()), (Some((2, false)), Reading::OneCall));
        assert_eq!(read("auto".into(), false.into()), (None, Reading::OneCall));
    }
}
