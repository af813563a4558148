//! One UDP port for many agents: which of them a datagram is for, sans-IO.
//!
//! - A check of a peer's names the agent's username fragment (RFC 8445, section 7.3), by which a session is first known.
//! - A response is for whoever sent its transaction ID, to STUN servers too.
//! - Everything else is known by the sender's address, which with the port is the five-tuple. An address belongs to the agent
//!   that has lately had an answer from there; before any answer, to the first that sent a request there. So neither a
//!   forged source nor a candidate that names the address of another session's peer takes that session's data away.
//!
//! Each look-up is O(1), and what one agent can make this remember is bounded. Two sessions with one and the same remote
//! address cannot be told apart by their data: the later has it.
//!
//! ```
//! use thirl_ice_agent::mux::Mux;
//!
//! let mut mux = Mux::default();
//! let alice = mux.add("alice").unwrap();
//! let peer = "192.0.2.1:1000".parse().unwrap();
//! assert_eq!(mux.route(peer, b"data"), None);
//! assert!(mux.add("alice").is_err());
//! mux.remove(alice);
//! assert!(mux.add("alice").is_ok());
//! ```

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use thirl_common::net::canonical;
use thirl_common::wire::{Class, Message, Protocol, TransactionId, Username, classify};

/// Transactions of one agent whose answers are waited for. An agent starts one each Ta and gives it up after some
/// seconds: these are more than are open at a time.
const MAX_TRANSACTIONS: usize = 512;
/// Addresses to which one agent has sent requests.
const MAX_REMOTES: usize = 128;
/// Username fragments of one agent: those of a session and of the one that it replaces (RFC 8445, section 9).
const MAX_UFRAGS: usize = 2;

type Table<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// An agent on a shared port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MuxId(u64);

/// The username fragment is another agent's on this port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another agent on this port has the same ufrag: let the agent make its own, which is random")]
pub struct UfragTaken;

/// The agents on one port.
#[derive(Debug, Default)]
pub struct Mux {
    agents: Table<MuxId, Known>,
    by_ufrag: Table<Box<str>, MuxId>,
    by_transaction: Table<TransactionId, MuxId>,
    by_remote: Table<SocketAddr, Claim>,
    next: u64,
}

/// What is known of one agent, the oldest first.
#[derive(Debug, Default)]
struct Known {
    ufrags: VecDeque<Box<str>>,
    transactions: VecDeque<TransactionId>,
    remotes: VecDeque<Remote>,
}

/// An address that an agent has sent requests to.
#[derive(Clone, Copy, Debug)]
struct Remote {
    address: SocketAddr,
    /// Whether an answer came from there.
    answered: bool,
}

/// Whose an address is.
#[derive(Clone, Copy, Debug)]
struct Claim {
    agent: MuxId,
    answered: bool,
}

impl Mux {
    /// Adds an agent by its username fragment.
    pub fn add(&mut self, ufrag: &str) -> Result<MuxId, UfragTaken> {
        let id = MuxId(self.next);
        self.agents.insert(id, Known::default());
        if let Err(taken) = self.add_ufrag(id, ufrag) {
            self.agents.remove(&id);
            return Err(taken);
        }
        self.next += 1;
        Ok(id)
    }

    /// The agent's session has another fragment: an ICE restart. The one before is known until the next.
    pub fn add_ufrag(&mut self, id: MuxId, ufrag: &str) -> Result<(), UfragTaken> {
        match self.by_ufrag.get(ufrag) {
            Some(owner) if *owner == id => return Ok(()),
            Some(_) => return Err(UfragTaken),
            None => {}
        }
        let Some(known) = self.agents.get_mut(&id) else { return Ok(()) };
        self.by_ufrag.insert(ufrag.into(), id);
        known.ufrags.push_back(ufrag.into());
        if known.ufrags.len() > MAX_UFRAGS
            && let Some(old) = known.ufrags.pop_front()
        {
            self.by_ufrag.remove(&old);
        }
        Ok(())
    }

    /// Forgets an agent.
    pub fn remove(&mut self, id: MuxId) {
        let Some(known) = self.agents.remove(&id) else { return };
        for ufrag in &known.ufrags {
            self.by_ufrag.remove(ufrag);
        }
        for transaction in &known.transactions {
            self.by_transaction.remove(transaction);
        }
        for remote in &known.remotes {
            self.unclaim(remote.address, id);
        }
    }

