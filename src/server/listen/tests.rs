//! The whole server in this process, with a parrot for an engine and little patience.

use super::*;
use crate::engine::Limits;
use crate::intake::Model;
use crate::server::worker::tests::{MEET, PANIC, metrics, worker};
use crate::server::{App, Settings, routes};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream as Client};
use std::sync::Mutex;
use std::time::Instant;
use tokio::net::TcpSocket;
use tokio::runtime::{Builder, Runtime};

const PATIENCE: Patience = Patience {
    connections: 8,
    headers: Duration::from_millis(300),
    body: Duration::from_millis(300),
    stall: Duration::from_millis(300),
};
/// What takes longer never happens.
const NEVER: Duration = Duration::from_secs(10);
/// A token of plain text.
const WORD: u32 = 100;
const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

struct Server {
    runtime: Option<Runtime>,
    address: SocketAddr,
    /// What the engine was told to give up.
    cancelled: Arc<Mutex<Vec<u64>>>,
}

impl Server {
    fn start(patience: Patience) -> Server {
        let (worker, cancelled) = worker(2);
        let settings = Settings {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            key: None,
            allowed_hosts: Vec::new(),
            image_hosts: Vec::new(),
            model_name: "demo".into(),
            limits: Limits { seqs: 2, ..Limits::single(1 << 20, 1, 1, 1) },
            special_tokens_in_text: false,
            queue: 0,
            priorities: false,
            deadline: NEVER,
            drain: NEVER,
        };
        let app = App { patience, ..App::new(Arc::new(Model::demo()), worker, metrics(), settings) };
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(serve(listener, routes::router(Arc::new(app)), patience, std::future::pending(), NEVER));
        Server { runtime: Some(runtime), address, cancelled }
    }

    /// Sends bytes and leaves the connection open.
    fn open(&self, bytes: &[u8]) -> Client {
        let mut client = Client::connect(self.address).unwrap();
        client.set_read_timeout(Some(NEVER)).unwrap();
        client.write_all(bytes).unwrap();
        client
    }

    fn ask(&self, bytes: &[u8]) -> String {
        rest(self.open(bytes))
    }

    fn is_alive(&self) -> bool {
        self.ask(&question(&[1], false)).starts_with("HTTP/1.1 200")
            && self.ask(HEALTH.as_bytes()).starts_with("HTTP/1.1 200")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

/// All that still comes.
fn rest(mut client: Client) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    text
}

/// A request whose answer is `ids`.
fn question(ids: &[u32], stream: bool) -> Vec<u8> {
    let body = json!({ "prompt": ids, "max_tokens": ids.len(), "stream": stream }).to_string();
    let head =
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json";
    format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// The error in a response.
fn error(response: &str) -> Value {
    let body = response.split("\r\n\r\n").nth(1).unwrap_or_else(|| panic!("{response:?}"));
    serde_json::from_str::<Value>(body).unwrap()["error"].clone()
}

#[test]
fn headers_that_do_not_come_end_the_connection() {
    let server = Server::start(PATIENCE);
    // Nothing, the begin of a request, and the time after an answer.
    let stays = HEALTH.replace("Connection: close\r\n", "");
    for (begin, answered) in [("", false), (&HEALTH[..30], false), (&stays, true)] {
        let start = Instant::now();
        let response = server.ask(begin.as_bytes());
        assert_eq!(response.starts_with("HTTP/1.1 200"), answered, "{response}");
        assert!((PATIENCE.headers..NEVER / 2).contains(&start.elapsed()), "{:?}", start.elapsed());
    }
    // Each byte is no new beginning.
    let (mut slow, start) = (server.open(&HEALTH.as_bytes()[..30]), Instant::now());
    while slow.write_all(b"a").is_ok() {
        assert!(start.elapsed() < NEVER / 2);
        std::thread::sleep(Duration::from_millis(30));
    }
    assert!(server.is_alive());
}

#[test]
fn a_body_that_does_not_come_is_refused() {
    let server = Server::start(PATIENCE);
    let whole = question(&[1; 64], false);
    for drips in [false, true] {
        let (mut client, start) = (server.open(&whole[..whole.len() - 100]), Instant::now());
        let mut dripping = client.try_clone().unwrap();
        let drip = std::thread::spawn(move || {
            while drips && start.elapsed() < 2 * PATIENCE.body && dripping.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(30));
            }
        });
        let mut bytes = [0; 2000];
        let n = client.read(&mut bytes).unwrap();
        let response = String::from_utf8_lossy(&bytes[..n]).into_owned();
        assert!(response.starts_with("HTTP/1.1 408") && start.elapsed() < NEVER / 2, "{response}");
        assert!(error(&response)["message"].as_str().unwrap().contains("0.3 seconds"), "{response}");
        drip.join().unwrap();
    }
    // Their places in the queue are free again.
    let both = [0; 2].map(|_| server.open(&question(&[MEET], false))).map(rest);
    assert!(both.iter().all(|response| response.starts_with("HTTP/1.1 200")), "{both:?}");
}

