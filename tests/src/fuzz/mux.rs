//! A script of what agents on one port send and of what comes to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use thirl_common::wire::{Class, MessageWriter, Method, TransactionId, Username};
use thirl_ice_agent::mux::{Mux, MuxId};

/// Fewer than make the mux forget anything.
const MAX_STEPS: usize = 100;

/// What is known of one agent, never forgotten.
#[derive(Default)]
struct Known {
    ufrag: u8,
    transactions: BTreeSet<u8>,
    asked: BTreeSet<SocketAddr>,
    answered: BTreeSet<SocketAddr>,
}

/// Steps of three bytes: what happens, to whom, and with which address or transaction. After them, any datagram.
pub fn mux(data: &[u8]) {
    let mut mux = Mux::default();
    let mut agents: BTreeMap<MuxId, Known> = BTreeMap::new();
    let mut removed_any = false;
    for step in data.chunks_exact(3).take(MAX_STEPS) {
        let &[what, who, which] = step else { continue };
        let at = SocketAddr::from(([192, 0, 2, 1], u16::from(which % 8) + 1));
        let id = agents.keys().nth(usize::from(who) % agents.len().max(1)).copied();
        match (what % 6, id) {
            (0, _) => {
                let taken = agents.values().any(|known| known.ufrag == who);
                let added = mux.add(&ufrag(who));
                assert_eq!(added.is_err(), taken);
                agents.extend(added.ok().map(|id| (id, Known { ufrag: who, ..Known::default() })));
            }
            (1, Some(id)) => {
                mux.remove(id);
                agents.remove(&id);
                removed_any = true;
            }
            (2, Some(id)) if agents.values().all(|known| !known.transactions.contains(&what)) => {
                mux.note_sent(id, at, &message(Class::Request, what, "peer:own"));
                let known = agents.entry(id).or_default();
                known.transactions.insert(what);
                known.asked.insert(at);
            }
            (3, _) => {
                let expected = agents.iter().find(|(_, known)| known.transactions.contains(&who));
                let expected = expected.map(|(id, _)| *id);
                let routed = mux.route(at, &message(Class::Success, who, ""));
                if let Some(id) = expected {
                    assert_eq!(routed, Some(id), "answers are for who asked");
                    let known = agents.entry(id).or_default();
                    if known.asked.contains(&at) {
                        known.answered.insert(at);
                        known.transactions.remove(&who);
                    }
                }
            }
            (4, _) => {
                let expected = agents.iter().find(|(_, known)| known.ufrag == who).map(|(id, _)| *id);
                let check = message(Class::Request, what, &format!("{}:peer", ufrag(who)));
                assert_eq!(mux.route(at, &check), expected, "checks are for whom they name");
            }
            _ => {
                let routed = mux.route(at, b"\x80data");
                let known = routed.and_then(|id| agents.get(&id));
                assert_eq!(known.is_some(), routed.is_some(), "an agent that is gone gets nothing");
                assert!(known.is_none_or(|known| known.asked.contains(&at)), "nobody there was asked");
                let answered = agents.values().any(|known| known.answered.contains(&at));
                if answered && !removed_any {
                    assert!(known.is_some_and(|known| known.answered.contains(&at)), "another was answered");
                }
            }
        }
    }
    let routed = mux.route(SocketAddr::from(([192, 0, 2, 9], 9)), data);
    assert!(routed.is_none_or(|id| agents.contains_key(&id)));
    assert_eq!(mux.len(), agents.len());
}

fn ufrag(n: u8) -> String {
    format!("ufrag{n}")
}

fn message(class: Class, transaction: u8, username: &str) -> Vec<u8> {
    let mut buffer = [0; 64];
    let id = TransactionId([transaction; 12]);
    let mut writer = MessageWriter::new(&mut buffer, class, Method::BINDING, id).unwrap();
    if !username.is_empty() {
        writer.attribute(&Username(username)).unwrap();
    }
    writer.finish().to_vec()
}
