//! What a server proves itself with over TLS and DTLS: a certificate and its private key.
//!
//! 1. [`Identity`]: both, read from PEM files and checked, as rustls and dimpl take them.
//! 2. [`Certificates`]: the identity that all shards share; files that were renewed replace it while the server runs.
//!
//! The bytes go through [`crate::io::ClientConn`] for TLS and [`crate::dtls`] for DTLS.

mod certificates;
mod identity;
#[cfg(test)]
pub(crate) mod testing;

pub use certificates::Certificates;
pub use identity::{CertificateError, Identity, PemFiles};

/// 32 random bytes, for a key that lasts as long as the process.
pub fn random_key() -> std::io::Result<[u8; 32]> {
    let mut key = [0; 32];
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    random.fill(&mut key).map_err(|_| std::io::Error::other("the system's random number generator fails"))?;
    Ok(key)
}
