//! Whose certificates are believed.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::OnceCell;

/// The authorities whose word is taken for who a server is, over TLS and DTLS.
#[derive(Clone, Default)]
pub struct Trust(Option<Arc<RootCertStore>>);

/// The certificates are the fault of whoever gave them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// No PEM, or one that is not whole.
    #[error("the certificates of authorities are no PEM: {0}")]
    Pem(String),
    /// There is none in it.
    #[error("there is no certificate of an authority in it")]
    Empty,
    /// One that cannot be an authority's.
    #[error("a certificate cannot be an authority's: {0}")]
    Certificate(String),
}

impl Trust {
    /// The authorities that this machine trusts, and those of the web: some machines list none.
    pub fn system() -> Trust {
        Trust(None)
    }

    /// These alone, such as a company's own, or a server's that signed itself: certificates in PEM.
    pub fn only(pem: &[u8]) -> Result<Trust, TrustError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| TrustError::Pem(error.to_string()))?;
            roots.add(certificate).map_err(|error| TrustError::Certificate(error.to_string()))?;
        }
        if roots.is_empty() { Err(TrustError::Empty) } else { Ok(Trust(Some(Arc::new(roots)))) }
    }

    /// How to speak TLS as a client who offers these protocols (ALPN).
    pub(crate) async fn client_config(&self, protocols: &[&[u8]]) -> Arc<ClientConfig> {
        let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        #[expect(clippy::expect_used, reason = "the provider has the default versions")]
        let config = config.expect("TLS 1.2 and 1.3");
        let mut config = config.with_root_certificates(self.roots().await).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }

    /// What checks a server's certificates where TLS does not.
    pub(super) async fn verifier(&self) -> Result<Arc<WebPkiServerVerifier>, String> {
        let roots = self.roots().await;
        WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| error.to_string())
    }

    async fn roots(&self) -> Arc<RootCertStore> {
        match &self.0 {
            Some(roots) => Arc::clone(roots),
            None => Arc::clone(SYSTEM.get_or_init(system).await),
        }
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(roots) => write!(f, "Trust({} authorities)", roots.len()),
            None => f.write_str("Trust(the system's)"),
        }
    }
}

/// Read when they are first needed, and once for all agents of the process: there are hundreds.
static SYSTEM: OnceCell<Arc<RootCertStore>> = OnceCell::const_new();

async fn system() -> Arc<RootCertStore> {
    let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Ok(loaded) = loaded {
        roots.add_parsable_certificates(loaded.certs);
    }
    Arc::new(roots)
}

/// Named, lest it panic where another crate of the program turns a second provider on.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_read_or_refused_in_words() {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["turn.example".to_owned()]).unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        assert_eq!(format!("{:?}", Trust::only(pem.as_bytes()).unwrap()), "Trust(1 authorities)");
        assert_eq!(Trust::only(b"nothing").unwrap_err(), TrustError::Empty);
        assert!(matches!(Trust::only(&pem.as_bytes()[..100]), Err(TrustError::Pem(_))));
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(Trust::only(garbage.as_bytes()), Err(TrustError::Certificate(_))));
    }
}
