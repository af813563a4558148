//! Sequences of operations, against a model that is too simple to be wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use thirl_common::net::PeerAddr;
use thirl_common::wire::*;

use crate::engine::testing::*;
use crate::engine::*;

const CLIENTS: u16 = 2;
const PEERS: u8 = 4;
const CHANNELS: u16 = 3;
const MAX_PERMISSIONS: usize = 3;
const MAX_CHANNELS: usize = 2;
const USER_QUOTA: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Step {
    Allocate {
        client: u16,
        even: bool,
    },
    Refresh {
        client: u16,
        lifetime: u32,
    },
    Permit {
        client: u16,
        peer: u8,
        other: u8,
    },
    Bind {
        client: u16,
        channel: u16,
        peer: u8,
    },
    Gone {
        client: u16,
    },
    /// Few values, so that what lasts 30, 300 or 600 seconds is often met at its very end.
    Pass {
        seconds: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (client, peer, channel) = (0..CLIENTS, 0..PEERS, 0..CHANNELS);
    prop_oneof![
        2 => (client.clone(), any::<bool>()).prop_map(|(client, even)| Step::Allocate { client, even }),
        2 => (client.clone(), prop_oneof![Just(0u32), Just(600), Just(9999), Just(9999)])
            .prop_map(|(client, lifetime)| Step::Refresh { client, lifetime }),
        4 => (client.clone(), peer.clone(), peer.clone())
            .prop_map(|(client, peer, other)| Step::Permit { client, peer, other }),
        4 => (client.clone(), channel, peer).prop_map(|(client, channel, peer)| Step::Bind { client, channel, peer }),
        1 => client.prop_map(|client| Step::Gone { client }),
        3 => prop_oneof![Just(30u64), Just(270), Just(300), Just(600)].prop_map(|seconds| Step::Pass { seconds }),
    ]
}

/// Times are seconds since the start; what has expired is taken out whenever the time changes.
#[derive(Default)]
struct Model {
    now: u64,
    allocations: BTreeMap<u16, ModelAllocation>,
    /// When reserved ports expire.
    reservations: Vec<u64>,
}

#[derive(Default)]
struct ModelAllocation {
    expires: u64,
    permissions: BTreeMap<u8, u64>,
    channels: BTreeMap<u16, (u8, u64)>,
}

impl Model {
    fn allocate(&mut self, client: u16, even: bool) -> u16 {
        let wanted = if even { 2 } else { 1 };
        if self.allocations.contains_key(&client) {
            return 437;
        }
        if self.allocations.len() + self.reservations.len() + wanted > USER_QUOTA {
            return 486;
        }
        self.allocations.insert(client, ModelAllocation { expires: self.now + 600, ..Default::default() });
        if even {
            self.reservations.push(self.now + 30);
        }
        0
    }

    fn refresh(&mut self, client: u16, lifetime: u32) -> u16 {
        let Some(allocation) = self.allocations.get_mut(&client) else { return 437 };
        if lifetime == 0 {
            self.allocations.remove(&client);
        } else {
            allocation.expires = self.now + u64::from(lifetime.clamp(600, 3600));
        }
        0
    }

    fn permit(&mut self, client: u16, peers: &[u8]) -> u16 {
        let now = self.now;
        let Some(allocation) = self.allocations.get_mut(&client) else { return 437 };
        let mut all = allocation.permissions.clone();
        all.extend(peers.iter().map(|peer| (*peer, now + 300)));
        if all.len() > MAX_PERMISSIONS {
            return 508;
        }
        allocation.permissions = all;
        0
    }

    fn bind(&mut self, client: u16, channel: u16, peer: u8) -> u16 {
        let now = self.now;
        let Some(allocation) = self.allocations.get(&client) else { return 437 };
        let clash = |(&number, &(bound, _)): (&u16, &(u8, u64))| (number == channel) != (bound == peer);
        if allocation.channels.iter().any(clash) {
            return 400;
        }
        // The permission is installed first, and stays where there is no room for the channel.
        let code = self.permit(client, &[peer]);
        if code != 0 {
            return code;
        }
        let Some(allocation) = self.allocations.get_mut(&client) else { return 437 };
        if !allocation.channels.contains_key(&channel) && allocation.channels.len() >= MAX_CHANNELS {
            return 508;
        }
        allocation.channels.insert(channel, (peer, now + 600));
        0
    }

    fn pass(&mut self, seconds: u64) {
        self.now += seconds;
        let now = self.now;
        self.allocations.retain(|_, allocation| allocation.expires > now);
        self.reservations.retain(|expires| *expires > now);
        for allocation in self.allocations.values_mut() {
            allocation.permissions.retain(|_, expires| *expires > now);
            allocation.channels.retain(|_, (_, expires)| *expires > now);
        }
    }
}

fn address(number: u8) -> PeerAddr {
    peer(number, 1000)
}

fn number(channel: u16) -> ChannelNumber {
    ChannelNumber::new(0x4000 + channel).unwrap()
}

fn carry_out(server: &mut Server, model: &mut Model, step: Step) -> (u16, u16) {
    match step {
        Step::Allocate { client: c, even } => {
            let reply = server.allocate(client(c), |writer| {
                if even {
                    writer.attribute(&EvenPort { reserve: true }).unwrap();
                }
            });
            (reply.code(), model.allocate(c, even))
        }
        Step::Refresh { client: c, lifetime } => {
            let reply = server.request(client(c), "alice", Method::REFRESH, |writer| {
                writer.attribute(&Lifetime(lifetime)).unwrap();
            });
            (reply.code(), model.refresh(c, lifetime))
        }
        Step::Permit { client: c, peer, other } => {
            let reply = server.request(client(c), "alice", Method::CREATE_PERMISSION, |writer| {
                writer.attribute(&XorPeerAddress(address(peer).0)).unwrap();
                writer.attribute(&XorPeerAddress(address(other).0)).unwrap();
            });
            (reply.code(), model.permit(c, &[peer, other]))
        }
        Step::Bind { client: c, channel, peer } => {
            let reply = server.request(client(c), "alice", Method::CHANNEL_BIND, |writer| {
                writer
                    .attribute(&number(channel))
                    .unwrap()
                    .attribute(&XorPeerAddress(address(peer).0))
                    .unwrap();
            });
            (reply.code(), model.bind(c, channel, peer))
        }
        Step::Gone { client: c } => {
            server.engine.handle_client_gone(server.now, client(c));
            server.settle();
            model.allocations.remove(&c);
            (0, 0)
        }
        Step::Pass { seconds } => {
            server.pass(Duration::from_secs(seconds));
            model.pass(seconds);
            (0, 0)
        }
    }
}

/// Whether each packet that could be sent is relayed as the model has it.
fn compare_data(
    server: &mut Server,
    model: &Model,
    relays: &BTreeMap<u16, RelayId>,
) -> Result<(), TestCaseError> {
    for c in 0..CLIENTS {
        let allocation = model.allocations.get(&c);
        for peer in 0..PEERS {
            let permitted = allocation.is_some_and(|allocation| allocation.permissions.contains_key(&peer));
            let channel = allocation.and_then(|allocation| {
                allocation.channels.iter().find(|(_, (bound, _))| *bound == peer).map(|(channel, _)| *channel)
            });
            let expected = permitted.then(|| channel.map(|channel| number(channel).get()));
            let relayed = relays
                .get(&c)
                .and_then(|relay| server.engine.handle_peer_datagram(server.now, *relay, address(peer), 5));
            let got = relayed.map(|forward| match forward {
                Forward::ToClient { five_tuple, prefix, .. } => {
                    assert_eq!(five_tuple, client(c));
                    (prefix.len() == 4).then(|| u16::from_be_bytes([prefix[0], prefix[1]]))
                }
                Forward::ToPeer { .. } => panic!("the wrong way"),
            });
            prop_assert_eq!(got, expected, "to client {} from peer {}", c, peer);
        }
        for channel in 0..CHANNELS {
            let expected = allocation
                .and_then(|allocation| allocation.channels.get(&channel))
                .map(|(peer, _)| address(*peer));
            let datagram = ChannelData::header(number(channel), 0).unwrap();
            let got = server.engine.handle_datagram(server.now, UNIX, client(c), &datagram).map(|forward| {
                match forward {
                    Forward::ToPeer { to, .. } => to,
                    Forward::ToClient { .. } => panic!("the wrong way"),
                }
            });
            prop_assert_eq!(got, expected, "from client {} by channel {}", c, channel);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn behaves_like_the_model(steps in proptest::collection::vec(step(), 1..100)) {
        let mut server = Server::new(|config| {
            config.max_permissions = MAX_PERMISSIONS;
            config.max_channels = MAX_CHANNELS;
            config.user_quota = Some(USER_QUOTA);
        });
        let mut model = Model::default();
        let mut relays = BTreeMap::new();
        for step in steps {
            let (got, expected) = carry_out(&mut server, &mut model, step);
            prop_assert_eq!(got, expected, "{:?}", step);
            for c in 0..CLIENTS {
                // The last relay of each client: once released, nothing comes through it.
                if let Some((allocation, _)) = server.engine.allocations.find(&client(c)) {
                    relays.insert(c, RelayId { allocation, family: AddressFamily::Ipv4 });
                }
            }
            compare_data(&mut server, &model, &relays)?;
            prop_assert_eq!(server.engine.allocations(), model.allocations.len());
            prop_assert_eq!(server.sockets.len(), model.allocations.len());
            prop_assert_eq!(server.reserved.len(), model.reservations.len());
            prop_assert_eq!(server.engine.shared.seats(), model.allocations.len() + model.reservations.len());
            let next = model.allocations.values().map(|a| a.expires).chain(model.reservations.iter().copied()).min();
            let deadline = server.engine.poll_timeout().map(|at| (at - server.now).as_secs() + model.now);
            prop_assert_eq!(deadline, next);
        }
        let counters = server.engine.counters();
        let living = server.engine.allocations() as u64;
        prop_assert_eq!(counters.allocations_created - counters.allocations_ended.total(), living);
    }
}
