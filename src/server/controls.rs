//! What a body asks of the draws: penalties, biases, log probabilities, and a form that the answer must have.

use super::App;
use super::body::Body;
use super::error::ApiError;
use super::form::Asked;
use super::json::Switch;
use super::prompt::within;
use super::shape::Kind;
use super::tools::Tools;
use crate::engine::{Controls, MAX_TOP_LOGPROBS};

/// The controls of a request.
///
/// # Errors
/// 400, naming the field.
pub fn controls(app: &App, kind: Kind, body: &Body, tools: Option<&Tools>) -> Result<Controls, ApiError> {
    let vocab = app.model.files.config.text.vocab_size;
    let biases = body.logit_bias.iter().flat_map(|biases| &biases.0);
    let bias = |&(id, bias): &(u32, f64)| match within("logit_bias", Some(bias), -100.0..=100.0)? {
        Some(bias) if (id as usize) < vocab => Ok((id, bias)),
        _ => Err(ApiError::field("logit_bias", format!("token {id} is outside the vocabulary of {vocab}"))),
    };
    let constraint = match asked(body, tools)? {
        Some(Asked { at, form }) => Some(app.grammars()?.constraint(at, &form)?.into()),
        None => None,
    };
    Ok(Controls {
        presence_penalty: penalty("presence_penalty", body.presence_penalty)?,
        frequency_penalty: penalty("frequency_penalty", body.frequency_penalty)?,
        logit_bias: biases.map(bias).collect::<Result<_, ApiError>>()?,
        top_logprobs: top_logprobs(kind, body)?,
        constraint,
    })
}

fn penalty(name: &str, value: Option<f64>) -> Result<f32, ApiError> {
    within(name, value, -2.0..=2.0).map(Option::unwrap_or_default)
}

fn top_logprobs(kind: Kind, body: &Body) -> Result<Option<usize>, ApiError> {
    let count = |name: &str, n: u64| match usize::try_from(n) {
        Ok(n) if n <= MAX_TOP_LOGPROBS => Ok(Some(n)),
        _ => Err(ApiError::field(name, format!("must be from 0 to {MAX_TOP_LOGPROBS}"))),
    };
    match (kind, body.logprobs, body.top_logprobs) {
        (Kind::Chat, Some(Switch::Flag(true)), n) => count("top_logprobs", n.unwrap_or(0)),
        (Kind::Chat, Some(Switch::Count(_)), _) => {
            Err(ApiError::field("logprobs", "must be true or false: give top_logprobs"))
        }
        (Kind::Chat, _, Some(1..)) => Err(ApiError::field("top_logprobs", "needs \"logprobs\": true")),
        (Kind::Chat, ..) => Ok(None),
        (Kind::Plain, _, Some(_)) => {
            Err(ApiError::field("top_logprobs", "is a field of /v1/chat/completions: give logprobs a count"))
        }
        (Kind::Plain, Some(Switch::Count(n)), _) => count("logprobs", n),
        (Kind::Plain, Some(Switch::Flag(true)), _) => Err(ApiError::field("logprobs", "must be a count")),
        (Kind::Plain, _, None) => Ok(None),
    }
}

/// The form that the answer must have, if any.
fn asked(body: &Body, tools: Option<&Tools>) -> Result<Option<Asked>, ApiError> {
    let format = body.response_format.as_ref().map_or(Ok(None), |format| format.asked())?;
    let structured = body.structured_outputs.as_ref().map_or(Ok(None), |outputs| outputs.asked())?;
    match (format, structured, tools) {
        (Some(_), Some(_), _) => {
            Err(ApiError::field("structured_outputs", "contradicts response_format: give one of them"))
        }
        (Some(Asked { at, .. }), _, Some(_)) | (_, Some(Asked { at, .. }), Some(_)) => {
            Err(ApiError::field(at, "is not supported beside tools: give \"tool_choice\": \"none\""))
        }
        (format, structured, None) => Ok(format.or(structured)),
        (None, None, Some(tools)) => Ok(tools.form().map(|form| Asked { at: "tools", form })),
    }
}
