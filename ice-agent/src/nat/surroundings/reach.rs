//! Whether TCP 3478, TLS on port 443 and UDP 443 get out: the ports that relays have.

use std::fmt;
use std::net::SocketAddr;

use serde::Serialize;

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Nothing came back.
    Silent,
    /// The server, or something on the way, said no.
    Refused,
    /// Something took the connection, but did not prove to be the server.
    Accepted,
    /// Something else than the server answered.
    Intercepted,
    /// The server answered.
    Open,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Silent => "silent",
            Outcome::Refused => "refused",
            Outcome::Accepted => "accepted",
            Outcome::Intercepted => "intercepted",
            Outcome::Open => "open",
        })
    }
}

/// One attempt to get out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// Who was named: a host name or an address.
    pub host: String,
    /// Who was tried; `None` if there is no address to try.
    pub address: Option<SocketAddr>,
    /// What came of it; `None` if nothing was tried.
    pub outcome: Option<Outcome>,
    /// What that rests on.
    pub reason: String,
}

/// What is known of one way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WayReport {
    /// The best that came of any attempt; `None` if none was made.
    pub outcome: Option<Outcome>,
    /// What that rests on, or why nothing was tried.
    pub reason: String,
    /// Every attempt.
    pub attempts: Vec<Attempt>,
}

impl WayReport {
    /// Concludes from all attempts.
    pub fn new(attempts: Vec<Attempt>) -> WayReport {
        let best = attempts.iter().max_by_key(|attempt| attempt.outcome);
        WayReport {
            outcome: best.and_then(|best| best.outcome),
            reason: best.map_or("nobody was asked".to_owned(), |best| best.reason.clone()),
            attempts,
        }
    }

    /// Whether it is certain that it gets out.
    pub fn is_open(&self) -> bool {
        self.outcome == Some(Outcome::Open)
    }
}

/// What gets out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReachReport {
    /// STUN over TCP to port 3478.
    pub tcp_3478: WayReport,
    /// TLS to port 443.
    pub tls_443: WayReport,
    /// STUN and QUIC over UDP to port 443.
    pub udp_443: WayReport,
}

impl ReachReport {
    /// The ways with their names.
    pub(super) fn ways(&self) -> [(&'static str, &WayReport); 3] {
        [("TCP 3478", &self.tcp_3478), ("TLS 443", &self.tls_443), ("UDP 443", &self.udp_443)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(outcome: Option<Outcome>) -> Attempt {
        let reason = format!("it is {outcome:?}");
        Attempt { host: "stun.example.org".to_owned(), address: None, outcome, reason }
    }

    #[test]
    fn one_server_that_answers_proves_the_way() {
        let outcomes = [None, Some(Outcome::Refused), Some(Outcome::Open), Some(Outcome::Intercepted)];
        let report = WayReport::new(outcomes.map(attempt).to_vec());
        assert!(report.is_open());
        assert_eq!((report.outcome, report.reason.as_str()), (Some(Outcome::Open), "it is Some(Open)"));
        let report = WayReport::new(vec![attempt(None), attempt(Some(Outcome::Silent))]);
        assert_eq!(report.outcome, Some(Outcome::Silent));
        // Whoever intercepts the one that can prove itself has most likely taken the other's place as well.
        let outcomes = [Outcome::Accepted, Outcome::Intercepted].map(Some);
        assert_eq!(WayReport::new(outcomes.map(attempt).to_vec()).outcome, Some(Outcome::Intercepted));
        assert_eq!(WayReport::new(Vec::new()).outcome, None);
    }
}
