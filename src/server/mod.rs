//! An OpenAI-compatible HTTP server around a worker thread that owns the engine.
//!
//! Owns: routes, bodies, limits, who may ask, how the process ends. Refuses to know: flags, devices, checkpoints; whoever calls [`serve`] says
//! how an engine is made. The way of a request: `auth` -> admission -> `body` -> `prompt` (decoding, on a bounded pool) -> `worker` (all run together) ->
//! `answer`.
//! The surprise: a place in the queue is taken before the body is read, so that what is in memory is bounded by the queue.

mod address;
mod answer;
mod auth;
mod body;
mod calls;
mod controls;
mod error;
mod fetch;
mod form;
mod generate;
mod json;
mod limits;
mod listen;
mod logprobs;
mod metrics;
mod page;
mod pool;
mod prompt;
mod reader;
mod report;
mod responses;
mod routes;
mod shape;
mod stop;
mod tools;
mod value;
mod worker;

use crate::engine::{Engine, Limits};
use crate::error::{Error, Result};
use crate::intake::Model;
use crate::intake::grammar::Grammars;
use axum::body::{Body, Bytes};
use error::ApiError;
use fetch::Fetcher;
pub use fetch::ImageHost;
use futures_util::StreamExt;
use limits::Patience;
use metrics::Metrics;
use pool::Pool;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use worker::Worker;

/// How to serve.
#[derive(Debug, Clone)]
pub struct Settings {
    pub address: SocketAddr,
    /// Whoever asks must have it.
    pub key: Option<String>,
    /// Names under which browsers and proxies reach it, beside those of this machine.
    pub allowed_hosts: Vec<String>,
    /// Hosts that pictures are fetched from.
    pub image_hosts: Vec<ImageHost>,
    /// The name that requests use.
    pub model_name: String,
    /// What every engine that is made has room for.
    pub limits: Limits,
    /// Special tokens in text count.
    pub special_tokens_in_text: bool,
    /// Requests that wait behind those that run.
    pub queue: usize,
    /// Requests may say how important they are.
    pub priorities: bool,
    /// From the arrival of a request to the end of its answer.
    pub deadline: Duration,
    /// For what is under way when the server is told to end.
    pub drain: Duration,
}

/// What handlers share.
struct App {
    model: Arc<Model>,
    name: String,
    rules: prompt::Rules,
    key: Option<String>,
    names: auth::Names,
    fetcher: Arc<Fetcher>,
    priorities: bool,
    deadline: Duration,
    patience: Patience,
    worker: Worker,
    metrics: Arc<Metrics>,
    /// Answers that may run together.
    sequences: usize,
    /// Requests that may be in the server, those that run and those that wait.
    places: usize,
    admission: Arc<Semaphore>,
    parsing: Pool,
    preparing: Pool,
    /// A turn for each prompt that is in memory with its pixels, from its preparation to the end of its answer.
    prepared: Pool,
    /// For requests that want an answer of some form; made for the first of them.
    grammars: OnceLock<Result<Grammars, ApiError>>,
    ending: AtomicBool,
}

/// The id of a request in logs and headers.
#[derive(Clone)]
struct RequestId(String);

/// Serves `model` until SIGTERM or Ctrl-C, then finishes what is under way. `make` makes the engine, again after it failed.
///
/// # Errors
/// What `make` reports the first time, or an address that cannot be listened on.
pub fn serve(
    model: Arc<Model>,
    make: impl FnMut() -> Result<Engine> + Send + 'static,
    settings: Settings,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|e| Error::io("the server's threads", e))?;
    let Limits { blocks, images, .. } = settings.limits;
    let metrics = Arc::new(Metrics::new(&settings.model_name, blocks, images));
    let address = settings.address;
    // Before the engine is made, so that a wrong address is known at once.
    let listener = runtime.block_on(TcpListener::bind(address)).map_err(|e| Error::io(address.to_string(), e))?;
    let worker = Worker::start(make, metrics.clone())?;
    let drain = settings.drain;
    let app = Arc::new(App::new(model, worker, metrics, settings));
    let drained = runtime.block_on(run(listener, app.clone(), drain))?;
    // An executor must not be at work while the process is taken down.
    app.worker.end();
    match drained {
        true => tracing::info!("ended"),
        false => tracing::warn!("ended with requests under way: --drain-seconds is over"),
    }
    // A decoder that still works on a picture is not waited for.
    runtime.shutdown_background();
    Ok(())
}

