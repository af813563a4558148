//! A certificate chain and its private key, out of PEM files.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::{self, Ticketer};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use x509_cert::der::Decode;

use crate::config::Problem;
use crate::dtls;

/// What a client may ask for by ALPN: TURN, or STUN for NAT behaviour discovery (RFC 7443, section 4). One who does not ask
/// is served as well.
const PROTOCOLS: [&[u8]; 2] = [b"stun.turn", b"stun.nat-discovery"];

/// Where an identity stands on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PemFiles {
    /// The certificate, and the intermediate ones that lead to one that clients trust, in this order.
    pub certificate: PathBuf,
    /// The certificate's private key: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub private_key: PathBuf,
}

/// A certificate or a key cannot be used: the operator's to mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// What is wrong with the certificate.
    #[error("{} ({})", .0.what, .0.hint)]
    Certificate(Problem),
    /// What is wrong with the private key.
    #[error("{} ({})", .0.what, .0.hint)]
    PrivateKey(Problem),
}

/// A server's certificate and private key, ready for use.
#[derive(Clone)]
pub struct Identity {
    tls: Arc<ServerConfig>,
    dtls: Option<dtls::Acceptor>,
    /// From when and until when the certificate is good, in seconds since 1970.
    valid: (u64, u64),
}

impl Identity {
    /// Reads both files. That the certificate has expired is no error: see [`Identity::warning`].
    pub fn read(files: &PemFiles) -> Result<Identity, CertificateError> {
        let certificate = read(&files.certificate).map_err(CertificateError::Certificate)?;
        let private_key = read(&files.private_key).map_err(CertificateError::PrivateKey)?;
        Identity::from_pem(&certificate, &private_key).map_err(|error| match error {
            CertificateError::Certificate(problem) => {
                CertificateError::Certificate(at(&files.certificate, problem))
            }
            CertificateError::PrivateKey(problem) => {
                CertificateError::PrivateKey(at(&files.private_key, problem))
            }
        })
    }

    /// From what stands in the files.
    pub fn from_pem(certificate: &[u8], private_key: &[u8]) -> Result<Identity, CertificateError> {
        let chain = chain(certificate).map_err(CertificateError::Certificate)?;
        let key = key(private_key).map_err(CertificateError::PrivateKey)?;
        let unusable = |error: &dyn fmt::Display| {
            let hint = "give the server's certificate first, then the intermediate ones";
            CertificateError::Certificate(Problem::new(
                format!("the certificate cannot be used: {error}"),
                hint,
            ))
        };
        let Some(own) = chain.first() else { return Err(unusable(&"there is none")) };
        let valid = validity(own).map_err(|error| unusable(&error))?;
        let acceptor = dtls::Acceptor::new(own, key.secret_der());
        let provider = aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => CertificateError::PrivateKey(Problem::new(
                "the private key is not the certificate's",
                "give the key that the certificate was asked for with",
            )),
            rustls::Error::General(error) => CertificateError::PrivateKey(Problem::new(
                format!("the private key cannot be used: {error}"),
                "give an ECDSA (P-256 or P-384), RSA or Ed25519 key",
            )),
            error => unusable(&error),
        })?;
        let tls = server_config(provider, certified).map_err(|error| unusable(&error))?;
        Ok(Identity { tls: Arc::new(tls), dtls: acceptor, valid })
    }

    /// For connections by TLS 1.2 and later.
    pub fn tls(&self) -> &Arc<ServerConfig> {
        &self.tls
    }

    /// For connections by DTLS. `None` for a key that DTLS is not done with: it has to be ECDSA, P-256 or P-384.
    pub fn dtls(&self) -> Option<&dtls::Acceptor> {
        self.dtls.as_ref()
    }

    /// Until when the certificate is good, in seconds since 1970.
    pub fn not_after(&self) -> u64 {
        self.valid.1
    }

    /// What is worth telling the operator at this time: that clients refuse the certificate for its dates.
    pub fn warning(&self, unix_seconds: u64) -> Option<String> {
        let days = |seconds: u64| seconds / (24 * 3600);
        let (from, until) = self.valid;
        if until < unix_seconds {
            return Some(format!("expired {} days ago: clients refuse it", days(unix_seconds - until)));
        }
        (from > unix_seconds).then(|| {
            format!("is not valid for another {} days: clients refuse it", days(from - unix_seconds))
        })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("valid", &self.valid).finish_non_exhaustive()
    }
}