#[test]
fn connections_beyond_the_limit_wait_for_a_place() {
    let server = Server::start(Patience { connections: 2, headers: Duration::from_secs(1), ..PATIENCE });
    let [first, second] = [0; 2].map(|_| server.open(b""));
    let mut third = server.open(HEALTH.as_bytes());
    third.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(third.read(&mut [0; 10]).is_err(), "it was not accepted yet");
    third.set_read_timeout(Some(NEVER)).unwrap();
    drop(first);
    assert!(rest(third).starts_with("HTTP/1.1 200"));
    // Those that never ask lose their places.
    let _idle = server.open(b"");
    assert!(server.is_alive());
    drop(second);
}

#[test]
fn a_client_that_takes_nothing_is_cut_and_its_request_cancelled() {
    let server = Server::start(PATIENCE);
    // More than sockets hold, and then a wait for company.
    let ids: Vec<u32> = [WORD; 40_000].into_iter().chain([MEET]).collect();
    let socket = TcpSocket::new_v4().unwrap();
    // A small window, as far as the system allows.
    socket.set_recv_buffer_size(4096).unwrap();
    let runtime = server.runtime.as_ref().unwrap();
    let client = runtime.block_on(socket.connect(server.address)).unwrap().into_std().unwrap();
    client.set_nonblocking(false).unwrap();
    client.set_read_timeout(Some(NEVER)).unwrap();
    (&client).write_all(&question(&ids, true)).unwrap();
    let start = Instant::now();
    while server.cancelled.lock().unwrap().is_empty() {
        assert!(start.elapsed() < NEVER / 2, "nobody noticed");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(start.elapsed() >= PATIENCE.stall && server.is_alive());
    let mut said = Vec::new();
    // What was on its way, and then a reset or the end.
    let _ = (&client).read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said);
    assert!(said.starts_with("HTTP/1.1 200") && !said.contains("[DONE]"), "{} bytes", said.len());
}

/// A client that takes a little from time to time is slow, and not gone.
#[test]
fn a_slow_client_gets_all_of_it() {
    let patience = Patience { stall: Duration::from_millis(900), ..PATIENCE };
    let server = Server::start(patience);
    let mut client = server.open(&question(&[WORD; 40_000], true));
    let (mut said, mut before) = (Vec::new(), 0);
    loop {
        std::thread::sleep(patience.stall / 3);
        (&mut client).take(1_500_000).read_to_end(&mut said).unwrap();
        if std::mem::replace(&mut before, said.len()) == said.len() {
            break;
        }
    }
    assert!(String::from_utf8_lossy(&said).contains("data: [DONE]"));
    assert!(server.cancelled.lock().unwrap().is_empty());
}

#[test]
fn a_panic_of_the_engine_fails_its_requests_and_no_others() {
    let server = Server::start(PATIENCE);
    let whole = server.ask(&question(&[WORD, PANIC], false));
    assert!(whole.starts_with("HTTP/1.1 500"), "{whole}");
    assert!(error(&whole)["type"] == "server_error" && !whole.contains("unlucky"), "{whole}");
    assert!(server.is_alive());
    let server = Server::start(PATIENCE);
    let streamed = server.ask(&question(&[WORD, PANIC], true));
    assert!(streamed.starts_with("HTTP/1.1 200") && !streamed.contains("[DONE]"), "{streamed}");
    assert!(streamed.contains("server_error") && !streamed.contains("unlucky"), "{streamed}");
    assert!(server.is_alive());
}
