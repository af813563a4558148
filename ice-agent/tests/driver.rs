//! The driver on this machine's loopback.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::net::SocketAddr;
use std::time::Duration;

use thirl_ice_agent::agent::{Event, PathKind, State, Timings};
use thirl_ice_agent::driver::{
    Builder, ConnectError, Description, IceAgent, LocalAddress, PathClosed, TcpPolicy,
};

fn on_loopback(builder: Builder) -> Builder {
    builder.addresses([LocalAddress { address: "127.0.0.1:0".parse().unwrap(), preference: 255 }])
}

async fn pair() -> (IceAgent, IceAgent) {
    let a = on_loopback(IceAgent::builder().controlling()).gather().await.unwrap();
    let b = on_loopback(IceAgent::builder().controlled()).gather().await.unwrap();
    (a, b)
}

#[tokio::test]
async fn two_descriptions_make_a_path() {
    let (a, b) = pair().await;
    let json = serde_json::to_string(&a.description()).unwrap();
    assert!(json.starts_with("{\"ufrag\":\""), "{json}");
    b.set_remote(&serde_json::from_str::<Description>(&json).unwrap()).unwrap();
    a.set_remote(&b.description()).unwrap();
    let (a_path, b_path) = tokio::try_join!(a.connect(), b.connect()).unwrap();
    assert_eq!((a_path.kind(), a_path.remote()), (PathKind::Direct, b_path.local()));
    for n in 0..100u8 {
        a_path.send(&[n; 1200]).await.unwrap();
        assert_eq!(b_path.recv_datagram().await.unwrap(), [n; 1200][..]);
        b_path.send(&[n]).await.unwrap();
        let mut buffer = [0; 4];
        assert_eq!(a_path.recv(&mut buffer).await.unwrap(), 1);
    }
    assert!(a_path.rtt().is_some());
    // Once nobody holds it, the agent closes; this side's own handles are told.
    a.close().await;
    assert_eq!(a_path.closed().await, PathClosed::Closed);
    assert_eq!(a_path.recv_datagram().await, Err(PathClosed::Closed));
    assert_eq!(a_path.send(b"x").await, Err(PathClosed::Closed));
}

#[tokio::test]
async fn a_restart_keeps_the_path() {
    let (a, b) = pair().await;
    b.set_remote(&a.description()).unwrap();
    a.set_remote(&b.description()).unwrap();
    let (a_path, b_path) = tokio::try_join!(a.connect(), b.connect()).unwrap();
    let (mut a_events, mut b_events) = (a.events(), b.events());
    let before = a.description();
    let offer = a.restart().unwrap();
    assert!(offer.ufrag != before.ufrag && offer.candidates == before.candidates);
    // The old path carries data while the peer has yet to answer, and after that the new one does.
    a_path.send(b"meanwhile").await.unwrap();
    assert_eq!(b_path.recv_datagram().await.unwrap(), "meanwhile");
    b.set_remote(&offer).unwrap();
    while !matches!(b_events.recv().await.unwrap(), Event::RemoteRestarted) {}
    a.set_remote(&b.description()).unwrap();
    while !matches!(a_events.recv().await.unwrap(), Event::PathChanged { .. }) {}
    a_path.send(b"after").await.unwrap();
    assert_eq!(b_path.recv_datagram().await.unwrap(), "after");
    assert_eq!((a.report().restarts, b.report().restarts), (1, 1));
    a.close().await;
    assert!(a.restart().is_err());
}

#[tokio::test]
async fn candidates_may_trickle_in() {
    let (a, b) = pair().await;
    let describe = |agent: &IceAgent| agent.description();
    let mut events = a.events();
    a.set_remote_credentials(&describe(&b).ufrag, &describe(&b).pwd).unwrap();
    b.set_remote_credentials(&describe(&a).ufrag, &describe(&a).pwd).unwrap();
    let mut candidates = b.local_candidates();
    while let Some(candidate) = candidates.next().await {
        a.add_remote_candidate(&candidate).unwrap();
    }
    a.set_remote_end_of_candidates();
    let path = a.connect_early().await.unwrap();
    path.send(b"early").await.unwrap();
    assert_eq!(b.connect().await.unwrap().recv_datagram().await.unwrap(), "early");
    assert!(a.add_remote_candidate("nonsense").is_err());
    let mut states = Vec::new();
    while states.last() != Some(&State::Completed) {
        if let Event::StateChanged(state) = events.recv().await.unwrap() {
            states.push(state);
        }
    }
    assert_eq!(states, [State::Checking, State::Connected, State::Completed]);
}

