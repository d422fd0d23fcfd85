//! Who may ask, and the id, the log line and the last resort of every request.

use super::error::ApiError;
use super::{App, RequestId, unique};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;
use subtle::ConstantTimeEq;

const ID: HeaderName = HeaderName::from_static("x-request-id");

/// Lets only those in who have the key, if there is one. `/health` is for anybody.
pub async fn keyed(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let open = request.uri().path() == "/health";
    match &app.key {
        Some(key) if !open && !has_key(request.headers(), key) => ApiError::key().into_response(),
        _ => next.run(request).await,
    }
}

/// Compares in a time that does not depend on where the two differ.
fn has_key(headers: &HeaderMap, key: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
    let (scheme, given) = given.split_at_checked(7).unwrap_or_default();
    scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(given.ct_eq(key.as_bytes()))
}

/// Gives a request its id, logs it without its content, and answers 500 where its handler panics.
pub async fn watched(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let id = known_id(request.headers()).unwrap_or_else(unique);
    let (method, path) = (request.method().clone(), request.uri().path().to_string());
    request.extensions_mut().insert(RequestId(id.clone()));
    let done = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response = done.unwrap_or_else(|_| ApiError::internal().into_response());
    let status = response.status();
    if status.is_client_error() {
        app.metrics.refused();
    }
    let seconds = start.elapsed().as_secs_f64();
    tracing::info!(id, %method, path, status = status.as_u16(), seconds, "request");
    response.headers_mut().extend(HeaderValue::try_from(id).ok().map(|id| (ID, id)));
    response
}

/// The id that the client gave, if it is one that a log can hold.
fn known_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(ID)?.to_str().ok()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    ((1..=128).contains(&id.len()) && id.chars().all(plain)).then(|| id.to_string())
}
