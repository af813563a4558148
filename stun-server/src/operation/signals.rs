//! What the system tells a server program.

use std::fmt;
use std::io;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals as Received;

/// SIGHUP, SIGINT and SIGTERM, caught from the moment that this exists.
#[derive(Debug)]
pub struct Signals(Receiver<Signal>);

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: to read everything on disk anew.
    Reload,
    /// SIGINT, Ctrl-C: to end now.
    Interrupt,
    /// SIGTERM, the service manager: to end.
    Terminate,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Signal::Reload => "told to reload",
            Signal::Interrupt => "interrupted",
            Signal::Terminate => "told to terminate",
        })
    }
}

impl Signals {
    /// From here on the signals do not end the process.
    pub fn catch() -> io::Result<Signals> {
        let mut received = Received::new([SIGHUP, SIGINT, SIGTERM])?;
        let (sender, receiver) = channel();
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in received.forever() {
                let signal = match signal {
                    SIGHUP => Signal::Reload,
                    SIGINT => Signal::Interrupt,
                    _ => Signal::Terminate,
                };
                // The program ends, and nobody waits any more.
                if sender.send(signal).is_err() {
                    return;
                }
            }
        })?;
        Ok(Signals(receiver))
    }

    /// The next one; `None` if there is none for so long.
    pub fn next(&self, within: Duration) -> Option<Signal> {
        self.0.recv_timeout(within).ok()
    }
}