    /// How many agents there are.
    pub fn len(&self) -> usize {
        self.agents.len()
    }

    /// Whether there is no agent.
    pub fn is_empty(&self) -> bool {
        self.agents.is_empty()
    }

    /// Notes what an agent sends: its requests say where answers are to be taken to. Whatever else it sends is of no
    /// matter here.
    pub fn note_sent(&mut self, id: MuxId, to: SocketAddr, datagram: &[u8]) {
        let Some(message) = parse(datagram).filter(|message| message.class() == Class::Request) else {
            return;
        };
        let (transaction, to) = (message.transaction_id(), canonical(to));
        let Some(known) = self.agents.get_mut(&id) else { return };
        // A retransmission has the transaction ID of the request.
        if self.by_transaction.insert(transaction, id).is_none() {
            known.transactions.push_back(transaction);
            if known.transactions.len() > MAX_TRANSACTIONS
                && let Some(old) = known.transactions.pop_front()
            {
                self.by_transaction.remove(&old);
            }
        }
        if known.remotes.iter().all(|remote| remote.address != to) {
            known.remotes.push_back(Remote { address: to, answered: false });
            let gone = known.forget_remote();
            self.by_remote.entry(to).or_insert(Claim { agent: id, answered: false });
            if let Some(gone) = gone {
                self.unclaim(gone, id);
            }
        }
    }

    /// The agent that a datagram is for; `None` if none is known.
    pub fn route(&mut self, from: SocketAddr, datagram: &[u8]) -> Option<MuxId> {
        let from = canonical(from);
        if let Some(message) = parse(datagram) {
            match message.class() {
                Class::Success | Class::Error => {
                    let transaction = message.transaction_id();
                    if let Some(&id) = self.by_transaction.get(&transaction) {
                        self.answered(id, from, transaction);
                        return Some(id);
                    }
                }
                Class::Request => {
                    if let Ok(Some(Username(username))) = message.get::<Username<'_>>() {
                        let ufrag = username.split_once(':').map_or(username, |(ours, _)| ours);
                        return self.by_ufrag.get(ufrag).copied();
                    }
                }
                Class::Indication => {}
            }
        }
        self.by_remote.get(&from).map(|claim| claim.agent)
    }

    /// Whoever gets an answer from an address for the first time has it from now on. There will be no other answer.
    fn answered(&mut self, id: MuxId, from: SocketAddr, transaction: TransactionId) {
        let Some(known) = self.agents.get_mut(&id) else { return };
        let Some(at) = known.remotes.iter().position(|remote| remote.address == from) else { return };
        let Some(remote) = known.remotes.remove(at) else { return };
        if let Some(at) = known.transactions.iter().rposition(|sent| *sent == transaction) {
            known.transactions.remove(at);
            self.by_transaction.remove(&transaction);
        }
        known.remotes.push_back(Remote { answered: true, ..remote });
        let claim = self.by_remote.get(&from);
        let another_has_it = claim.is_some_and(|claim| claim.agent != id && claim.answered);
        if !(remote.answered && another_has_it) {
            self.by_remote.insert(from, Claim { agent: id, answered: true });
        }
    }

    fn unclaim(&mut self, address: SocketAddr, id: MuxId) {
        if self.by_remote.get(&address).is_some_and(|claim| claim.agent == id) {
            self.by_remote.remove(&address);
        }
    }
}

impl Known {
    /// Makes room: those from where no answer came go first.
    fn forget_remote(&mut self) -> Option<SocketAddr> {
        if self.remotes.len() <= MAX_REMOTES {
            return None;
        }
        let silent = self.remotes.iter().position(|remote| !remote.answered).unwrap_or(0);
        self.remotes.remove(silent).map(|remote| remote.address)
    }
}

