//! Connections: how many there may be, how long they may take, and how they end.
//!
//! The surprises: a response that nobody reads is cut. hyper waits for ever on a client that takes nothing, and with it would its answer. And a
//! connection outlives its last response: where one is closed while its client still writes, the client may never see why it was refused.

use super::limits::{BODY, LINGER, Patience};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::future::{Future, poll_fn};
use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};

/// Serves `app` until `stop`, and then what is under way, for `drain` at most. True if all of it came to its end.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    patience: Patience,
    stop: impl Future<Output = ()>,
    drain: Duration,
) -> bool {
    let (places, graceful) = (Arc::new(Semaphore::new(patience.connections)), GracefulShutdown::new());
    let mut stop = std::pin::pin!(stop);
    loop {
        let next = async {
            // Never closed.
            let place = places.clone().acquire_owned().await.ok()?;
            Some((listener.accept().await.ok()?.0, place))
        };
        let accepted = tokio::select! {
            next = next => next,
            () = &mut stop => break,
        };
        let Some((stream, place)) = accepted else {
            // Out of file descriptors, most likely: some will be closed.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        // Tokens are small and should leave at once.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(app.clone());
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(patience.headers);
        let stream = Watched { open: Some((stream, place)), stall: patience.stall, waiting: None };
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
        // A client that breaks off is no failure.
        tokio::spawn(async { drop(connection.await) });
    }
    drop(listener);
    timeout(drain, graceful.shutdown()).await.is_ok()
}

/// A stream whose writes fail when nothing was taken for `stall`, and that lingers when it is dropped.
struct Watched {
    /// With its place among the connections; there until it is dropped.
    open: Option<(TcpStream, OwnedSemaphorePermit)>,
    stall: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let (Some((stream, place)), Ok(runtime)) = (self.open.take(), Handle::try_current()) {
            runtime.spawn(linger(stream, place));
        }
    }
}

/// Ends a stream, and for a while drops what its client still writes.
async fn linger(mut stream: TcpStream, _place: OwnedSemaphorePermit) {
    let rest = async {
        poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await?;
        let (mut left, mut part) = (BODY, vec![0; 16 << 10]);
        while left > 0 {
            stream.readable().await?;
            match stream.try_read(&mut part) {
                Ok(0) => break,
                Ok(n) => left = left.saturating_sub(n),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    };
    // However it ends, it is over.
    let _ = timeout(LINGER, rest).await;
}

impl Watched {
    fn stream(&mut self) -> Result<Pin<&mut TcpStream>> {
        let (stream, _) = self.open.as_mut().ok_or(ErrorKind::NotConnected)?;
        Ok(Pin::new(stream))
    }

    /// Passes on what a write did, or the end of patience.
    fn judge<T>(&mut self, cx: &mut Context<'_>, done: Poll<Result<T>>) -> Poll<Result<T>> {
        if done.is_ready() {
            self.waiting = None;
            return done;
        }
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(self.stall)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the client takes nothing")))
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        self.stream()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        let done = self.stream()?.poll_write(cx, buf);
        self.judge(cx, done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
