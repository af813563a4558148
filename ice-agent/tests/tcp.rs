//! ICE over TCP (RFC 6544) by the driver, on this machine's loopback.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::net::SocketAddr;

use thirl_ice_agent::agent::{PathKind, SelectedPair};
use thirl_ice_agent::candidate::{CandidateTransport, TcpType};
use thirl_ice_agent::driver::{IceAgent, LocalAddress, Path, TcpPolicy, TrySendError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An agent that tells TCP candidates of one type alone.
async fn only(ty: TcpType, controlling: bool) -> IceAgent {
    let builder = IceAgent::builder().filter(move |candidate| candidate.transport.tcp_type() == Some(ty));
    let builder =
        builder.addresses([LocalAddress { address: "127.0.0.1:0".parse().unwrap(), preference: 255 }]);
    let builder = if controlling { builder.controlling() } else { builder.controlled() };
    builder.gather().await.unwrap()
}

async fn connect(a: &IceAgent, b: &IceAgent) -> (Path, Path) {
    a.set_remote(&b.description()).unwrap();
    b.set_remote(&a.description()).unwrap();
    tokio::try_join!(a.connect(), b.connect()).unwrap()
}

fn types(pair: &SelectedPair) -> (Option<TcpType>, Option<TcpType>) {
    (pair.local.transport.tcp_type(), pair.remote.transport.tcp_type())
}

#[tokio::test]
async fn each_type_of_candidate_carries_data() {
    use TcpType::{Active, Passive, SimultaneousOpen};
    for (ours, theirs) in [(Active, Passive), (Passive, Active), (SimultaneousOpen, SimultaneousOpen)] {
        let (a, b) = (only(ours, true).await, only(theirs, false).await);
        let (a_path, b_path) = connect(&a, &b).await;
        assert_eq!(a_path.kind(), PathKind::Direct);
        assert_eq!(types(&a_path.pair().unwrap()), (Some(ours), Some(theirs)));
        assert_eq!(types(&b_path.pair().unwrap()), (Some(theirs), Some(ours)));
        assert_eq!((a_path.local(), a_path.remote()), (b_path.remote(), b_path.local()));
        let sent: Vec<_> =
            [1, 0, 1200, 65_507, 2, 9000].map(|len| vec![u8::try_from(len % 251).unwrap(); len]).into();
        for datagram in &sent {
            a_path.send(datagram).await.unwrap();
            assert_eq!(b_path.recv_datagram().await.unwrap(), datagram);
            b_path.send(datagram).await.unwrap();
            assert_eq!(a_path.recv_datagram().await.unwrap(), datagram);
        }
        assert!(a_path.report().to_string().starts_with("connected, direct over TCP"), "{}", a_path.report());
        a.close().await;
    }
}

#[tokio::test]
async fn who_sends_faster_than_the_connection_waits() {
    const COUNT: u32 = 20_000;
    let (a, b) = (only(TcpType::Active, true).await, only(TcpType::Passive, false).await);
    let (a_path, b_path) = connect(&a, &b).await;
    let sending = async {
        let mut waits = 0;
        for n in 0..COUNT {
            let mut datagram = vec![7; 1200];
            datagram[..4].copy_from_slice(&n.to_be_bytes());
            while a_path.try_send(&datagram) == Err(TrySendError::Full) {
                waits += 1;
                a_path.writable().await;
            }
        }
        waits
    };
    let receiving = async {
        for n in 0..COUNT {
            let datagram = b_path.recv_datagram().await.unwrap();
            assert_eq!((&datagram[..4], datagram.len()), (&n.to_be_bytes()[..], 1200), "none is lost");
        }
    };
    let (waits, ()) = tokio::join!(sending, receiving);
    assert!(waits > 0);
    assert_eq!(b_path.dropped(), 0);
}

#[tokio::test]
async fn strangers_that_speak_something_else_are_hung_up_on() {
    let agent = only(TcpType::Passive, false).await;
    let at = agent.description().candidates[0].split(' ').skip(4).take(2).collect::<Vec<_>>().join(":");
    let mut stranger = TcpStream::connect(at.parse::<SocketAddr>().unwrap()).await.unwrap();
    stranger.write_all(b"\0\x05hello").await.unwrap();
    assert_eq!(stranger.read(&mut [0; 16]).await.unwrap(), 0, "the agent hangs up");
}

#[tokio::test]
async fn the_application_says_whether_there_is_tcp() {
    use TcpType::{Active, Passive, SimultaneousOpen};
    for (policy, expected) in [
        (TcpPolicy::Off, vec![]),
        (TcpPolicy::Outgoing, vec![Active]),
        (TcpPolicy::Both, vec![Active, Passive, SimultaneousOpen]),
    ] {
        let address = LocalAddress { address: "127.0.0.1:0".parse().unwrap(), preference: 255 };
        let agent = IceAgent::builder().tcp(policy).addresses([address]).gather().await.unwrap();
        let candidates = agent.sdp().streams[0].candidates.clone();
        let types: Vec<_> = candidates.iter().filter_map(|told| told.transport.tcp_type()).collect();
        assert_eq!(types, expected);
        let udp = candidates.iter().filter(|told| told.transport == CandidateTransport::Udp);
        assert_eq!(udp.count(), 1);
    }
}
