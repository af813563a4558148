//! The first question to every server, and which of them can be believed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use serde::Serialize;
use thirl_common::net::Transport;

use super::findings::{Findings, Observation};
use super::probe::{Outcome, ProbeId, Prober, Question, Response, SocketId};

/// What is wrong with a server. Nothing that it says is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "fault")]
#[non_exhaustive]
pub enum ServerFault {
    /// OTHER-ADDRESS has the IP address that was asked: every filter would look open.
    OtherAddressHasSameIp,
    /// OTHER-ADDRESS is one that no server has.
    OtherAddressUnusable {
        /// What it said.
        other: SocketAddr,
    },
    /// RESPONSE-ORIGIN is not where the response came from.
    ResponseOriginDiffers {
        /// What it said.
        origin: SocketAddr,
    },
    /// It answered from an address that was neither asked nor asked for.
    WrongSource {
        /// Where the answer came from.
        from: SocketAddr,
    },
    /// It answered a CHANGE-REQUEST from the address that was asked, as if there were none.
    IgnoresChangeRequest,
    /// The reflexive address that it tells cannot be true: nobody can have it, it told the same one for two sockets, or
    /// two different ones for a single socket while other servers did not.
    WrongReflexiveAddress {
        /// What it said.
        reflexive: SocketAddr,
    },
}

impl fmt::Display for ServerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerFault::OtherAddressHasSameIp => f.write_str("its OTHER-ADDRESS has its own IP address"),
            ServerFault::OtherAddressUnusable { other } => write!(f, "its OTHER-ADDRESS is {other}"),
            ServerFault::ResponseOriginDiffers { origin } => {
                write!(f, "its RESPONSE-ORIGIN is {origin}, where the response did not come from")
            }
            ServerFault::WrongSource { from } => write!(f, "it answered from {from}"),
            ServerFault::IgnoresChangeRequest => f.write_str("it ignores CHANGE-REQUEST"),
            ServerFault::WrongReflexiveAddress { reflexive } => {
                write!(f, "it says that it sees {reflexive}, which cannot be true")
            }
        }
    }
}

/// A server and what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FaultyServer {
    /// The server.
    pub server: SocketAddr,
    /// What is wrong.
    #[serde(flatten)]
    pub fault: ServerFault,
}

/// What is wrong with a response, if anything is.
pub(super) fn fault(response: &Response) -> Option<ServerFault> {
    let origin = response.origin.filter(|origin| *origin != response.from);
    if let Some(origin) = origin {
        return Some(ServerFault::ResponseOriginDiffers { origin });
    }
    if is_nobodys(response.reflexive, response.from) {
        return Some(ServerFault::WrongReflexiveAddress { reflexive: response.reflexive });
    }
    let other = response.other?;
    if other.ip() == response.from.ip() {
        Some(ServerFault::OtherAddressHasSameIp)
    } else if is_nobodys(other, response.from) || other.is_ipv4() != response.from.is_ipv4() {
        Some(ServerFault::OtherAddressUnusable { other })
    } else {
        None
    }
}

/// Whether no host can have this address that `teller` told.
fn is_nobodys(address: SocketAddr, teller: SocketAddr) -> bool {
    let ip = address.ip();
    let loops = ip.is_loopback() && !teller.ip().is_loopback();
    let broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    ip.is_unspecified() || loops || ip.is_multicast() || broadcast || address.port() == 0
}

/// Asks every server once.
#[derive(Debug)]
pub(super) struct Discovery {
    socket: SocketId,
    asked: BTreeMap<ProbeId, SocketAddr>,
    /// Why nothing could be sent.
    pub(super) failure: Option<String>,
}

impl Discovery {
    pub(super) fn begin(now: Instant, prober: &mut Prober, servers: &[SocketAddr]) -> Discovery {
        let socket = prober.open(Transport::Udp);
        let asked = servers.iter().map(|server| (prober.ask(now, socket, Question::plain(*server)), *server));
        Discovery { socket, asked: asked.collect(), failure: None }
    }

    pub(super) fn handle(
        &mut self,
        prober: &mut Prober,
        found: &mut Findings,
        probe: ProbeId,
        outcome: &Outcome,
    ) {
        let Some(server) = self.asked.remove(&probe) else { return };
        found.local = found.local.or(prober.local(self.socket));
        match outcome {
            Outcome::Answered(response) => match fault(response) {
                Some(fault) => found.blame(server, fault),
                None => {
                    let local = prober.local(self.socket);
                    found.observe(Observation::of(local, response));
                    found.sound.push(*response);
                }
            },
            Outcome::WrongSource(from) => found.blame(server, ServerFault::WrongSource { from: *from }),
            Outcome::Failed(reason) => self.failure = Some(reason.clone()),
            _ => found.silent.push(server),
        }
        // The socket stays open: its port has sent to all servers, so no later test may get it.
    }

    pub(super) fn is_over(&self) -> bool {
        self.asked.is_empty()
    }
}
