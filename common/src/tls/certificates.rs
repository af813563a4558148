//! The identity in use, and its renewal from disk while the server runs.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::identity::{CertificateError, Identity, PemFiles};

/// An identity that stands in files which are renewed from time to time. Its clones share it.
///
/// Connections take [`Certificates::current`] when they begin and keep it to their end.
#[derive(Clone, Debug)]
pub struct Certificates(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    current: RwLock<Arc<Identity>>,
    read: Mutex<Read>,
}

/// The files, and what they were when they were last read, whether what they held was used or refused.
#[derive(Clone, Debug)]
struct Read {
    files: PemFiles,
    stamps: [Stamp; 2],
}

impl Certificates {
    /// Reads the files.
    pub fn read(files: PemFiles) -> Result<Certificates, CertificateError> {
        // Before the files are read: what is written meanwhile is seen as a change.
        let stamps = stamps(&files);
        let current = RwLock::new(Arc::new(Identity::read(&files)?));
        Ok(Certificates(Arc::new(Shared { current, read: Mutex::new(Read { files, stamps }) })))
    }

    /// What new connections use.
    pub fn current(&self) -> Arc<Identity> {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files again if they are others than before or have changed, and says whether it did. Where they cannot be
    /// used, what was read last stays in use, and the error comes once for each change.
    pub fn renew(&self) -> Result<bool, CertificateError> {
        let mut read = self.lock();
        let found = stamps(&read.files);
        if found == read.stamps {
            return Ok(false);
        }
        read.stamps = found;
        self.set(Arc::new(Identity::read(&read.files)?));
        Ok(true)
    }

    /// Takes the files and the identity of others in the place of these.
    pub fn replace(&self, other: &Certificates) {
        let taken = other.lock().clone();
        let mut read = self.lock();
        *read = taken;
        self.set(other.current());
    }

    /// Where they stand.
    pub fn files(&self) -> PemFiles {
        self.lock().files.clone()
    }

    fn set(&self, identity: Arc<Identity>) {
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    fn lock(&self) -> MutexGuard<'_, Read> {
        self.0.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialEq for Certificates {
    fn eq(&self, other: &Certificates) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Certificates {}

/// Tells a file from another, and from itself after it was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stamp {
    Found { device: u64, inode: u64, len: u64, modified: (i64, i64) },
    Missing(io::ErrorKind),
}

fn stamps(files: &PemFiles) -> [Stamp; 2] {
    [&files.certificate, &files.private_key].map(|path| stamp(path))
}

/// Of the file that a link leads to, since that is what certbot changes.
fn stamp(path: &Path) -> Stamp {
    match fs::metadata(path) {
        Ok(file) => Stamp::Found {
            device: file.dev(),
            inode: file.ino(),
            len: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
        },
        Err(error) => Stamp::Missing(error.kind()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::pem;

    #[test]
    fn files_that_changed_replace_the_identity_unless_they_are_broken() {
        let directory = std::env::temp_dir().join(format!("thirl-certificates-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let files =
            PemFiles { certificate: directory.join("cert.pem"), private_key: directory.join("key.pem") };
        let write = |(certificate, key): &(String, String)| {
            fs::write(&files.certificate, certificate).unwrap();
            fs::write(&files.private_key, key).unwrap();
        };
        let algorithm = &rcgen::PKCS_ECDSA_P256_SHA256;
        let (first, second) = (pem(algorithm, (2020, 2030)), pem(algorithm, (2020, 2031)));
        assert!(Certificates::read(files.clone()).is_err(), "nothing is there yet");
        write(&first);
        let certificates = Certificates::read(files.clone()).unwrap();
        let before = certificates.current();
        assert!(!certificates.renew().unwrap(), "nothing changed");

        fs::write(&files.certificate, "and now for something else").unwrap();
        assert!(matches!(certificates.renew(), Err(CertificateError::Certificate(_))));
        assert!(!certificates.renew().unwrap(), "told once");
        assert!(Arc::ptr_eq(&before, &certificates.current()), "the old one stays in use");

        write(&second);
        assert!(certificates.renew().unwrap());
        assert!(!Arc::ptr_eq(&before, &certificates.current()));

        let other = Certificates::read(files.clone()).unwrap();
        certificates.replace(&other);
        assert!(Arc::ptr_eq(&other.current(), &certificates.current()));
        assert!(!certificates.renew().unwrap(), "they were read already");
        fs::remove_dir_all(&directory).unwrap();
    }
}