/// A STUN message, if the bytes are one.
fn parse(bytes: &[u8]) -> Option<Message<'_>> {
    if classify(bytes) == Protocol::Stun { Message::parse(bytes).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use thirl_common::wire::{MessageWriter, Method};

    use super::*;

    fn message(class: Class, id: u8, username: &str) -> Vec<u8> {
        let mut buffer = vec![0; 512];
        let mut writer =
            MessageWriter::new(&mut buffer, class, Method::BINDING, TransactionId([id; 12])).unwrap();
        if !username.is_empty() {
            writer.attribute(&Username(username)).unwrap();
        }
        writer.finish().to_vec()
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn checks_are_known_by_ufrag_and_answers_by_transaction() {
        let mut mux = Mux::default();
        let (a, b) = (mux.add("aaaa").unwrap(), mux.add("bbbb").unwrap());
        assert_eq!(mux.add("aaaa"), Err(UfragTaken));
        assert_eq!(mux.route(at(1), &message(Class::Request, 1, "bbbb:peer")), Some(b));
        assert_eq!(mux.route(at(1), &message(Class::Request, 1, "cccc:peer")), None);
        mux.note_sent(a, at(1), &message(Class::Request, 7, "peer:aaaa"));
        assert_eq!(
            mux.route(at(9), &message(Class::Success, 7, "")),
            Some(a),
            "a server may answer from elsewhere"
        );
        assert_eq!(mux.route(at(1), &message(Class::Success, 8, "")), Some(a), "the application's own STUN");
        assert_eq!(mux.route(at(2), b"data"), None);
        mux.add_ufrag(a, "new1").unwrap();
        assert_eq!(mux.route(at(1), &message(Class::Request, 1, "aaaa:peer")), Some(a));
        mux.add_ufrag(a, "new2").unwrap();
        assert_eq!(mux.route(at(1), &message(Class::Request, 1, "aaaa:peer")), None);
        assert_eq!(mux.route(at(1), &message(Class::Request, 1, "new1:peer")), Some(a));
    }

    #[test]
    fn an_address_is_whose_requests_it_answered() {
        let mut mux = Mux::default();
        let (a, b) = (mux.add("aaaa").unwrap(), mux.add("bbbb").unwrap());
        mux.note_sent(a, at(1), &message(Class::Request, 1, ""));
        mux.note_sent(b, at(1), &message(Class::Request, 2, ""));
        assert_eq!(mux.route(at(1), b"data"), Some(a), "the first to ask");
        mux.route(at(1), &message(Class::Success, 1, ""));
        // Another session's candidate names the address: nobody there answers for it.
        mux.note_sent(b, at(1), &message(Class::Request, 3, ""));
        assert_eq!(mux.route(at(1), b"data"), Some(a));
        // An answer with another source than was asked proves nothing.
        mux.route(at(5), &message(Class::Success, 3, ""));
        assert_eq!((mux.route(at(1), b"data"), mux.route(at(5), b"data")), (Some(a), None));
        // A new session with the same peer.
        mux.route(at(1), &message(Class::Success, 3, ""));
        assert_eq!(mux.route(at(1), b"data"), Some(b));
        mux.note_sent(a, at(1), &message(Class::Request, 4, ""));
        mux.route(at(1), &message(Class::Success, 4, ""));
        assert_eq!(mux.route(at(1), b"data"), Some(b), "what consents to both does not go back and forth");
        mux.remove(b);
        assert_eq!(mux.route(at(1), b"data"), None);
        mux.note_sent(a, at(1), &message(Class::Request, 5, ""));
        mux.route(at(1), &message(Class::Success, 5, ""));
        assert_eq!(mux.route(at(1), b"data"), Some(a));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_forgotten() {
        let mut mux = Mux::default();
        let id = mux.add("aaaa").unwrap();
        let mut request = message(Class::Request, 1, "");
        mux.note_sent(id, at(1), &request);
        mux.route(at(1), &message(Class::Success, 1, ""));
        for n in 0..5000u16 {
            request[8..10].copy_from_slice(&n.to_be_bytes());
            mux.note_sent(id, at(n), &request);
        }
        assert_eq!(mux.by_transaction.len(), MAX_TRANSACTIONS);
        assert_eq!(mux.by_remote.len(), MAX_REMOTES);
        assert_eq!(mux.route(at(1), b"data"), Some(id), "it has answered");
        let mut answer = message(Class::Success, 1, "");
        answer[8..10].copy_from_slice(&4999u16.to_be_bytes());
        assert_eq!(mux.route(at(4999), &answer), Some(id));
        assert_eq!(mux.by_transaction.len(), MAX_TRANSACTIONS - 1, "what is answered is forgotten");
        mux.remove(id);
        let left = [mux.by_transaction.len(), mux.by_remote.len(), mux.by_ufrag.len(), mux.len()];
        assert_eq!(left, [0; 4]);
    }
}
