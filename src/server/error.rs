//! Errors as OpenAI's API states them: a status, and `{"error": {"message", "type", "param", "code"}}`.

use super::limits::BODY;
use crate::error::Error;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::time::Duration;

/// A refused or failed request.
#[derive(Debug, Clone)]
pub struct ApiError {
    pub status: StatusCode,
    /// OpenAI's `type`.
    kind: &'static str,
    code: Option<&'static str>,
    /// The field that is wrong.
    param: Option<String>,
    message: String,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        ApiError { status, kind, code: None, param: None, message: message.into() }
    }

    fn coded(self, code: &'static str) -> Self {
        ApiError { code: Some(code), ..self }
    }

    /// 400: a field is wrong.
    pub fn field(param: impl Into<String>, why: impl std::fmt::Display) -> Self {
        let param = param.into();
        let message = format!("{param}: {why}");
        ApiError { param: Some(param), ..Self::invalid(StatusCode::BAD_REQUEST, message) }
    }

    /// A 4xx that names no field.
    pub fn invalid(status: StatusCode, message: impl Into<String>) -> Self {
        Self::new(status, "invalid_request_error", message)
    }

    /// 400: prompt and answer exceed the context.
    pub fn context(param: &str, why: impl std::fmt::Display) -> Self {
        Self::field(param, why).coded("context_length_exceeded")
    }

    /// The same, with another name for the field.
    pub fn renamed(self, rename: impl FnOnce(&str) -> String) -> Self {
        let Some(param) = &self.param else { return self };
        let renamed = rename(param);
        let message = match self.message.strip_prefix(param.as_str()) {
            Some(why) => format!("{renamed}{why}"),
            None => self.message,
        };
        ApiError { message, param: Some(renamed), ..self }
    }

    /// 401.
    pub fn key() -> Self {
        let message = "the API key is missing or wrong: send the header Authorization: Bearer KEY";
        Self::invalid(StatusCode::UNAUTHORIZED, message).coded("invalid_api_key")
    }

    /// 403: the request came by a name that is not this server's, or from a page of another.
    pub fn stranger(header: &str, value: &str) -> Self {
        let short: String = value.chars().take(100).collect();
        let message = format!("{header} {short:?} is not allowed here: start the server with --allowed-host NAME");
        Self::invalid(StatusCode::FORBIDDEN, message).coded("host_not_allowed")
    }

    /// 404 for a model that is not served.
    pub fn model(asked: &str, served: &str) -> Self {
        let short: String = asked.chars().take(100).collect();
        let error = Self::field("model", format!("{short:?} is not served here, {served:?} is"));
        ApiError { status: StatusCode::NOT_FOUND, ..error.coded("model_not_found") }
    }

    /// 400: the client went away, or sent what is no HTTP.
    pub fn broken_body() -> Self {
        Self::invalid(StatusCode::BAD_REQUEST, "the body broke off")
    }

    /// 408: `time` is over.
    pub fn slow_body(time: Duration) -> Self {
        let message = format!("the body did not arrive within {} seconds", time.as_secs_f32());
        Self::invalid(StatusCode::REQUEST_TIMEOUT, message)
    }

    /// 413.
    pub fn too_large() -> Self {
        Self::invalid(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {BODY} bytes"))
    }

    /// 429: the queue is full.
    pub fn busy() -> Self {
        let message = "the queue is full: try again later";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message).coded("queue_full")
    }

    /// 503: nothing more is taken.
    pub fn unavailable(why: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", why)
    }

    /// 504: the request's deadline passed.
    pub fn deadline() -> Self {
        let message = "the answer was not complete within the server's time limit for a request";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "server_error", message).coded("deadline_exceeded")
    }

    /// 500: a bug; what it was is in the log.
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "this request failed inside the server")
    }

    /// What went wrong, in words.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The body of the answer.
    pub fn json(&self) -> Value {
        let ApiError { kind, code, param, message, .. } = self;
        json!({ "error": { "message": message, "type": kind, "param": param, "code": code } })
    }
}

impl From<Error> for ApiError {
    /// What the request is to blame for is told to its sender; anything else goes to the log, since it may name files.
    fn from(error: Error) -> Self {
        match error {
            Error::Request { at, why } => ApiError::field(at, why),
            Error::Unsupported { what, hint } => ApiError::field(what, format!("is not supported: {hint}")),
            other => {
                tracing::error!(error = %other, "a request failed");
                ApiError::internal()
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.json())).into_response();
        let header = match self.status {
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Some((header::RETRY_AFTER, "1")),
            _ => None,
        };
        response.headers_mut().extend(header.map(|(name, value)| (name, HeaderValue::from_static(value))));
        response
    }
}
