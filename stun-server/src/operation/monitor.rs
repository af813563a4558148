//! `/metrics`, `/healthz` and `/readyz` over HTTP, on a listener and a thread of their own.

use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};

use super::Figures;

/// What OpenMetrics says is its type.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// So many connections are served at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;

/// How long a client may take to say what it wants, and be silent between two requests.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection may last.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(3600);

/// Whose figures a [`Monitor`] shows. It is called by another thread than those that serve.
pub trait Observed: Send + Sync + 'static {
    /// What the server is and did so far. `None`: a part of it does not answer, so that it is not healthy.
    fn figures(&self) -> Option<Figures>;

    /// Whether it takes new clients. One that is about to end does not.
    fn is_ready(&self) -> bool;
}

/// A listener for those who watch over a server. Dropped, it is closed.
pub struct Monitor {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Listens on `addr` and answers from then on.
    pub fn start(addr: SocketAddr, observed: Arc<dyn Observed>) -> io::Result<Monitor> {
        let listener = TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let site = Arc::new(Site { observed, started: unix_seconds() });
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("monitor".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, site) => {}
                    _ = stopped => {}
                }
            });
            // Who asked a server that is slow to answer is not waited for.
            runtime.shutdown_background();
        })?;
        tracing::info!(%addr, "metrics are served at /metrics");
        Ok(Monitor { addr, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to say, not even if it panicked.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").field("addr", &self.addr).finish_non_exhaustive()
    }
}

async fn accept(listener: TcpListener, site: Arc<Site>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "metrics cannot be served"),
    };
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(place) = room.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let site = site.clone();
                tokio::spawn(async move {
                    serve(stream, site).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics is not accepted; trying again in a second");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, site: Arc<Site>) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let site = site.clone();
        async move { Ok::<_, Infallible>(site.answer(request.method(), request.uri().path()).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .serve_connection(TokioIo::new(stream), answer);
    // What a client does wrong is its own loss.
    let _ = tokio::time::timeout(CONNECTION_LIFETIME, connection).await;
}

/// What is to be seen.
struct Site {
    observed: Arc<dyn Observed>,
    started: u64,
}

impl Site {
    async fn answer(self: &Arc<Site>, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered\n");
            refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match path {
            "/metrics" => match self.clone().text().await {
                Some(text) => respond(StatusCode::OK, OPEN_METRICS, text),
                None => plain(StatusCode::SERVICE_UNAVAILABLE, "a shard does not answer\n"),
            },
            "/healthz" => match self.figures().await {
                Some(_) => plain(StatusCode::OK, "ok\n"),
                None => plain(StatusCode::SERVICE_UNAVAILABLE, "a shard does not answer\n"),
            },
            "/readyz" if self.observed.is_ready() => plain(StatusCode::OK, "ready\n"),
            "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, "no new clients are taken\n"),
            _ => plain(StatusCode::NOT_FOUND, "see /metrics, /healthz and /readyz\n"),
        }
    }

    /// The shards are waited for, on a thread where that is no harm.
    async fn figures(self: &Arc<Site>) -> Option<Figures> {
        let site = self.clone();
        tokio::task::spawn_blocking(move || site.observed.figures()).await.ok().flatten()
    }

    async fn text(self: Arc<Site>) -> Option<String> {
        let mut figures = self.figures().await?;
        figures.gauges("build_info", "The version that runs", "version", [(env!("CARGO_PKG_VERSION"), 1)]);
        let mut process = Figures::default();
        process.gauge("start_time_seconds", "When it began, in seconds since 1970", self.started);
        if let Some(bytes) = resident_bytes() {
            process.gauge("resident_memory_bytes", "Memory in use", bytes);
        }
        let mut registry = Registry::default();
        registry.sub_registry_with_prefix("thirl").register_collector(Box::new(figures));
        registry.sub_registry_with_prefix("process").register_collector(Box::new(process));
        let mut text = String::new();
        encode(&mut text, &registry).ok()?;
        Some(text)
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", text)
}

fn respond(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

/// "VmRSS", see proc_pid_status(5).
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

#[expect(clippy::disallowed_methods, reason = "Prometheus counts by the wall clock")]
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