fn at(path: &Path, problem: Problem) -> Problem {
    Problem { what: format!("{}: {}", path.display(), problem.what), ..problem }
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    fs::read(path).map_err(|error| {
        let hint = "check the path and whether this user may read it";
        Problem::new(format!("{}: {error}", path.display()), hint)
    })
}

fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(Problem::new(
            "there is no certificate in it",
            "give a PEM file: -----BEGIN CERTIFICATE----- and so on",
        )),
        Err(error) => Err(Problem::new(format!("no PEM: {error}"), "give a PEM file that is whole")),
    }
}

fn key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, Problem> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        pem::Error::NoItemsFound if pem.windows(9).any(|part| part == b"ENCRYPTED") => Problem::new(
            "the private key is encrypted",
            "decrypt it, `openssl pkey -in KEY -out NEW`, and let only the server's user read it",
        ),
        pem::Error::NoItemsFound => Problem::new(
            "there is no private key in it",
            "give a PEM file: -----BEGIN PRIVATE KEY----- and so on",
        ),
        error => Problem::new(format!("no PEM: {error}"), "give a PEM file that is whole"),
    })
}

fn validity(certificate: &CertificateDer<'_>) -> Result<(u64, u64), x509_cert::der::Error> {
    let certificate = x509_cert::Certificate::from_der(certificate)?;
    let validity = certificate.tbs_certificate().validity();
    let [from, until] =
        [validity.not_before, validity.not_after].map(|time| time.to_unix_duration().as_secs());
    Ok((from, until))
}

/// TLS 1.2 and 1.3 (RFC 8489, section 6.2.3). Tickets make a client's return cheap, and the server keeps nothing for them.
fn server_config(
    provider: rustls::crypto::CryptoProvider,
    certified: CertifiedKey,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Ticketer::new()?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::pem;

    fn ecdsa() -> (String, String) {
        pem(&rcgen::PKCS_ECDSA_P256_SHA256, (2020, 2030))
    }

    fn identity((certificate, key): &(String, String)) -> Result<Identity, CertificateError> {
        Identity::from_pem(certificate.as_bytes(), key.as_bytes())
    }

    #[test]
    fn tls_takes_every_kind_of_key_and_dtls_ecdsa() {
        for (algorithm, dtls) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, true),
            (&rcgen::PKCS_ECDSA_P384_SHA384, true),
            (&rcgen::PKCS_ED25519, false),
        ] {
            let identity = identity(&pem(algorithm, (2020, 2030))).unwrap();
            assert_eq!(identity.dtls().is_some(), dtls, "{algorithm:?}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_a_hint() {
        let (certificate, key) = ecdsa();
        let (other, _) = ecdsa();
        let encrypted = key.replace("PRIVATE", "ENCRYPTED PRIVATE");
        let of_key = |pair: (&str, &str)| match Identity::from_pem(pair.0.as_bytes(), pair.1.as_bytes()) {
            Err(CertificateError::Certificate(problem)) => ("cert", problem.what),
            Err(CertificateError::PrivateKey(problem)) => ("pkey", problem.what),
            Ok(_) => ("", String::new()),
        };
        for (pair, key, what) in [
            ((&*other, &*key), "pkey", "not the certificate's"),
            (("", &key), "cert", "no certificate"),
            ((&key, &key), "cert", "no certificate"),
            ((&certificate[..100], &key), "cert", "PEM"),
            ((&certificate, &certificate), "pkey", "no private key"),
            ((&certificate, &encrypted), "pkey", "encrypted"),
            ((&certificate, ""), "pkey", "no private key"),
        ] {
            let (concerned, found) = of_key(pair);
            assert!(concerned == key && found.contains(what), "{concerned}: {found}");
        }
    }

    #[test]
    fn a_certificate_out_of_date_is_warned_of() {
        let in_2025 = 1_750_000_000;
        let warning = |years| identity(&pem(&rcgen::PKCS_ECDSA_P256_SHA256, years)).unwrap().warning(in_2025);
        assert_eq!(warning((2020, 2030)), None);
        assert!(warning((2020, 2024)).unwrap().starts_with("expired "));
        assert!(warning((2027, 2030)).unwrap().contains("not valid for another"));
    }
}
