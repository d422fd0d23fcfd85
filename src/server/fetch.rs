//! Pictures that requests name by address: fetched from hosts that the operator allowed, and from no others.
//!
//! Owns: the allow-list, the way to a file, its limits. Refuses to know: what a picture is; its bytes take the same way as those of `data:` URLs.
//! The surprises: a name that is allowed is still refused while any of its addresses is not public, the connection goes to the addresses
//! that were judged and no other look-up, and proxies of the environment are not used, since they would look names up themselves.

use super::address::is_public;
use super::body::Message;
use super::error::ApiError;
use super::json::Content;
use super::limits::{BODY, FETCH_TIME, FETCHES, IMAGE, REDIRECTS, URL};
use super::pool::Pool;
use std::fmt::Display;
use std::io::Read;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Error};
use url::Url;

/// A host that pictures may come from: `example.org`, `*.example.org` (which does not name `example.org` itself), `example.org:8443`, or
/// `http://example.org` for one that is asked without TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageHost {
    scheme: &'static str,
    /// Begins with a dot if it is a suffix.
    name: String,
    port: u16,
}

impl FromStr for ImageHost {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "must be HOST, *.SUFFIX, HOST:PORT or http://HOST";
        let (scheme, rest) = match text.split_once("://") {
            None => ("https", text),
            Some(("https", rest)) => ("https", rest),
            Some(("http", rest)) => ("http", rest),
            Some(_) => return Err(WRONG),
        };
        let (dot, host) = rest.strip_prefix("*.").map_or(("", rest), |suffix| (".", suffix));
        // Written as a request's URL will be once it is parsed.
        let url = Url::parse(&format!("{scheme}://{host}/")).map_err(|_| WRONG)?;
        let name =
            url.host_str().filter(|name| !name.contains('*') && url.path() == "/" && host_only(&url)).ok_or(WRONG)?;
        let port = url.port_or_known_default().ok_or(WRONG)?;
        Ok(ImageHost { scheme, name: format!("{dot}{name}"), port })
    }
}

impl ImageHost {
    fn allows(&self, url: &Url) -> bool {
        let named = url.host_str().is_some_and(|host| match self.name.starts_with('.') {
            true => host.len() > self.name.len() && host.ends_with(&self.name),
            false => host == self.name,
        });
        named && url.scheme() == self.scheme && url.port_or_known_default() == Some(self.port)
    }
}

/// Whether a URL says nothing of users, queries and fragments.
fn host_only(url: &Url) -> bool {
    url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none()
}

/// Fetches pictures for requests, a few at a time.
pub struct Fetcher {
    hosts: Vec<ImageHost>,
    time: Duration,
    lookup: Lookup,
    /// Who vouches for hosts.
    roots: RootCerts,
    turns: Pool,
}

/// How names become addresses, and which of those are asked.
#[derive(Debug, Clone)]
struct Lookup {
    names: Arc<dyn Resolver>,
    allowed: fn(IpAddr) -> bool,
}

impl Resolver for Lookup {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let found = self.names.resolve(uri, config, timeout)?;
        match found.iter().all(|address| (self.allowed)(address.ip())) {
            true => Ok(found),
            false => Err(Error::Other("its host has an address that is not public".into())),
        }
    }
}

impl Fetcher {
    /// Asks `hosts` only; none of them means that no address is ever opened.
    pub fn new(hosts: Vec<ImageHost>) -> Fetcher {
        let lookup = Lookup { names: Arc::new(DefaultResolver::default()), allowed: is_public };
        Fetcher { hosts, time: FETCH_TIME, lookup, roots: RootCerts::WebPki, turns: Pool::new(FETCHES) }
    }

    /// Fetches what the pictures of `messages` name by address, one after the other; what is no such address stays as it is.
    ///
    /// # Errors
    /// 400, naming the field.
    pub async fn fill(self: &Arc<Self>, messages: &mut [Message]) -> Result<(), ApiError> {
        let mut left = BODY as u64;
        for (i, message) in messages.iter_mut().enumerate() {
            let Some(Content::Parts(parts)) = &mut message.content else { continue };
            for (k, part) in parts.0.iter_mut().enumerate() {
                let Some(image) = part.image_url.as_mut().filter(|image| is_remote(&image.url)) else { continue };
                let (fetcher, url, most) = (self.clone(), image.url.clone(), left.min(IMAGE.max_file_bytes));
                let at = format!("messages[{i}].content[{k}].image_url");
                let get = move || fetcher.get(&url, most).map_err(|why| ApiError::field(at, why));
                let file = self.turns.run(get).await?;
                left -= file.len() as u64;
                image.file = Some(file.into());
            }
        }
        Ok(())
    }

    /// The file at `url`, of at most `most` bytes, or why there is none.
    fn get(&self, url: &str, most: u64) -> Result<Vec<u8>, String> {
        if self.hosts.is_empty() {
            return Err("remote pictures are off: send the file as data:image/png;base64,...".into());
        }
        if url.len() > URL {
            return Err(format!("an address of more than {URL} bytes"));
        }
        let end = Instant::now() + self.time;
        let mut url = Url::parse(url).map_err(|e| format!("is no address: {e}"))?;
        for _ in 0..=REDIRECTS {
            self.check(&url)?;
            let failed = |e: &dyn Display| format!("could not be fetched: {e}");
            let response = self.agent(end).get(url.as_str()).call().map_err(|e| failed(&e))?;
            let status = response.status();
            if status.is_redirection() {
                let to = response.headers().get("location").and_then(|to| to.to_str().ok());
                url = to.and_then(|to| url.join(to).ok()).ok_or_else(|| failed(&"it leads nowhere"))?;
                continue;
            }
            if status != 200 {
                return Err(failed(&format!("its host answered {}", status.as_u16())));
            }
            let mut file = Vec::new();
            response.into_body().into_reader().take(most + 1).read_to_end(&mut file).map_err(|e| failed(&e))?;
            return if file.len() as u64 > most { Err(format!("more than {most} bytes")) } else { Ok(file) };
        }
        Err(format!("more than {REDIRECTS} redirects"))
    }

    fn check(&self, url: &Url) -> Result<(), String> {
        let shown = || format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
        match () {
            _ if !self.hosts.iter().any(|host| host.allows(url)) => {
                Err(format!("leads to {}, from which pictures are not fetched here", shown()))
            }
            _ if !url.username().is_empty() || url.password().is_some() => Err("must not name a user".into()),
            _ => Ok(()),
        }
    }

    /// A client for one question, with no cookies, no connections and no proxy of others.
    fn agent(&self, end: Instant) -> Agent {
        let config = Agent::config_builder()
            .proxy(None)
            .tls_config(TlsConfig::builder().root_certs(self.roots.clone()).build())
            .timeout_global(Some(end.saturating_duration_since(Instant::now())))
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .accept("image/*")
            .accept_encoding("identity")
            .user_agent("osprey");
        Agent::with_parts(config.build(), DefaultConnector::default(), self.lookup.clone())
    }
}

/// Whether a URL names another machine.
fn is_remote(url: &str) -> bool {
    let start = |scheme: &str| url.get(..scheme.len()).is_some_and(|s| s.eq_ignore_ascii_case(scheme));
    start("http:") || start("https:")
}

#[cfg(test)]
mod tests;
