//! A certificate for servers under test.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// A certificate, for `localhost` unless another name is given, with an ECDSA key, as PEM files that are removed when it is dropped.
#[derive(Debug)]
pub struct Certificate {
    directory: PathBuf,
}

impl Certificate {
    /// Makes one that is its own authority.
    ///
    /// # Errors
    /// Those of the file system, and of the cryptographic library.
    pub fn new() -> io::Result<Certificate> {
        Certificate::make(self_signed_pem(names()))
    }

    /// Makes one that an intermediate authority has issued, whose certificate stands behind it.
    ///
    /// # Errors
    /// Those of the file system, and of the cryptographic library.
    pub fn issued() -> io::Result<Certificate> {
        Certificate::make(issued_pem())
    }

    /// Makes one that is its own authority, for these names and addresses.
    ///
    /// # Errors
    /// Those of the file system, and of the cryptographic library.
    pub fn bearing(names: Vec<String>) -> io::Result<Certificate> {
        Certificate::make(self_signed_pem(names))
    }

    fn make(pem: Result<[String; 3], rcgen::Error>) -> io::Result<Certificate> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("thirl-certificate-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let certificate = Certificate { directory: std::env::temp_dir().join(name) };
        fs::create_dir_all(&certificate.directory)?;
        let [chain, key, authority] = pem.map_err(io::Error::other)?;
        fs::write(certificate.path(), chain)?;
        fs::write(certificate.key_path(), key)?;
        fs::write(certificate.authority_path(), authority)?;
        Ok(certificate)
    }

    /// Where the certificate stands that a client has to trust.
    pub fn authority_path(&self) -> PathBuf {
        self.directory.join("ca.pem")
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

/// The certificate, its key, and again the certificate.
fn self_signed_pem(names: Vec<String>) -> Result<[String; 3], rcgen::Error> {
    let key = KeyPair::generate()?;
    let signed = CertificateParams::new(names)?.self_signed(&key)?;
    Ok([signed.pem(), key.serialize_pem(), signed.pem()])
}

/// The certificate and the intermediate one, the first one's key, and the authority's certificate.
fn issued_pem() -> Result<[String; 3], rcgen::Error> {
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok::<_, rcgen::Error>((params, KeyPair::generate()?))
    };
    let (root, root_key) = authority("Thirl Test Root")?;
    let (intermediate, intermediate_key) = authority("Thirl Test Intermediate")?;
    let root_pem = root.self_signed(&root_key)?.pem();
    let root = Issuer::new(root, root_key);
    let intermediate_pem = intermediate.signed_by(&intermediate_key, &root)?.pem();
    let intermediate = Issuer::new(intermediate, intermediate_key);
    let key = KeyPair::generate()?;
    let signed = CertificateParams::new(names())?.signed_by(&key, &intermediate)?;
    Ok([signed.pem() + &intermediate_pem, key.serialize_pem(), root_pem])
}

fn names() -> Vec<String> {
    vec!["localhost".to_owned()]
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}