#[tokio::test]
async fn sockets_follow_the_addresses() {
    let on =
        |last: u8| LocalAddress { address: SocketAddr::new([127, 0, 0, last].into(), 0), preference: 255 };
    let agent = IceAgent::builder().tcp(TcpPolicy::Off).addresses([on(1)]).gather().await.unwrap();
    let mut events = agent.events();
    let hosts = |agent: &IceAgent| {
        let address = |line: &String| line.split(' ').nth(4).map(str::to_owned);
        agent.description().candidates.iter().filter_map(address).collect::<Vec<_>>()
    };
    assert_eq!(hosts(&agent), ["127.0.0.1"]);
    let mut candidates = agent.local_candidates();
    assert!(candidates.next().await.unwrap().contains(" 127.0.0.1 "));
    assert_eq!(candidates.next().await, None, "gathering is complete");
    agent.set_addresses([on(2), on(1)]);
    assert!(candidates.next().await.unwrap().contains(" 127.0.0.2 "));
    let Event::LocalCandidate(added) = events.recv().await.unwrap() else {
        panic!("a candidate comes first")
    };
    assert!(added.to_string().contains(" 127.0.0.2 "), "{added}");
    assert_eq!(hosts(&agent), ["127.0.0.1", "127.0.0.2"]);

    // The new socket is heard.
    let peer = on_loopback(IceAgent::builder().controlling()).gather().await.unwrap();
    agent.set_addresses([on(2)]);
    assert_eq!(hosts(&agent), ["127.0.0.2"]);
    peer.set_remote(&agent.description()).unwrap();
    agent.set_remote(&peer.description()).unwrap();
    let (ours, theirs) = tokio::try_join!(agent.connect(), peer.connect()).unwrap();
    theirs.send(b"here").await.unwrap();
    assert_eq!(ours.recv_datagram().await.unwrap(), "here");
    assert_eq!(theirs.remote().ip().to_string(), "127.0.0.2");
    agent.close().await;
    assert_eq!(candidates.next().await, None, "the agent has ended");
}

#[tokio::test]
async fn a_silent_peer_is_a_failure_with_a_report() {
    let timings = Timings {
        patience: Duration::from_millis(100),
        rto: Duration::from_millis(1),
        gathering: Duration::from_millis(100),
        ..Timings::default()
    };
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let line = format!("candidate:1 1 udp 1 127.0.0.1 {} typ host", silent.local_addr().unwrap().port());
    let dead = format!("stun:127.0.0.1:{}", silent.local_addr().unwrap().port());
    let agent = on_loopback(IceAgent::builder().controlling().timings(timings)).stun(dead.parse().unwrap());
    let agent = agent.stun("stun:no-such-name.invalid".parse().unwrap()).gather().await.unwrap();
    let remote = Description {
        ufrag: "abcd".to_owned(),
        pwd: "p".repeat(22),
        candidates: vec![line, "?".to_owned()],
        ..Description::default()
    };
    agent.set_remote(&remote).unwrap();
    let Err(ConnectError::Failed(report)) = agent.connect().await else { panic!("nobody answers") };
    let words = report.to_string();
    assert!(words.contains("no candidate pair works") && words.contains("no-such-name.invalid"), "{words}");
    assert_eq!(report.udp_blocked, Some(true));
}

#[tokio::test]
async fn what_cannot_be_is_refused_at_the_start() {
    let start = |uri: &str| on_loopback(IceAgent::builder()).stun(uri.parse().unwrap()).start();
    assert!(start("turn:relay.example.org").await.unwrap_err().to_string().contains("wrong scheme"));
    assert!(start("stuns:stun.example.org").await.unwrap_err().to_string().contains("use stun:"));
    assert!(IceAgent::builder().addresses([]).start().await.is_err());
}

#[tokio::test]
async fn a_description_says_what_its_side_can_do() {
    let slow = Timings { pacing: Duration::from_millis(80), ..Timings::default() };
    let a = on_loopback(IceAgent::builder().controlling().timings(slow)).gather().await.unwrap();
    let b = on_loopback(IceAgent::builder()).gather().await.unwrap();
    let offer = serde_json::to_value(a.description()).unwrap();
    assert_eq!(offer["options"], serde_json::json!(["ice2", "trickle", "renomination"]));
    assert_eq!((&offer["pacing"], offer.get("lite")), (&80.into(), None), "{offer}");
    b.set_remote(&serde_json::from_value(offer).unwrap()).unwrap();
    let answer = b.description();
    assert_eq!(answer.pacing, Some(80), "both keep the slower pace");
    // As those write it that know nothing of this.
    let old = serde_json::json!({"ufrag": answer.ufrag, "pwd": answer.pwd, "candidates": answer.candidates});
    a.set_remote(&serde_json::from_value(old).unwrap()).unwrap();
    tokio::try_join!(a.connect(), b.connect()).unwrap();
}
