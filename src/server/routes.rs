//! The table of routes, and the short ones. The long ones are in [`generate`](super::generate) and [`responses`](super::responses).

use super::body::{Tokenize, check_messages};
use super::error::ApiError;
use super::generate::answer;
use super::limits::BODY;
use super::shape::Kind;
use super::{App, auth, json, page, prompt, responses};
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The description of every route.
const OPENAPI: &str = include_str!("openapi.json");

/// All routes, closed by a key if there is one.
pub fn router(app: Arc<App>) -> Router {
    let bodies = Router::new()
        .route("/v1/chat/completions", post(|app, id, body| answer(Kind::Chat, app, id, body)))
        .route("/v1/completions", post(|app, id, body| answer(Kind::Plain, app, id, body)))
        .route("/v1/responses", post(responses::answer))
        .route("/tokenize", post(tokenize))
        .route_layer(middleware::from_fn(json_only));
    Router::new()
        .merge(bodies)
        .merge(page::routes())
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(one_model))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi))
        .fallback(|| async { ApiError::invalid(StatusCode::NOT_FOUND, "no such route: see /openapi.json") })
        .method_not_allowed_fallback(|| async {
            ApiError::invalid(StatusCode::METHOD_NOT_ALLOWED, "this route has other methods: see /openapi.json")
        })
        .layer(middleware::from_fn_with_state(app.clone(), auth::keyed))
        .layer(middleware::from_fn_with_state(app.clone(), auth::at_home))
        .layer(middleware::from_fn_with_state(app.clone(), auth::watched))
        .with_state(app)
}

/// Refuses what is too large before it is read, and what is not JSON: a web page may send a form to a server on this machine, but not this type.
async fn json_only(request: Request, next: Next) -> Response {
    match check_headers(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(e) => e.into_response(),
    }
}

fn check_headers(headers: &HeaderMap) -> Result<(), ApiError> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let length = header(header::CONTENT_LENGTH).and_then(|n| n.parse::<usize>().ok());
    if length.is_some_and(|n| n > BODY) {
        return Err(ApiError::too_large());
    }
    let kind = header(header::CONTENT_TYPE).and_then(|kind| kind.split(';').next()).unwrap_or_default();
    if !kind.trim().eq_ignore_ascii_case("application/json") {
        let why = "send the header Content-Type: application/json";
        return Err(ApiError::invalid(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    Ok(())
}

/// `POST /tokenize`: the ids of a prompt, or of messages as they are given to the model.
async fn tokenize(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, ApiError> {
    let _place = app.admission.clone().try_acquire_owned().map_err(|_| ApiError::busy())?;
    let bytes = app.read(body).await?;
    let mut body: Tokenize = app.parsing.run(move || json::parse(&bytes)).await?;
    app.check_model(body.model.as_deref())?;
    if let (None, Some(messages)) = (&body.prompt, &mut body.messages) {
        check_messages(&messages.0)?;
        app.fetcher.fill(&mut messages.0).await?;
    }
    let (owner, rules) = (app.clone(), app.rules);
    let ids = move || match (&body.prompt, &body.messages) {
        (Some(prompt), None) => prompt::plain(&owner.model, prompt, rules),
        (None, Some(messages)) => Ok(prompt::conversation(&owner.model, &messages.0, None, rules)?.prompt.ids),
        _ => Err(ApiError::field("prompt", "give either prompt or messages")),
    };
    let ids = app.parsing.run(ids).await?;
    Ok(Json(json!({ "count": ids.len(), "max_model_len": app.rules.context, "tokens": ids })))
}

/// `GET /v1/models`.
async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({ "object": "list", "data": [model(&app)] }))
}

/// `GET /v1/models/NAME`.
async fn one_model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    app.check_model(Some(&id))?;
    Ok(Json(model(&app)))
}

fn model(app: &App) -> Value {
    json!({ "id": app.name, "object": "model", "created": 0, "owned_by": "osprey", "max_model_len": app.rules.context })
}

/// `GET /health`: whether the engine works.
async fn health(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    if app.worker.is_healthy() {
        return Ok(Json(json!({ "status": "ok" })));
    }
    Err(ApiError::unavailable("the engine failed and could not be made anew"))
}

/// `GET /ready`: whether another request is welcome.
async fn ready(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    if app.ending.load(Ordering::Relaxed) {
        return Err(ApiError::unavailable("the server is shutting down"));
    }
    if app.admission.available_permits() == 0 {
        return Err(ApiError::unavailable("the queue is full"));
    }
    health(State(app)).await
}

/// `GET /metrics`.
async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, app.metrics.text(app.places - app.admission.available_permits()))
}

/// `GET /openapi.json`.
async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}
