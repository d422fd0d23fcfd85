use super::*;
use crate::server::json;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use ureq::tls::Certificate;

/// Vouches for `tls.test` only, and nobody else trusts it. Both are good until 2120; the authority's key is gone.
const AUTHORITY: &[u8] = include_bytes!("authority.pem");
/// The certificate of `tls.test` and its key.
const HOST: &[u8] = include_bytes!("host.pem");

/// Gives every name the same addresses, and keeps the names.
#[derive(Debug)]
struct Names(Vec<SocketAddr>, Mutex<Vec<String>>);

impl Resolver for Names {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        self.1.lock().unwrap().push(uri.host().unwrap().into());
        let mut found = self.empty();
        self.0.iter().for_each(|address| found.push(*address));
        Ok(found)
    }
}

/// A connection, plain or not.
trait Talk: Read + Write + Send {}

impl<T: Read + Write + Send> Talk for T {}

fn tls(stream: TcpStream) -> Box<dyn Talk> {
    let chain = vec![CertificateDer::from_pem_slice(HOST).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(HOST).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    Box::new(StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), stream))
}

/// What a client asks, without its last line; none if it breaks off.
fn question(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.extend(byte);
    }
    Some(String::from_utf8(head).unwrap().trim_end().replace("\r\n", "\n"))
}

