//! Many agents on one UDP port, on this machine's loopback.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::BTreeSet;
use std::time::Duration;

use thirl_common::net::Transport;
use thirl_common::wire::{Message, Method};
use thirl_ice_agent::agent::{Agent, AgentConfig, Credentials, Event, Role, SharedPace, TurnServer};
use thirl_ice_agent::driver::{IceAgent, LocalAddress, Path, StartError, UdpMux};
use thirl_ice_agent::turn::TurnCredentials;
use tokio::task::JoinSet;

const AGENTS: u32 = 1000;
/// Generous: the machine may be busy.
const LIMIT: Duration = Duration::from_secs(60);
/// Something was lost if nothing has come by then.
const AGAIN: Duration = Duration::from_millis(500);

fn loopback() -> LocalAddress {
    LocalAddress { address: "127.0.0.1:0".parse().unwrap(), preference: 255 }
}

/// An agent on the port and a peer that has a socket of its own exchange their number.
async fn converse(mux: UdpMux, number: u32) -> IceAgent {
    let ours = IceAgent::builder().mux(&mux).gather().await.unwrap();
    let theirs =
        IceAgent::builder().controlling().addresses([loopback()]).port_mapping(false).gather().await.unwrap();
    theirs.set_remote(&ours.description()).unwrap();
    ours.set_remote(&theirs.description()).unwrap();
    let (our_path, their_path) = tokio::try_join!(ours.connect(), theirs.connect()).unwrap();
    assert_eq!(Some(their_path.remote()), mux.local_addrs().next());
    tell(&their_path, &our_path, number).await;
    tell(&our_path, &their_path, number).await;
    theirs.close().await;
    ours
}

