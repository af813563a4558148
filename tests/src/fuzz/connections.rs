//! A script of what happens on an agent's TCP port, by a peer and by strangers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use thirl_common::wire::{
    Class, IceControlled, IntegrityAlgorithm, IntegrityKey, MessageWriter, Method, Priority, TransactionId,
    Username,
};
use thirl_ice_agent::agent::{Action, Agent, AgentConfig, Credentials, Role, StreamId, Via};
use thirl_ice_agent::candidate::Candidate;

/// Enough to fill every bound.
const MAX_STEPS: usize = 300;
/// More connections than this the agent never has.
const MAX_CONNECTIONS: usize = 128;

/// Steps of three bytes: what happens, on which connection or from which port, and with what. What the agent asks for is
/// done, its connections are bounded in number, and it never speaks of one that is over.
pub fn connections(data: &[u8]) {
    #[expect(clippy::disallowed_methods, reason = "any origin of virtual time will do")]
    let mut now = Instant::now();
    let mut agent = Agent::new(AgentConfig::new(Role::Controlling), [7; 32]);
    let listener = agent.add_tcp_listener(now, "192.0.2.1:4000".parse().unwrap(), 255);
    agent.gather(now);
    let peer = Credentials { ufrag: "peer".to_owned(), pwd: "0123456789012345678901".to_owned() };
    agent.set_remote_credentials(now, peer).unwrap();
    // The connections that are, and whether each stands.
    let mut open = BTreeMap::<StreamId, bool>::new();
    for step in data.chunks_exact(3).take(MAX_STEPS) {
        let &[what, which, with] = step else { continue };
        let from = SocketAddr::from(([192, 0, 2, 2], u16::from(which) + 1));
        let stream = open.keys().nth(usize::from(which) % open.len().max(1)).copied();
        let stands = stream.and_then(|stream| open.get(&stream)).copied();
        match (what % 9, stream, stands) {
            (0, ..) => open.extend(agent.stream_accepted(now, listener, from).map(|stream| (stream, true))),
            (1, Some(stream), Some(true)) => {
                let check = check(&agent, with);
                assert!(agent.handle_stream_frame(now, stream, &check).is_none());
            }
            (2, Some(stream), Some(true)) => {
                let bytes = vec![with; usize::from(what)];
                agent.handle_stream_frame(now, stream, &bytes);
            }
            (3, Some(stream), Some(true)) => {
                open.remove(&stream);
                agent.stream_closed(now, stream);
            }
            (4, Some(stream), Some(false)) if with % 2 == 0 => {
                open.insert(stream, true);
                agent.stream_connected(now, stream, Ok("192.0.2.1:5000".parse().unwrap()));
            }
            (4, Some(stream), Some(false)) => {
                open.remove(&stream);
                agent.stream_connected(now, stream, Err("refused".to_owned()));
            }
            (5, ..) => {
                let ty = ["passive", "so", "active"][usize::from(with % 3)];
                let line =
                    format!("candidate:1 1 tcp {with} {} {} typ host tcptype {ty}", from.ip(), from.port());
                agent.add_remote_candidate(now, Candidate::parse(&line).unwrap());
            }
            (6, ..) => {
                now += Duration::from_millis(u64::from(with) * 50);
                agent.handle_timeout(now);
            }
            (7, ..) => drop(agent.send(now, &[with; 100])),
            (8, ..) if with == 0 => {
                agent.restart(now);
                let pwd = format!("01234567890123456789{which:03}");
                agent.set_remote_credentials(now, Credentials { ufrag: "peer".to_owned(), pwd }).unwrap();
            }
            _ => {}
        }
        drain(&mut agent, &mut open);
        assert!(open.len() <= MAX_CONNECTIONS);
    }
    agent.close(now);
    drain(&mut agent, &mut open);
    assert!(open.is_empty(), "a closed agent has closed its connections");
}

/// Does what the agent asks.
fn drain(agent: &mut Agent, open: &mut BTreeMap<StreamId, bool>) {
    while let Some(action) = agent.poll_action() {
        match action {
            Action::ConnectTcp { stream, .. } => assert_eq!(open.insert(stream, false), None, "a new name"),
            Action::Close { stream } => assert!(open.remove(&stream).is_some(), "closed once"),
            other => panic!("{other:?}"),
        }
    }
    while let Some(transmit) = agent.poll_transmit() {
        let Via::Stream(stream) = transmit.via else { panic!("there is no socket") };
        let length = usize::from(u16::from_be_bytes([transmit.payload[0], transmit.payload[1]]));
        assert_eq!(transmit.payload.len(), 2 + length);
        // What was sent before the end of a connection is polled after it.
        assert!(open.get(&stream).is_none_or(|stands| *stands));
    }
    while agent.poll_event().is_some() {}
}

/// A check of the peer's, or almost one.
fn check(agent: &Agent, with: u8) -> Vec<u8> {
    let Credentials { ufrag, pwd } = agent.local_credentials();
    let key = IntegrityKey::new(if with % 8 == 7 { b"another" } else { pwd.as_bytes() });
    let mut buffer = [0; 512];
    let mut writer =
        MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, TransactionId([with; 12])).unwrap();
    writer.attribute(&Username(&format!("{ufrag}:peer"))).unwrap();
    writer.attribute(&Priority(u32::from(with))).unwrap().attribute(&IceControlled(1)).unwrap();
    writer.integrity(IntegrityAlgorithm::Sha1, &key).unwrap().fingerprint().unwrap();
    writer.finish().to_vec()
}
