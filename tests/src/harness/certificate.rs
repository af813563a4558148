//! A certificate for servers under test.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A self-signed certificate for `localhost` with an ECDSA key, as PEM files that are removed when it is dropped.
#[derive(Debug)]
pub struct Certificate {
    directory: PathBuf,
}

impl Certificate {
    /// Makes one.
    ///
    /// # Errors
    /// Those of the file system, and of the cryptographic library.
    pub fn new() -> io::Result<Certificate> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("thirl-certificate-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let certificate = Certificate { directory: std::env::temp_dir().join(name) };
        fs::create_dir_all(&certificate.directory)?;
        let key = rcgen::KeyPair::generate().map_err(io::Error::other)?;
        let names = vec!["localhost".to_owned()];
        let signed = rcgen::CertificateParams::new(names).and_then(|params| params.self_signed(&key));
        fs::write(certificate.path(), signed.map_err(io::Error::other)?.pem())?;
        fs::write(certificate.key_path(), key.serialize_pem())?;
        Ok(certificate)
    }

    /// Where it stands.
    pub fn path(&self) -> PathBuf {
        self.directory.join("cert.pem")
    }

    /// Where its private key stands.
    pub fn key_path(&self) -> PathBuf {
        self.directory.join("key.pem")
    }

    /// The flags by which our servers take it.
    pub fn flags(&self) -> [String; 4] {
        let text = |path: PathBuf| path.display().to_string();
        ["--cert".to_owned(), text(self.path()), "--pkey".to_owned(), text(self.key_path())]
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}