/// Sends until it is heard: where a thousand speak at once, the system's buffer may be full.
async fn tell(from: &Path, to: &Path, number: u32) {
    let number = number.to_be_bytes();
    let mut heard = None;
    while heard.is_none() {
        from.send_batch(&[number; 3]).await.unwrap();
        heard = tokio::time::timeout(AGAIN, to.recv_datagram()).await.ok();
    }
    assert_eq!(heard.unwrap().unwrap(), number[..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_agents_share_a_port() {
    let mux = UdpMux::bind([loopback()]).unwrap();
    let all = async {
        let mut conversations: JoinSet<_> = (0..AGENTS).map(|number| converse(mux.clone(), number)).collect();
        let mut agents = Vec::new();
        while let Some(agent) = conversations.join_next().await {
            agents.push(agent.unwrap());
        }
        agents
    };
    let agents = tokio::time::timeout(LIMIT, all).await.unwrap();
    let ports: BTreeSet<_> = agents.iter().flat_map(|agent| agent.description().candidates).collect();
    assert!(ports.iter().all(|candidate| candidate.contains(" 127.0.0.1 ")), "{ports:?}");
    assert_eq!(mux.agents(), agents.len());
    for agent in agents {
        agent.close().await;
    }
    // Whoever has closed leaves the port once its task ends.
    let left = async {
        while mux.agents() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, left).await.unwrap();
}

#[tokio::test]
async fn a_pace_is_shared() {
    const AGENTS: u32 = 10;
    let interval = Duration::from_millis(20);
    let (pace, mux) = (SharedPace::new(interval), UdpMux::bind([loopback()]).unwrap());
    let (ours, theirs) =
        (IceAgent::builder, || IceAgent::builder().controlling().addresses([loopback()]).port_mapping(false));
    let mut connecting = JoinSet::new();
    let begun = tokio::time::Instant::now();
    for _ in 0..AGENTS {
        let ours = ours().mux(&mux).shared_pace(&pace).gather().await.unwrap();
        let theirs = theirs().shared_pace(&pace).gather().await.unwrap();
        theirs.set_remote(&ours.description()).unwrap();
        ours.set_remote(&theirs.description()).unwrap();
        connecting.spawn(async move { tokio::try_join!(ours.connect(), theirs.connect()).unwrap() });
    }
    let paths = tokio::time::timeout(LIMIT, connecting.join_all()).await.unwrap();
    // A check each, and the nominations, of which the first waits for nobody.
    assert!(begun.elapsed() >= interval * (3 * AGENTS - 1), "{:?}", begun.elapsed());
    assert_eq!(paths.len(), AGENTS as usize);
}

#[tokio::test]
async fn what_is_for_nobody_is_dropped() {
    let mux = UdpMux::bind([loopback()]).unwrap();
    let agent = IceAgent::builder().mux(&mux).gather().await.unwrap();
    let stranger = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    stranger.send_to(b"hello", mux.local_addrs().next().unwrap()).await.unwrap();
    let seen = async {
        while mux.dropped() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, seen).await.unwrap();
    assert_eq!(agent.report().dropped_unknown_sender, 0, "it does not reach the agent");
}

#[tokio::test]
async fn what_cannot_share_is_refused() {
    let unspecified = LocalAddress { address: "0.0.0.0:0".parse().unwrap(), preference: 255 };
    assert!(UdpMux::bind([unspecified]).is_err());
    assert!(UdpMux::bind([]).is_err());
    let mux = UdpMux::bind([loopback()]).unwrap();
    let credentials = Credentials { ufrag: "same".to_owned(), pwd: "p".repeat(22) };
    let start = || IceAgent::builder().mux(&mux).credentials(credentials.clone()).start();
    let _first = start().await.unwrap();
    assert!(matches!(start().await, Err(StartError::UfragTaken(_))));
}

#[tokio::test]
async fn a_restarted_session_is_known_by_its_new_ufrag() {
    let mux = UdpMux::bind([loopback()]).unwrap();
    let ours = IceAgent::builder().mux(&mux).gather().await.unwrap();
    let theirs =
        IceAgent::builder().controlling().addresses([loopback()]).port_mapping(false).gather().await.unwrap();
    let before = ours.description();
    theirs.set_remote(&before).unwrap();
    ours.set_remote(&theirs.description()).unwrap();
    let (our_path, their_path) = tokio::try_join!(ours.connect(), theirs.connect()).unwrap();
    let mut events = theirs.events();
    ours.set_remote(&theirs.restart().unwrap()).unwrap();
    let after = ours.description();
    assert_ne!(after.ufrag, before.ufrag);
    theirs.set_remote(&after).unwrap();
    let selected = async { while !matches!(events.recv().await.unwrap(), Event::Selected(_)) {} };
    tokio::time::timeout(LIMIT, selected).await.unwrap();
    their_path.send(b"after").await.unwrap();
    assert_eq!(our_path.recv_datagram().await.unwrap(), "after");
}

#[test]
fn no_allocation_is_made_on_a_shared_socket() {
    #[expect(clippy::disallowed_methods, reason = "a test's clock")]
    let now = std::time::Instant::now();
    let server = TurnServer {
        address: "192.0.2.9:3478".parse().unwrap(),
        host: None,
        transport: Transport::Udp,
        credentials: TurnCredentials::password("alice", "secret"),
    };
    let methods = |shared: bool| {
        let config = AgentConfig { turn: vec![server.clone()], ..AgentConfig::new(Role::Controlled) };
        let mut agent = Agent::new(config, [7; 32]);
        let local = "192.0.2.1:4000".parse().unwrap();
        match shared {
            true => agent.add_shared_socket(now, local, 255),
            false => agent.add_local_socket(now, local, 255),
        };
        agent.gather(now);
        let mut methods = Vec::new();
        while let Some(transmit) = agent.poll_transmit() {
            methods.push(Message::parse(&transmit.payload).unwrap().method());
        }
        methods
    };
    assert_eq!((methods(true), methods(false)), (vec![Method::BINDING], vec![Method::ALLOCATE]));
}
