//! Certificates that are renewed on disk, taken up while the server runs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use thirl_common::tls::{Certificates, Identity};

use super::{Listen, Secure, read_clocks};

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(60);

/// A thread that looks at the files now and then, so that no shard waits for a disk. Dropped, it ends.
pub(super) struct Renewal {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Renewal {
    /// Warns of what is wrong with the certificate now, and looks after it from then on.
    pub(super) fn start(secure: Secure) -> io::Result<Renewal> {
        warn(&secure, &secure.certificates.current());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("certificates".to_owned()).spawn(move || {
            loop {
                thread::park_timeout(INTERVAL);
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                renew(&secure);
            }
        })?;
        Ok(Renewal { stop, thread: Some(thread) })
    }

    /// Has the files looked at now.
    pub(super) fn hurry(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.hurry();
        if let Some(thread) = self.thread.take() {
            // It has nothing to say, not even if it panicked.
            let _ = thread.join();
        }
    }
}

/// Has a server that listens as `old` use the certificates of `new`, if both have any.
pub fn replace_certificates(old: &Listen, new: &Listen) {
    match (&old.secure, &new.secure) {
        (Some(old), Some(new)) => old.certificates.replace(&new.certificates),
        (None, None) => {}
        _ => tracing::warn!(setting = "cert", "to switch TLS and DTLS on or off takes a restart"),
    }
}

fn renew(secure: &Secure) {
    let certificates: &Certificates = &secure.certificates;
    match certificates.renew() {
        Ok(false) => {}
        Ok(true) => {
            tracing::info!("the certificate was renewed; connections that there are keep the old one");
            warn(secure, &certificates.current());
        }
        Err(error) => {
            tracing::error!(%error, "the renewed certificate is refused, and the old one stays in use");
        }
    }
}

fn warn(secure: &Secure, identity: &Identity) {
    if let Some(warning) = identity.warning(read_clocks().unix_seconds) {
        tracing::warn!("the certificate {warning}");
    }
    if secure.dtls && identity.dtls().is_none() {
        tracing::warn!("DTLS is off: it takes a certificate with an ECDSA key, P-256 or P-384");
    }
}
