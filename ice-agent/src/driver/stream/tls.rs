//! TLS to a TURN server, whose certificate has to bear its name.

use std::io;
use std::net::SocketAddr;

use rustls::{AlertDescription, Error};
use tokio_rustls::TlsConnector;

use super::framed::{Connection, open_clear};
use super::{Outward, Target, server_name};

/// By which a port that HTTPS shares knows what this is (RFC 7443, section 4).
const STUN_TURN: &[u8] = b"stun.turn";

/// A connection over TLS, and its local address. A server that knows other protocols alone is asked again without naming one.
pub(super) async fn open(
    target: &Target,
    outward: &Outward,
) -> Result<(SocketAddr, Box<dyn Connection>), String> {
    match attempt(target, outward, &[STUN_TURN]).await {
        Err(Failure::NoProtocol) => {
            attempt(target, outward, &[]).await.map_err(|failure| failure.to_string())
        }
        ended => ended.map_err(|failure| failure.to_string()),
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Connection(String),
    #[error("the server knows no protocol that is known here (ALPN)")]
    NoProtocol,
    #[error("TLS: {0}")]
    Tls(io::Error),
}

async fn attempt(
    target: &Target,
    outward: &Outward,
    protocols: &[&[u8]],
) -> Result<(SocketAddr, Box<dyn Connection>), Failure> {
    let name = server_name(&target.host).map_err(Failure::Connection)?;
    let (local, stream) = open_clear(target, outward).await.map_err(Failure::Connection)?;
    let config = outward.trust.client_config(protocols).await;
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|error| {
        let tls = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
        match tls {
            Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => Failure::NoProtocol,
            _ => Failure::Tls(error),
        }
    })?;
    Ok((local, Box::new(stream)))
}
