//! The form that a body asks its answer to have: OpenAI's `response_format`, vLLM's `structured_outputs`.

use super::error::ApiError;
use super::json::List;
use super::value::Small;
use crate::intake::grammar::{Form, MAX_CHOICES};
use serde::{Deserialize, Serialize};

/// OpenAI's field in chats.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct ResponseFormat {
    #[serde(rename = "type")]
    kind: Kind,
    json_schema: Option<JsonSchema>,
}

#[derive(Deserialize, Serialize, Debug, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Kind {
    #[default]
    Text,
    JsonObject,
    JsonSchema,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct JsonSchema {
    // A label, as are the two below: a schema is always followed.
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "description")]
    _description: Option<String>,
    #[serde(rename = "strict")]
    _strict: Option<bool>,
    schema: Option<Small>,
}

/// OpenAI's field in responses, `text.format`: the same without a level.
#[derive(Deserialize, Serialize, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct TextFormat {
    #[serde(rename = "type")]
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<Small>,
}

impl From<TextFormat> for ResponseFormat {
    fn from(TextFormat { kind, name, description, strict, schema }: TextFormat) -> Self {
        let json_schema = schema.map(|schema| JsonSchema {
            _name: name.unwrap_or_default(),
            _description: description,
            _strict: strict,
            schema: Some(schema),
        });
        ResponseFormat { kind, json_schema }
    }
}

/// vLLM's field (0.12, `StructuredOutputsParams`): one of these.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub struct StructuredOutputs {
    json: Option<Small>,
    json_object: Option<bool>,
    regex: Option<String>,
    choice: Option<List<String, MAX_CHOICES>>,
}

/// A form, and the field that asks for it.
#[derive(Debug)]
pub struct Asked {
    pub at: &'static str,
    pub form: Form,
}

impl ResponseFormat {
    /// None for plain text.
    ///
    /// # Errors
    /// 400 if the schema is missing, or there for nothing.
    pub fn asked(&self) -> Result<Option<Asked>, ApiError> {
        const AT: &str = "response_format.json_schema.schema";
        match (self.kind, &self.json_schema) {
            (Kind::JsonSchema, Some(JsonSchema { schema: Some(Small(schema)), .. })) => {
                Ok(Some(Asked { at: AT, form: Form::Schema(schema.clone()) }))
            }
            (Kind::JsonSchema, _) => Err(ApiError::field(AT, "is missing")),
            (_, Some(_)) => Err(ApiError::field("response_format.json_schema", "needs \"type\": \"json_schema\"")),
            (Kind::JsonObject, None) => Ok(Some(Asked { at: "response_format", form: Form::Object })),
            (Kind::Text, None) => Ok(None),
        }
    }
}

impl StructuredOutputs {
    /// None if it asks for nothing.
    ///
    /// # Errors
    /// 400 if it asks for several forms.
    pub fn asked(&self) -> Result<Option<Asked>, ApiError> {
        let StructuredOutputs { json, json_object, regex, choice } = self;
        let forms = [
            json.as_ref().map(|s| ("structured_outputs.json", Form::Schema(s.0.clone()))),
            (*json_object == Some(true)).then_some(("structured_outputs.json_object", Form::Object)),
            regex.as_ref().map(|r| ("structured_outputs.regex", Form::Regex(r.clone()))),
            choice.as_ref().map(|c| ("structured_outputs.choice", Form::Choice(c.0.clone()))),
        ];
        let mut forms = forms.into_iter().flatten();
        match (forms.next(), forms.next()) {
            (Some((at, form)), None) => Ok(Some(Asked { at, form })),
            (None, _) => Ok(None),
            _ => Err(ApiError::field("structured_outputs", "must name one form")),
        }
    }
}
