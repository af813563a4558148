//! A TLS handshake on port 443, and whether it was with the server that was meant.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, Error};
use thirl_common::uri::Host;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Came, LIMIT, connect};
use crate::driver::Trust;
use crate::nat::surroundings::reach::Outcome;

/// The settings are made when there is a connection to use them on.
pub(super) async fn attempt(settings: Arc<OnceCell<Arc<ClientConfig>>>, host: Host, to: SocketAddr) -> Came {
    let stream = match connect(to).await {
        Ok(stream) => stream,
        Err(came) => return came,
    };
    let name = match &host {
        Host::Ip(ip) => ServerName::IpAddress((*ip).into()),
        Host::Name(name) => match ServerName::try_from(name.clone()) {
            Ok(name) => name,
            Err(_) => return (Outcome::Accepted, "it was connected; TLS has no such names".to_owned()),
        },
    };
    let config =
        Arc::clone(settings.get_or_init(|| async { Trust::system().client_config(&[]).await }).await);
    match timeout(LIMIT, TlsConnector::from(config).connect(name, stream)).await {
        Ok(Ok(_)) => (Outcome::Open, format!("a TLS handshake with a valid certificate for {host}")),
        Ok(Err(error)) => judge(&host, &error),
        Err(_) => (Outcome::Silent, "it was connected, but TLS was not answered".to_owned()),
    }
}

/// What a handshake that failed says of who answered.
fn judge(host: &Host, error: &io::Error) -> Came {
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
    match tls {
        Some(Error::InvalidCertificate(certificate)) => match (host, certificate) {
            (Host::Ip(_), _) => (
                Outcome::Accepted,
                "a TLS handshake; without a name, its certificate says nothing".to_owned(),
            ),
            (
                Host::Name(_),
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => (Outcome::Open, format!("a TLS handshake, but {certificate}")),
            (Host::Name(name), _) => {
                (Outcome::Intercepted, format!("the certificate is none of {name}: {certificate}"))
            }
        },
        Some(Error::AlertReceived(alert)) => {
            (Outcome::Accepted, format!("a TLS server answered with the alert {alert:?}"))
        }
        Some(Error::InvalidMessage(_)) => {
            (Outcome::Intercepted, "something answered that is no TLS".to_owned())
        }
        Some(error) => (Outcome::Accepted, format!("a TLS server answered, but {error}")),
        None => (Outcome::Refused, format!("it was connected, but then TLS was not let through: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, InvalidMessage};

    use super::*;

    fn outcome(host: &str, error: Error) -> Outcome {
        let host = host.parse().map_or(Host::Name(host.to_owned()), Host::Ip);
        judge(&host, &io::Error::new(io::ErrorKind::InvalidData, error)).0
    }

    #[test]
    fn a_certificate_of_another_is_an_interception() {
        let strangers = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
        assert_eq!(outcome("relay.example.org", strangers()), Outcome::Intercepted);
        assert_eq!(outcome("192.0.2.1", strangers()), Outcome::Accepted);
        let expired = Error::InvalidCertificate(CertificateError::Expired);
        assert_eq!(outcome("relay.example.org", expired), Outcome::Open);
        let alert = Error::AlertReceived(AlertDescription::UnrecognisedName);
        assert_eq!(outcome("relay.example.org", alert), Outcome::Accepted);
        let no_tls = Error::InvalidMessage(InvalidMessage::InvalidContentType);
        assert_eq!(outcome("relay.example.org", no_tls), Outcome::Intercepted);
        let reset = io::ErrorKind::ConnectionReset.into();
        assert_eq!(judge(&Host::Name("a".to_owned()), &reset).0, Outcome::Refused);
    }
}
