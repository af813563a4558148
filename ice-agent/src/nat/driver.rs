//! Runs the mapping test on real sockets, both families at once.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use rand::TryRngCore;
use tokio::net::UdpSocket;

use super::mapping::MappingTest;
use super::report::{Diagnosis, FamilyReport, MappingReport};

/// The diagnosis could not begin: this machine's fault, not the network's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiagnoseError {
    /// The system gave no randomness.
    #[error("the system's random number generator fails: {0}")]
    Random(#[from] rand::rand_core::OsError),
}

/// Asks `servers`, each in its own family, from a fresh port. Takes some two seconds if one does not answer.
pub async fn diagnose(servers: &[SocketAddr]) -> Result<Diagnosis, DiagnoseError> {
    let mut seed = [0; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut seed)?;
    let of_family =
        |ipv4: bool| servers.iter().copied().filter(|addr| addr.is_ipv4() == ipv4).collect::<Vec<_>>();
    let (ipv4, ipv6) = (of_family(true), of_family(false));
    let (ipv4, ipv6) = tokio::join!(family(&ipv4, seed), family(&ipv6, seed));
    Ok(Diagnosis { ipv4, ipv6 })
}

async fn family(servers: &[SocketAddr], seed: [u8; 32]) -> FamilyReport {
    let Some(first) = servers.first() else {
        return FamilyReport::Unavailable { reason: "no server with an address of this family".to_owned() };
    };
    match run(*first, servers, seed).await {
        Ok(report) => FamilyReport::Tested(report),
        Err(error) => FamilyReport::Unavailable { reason: format!("not available on this machine: {error}") },
    }
}

async fn run(first: SocketAddr, servers: &[SocketAddr], seed: [u8; 32]) -> io::Result<MappingReport> {
    let local_ip = thirl_common::io::local_address_towards(first)?;
    let any = match local_ip {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    let local = SocketAddr::new(local_ip, socket.local_addr()?.port());
    let mut test = MappingTest::new(now(), local, servers, seed);
    let mut buffer = [0; 2048];
    loop {
        while let Some(transmit) = test.poll_transmit() {
            // A server that cannot be reached counts as one that does not answer.
            socket.send_to(&transmit.payload, transmit.to).await.ok();
        }
        let Some(deadline) = test.poll_timeout() else { return Ok(test.report()) };
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                // An ICMP error of one destination surfaces here; the others may still answer.
                if let Ok((len, from)) = received {
                    test.handle_datagram(now(), from, &buffer[..len]);
                }
            }
            () = tokio::time::sleep_until(deadline.into()) => test.handle_timeout(now()),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a driver reads the clock")]
fn now() -> Instant {
    Instant::now()
}
