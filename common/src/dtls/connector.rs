//! Begins sessions with servers.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use dimpl::crypto::aws_lc_rs;
use dimpl::{Config, Dtls, DtlsCertificate};

use super::session::{HANDSHAKE_MTU, HANDSHAKE_TIMEOUT, Session, SessionError, guarded};

/// Begins sessions with servers, as a client with this certificate. TURN servers ask for none.
///
/// `dimpl` takes servers' ECDSA certificates alone.
#[derive(Clone)]
pub struct Connector {
    config: Arc<Config>,
    certificate: DtlsCertificate,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector(certificate and key)")
    }
}

impl Connector {
    /// With a certificate and its key in DER; `None` if the key is not ECDSA, P-256 or P-384.
    pub fn new(certificate: &[u8], private_key: &[u8]) -> Option<Connector> {
        let provider = aws_lc_rs::default_provider();
        provider.key_provider.load_private_key(private_key).ok()?;
        let config = Config::builder()
            .with_crypto_provider(provider)
            .mtu(HANDSHAKE_MTU)
            .handshake_timeout(HANDSHAKE_TIMEOUT)
            .build()
            .ok()?;
        let certificate =
            DtlsCertificate { certificate: certificate.to_vec(), private_key: private_key.to_vec() };
        Some(Connector { config: Arc::new(config), certificate })
    }

    /// Begins a session. The first datagram for the server waits in [`Session::poll_output`].
    ///
    /// Who the server is has to be checked by the caller, between [`Output::Certificate`](super::Output::Certificate) and the
    /// first that it sends.
    pub fn connect(&self, now: Instant) -> Result<Session, SessionError> {
        let dtls = guarded(|| {
            let mut dtls = Dtls::new_12(Arc::clone(&self.config), self.certificate.clone(), now);
            dtls.set_active(true);
            Box::new(dtls)
        })?;
        let mut session = Session { dtls };
        session.handle_timeout(now)?;
        Ok(session)
    }
}
