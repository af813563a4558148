//! A path to another node, and why it is as it is.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use thirl_ice_agent::agent::PathKind;
use thirl_ice_agent::candidate::CandidateKind;
use thirl_ice_agent::driver::{IceAgent, Path};
use tokio::sync::watch;

use super::session::{Guard, Outcome};
use crate::identity::NodeId;
use crate::session::NatHint;

/// A path to another node. Dropped, the session ends and the other side is told.
#[derive(Debug)]
pub struct Connection {
    peer: NodeId,
    agent: IceAgent,
    path: Path,
    outcome: watch::Receiver<Outcome>,
    _guard: Guard,
}

impl Connection {
    pub(super) fn new(
        peer: NodeId,
        agent: IceAgent,
        path: Path,
        outcome: watch::Receiver<Outcome>,
        guard: Guard,
    ) -> Connection {
        Connection { peer, agent, path, outcome, _guard: guard }
    }

    /// To whom.
    pub fn peer(&self) -> NodeId {
        self.peer
    }

    /// Ends the session and the path, and waits until both have been said.
    pub async fn close(self) {
        let Connection { agent, mut outcome, _guard: guard, .. } = self;
        drop(guard);
        // The session's task says goodbye, and then drops its end.
        while outcome.changed().await.is_ok() {}
        agent.close().await;
    }

    /// What carries datagrams.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The agent behind the path, for its report and events.
    pub fn agent(&self) -> &IceAgent {
        &self.agent
    }

    /// Which way packets go now, and why.
    pub fn describe(&self) -> PathDescription {
        let pair = self.path.pair();
        let relay = pair.as_ref().and_then(|pair| {
            let theirs = || pair.remote.address.ip().filter(|_| pair.remote.kind == CandidateKind::Relayed);
            pair.relay.or_else(theirs).map(|relay| relay.ip())
        });
        let path = pair.as_ref().map_or(PathKind::Direct, |pair| pair.path);
        let over_tcp = pair.as_ref().is_some_and(|pair| pair.local.transport.tcp_type().is_some());
        PathDescription {
            path,
            transport: if over_tcp { "tcp" } else { "udp" },
            local: self.path.local(),
            remote: self.path.remote(),
            relay: relay.filter(|_| path == PathKind::Relayed),
            why: (path == PathKind::Relayed).then(|| self.why_relayed()),
        }
    }

    fn why_relayed(&self) -> String {
        let report = self.agent.report();
        let ours = NatHint {
            mapping_depends_on_destination: report.mapping_depends_on_destination,
            udp_blocked: report.udp_blocked,
        };
        let theirs = match &*self.outcome.borrow() {
            Outcome::Answered(hint) => *hint,
            Outcome::Waiting | Outcome::Ended(_) => NatHint::default(),
        };
        let reasons: Vec<_> = [
            ("UDP is blocked", ours.udp_blocked, theirs.udp_blocked),
            (
                "mapping depends on destination",
                ours.mapping_depends_on_destination,
                theirs.mapping_depends_on_destination,
            ),
        ]
        .into_iter()
        .filter_map(|(what, ours, theirs)| match (ours == Some(true), theirs == Some(true)) {
            (true, true) => Some(format!("both sides: {what}")),
            (true, false) => Some(format!("this side: {what}")),
            (false, true) => Some(format!("other side: {what}")),
            (false, false) => None,
        })
        .collect();
        match reasons.is_empty() {
            false => reasons.join("; "),
            true => {
                report.why_not_direct.first().cloned().unwrap_or_else(|| "no direct path worked".to_owned())
            }
        }
    }
}

/// Which way packets go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathDescription {
    /// Whether they go through a relay.
    pub path: PathKind,
    /// `udp`, or `tcp` where the two have a connection (RFC 6544).
    pub transport: &'static str,
    /// This side's address, as the peer sees it.
    pub local: SocketAddr,
    /// The peer's address.
    pub remote: SocketAddr,
    /// The relay, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay: Option<IpAddr>,
    /// Why there is a relay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl fmt::Display for PathDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.path, self.relay) {
            (PathKind::Direct, _) => {
                let over = if self.transport == "tcp" { " over TCP" } else { "" };
                write!(f, "direct{over} {} ↔ {}", self.local, self.remote)?;
            }
            (PathKind::Relayed, Some(relay)) => write!(f, "relayed via {relay}")?,
            (PathKind::Relayed, None) => f.write_str("relayed")?,
        }
        match &self.why {
            Some(why) => write!(f, " ({why})"),
            None => Ok(()),
        }
    }
}
