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
        Fetcher { hosts, time: FETCH_TIME, lookup, turns: Pool::new(FETCHES) }
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
mod tests {
    use super::*;
    use crate::server::json;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};
    use std::sync::Mutex;

    /// Sends every name to one listener, and keeps the names.
    #[derive(Debug)]
    struct Names(SocketAddr, Mutex<Vec<String>>);

    impl Resolver for Names {
        fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
            self.1.lock().unwrap().push(uri.host().unwrap().into());
            let mut found = self.empty();
            found.push(self.0);
            Ok(found)
        }
    }

    /// A host that answers one path after the other with `answers`, and what a fetcher asked of it.
    struct Host {
        fetcher: Arc<Fetcher>,
        names: Arc<Names>,
        asked: Arc<Mutex<Vec<String>>>,
    }

    impl Host {
        fn new(answers: Vec<Vec<u8>>, allowed: fn(IpAddr) -> bool) -> Host {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let names = Arc::new(Names(listener.local_addr().unwrap(), Mutex::default()));
            let asked = Arc::new(Mutex::new(Vec::new()));
            let kept = asked.clone();
            std::thread::spawn(move || {
                for (answer, stream) in answers.into_iter().zip(listener.incoming()) {
                    let mut stream = stream.unwrap();
                    let head = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                    let head: Vec<String> = head.take_while(|line| !line.is_empty()).collect();
                    kept.lock().unwrap().push(head.join("\n"));
                    // A client that has enough breaks off.
                    let _ = stream.write_all(&answer);
                    // Slow answers stay open.
                    std::thread::spawn(move || {
                        std::thread::sleep(Duration::from_secs(5));
                        drop(stream);
                    });
                }
            });
            let hosts = ["http://pictures.test", "http://*.more.test", "tls.test"].map(|h| h.parse().unwrap()).into();
            let lookup = Lookup { names: names.clone(), allowed };
            let time = Duration::from_millis(500);
            Host { fetcher: Arc::new(Fetcher { hosts, time, lookup, turns: Pool::new(1) }), names, asked }
        }

        fn get(&self, url: &str) -> Result<Vec<u8>, String> {
            self.fetcher.get(url, 1000)
        }
    }

    fn file(bytes: &[u8]) -> Vec<u8> {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
        [head.as_bytes(), bytes].concat()
    }

    fn redirect(to: &str) -> Vec<u8> {
        format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n").into()
    }

    #[test]
    fn a_file_of_an_allowed_host_is_fetched_with_one_look_up() {
        let host = Host::new(vec![file(b"picture")], |_| true);
        assert_eq!(host.get("http://pictures.test/a.png?b=c#d").unwrap(), b"picture");
        assert_eq!(*host.names.1.lock().unwrap(), ["pictures.test"]);
        let asked = host.asked.lock().unwrap()[0].to_lowercase();
        assert!(asked.starts_with("get /a.png?b=c http/1.1\n") && asked.contains("\nhost: pictures.test"), "{asked}");
    }

    #[test]
    fn hosts_are_those_that_were_named() {
        let host = Host::new(Vec::new(), |_| true);
        let refused = [
            "http://other.test/",
            "http://more.test/",
            "http://xmore.test/",
            "http://pictures.test.evil.test/",
            "http://pictures.test:8080/",
            "http://pictures.test./",
            "http://pictures.test@evil.test/",
            "http://user@pictures.test/",
            "http://user:word@pictures.test/",
            "https://pictures.test/",
            "http://tls.test/",
            "http://127.0.0.1/",
            "http://0x7f.1/",
            "http://[::1]/",
            "http:///",
            "http://pictures\u{3002}test.evil/",
        ];
        for url in refused {
            assert!(host.get(url).is_err(), "{url}");
        }
        assert!(host.get(&format!("http://pictures.test/{}", "a".repeat(URL))).unwrap_err().contains("2048"));
        assert!(host.names.1.lock().unwrap().is_empty(), "a name was looked up");
        let allowed: ImageHost = "http://*.more.test".parse().unwrap();
        assert!(
            ["http://a.more.test/x", "http://A.B.MORE.TEST:80"].iter().all(|u| allowed.allows(&Url::parse(u).unwrap()))
        );
        let off = Fetcher::new(Vec::new());
        assert!(off.get("https://example.org/a.png", 1).unwrap_err().contains("are off"));
    }

    #[test]
    fn host_flags_are_checked() {
        let port = |text: &str| text.parse::<ImageHost>().map(|host| (host.scheme, host.name, host.port));
        assert_eq!(port("Example.ORG"), Ok(("https", "example.org".into(), 443)));
        assert_eq!(port("https://*.example.org:8443"), Ok(("https", ".example.org".into(), 8443)));
        assert_eq!(port("http://example.org"), Ok(("http", "example.org".into(), 80)));
        assert_eq!(port("[2606:4700::1]"), Ok(("https", "[2606:4700::1]".into(), 443)));
        for wrong in ["", "*", "*.", "a.*.b", "ftp://a", "a/b", "a?b", "u@a", "a b", "a:99999"] {
            assert!(port(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_that_is_not_public_is_refused_after_its_only_look_up() {
        let host = Host::new(vec![file(b"secret")], is_public);
        assert!(host.get("http://pictures.test/").unwrap_err().contains("not public"));
        assert_eq!((host.names.1.lock().unwrap().len(), host.asked.lock().unwrap().len()), (1, 0));
    }

    #[test]
    fn redirects_are_judged_like_addresses_and_counted() {
        let three = || vec![redirect("http://a.more.test/1"), redirect("/2"), redirect("//pictures.test/3")];
        let host = Host::new([three(), vec![file(b"far")]].concat(), |_| true);
        assert_eq!(host.get("http://pictures.test/0").unwrap(), b"far");
        assert_eq!(*host.names.1.lock().unwrap(), ["pictures.test", "a.more.test", "a.more.test", "pictures.test"]);
        assert!(!host.asked.lock().unwrap().join("\n").to_lowercase().contains("cookie"));
        let host = Host::new([three(), vec![redirect("/4"), file(b"too far")]].concat(), |_| true);
        assert!(host.get("http://pictures.test/0").unwrap_err().contains("3 redirects"));
        for to in ["http://127.0.0.1/", "http://evil.test/", "https://pictures.test/", "file:///etc/passwd", "http://"]
        {
            let host = Host::new(vec![redirect(to), file(b"secret")], |_| true);
            assert!(host.get("http://pictures.test/").is_err(), "{to}");
            assert_eq!(host.asked.lock().unwrap().len(), 1, "{to}");
        }
    }

    #[test]
    fn bytes_and_time_are_limited() {
        let start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice();
        let flood = [start, &[b"400\r\n".as_slice(), &[0; 1024], b"\r\n"].concat().repeat(1000)].concat();
        for answer in [file(&[0; 1001]), flood] {
            assert_eq!(
                Host::new(vec![answer], |_| true).get("http://pictures.test/"),
                Err("more than 1000 bytes".into())
            );
        }
        assert_eq!(Host::new(vec![file(&[0; 1000])], |_| true).get("http://pictures.test/").map(|f| f.len()), Ok(1000));
        // Silent before the head, within it, and within the body.
        let within = [b"".as_slice(), b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na"];
        for answer in within {
            let (host, start) = (Host::new(vec![answer.into()], |_| true), Instant::now());
            assert!(host.get("http://pictures.test/").unwrap_err().contains("timeout"));
            assert!(start.elapsed() < Duration::from_secs(3));
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let answers = [
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".as_slice(),
            b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1\r\n\r\na",
            b"no HTTP at all\r\n\r\n",
        ];
        for answer in answers {
            let error = Host::new(vec![answer.into()], |_| true).get("http://pictures.test/").unwrap_err();
            assert!(error.starts_with("could not be fetched: "), "{error}");
        }
        // Plain text where TLS was wanted.
        assert!(Host::new(vec![file(b"plain")], |_| true).get("https://tls.test/").is_err());
    }

    #[test]
    fn messages_get_their_files() {
        let host = Host::new(vec![file(b"one"), file(b"two")], |_| true);
        let image = |url: &str| serde_json::json!({ "type": "image_url", "image_url": { "url": url } });
        let parts = [image("http://pictures.test/1"), image("data:image/png;base64,"), image("HTTP://pictures.test/2")];
        let body = serde_json::json!([{ "role": "user", "content": parts }, { "role": "user", "content": "http://x" }]);
        let mut messages: json::List<Message, 9> = json::parse(body.to_string().as_bytes()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(host.fetcher.fill(&mut messages.0)).unwrap();
        let Some(Content::Parts(parts)) = &messages.0[0].content else { panic!() };
        let files: Vec<_> = parts.0.iter().map(|part| part.image_url.as_ref().unwrap().file.as_deref()).collect();
        assert_eq!(files, [Some(b"one".as_slice()), None, Some(b"two")]);
        // The host has no more answers.
        let error = runtime.block_on(host.fetcher.fill(&mut messages.0)).unwrap_err().json();
        assert_eq!(error["error"]["param"], "messages[0].content[0].image_url");
    }
}
