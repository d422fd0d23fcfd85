//! Who may ask, and the id, the log line and the last resort of every request.
//!
//! The surprise: a browser on this machine is a stranger. Any page may have a name that leads to 127.0.0.1 (DNS rebinding), so names are checked
//! where only this machine can ask, and a request that a page of another origin sends is refused everywhere.

use super::error::ApiError;
use super::{App, RequestId, page, unique};
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;
use subtle::ConstantTimeEq;

const ID: HeaderName = HeaderName::from_static("x-request-id");

/// Lets only those in who have the key, if there is one. Probes have none, and the page says nothing without it.
pub async fn keyed(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let open = ["/health", "/ready"].contains(&path) || page::has(path);
    match &app.key {
        Some(key) if !open && !has_key(request.headers(), key) => ApiError::key().into_response(),
        _ => next.run(request).await,
    }
}

/// The names that a request may be for.
pub struct Names {
    /// Any will do: others can reach the server anyway.
    any: bool,
    allowed: Vec<String>,
}

impl Names {
    /// Those of this machine and `allowed`, or any where others may ask and none is named.
    pub fn new(address: IpAddr, allowed: Vec<String>) -> Names {
        Names { any: !address.is_loopback() && allowed.is_empty(), allowed }
    }

    /// Whether `authority`, a name or an address and maybe a port, is one of them. Ports are not compared: a tunnel's other end may have any.
    fn has(&self, authority: &str) -> bool {
        let Ok(authority) = authority.parse::<Authority>() else { return false };
        let name = authority.host().trim_start_matches('[').trim_end_matches(']');
        let local = name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        !authority.as_str().contains('@') && (self.any || local || self.listed(name))
    }

    fn listed(&self, name: &str) -> bool {
        self.allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
    }

    /// Whether a page at `origin` may ask the server that it calls `host`: its own pages, also behind a proxy that is named and renames.
    fn serves(&self, origin: &str, host: &str) -> bool {
        let Some((_, authority)) = origin.split_once("://") else { return false };
        let name = authority.parse::<Authority>().map(|a| a.host().to_string()).unwrap_or_default();
        authority.eq_ignore_ascii_case(host) || self.listed(&name)
    }
}

/// Lets only those in who call the server by its name, and no pages of others.
pub async fn at_home(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match check_names(&app.names, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(e) => e.into_response(),
    }
}

fn check_names(names: &Names, headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let host = text(header::HOST).unwrap_or_default();
    match text(header::ORIGIN) {
        _ if !names.has(host) => Err(ApiError::stranger("the Host", host)),
        Some(origin) if !names.serves(origin, host) => Err(ApiError::stranger("the Origin", origin)),
        _ => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(names: &Names, host: Option<&'static str>, origin: Option<&'static str>) -> Result<(), u16> {
        let pairs = [(header::HOST, host), (header::ORIGIN, origin)];
        let given = pairs.into_iter().filter_map(|(name, value)| Some((name, HeaderValue::from_static(value?))));
        check_names(names, &given.collect()).map_err(|e| e.status.as_u16())
    }

    fn names(address: &str, allowed: &[&str]) -> Names {
        Names::new(address.parse().unwrap(), allowed.iter().map(|name| name.to_string()).collect())
    }

    #[test]
    fn the_whole_key_counts_and_nothing_else() {
        let has = |value: &'static str| {
            let given = [(header::AUTHORIZATION, HeaderValue::from_static(value))];
            has_key(&given.into_iter().collect(), "secret-key")
        };
        assert!(has("Bearer secret-key") && has("bEARER secret-key"));
        let wrong = [
            "",
            "Bearer",
            "Bearer ",
            "Bearer s",
            "Bearer secret-ke",
            "Bearer secret-kez",
            "Bearer zecret-key",
            "Bearer secret-key-",
            "Bearer Secret-key",
            "Bearer  secret-key",
            "Basic secret-key",
            "Basics secret-key",
            "secret-key",
        ];
        for value in wrong {
            assert!(!has(value), "{value}");
        }
        assert!(!has_key(&HeaderMap::new(), "secret-key"));
    }

    #[test]
    fn an_id_that_a_log_cannot_hold_is_none() {
        let id = |value: &[u8]| known_id(&[(ID, HeaderValue::from_bytes(value).unwrap())].into_iter().collect());
        let longest = "a".repeat(128);
        for good in ["a", "A-z_0.9", &longest] {
            assert_eq!(id(good.as_bytes()).as_deref(), Some(good));
        }
        for bad in [b"".as_slice(), b"a b", b"a\tb", b"\xff", b"a\"b", "a".repeat(129).as_bytes()] {
            assert_eq!(id(bad), None);
        }
        assert_eq!(known_id(&HeaderMap::new()), None);
    }

    #[test]
    fn only_this_machine_s_names_reach_a_loopback_server() {
        let local = names("127.0.0.1", &[]);
        for host in ["localhost", "LocalHost:8000", "127.0.0.1", "127.0.0.1:1", "127.1.2.3:80", "[::1]", "[::1]:8000"] {
            assert_eq!(verdict(&local, Some(host), None), Ok(()), "{host}");
        }
        let strangers = [
            "evil.test",
            "evil.test:8000",
            "localhost.evil.test",
            "127.0.0.1.evil.test:8000",
            "localhost@evil.test",
            "evil.test@localhost",
            "192.168.0.1",
            "0.0.0.0:8000",
            "[::]",
            "",
            "a b",
        ];
        for host in strangers {
            assert_eq!(verdict(&local, Some(host), None), Err(403), "{host}");
        }
        assert_eq!(verdict(&local, None, None), Err(403));
    }

    #[test]
    fn a_name_that_is_allowed_counts_and_others_do_not() {
        let named = names("0.0.0.0", &["Osprey.test"]);
        for host in ["osprey.test", "OSPREY.test:443", "localhost:8000"] {
            assert_eq!(verdict(&named, Some(host), None), Ok(()), "{host}");
        }
        assert_eq!(verdict(&named, Some("evil.test"), None), Err(403));
        assert_eq!(verdict(&names("0.0.0.0", &[]), Some("any.test"), None), Ok(()));
        assert_eq!(verdict(&names("::1", &[]), Some("any.test"), None), Err(403));
    }

    #[test]
    fn pages_of_other_origins_may_not_ask() {
        let (local, public) = (names("127.0.0.1", &[]), names("0.0.0.0", &[]));
        let host = Some("localhost:8000");
        for (origin, want) in [
            ("http://localhost:8000", Ok(())),
            ("HTTP://LOCALHOST:8000", Ok(())),
            ("http://localhost:3000", Err(403)),
            ("http://127.0.0.1:8000", Err(403)),
            ("http://evil.test", Err(403)),
            ("http://evil.test:8000", Err(403)),
            ("null", Err(403)),
            ("", Err(403)),
        ] {
            assert_eq!(verdict(&local, host, Some(origin)), want, "{origin}");
            assert_eq!(verdict(&public, host, Some(origin)), want, "{origin}");
        }
        let named = names("127.0.0.1", &["osprey.test"]);
        assert_eq!(verdict(&named, host, Some("https://osprey.test")), Ok(()));
        assert_eq!(verdict(&named, host, Some("https://evil.test")), Err(403));
    }
}