async fn run(listener: TcpListener, app: Arc<App>, drain: Duration) -> Result<bool> {
    let broken = |e| Error::io("signals", e);
    let mut terminate = signal(SignalKind::terminate()).map_err(broken)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
    let address = listener.local_addr().map_err(|e| Error::io("the address", e))?;
    tracing::info!(%address, model = app.name, "listening");
    let ending = app.clone();
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        ending.ending.store(true, Ordering::Relaxed);
        tracing::info!("ending: what is under way is finished");
    };
    let patience = app.patience;
    Ok(listen::serve(listener, routes::router(app), patience, stop, drain).await)
}

impl App {
    fn new(model: Arc<Model>, worker: Worker, metrics: Arc<Metrics>, settings: Settings) -> App {
        let Limits { context, seqs, .. } = settings.limits;
        let places = seqs + settings.queue;
        App {
            model,
            name: settings.model_name,
            rules: prompt::Rules { context, special: settings.special_tokens_in_text },
            key: settings.key,
            names: auth::Names::new(settings.address.ip(), settings.allowed_hosts),
            fetcher: Arc::new(Fetcher::new(settings.image_hosts)),
            priorities: settings.priorities,
            deadline: settings.deadline,
            patience: limits::PATIENCE,
            worker,
            metrics,
            sequences: seqs,
            places,
            admission: Arc::new(Semaphore::new(places)),
            parsing: Pool::new(limits::WORKERS),
            preparing: Pool::new(limits::WORKERS),
            prepared: Pool::new(seqs + limits::PREPARED),
            grammars: OnceLock::new(),
            ending: AtomicBool::new(false),
        }
    }

    /// What compiles forms for the model's vocabulary.
    fn grammars(&self) -> Result<&Grammars, ApiError> {
        let Model { tokenizer, files, .. } = &*self.model;
        let make = || Ok(Grammars::new(tokenizer, files.config.text.vocab_size, files.eos_token_ids())?);
        self.grammars.get_or_init(make).as_ref().map_err(ApiError::clone)
    }

    /// Reads a body within the limits of bytes and time.
    fn read(&self, body: Body) -> impl Future<Output = Result<Bytes, ApiError>> + use<> {
        let whole = async move {
            let (mut bytes, mut stream) = (Vec::new(), body.into_data_stream());
            while let Some(part) = stream.next().await {
                let part = part.map_err(|_| ApiError::broken_body())?;
                if bytes.len() + part.len() > limits::BODY {
                    return Err(ApiError::too_large());
                }
                bytes.extend_from_slice(&part);
            }
            Ok(Bytes::from(bytes))
        };
        let time = self.patience.body;
        async move { tokio::time::timeout(time, whole).await.unwrap_or_else(|_| Err(ApiError::slow_body(time))) }
    }

    /// Refuses a model that is not served; none is the one that is.
    fn check_model(&self, asked: Option<&str>) -> Result<(), ApiError> {
        match asked {
            Some(asked) if asked != self.name => Err(ApiError::model(asked, &self.name)),
            _ => Ok(()),
        }
    }
}

/// Reads a body as the routes of answers do; `fuzz/` throws anything at it.
///
/// # Panics
/// If what is wrong with it is called the server's fault.
#[cfg(fuzzing)]
pub fn read_body(bytes: &[u8]) {
    for kind in [shape::Kind::Chat, shape::Kind::Plain] {
        let read = generate::parse(&Bytes::copy_from_slice(bytes), kind);
        let read = read.and_then(|body| {
            let mut turns = prompt::turns(body.messages.as_ref().map_or(&[], |list| &list.0))?;
            if let Some(tools) = tools::Tools::new(&body)? {
                tools.describe(&mut turns);
                tools.form();
            }
            Ok(())
        });
        if let Err(error) = read {
            assert!(error.status.is_client_error(), "{error:?}");
        }
    }
    if let Err(error) = responses::parse(bytes) {
        assert!(error.status.is_client_error(), "{error:?}");
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// An id that no other request of any server has.
fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    // Its keys are random.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(count);
    format!("{:016x}{count:08x}", hasher.finish())
}
