//! STUN and QUIC over UDP to port 443: whichever the server speaks proves that packets get there and back.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use thirl_common::wire::TransactionId;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::Came;
use crate::nat::probe::{is_response, plain_request};
use crate::nat::surroundings::quic::VersionNegotiation;
use crate::nat::surroundings::reach::Outcome;

/// Both are sent again after so long.
const INTERVAL: Duration = Duration::from_millis(500);

/// Five times, then half a second for the last answer.
const TRANSMISSIONS: u32 = 5;

/// Answers are cut to this: a Version Negotiation packet has no more versions than fit, and a response to STUN is short.
const MAX_ANSWER: usize = 1500;

pub(super) async fn attempt(to: SocketAddr, probe: VersionNegotiation, id: TransactionId) -> Came {
    match exchange(to, probe, id).await {
        Ok(came) => came,
        Err(error) => (Outcome::Refused, error.to_string()),
    }
}

async fn exchange(to: SocketAddr, probe: VersionNegotiation, id: TransactionId) -> io::Result<Came> {
    let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    // Connected, so that answers of others are none and an ICMP error is told.
    socket.connect(to).await?;
    let mut answer = [0; MAX_ANSWER];
    for _ in 0..TRANSMISSIONS {
        socket.send(&probe.datagram()).await?;
        socket.send(&plain_request(id, to)).await?;
        let until = Instant::now() + INTERVAL;
        while let Ok(received) = timeout_at(until, socket.recv(&mut answer)).await {
            let answer = &answer[..received?];
            if is_response(answer, id) {
                return Ok((Outcome::Open, "STUN answered".to_owned()));
            }
            if probe.is_answered_by(answer) {
                return Ok((Outcome::Open, "QUIC answered".to_owned()));
            }
        }
    }
    let reason = "neither STUN nor QUIC answered: nobody listens there, or it does not get through";
    Ok((Outcome::Silent, reason.to_owned()))
}