/// A host that answers one path after the other with `answers`, and what a fetcher asked of it.
struct Host {
    fetcher: Arc<Fetcher>,
    names: Arc<Names>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Host {
    fn new(answers: Vec<Vec<u8>>, allowed: fn(IpAddr) -> bool) -> Host {
        Host::start(answers, Duration::ZERO, |stream| Box::new(stream)).of(|fetcher| fetcher.lookup.allowed = allowed)
    }

    /// One that thinks for a while before each answer, with any address allowed.
    fn start(answers: Vec<Vec<u8>>, thinks: Duration, talk: fn(TcpStream) -> Box<dyn Talk>) -> Host {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let names = Arc::new(Names(vec![listener.local_addr().unwrap()], Mutex::default()));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = asked.clone();
        std::thread::spawn(move || {
            for (answer, stream) in answers.into_iter().zip(listener.incoming()) {
                let mut stream = talk(stream.unwrap());
                kept.lock().unwrap().extend(question(&mut stream));
                std::thread::sleep(thinks);
                // A client that has enough breaks off.
                let _ = stream.write_all(&answer);
                // Slow answers stay open.
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_secs(5));
                    drop(stream);
                });
            }
        });
        let hosts = ["http://pictures.test", "http://*.more.test", "tls.test", "other.test"];
        let lookup = Lookup { names: names.clone(), allowed: |_| true };
        let fetcher = Fetcher { lookup, ..Fetcher::new(hosts.map(|host| host.parse().unwrap()).into()) };
        Host { fetcher: Arc::new(fetcher), names, asked }
    }

    /// With something else about its fetcher, which nobody has yet.
    fn of(mut self, change: impl FnOnce(&mut Fetcher)) -> Host {
        change(Arc::get_mut(&mut self.fetcher).unwrap());
        self
    }

    /// With so many milliseconds for a file.
    fn within(self, ms: u64) -> Host {
        self.of(|fetcher| fetcher.time = Duration::from_millis(ms))
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
        "http://xpictures.test/",
        "http://a.pictures.test/",
        "http://pictures.test.evil.test/",
        "http://pictures.test:8080/",
        "http://pictures.test./",
        "http://pictures.test@evil.test/",
        "http://user@pictures.test/",
        "http://user:word@pictures.test/",
        "https://pictures.test/",
        "https://pictures.test:80/",
        "http://tls.test/",
        "http://tls.test:443/",
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

/// Names may have several addresses, and each of them may be the one that is asked.
#[test]
fn one_address_that_is_not_public_is_enough() {
    let public: SocketAddr = "8.8.8.8:80".parse().unwrap();
    for turn in [0, 1] {
        let host = Host::new(vec![file(b"secret")], is_public).within(500);
        let mut addresses = vec![public, host.names.0[0]];
        addresses.rotate_left(turn);
        let names = Arc::new(Names(addresses, Mutex::default()));
        let host = host.of(|fetcher| fetcher.lookup.names = names);
        assert!(host.get("http://pictures.test/").unwrap_err().contains("not public"));
        assert!(host.asked.lock().unwrap().is_empty());
    }
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
    for to in ["http://127.0.0.1/", "http://evil.test/", "https://pictures.test/", "file:///etc/passwd", "http://"] {
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
        assert_eq!(Host::new(vec![answer], |_| true).get("http://pictures.test/"), Err("more than 1000 bytes".into()));
    }
    assert_eq!(Host::new(vec![file(&[0; 1000])], |_| true).get("http://pictures.test/").map(|f| f.len()), Ok(1000));
    // Silent before the head, within it, and within the body.
    let within = [b"".as_slice(), b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na"];
    for answer in within {
        let (host, start) = (Host::new(vec![answer.into()], |_| true).within(500), Instant::now());
        assert!(host.get("http://pictures.test/").unwrap_err().contains("timeout"));
        assert!(start.elapsed() < Duration::from_secs(3));
    }
}

/// Each of the four answers comes in time, and all of them do not.
#[test]
fn redirects_share_the_time() {
    let answers = vec![redirect("/1"), redirect("/2"), redirect("/3"), file(b"late")];
    let host = Host::start(answers, Duration::from_millis(200), |stream| Box::new(stream)).within(600);
    assert!(host.get("http://pictures.test/").unwrap_err().contains("timeout"));
}

/// The host's answer is no more than a server's pictures may have, and more than is left for a request's.
#[test]
fn the_files_of_a_request_are_limited_together() {
    let answers = vec![file(&vec![7; IMAGE.max_file_bytes as usize]); 3];
    let host = Host::new(answers, |_| true);
    let image = serde_json::json!({ "type": "image_url", "image_url": { "url": "http://pictures.test/" } });
    let body = serde_json::json!([{ "role": "user", "content": [image, image, image] }]);
    let error = fill(&host, &mut json::parse(body.to_string().as_bytes()).unwrap()).unwrap_err().json();
    assert_eq!(error["error"]["param"], "messages[0].content[2].image_url");
    let left = BODY as u64 - 2 * IMAGE.max_file_bytes;
    assert!(error["error"]["message"].as_str().unwrap().contains(&format!("more than {left} bytes")), "{error}");
}

/// A host must be the one that its certificate names, and somebody trusted must say so.
#[test]
fn hosts_are_who_they_say() {
    let host = || Host::start(vec![file(b"picture")], Duration::ZERO, tls);
    let authority = || RootCerts::new_with_certs(&[Certificate::from_pem(AUTHORITY).unwrap()]);
    let known = host().of(|fetcher| fetcher.roots = authority());
    assert_eq!(known.get("https://tls.test/a.png").unwrap(), b"picture");
    assert_eq!(*known.names.1.lock().unwrap(), ["tls.test"]);
    let other = host().of(|fetcher| fetcher.roots = authority());
    let (other, unknown) =
        (other.get("https://other.test/").unwrap_err(), host().get("https://tls.test/").unwrap_err());
    assert!(other.contains("not valid for name") && unknown.contains("UnknownIssuer"), "{other} {unknown}");
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
    assert!(Host::new(vec![file(b"plain")], |_| true).within(500).get("https://tls.test/").is_err());
}

fn fill(host: &Host, messages: &mut json::List<Message, 9>) -> Result<(), ApiError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(host.fetcher.fill(&mut messages.0))
}

#[test]
fn messages_get_their_files() {
    let host = Host::new(vec![file(b"one"), file(b"two")], |_| true);
    let image = |url: &str| serde_json::json!({ "type": "image_url", "image_url": { "url": url } });
    let parts = [image("http://pictures.test/1"), image("data:image/png;base64,"), image("HTTP://pictures.test/2")];
    let body = serde_json::json!([{ "role": "user", "content": parts }, { "role": "user", "content": "http://x" }]);
    let mut messages: json::List<Message, 9> = json::parse(body.to_string().as_bytes()).unwrap();
    fill(&host, &mut messages).unwrap();
    let Some(Content::Parts(parts)) = &messages.0[0].content else { panic!() };
    let files: Vec<_> = parts.0.iter().map(|part| part.image_url.as_ref().unwrap().file.as_deref()).collect();
    assert_eq!(files, [Some(b"one".as_slice()), None, Some(b"two")]);
    // The host has no more answers, and is gone.
    let error = fill(&host, &mut messages).unwrap_err().json();
    assert_eq!(error["error"]["param"], "messages[0].content[0].image_url");
}
