//! Whose nomination the controlled agent follows: of peers that nominate aggressively (RFC 5245, section 8.1.1.2), of those
//! that nominate deliberately (RFC 8445, section 8.1.1), and of those that number their nominations
//! (draft-thatcher-ice-renomination).
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use thirl_common::wire::{
    Class, IceControlling, IntegrityAlgorithm, IntegrityKey, Message, MessageWriter, Method, Nomination,
    Priority, TransactionId, UseCandidate, Username, XorMappedAddress,
};
use thirl_ice_agent::agent::{Agent, AgentConfig, Credentials, Role, SocketId};

const GOOD: &str = "192.0.2.2:2000";
const POOR: &str = "192.0.2.3:3000";

/// A controlled agent, and a peer that says what the test has it say.
struct Script {
    agent: Agent,
    socket: SocketId,
    local: SocketAddr,
    now: Instant,
    peer: Credentials,
    checks: u8,
}

impl Script {
    #[expect(clippy::disallowed_methods, reason = "any origin will do")]
    fn new() -> Script {
        let now = Instant::now();
        let local = "192.0.2.1:1000".parse().unwrap();
        let mut agent = Agent::new(AgentConfig::new(Role::Controlled), [1; 32]);
        let socket = agent.add_local_socket(now, local, 255);
        agent.gather(now);
        let peer = Credentials { ufrag: "peer".to_owned(), pwd: "0123456789012345678901".to_owned() };
        agent.set_remote_credentials(now, peer.clone()).unwrap();
        Script { agent, socket, local, now, peer, checks: 0 }
    }

    /// A check from an address, whose priority is what it is called, and the agent's check the other way, answered.
    fn check(&mut self, from: &str, use_candidate: bool, nomination: Option<u32>) {
        self.checks += 1;
        let ours = self.agent.local_credentials().clone();
        let username = format!("{}:{}", ours.ufrag, self.peer.ufrag);
        let priority = if from == GOOD { 2_000_000_000 } else { 1_000_000_000 };
        let id = TransactionId([self.checks; 12]);
        let bytes = write(Class::Request, id, &ours.pwd, |writer| {
            writer.attribute(&Username(&username)).unwrap().attribute(&Priority(priority)).unwrap();
            writer.attribute(&IceControlling(7)).unwrap();
            if use_candidate {
                writer.attribute(&UseCandidate).unwrap();
            }
            if let Some(number) = nomination {
                writer.attribute(&Nomination(number)).unwrap();
            }
        });
        self.agent.handle_datagram(self.now, self.socket, from.parse().unwrap(), &bytes);
        for _ in 0..4 {
            self.answer_checks();
            self.now += Duration::from_millis(50);
            self.agent.handle_timeout(self.now);
        }
    }

    fn answer_checks(&mut self) {
        while let Some(transmit) = self.agent.poll_transmit() {
            let message = Message::parse(&transmit.payload).unwrap();
            if message.class() == Class::Request {
                let answer = write(Class::Success, message.transaction_id(), &self.peer.pwd, |writer| {
                    writer.attribute(&XorMappedAddress(self.local)).unwrap();
                });
                self.agent.handle_datagram(self.now, self.socket, transmit.to, &answer);
            }
        }
    }

    fn selected(&self) -> Option<String> {
        self.agent.selected().map(|pair| pair.remote.address.to_string())
    }
}

fn write(class: Class, id: TransactionId, pwd: &str, body: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
    let mut buffer = [0; 512];
    let mut writer = MessageWriter::new(&mut buffer, class, Method::BINDING, id).unwrap();
    body(&mut writer);
    let key = IntegrityKey::new(pwd.as_bytes());
    writer.integrity(IntegrityAlgorithm::Sha1, &key).unwrap().fingerprint().unwrap();
    writer.finish().to_vec()
}

#[test]
fn of_aggressive_nominations_the_best_counts() {
    let mut script = Script::new();
    script.check(POOR, true, None);
    assert_eq!(script.selected().as_deref(), Some(POOR), "the first that works");
    script.check(GOOD, true, None);
    assert_eq!(script.selected().as_deref(), Some(GOOD));
    script.check(POOR, true, None);
    assert_eq!(script.selected().as_deref(), Some(GOOD), "the lower priority changes nothing");
}

#[test]
fn of_deliberate_nominations_the_last_counts() {
    let mut script = Script::new();
    script.check(GOOD, false, None);
    script.check(POOR, false, None);
    assert_eq!(script.selected(), None);
    script.check(GOOD, true, None);
    assert_eq!(script.selected().as_deref(), Some(GOOD));
    script.check(POOR, true, None);
    assert_eq!(script.selected().as_deref(), Some(POOR));
}

#[test]
fn of_numbered_nominations_the_highest_counts() {
    let mut script = Script::new();
    script.check(GOOD, false, None);
    script.check(GOOD, true, Some(5));
    script.check(POOR, true, Some(6));
    assert_eq!(script.selected().as_deref(), Some(POOR), "whatever its priority");
    script.check(GOOD, true, Some(7));
    assert_eq!(script.selected().as_deref(), Some(GOOD));
    script.check(POOR, true, Some(6));
    assert_eq!(script.selected().as_deref(), Some(GOOD), "that one was late");
}
