//! A running server and a client of plain sockets.

use crate::command::{ROOT, good, osprey};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const CHAT: &str = "/v1/chat/completions";
pub const PLAIN: &str = "/v1/completions";
pub const RESPONSES: &str = "/v1/responses";
pub const QUESTION: &str = "What color is the star?";

/// A running server, killed at last.
pub struct Server {
    pub child: Child,
    pub port: u16,
    /// Its log so far, line by line.
    log: Arc<Mutex<Vec<String>>>,
}

/// A response, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Server {
    pub fn start(args: &[&str]) -> Server {
        Server::start_in(args, &[])
    }

    /// With variables in its environment.
    pub fn start_in(args: &[&str], variables: &[(&str, &str)]) -> Server {
        let mut command = osprey();
        command.args(["serve", "--port", "0", "--log-format", "json", "--device", "cpu"]).args(args);
        command.env_remove("OSPREY_API_KEY").envs(variables.iter().copied());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let (mut first, mut port) = (Vec::new(), None);
        while port.is_none() {
            let line = lines.next().unwrap_or_else(|| panic!("{first:?}"));
            let value: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
            port = value["address"].as_str().map(|address| address.rsplit(':').next().unwrap().parse().unwrap());
            first.push(line);
        }
        let port = port.unwrap();
        let log = Arc::new(Mutex::new(first));
        let kept = log.clone();
        std::thread::spawn(move || lines.for_each(|line| kept.lock().unwrap().push(line)));
        Server { child, port, log }
    }

    /// Sends bytes and leaves the connection open.
    pub fn open(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    }

    pub fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
        let mut stream = self.open(&message(method, path, headers, body));
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        reply(&bytes)
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "", b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, JSON, body.to_string().as_bytes())
    }

    /// A chat that must succeed.
    pub fn chat(&self, body: &Value) -> Value {
        let reply = self.post(CHAT, body);
        assert_eq!(reply.status, 200, "{}", reply.body);
        serde_json::from_str(&reply.body).unwrap()
    }

    /// The JSON of each event of a stream; the last must be `[DONE]`.
    pub fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let reply = self.post(path, body);
        assert_eq!((reply.status, &reply.headers["content-type"][..]), (200, "text/event-stream"), "{}", reply.body);
        events(&reply)
    }

    /// A number of `/metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until a metric has a value.
    pub fn until(&self, name: &str, value: f64) {
        let start = Instant::now();
        while self.metric(name) != value {
            assert!(start.elapsed() < Duration::from_secs(20), "{name} never becomes {value}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub const JSON: &str = "Content-Type: application/json\r\n";

pub fn message(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

pub fn reply(bytes: &[u8]) -> Reply {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_string()));
    let headers: BTreeMap<String, String> = lines.filter_map(header).collect();
    let chunked = headers.get("transfer-encoding").is_some_and(|how| how == "chunked");
    Reply { status, body: if chunked { unchunked(body) } else { body.into() }, headers }
}

/// The JSON of each event of a stream; the last must be `[DONE]`.
pub fn events(reply: &Reply) -> Vec<Value> {
    let mut events: Vec<&str> = reply.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(events.pop(), Some("[DONE]"), "{}", reply.body);
    events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

/// The text of a stream of `/v1/completions` that is under way.
pub fn said_by(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let said = |event: &Value| event["choices"][0]["text"].as_str().map(str::to_string);
    events(&reply(&bytes)).iter().filter_map(said).collect()
}

fn unchunked(mut rest: &str) -> String {
    let mut out = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        out += &after[..size];
        rest = &after[size + 2..];
    }
    out
}

/// A picture as a data URL.
pub fn data_url(kind: &str, bytes: &[u8]) -> String {
    use base64::Engine;
    format!("data:image/{kind};base64,{}", base64::prelude::BASE64_STANDARD.encode(bytes))
}

pub fn example(name: &str) -> String {
    data_url("png", &std::fs::read(format!("{ROOT}/examples/{name}.png")).unwrap())
}

pub fn image(url: &str) -> Value {
    json!({ "type": "image_url", "image_url": { "url": url } })
}

pub fn text(text: &str) -> Value {
    json!({ "type": "text", "text": text })
}

/// One user turn.
pub fn ask(parts: Value) -> Value {
    json!({ "model": "demo", "messages": [{ "role": "user", "content": parts }] })
}

pub fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// What `osprey run` says of pictures of `examples/`.
pub fn run(pictures: &[&str], prompt: &str) -> Value {
    let files: Vec<String> = pictures.iter().map(|name| format!("{ROOT}/examples/{name}.png")).collect();
    let mut args = vec!["run", "--device", "cpu", "--json", "--prompt", prompt];
    for file in &files {
        args.extend(["--input", file]);
    }
    serde_json::from_str(&good(&args)).unwrap()
}

/// A request that the model does not end by itself: what was said becomes ever more probable.
pub fn long(tokens: u64) -> Value {
    json!({ "prompt": "the the the the", "max_tokens": tokens, "temperature": 0, "repetition_penalty": 0.2, "stream": true })
}

/// The response is an error in OpenAI's shape; its `param`.
pub fn error(reply: &Reply, status: u16) -> Value {
    assert_eq!(reply.status, status, "{}", reply.body);
    let body: Value = serde_json::from_str(&reply.body).unwrap();
    let error = body["error"].as_object().unwrap();
    assert_eq!(error.keys().collect::<Vec<_>>(), ["message", "type", "param", "code"]);
    assert!(!error["message"].as_str().unwrap().is_empty() && error["type"].is_string(), "{body}");
    error["param"].clone()
}
