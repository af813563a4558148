//! Asks in the clear for a page whose answer is known.

use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::handshake;
use hyper::header::{CONNECTION, HOST, LOCATION};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{LIMIT, connect};
use crate::nat::surroundings::portal::{CaptivePortalReport, WebProbe};

/// So much of a page is read, bytes: what a page says that has a known answer is shorter.
const MAX_BODY: usize = 16 * 1024;

pub(super) async fn ask(probe: WebProbe, to: SocketAddr) -> CaptivePortalReport {
    let unknown = |error: &dyn std::fmt::Display| CaptivePortalReport::unknown(format!("{probe}: {error}"));
    match timeout(LIMIT, fetch(&probe, to)).await {
        Ok(Ok(report)) => report,
        Ok(Err(error)) => unknown(&error),
        Err(_) => unknown(&format_args!("no answer within {} s", LIMIT.as_secs())),
    }
}

async fn fetch(probe: &WebProbe, to: SocketAddr) -> Result<CaptivePortalReport, String> {
    let stream = connect(to).await.map_err(|(_, reason)| reason)?;
    let failed = |error: hyper::Error| error.to_string();
    let (mut requests, connection) = handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // Ends with this.
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let request = Request::get(probe.path.as_str())
        .header(HOST, probe.authority())
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let response = requests.send_request(request).await.map_err(failed)?;
    let status = response.status().as_u16();
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = beginning(response).await;
    Ok(probe.judge(status, location.as_deref(), &body))
}

/// What came of the body: a portal that breaks it off is one all the same.
async fn beginning(response: Response<Incoming>) -> Vec<u8> {
    let mut body = response.into_body();
    let mut read = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        read.extend(frame.into_data().unwrap_or_default());
        if read.len() > MAX_BODY {
            break;
        }
    }
    read
}
