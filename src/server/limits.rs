//! What a request may cost before it is refused, where no flag says so.

use crate::media::rgb::DecodeLimits;
use std::time::Duration;

/// Bytes of a request body, and of the pictures that are fetched for it.
pub const BODY: usize = 50 << 20;
/// Pictures of a request.
pub const IMAGES: usize = 16;
/// Bytes of a picture file, and its pixels as its header states them.
pub const IMAGE: DecodeLimits = DecodeLimits { max_pixels: 50_000_000, max_file_bytes: 20 << 20 };
/// Messages of a conversation, and parts of all its messages.
pub const MESSAGES: usize = 4096;
/// Strings that end an answer, and bytes of each.
pub const STOPS: usize = 16;
pub const STOP_BYTES: usize = 1024;
/// Tools of a request, or calls of a message, and bytes of a tool's name.
pub const TOOLS: usize = 128;
pub const TOOL_NAME: usize = 64;
/// Tokens with a bias.
pub const BIASES: usize = 1024;
/// Prompts that are prepared beyond those that may run, so that the next one need not be waited for. More would hold their pixels in memory; those
/// behind them hold their files only.
pub const PREPARED: usize = 2;
/// Bodies parsed, and prompts prepared, at the same time.
pub const WORKERS: usize = 2;
/// So long what a client still writes behind its last response is taken, up to the bytes of a body.
pub const LINGER: Duration = Duration::from_secs(2);
/// Pictures that are fetched at the same time, how long each may take, how often it may be elsewhere, and bytes of its address.
pub const FETCHES: usize = 8;
pub const FETCH_TIME: Duration = Duration::from_secs(10);
pub const REDIRECTS: usize = 3;
pub const URL: usize = 2048;

/// What clients may take of the server beside answers. Tests have less of it.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Connections, of which each may wait or read; others wait to be accepted.
    pub connections: usize,
    /// From the connection, or the answer before, to the end of a request's headers.
    pub headers: Duration,
    /// For a body.
    pub body: Duration,
    /// A client that takes nothing for so long is gone.
    pub stall: Duration,
}

pub const PATIENCE: Patience = Patience {
    connections: 1024,
    headers: Duration::from_secs(30),
    body: Duration::from_secs(60),
    stall: Duration::from_secs(60),
};
