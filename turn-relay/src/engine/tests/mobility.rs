//! Clients whose address changes, within one engine and between two (RFC 8016).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use thirl_common::net::Transport;
use thirl_common::wire::*;

use crate::engine::testing::*;
use crate::engine::*;

const DATA: &[u8] = b"\x40\x00\x00\x02hi";

fn ticket_of(reply: &Reply) -> Vec<u8> {
    reply.message().require::<MobilityTicket<'_>>().unwrap().0.to_vec()
}

/// An allocation that may move, its relay, and its ticket. The first channel is bound to the first peer.
fn mobile(server: &mut Server, from: FiveTuple) -> (RelayId, Vec<u8>) {
    let reply = server.allocate(from, |writer| {
        writer.attribute(&MobilityTicket(&[])).unwrap();
    });
    let bound = server.request(from, "alice", Method::CHANNEL_BIND, |writer| {
        writer.attribute(&ChannelNumber::MIN).unwrap().attribute(&XorPeerAddress(peer(1, 9).0)).unwrap();
    });
    assert_eq!((reply.code(), bound.code()), (0, 0));
    let (allocation, _) = server.engine.allocations.find(&from).unwrap();
    (RelayId { allocation, family: AddressFamily::Ipv4 }, ticket_of(&reply))
}

fn claim_as(server: &mut Server, from: FiveTuple, username: &str, ticket: &[u8]) -> Reply {
    server.request(from, username, Method::REFRESH, |writer| {
        writer.attribute(&MobilityTicket(ticket)).unwrap();
    })
}

fn claim(server: &mut Server, from: FiveTuple, ticket: &[u8]) -> Reply {
    claim_as(server, from, "alice", ticket)
}

/// A claim as it is sent.
fn claim_message(server: &mut Server, from: FiveTuple, ticket: &[u8]) -> Vec<u8> {
    server.signed(from, "alice", Method::REFRESH, |writer| {
        writer.attribute(&MobilityTicket(ticket)).unwrap();
    })
}

/// A claim at one of several engines, which may have to ask another.
fn claim_at(servers: &mut [Server], at: usize, from: FiveTuple, ticket: &[u8]) -> Reply {
    let request = claim_message(&mut servers[at], from, ticket);
    ask(servers, at, from, &request)
}

/// A request at one of several engines, and its only response, once they have told each other everything.
fn ask(servers: &mut [Server], at: usize, from: FiveTuple, request: &[u8]) -> Reply {
    let at_once = servers[at].deliver(from, request);
    let Exchanged { mut sent, .. } = exchange(servers);
    assert_eq!(at_once.is_some() as usize + sent.len(), 1);
    at_once.unwrap_or_else(|| Reply(sent.remove(0).payload))
}

/// What came of what engines told each other.
#[derive(Default)]
struct Exchanged {
    /// What clients' data became of that waited.
    forwards: Vec<Forward>,
    /// Responses.
    sent: Vec<Transmit>,
}

/// Whom the first peer's data goes to.
fn client_of(server: &mut Server, relay: RelayId) -> Option<FiveTuple> {
    match server.engine.handle_peer_datagram(server.now, relay, peer(1, 9), 2)? {
        Forward::ToClient { five_tuple, prefix, .. } => {
            assert_eq!(prefix[..], DATA[..4], "by its channel");
            Some(five_tuple)
        }
        Forward::ToPeer { .. } | Forward::Hold => panic!("the wrong way"),
    }
}

/// Which peer a client's data goes to, and by which relay.
fn send(server: &mut Server, from: FiveTuple) -> Option<(RelayId, PeerAddr)> {
    match server.engine.handle_datagram(server.now, UNIX, from, DATA)? {
        Forward::ToPeer { relay, to, .. } => Some((relay, to)),
        Forward::ToClient { .. } | Forward::Hold => panic!("the wrong way"),
    }
}

/// Engines of one server.
fn engines<const N: usize>() -> [Server; N] {
    let first = Server::new(|_| {});
    std::array::from_fn(|shard| {
        let (config, shared) = (first.engine.config.clone(), first.engine.shared.clone());
        let seed = [9 + u8::try_from(shard).unwrap(); 32];
        let mut server = Server::around(Engine::with_shared(config, shared, seed).on_shard(shard));
        server.now = first.now;
        server
    })
}

/// Carries what the engines tell each other, and the sockets with it.
fn exchange(servers: &mut [Server]) -> Exchanged {
    let mut all = Exchanged::default();
    let next = |servers: &mut [Server]| {
        (0..servers.len()).find_map(|from| Some((from, servers[from].engine.poll_notice()?)))
    };
    while let Some((from, told)) = next(servers) {
        carry(servers, from, told, &mut all);
    }
    all
}

fn carry(servers: &mut [Server], from: usize, told: OutgoingNotice, all: &mut Exchanged) {
    let OutgoingNotice { shard, relays, notice } = told;
    assert_ne!(shard, from);
    let sockets: Vec<_> = relays.iter().map(|relay| servers[from].sockets.remove(relay).unwrap()).collect();
    let server = &mut servers[shard];
    let relays = server.engine.handle_notice(server.now, notice);
    assert_eq!(relays.len(), sockets.len());
    server.sockets.extend(relays.into_iter().zip(sockets));
    while let Some((five_tuple, datagram)) = server.engine.poll_arrived() {
        all.forwards.extend(server.engine.handle_datagram(server.now, UNIX, five_tuple, &datagram));
    }
    servers.iter_mut().for_each(|server| all.sent.extend(server.settle()));
}

fn tickets(server: &Server) -> usize {
    server.engine.shared.tickets.len()
}

#[test]
fn an_allocation_goes_where_its_client_goes() {
    let mut server = Server::new(|_| {});
    let (relay, first) = mobile(&mut server, client(1));
    let second = ticket_of(&claim(&mut server, client(2), &first));
    assert_ne!(first, second);
    assert!(first.iter().all(u8::is_ascii_alphanumeric), "coturn's client takes it for a string");
    // The old place is good until the client comes from the new one.
    assert_eq!(client_of(&mut server, relay), Some(client(1)));
    assert_eq!(send(&mut server, client(1)), Some((relay, peer(1, 9))));
    assert_eq!(send(&mut server, client(2)), Some((relay, peer(1, 9))));
    assert_eq!(client_of(&mut server, relay), Some(client(2)));
    assert_eq!(send(&mut server, client(1)), None);
    assert_eq!((server.engine.counters().allocations_moved, tickets(&server)), (1, 1));
    server.settle();
    assert!(matches!(
        server.events.last(),
        Some(Event::AllocationMoved { five_tuple, .. }) if *five_tuple == client(2)
    ));

    assert_eq!(claim(&mut server, client(3), &first).code(), 400, "a ticket that was used");
    // The old five-tuple is free for another, and what becomes of that is none of the first's business.
    server.allocated(client(1));
    let deleted = server.request(client(1), "alice", Method::REFRESH, |writer| {
        writer.attribute(&Lifetime(0)).unwrap();
    });
    assert_eq!((deleted.code(), client_of(&mut server, relay)), (0, Some(client(2))));

    // A request from the new place moves it as data does.
    assert_eq!(claim(&mut server, client(4), &second).code(), 0);
    let refreshed = server.request(client(4), "alice", Method::REFRESH, |_| {});
    assert_eq!((refreshed.code(), client_of(&mut server, relay)), (0, Some(client(4))));
    server.pass(Duration::from_secs(600));
    assert_eq!((server.engine.allocations(), server.sockets.len(), tickets(&server)), (0, 0, 0));
    assert_eq!(server.engine.shared.seats(), 0);
}

#[test]
fn it_goes_to_another_engine_with_all_that_it_has() {
    let mut servers = engines::<2>();
    let (relay, first) = mobile(&mut servers[0], client(1));
    let traffic = send(&mut servers[0], client(1));
    assert_eq!(traffic, Some((relay, peer(1, 9))));
    let relayed = servers[0].sockets[&relay];
    let second = ticket_of(&claim_at(&mut servers, 1, client(2), &first));
    assert_eq!(client_of(&mut servers[0], relay), Some(client(1)), "not before it is used");
    assert!(servers[1].engine.has_allocation(&client(2)), "a connection that is worth keeping");

    // Data waits until the allocation is there, and so does a request.
    assert_eq!(send(&mut servers[1], client(2)), None);
    assert_eq!(send(&mut servers[1], client(2)), None);
    let forwards = exchange(&mut servers).forwards;
    let (id, _) = servers[1].engine.allocations.find(&client(2)).unwrap();
    let moved = RelayId { allocation: id, family: AddressFamily::Ipv4 };
    let to_peer = Forward::ToPeer { relay: moved, to: peer(1, 9), range: 4..6, dont_fragment: false };
    assert_eq!(forwards, [to_peer.clone(), to_peer]);
    assert_eq!(
        (client_of(&mut servers[1], moved), client_of(&mut servers[0], relay)),
        (Some(client(2)), None)
    );
    assert_eq!((servers[0].sockets.len(), servers[1].sockets.get(&moved)), (0, Some(&relayed)));
    assert_eq!((servers[0].engine.allocations(), servers[0].engine.poll_timeout()), (0, None));

    // And back.
    let third = ticket_of(&claim_at(&mut servers, 0, client(3), &second));
    assert_eq!(send(&mut servers[0], client(3)), None);
    assert_eq!(exchange(&mut servers).forwards.len(), 1);
    assert_eq!((servers[1].engine.allocations(), servers[0].engine.allocations()), (0, 1));
    assert_eq!(claim_at(&mut servers, 1, client(2), &second).code(), 400);
    assert_eq!((tickets(&servers[0]), servers[0].engine.shared.seats()), (1, 1));
    assert_ne!(second, third);
    servers[0].pass(Duration::from_secs(600));
    let ended = servers[0].events.iter().find_map(|event| match event {
        Event::AllocationEnded { traffic, .. } => Some(traffic.to_peer_packets),
        _ => None,
    });
    assert_eq!((ended, tickets(&servers[0]), servers[0].sockets.len()), (Some(4), 0, 0));
}

#[test]
fn a_request_from_the_new_place_waits_for_another_engine() {
    let mut servers = engines::<2>();
    let (_, ticket) = mobile(&mut servers[0], client(1));
    claim_at(&mut servers, 1, client(2), &ticket);
    let request = servers[1].signed(client(2), "alice", Method::CREATE_PERMISSION, |writer| {
        writer.attribute(&XorPeerAddress(peer(2, 9).0)).unwrap();
    });
    assert!(servers[1].deliver(client(2), &request).is_none());
    let mut answered = Vec::new();
    for _ in 0..4 {
        for from in 0..2 {
            while let Some(OutgoingNotice { shard, notice, .. }) = servers[from].engine.poll_notice() {
                let server = &mut servers[shard];
                server.engine.handle_notice(server.now, notice);
                while let Some((five_tuple, datagram)) = server.engine.poll_arrived() {
                    assert_eq!(server.engine.handle_datagram(server.now, UNIX, five_tuple, &datagram), None);
                }
                while let Some(transmit) = server.engine.poll_transmit() {
                    answered.push(Reply(transmit.payload).code());
                }
            }
        }
    }
    assert_eq!(answered, [0]);
}

#[test]
fn a_retransmitted_refresh_is_answered_alike() {
    let mut servers = engines::<2>();
    let (_, ticket) = mobile(&mut servers[0], client(1));
    for at in [0, 1] {
        let request = claim_message(&mut servers[at], client(2), &ticket);
        let first = match at {
            0 => servers[at].deliver(client(2), &request).unwrap(),
            _ => {
                assert!(servers[at].deliver(client(2), &request).is_none(), "the other engine is asked");
                assert!(servers[at].deliver(client(2), &request).is_none(), "once");
                let Exchanged { mut sent, .. } = exchange(&mut servers);
                assert_eq!(sent.len(), 1);
                Reply(sent.remove(0).payload)
            }
        };
        let again = servers[at].deliver(client(2), &request).unwrap();
        assert_eq!((first.code(), &first.0), (0, &again.0));
        if at == 1 {
            send(&mut servers[at], client(2));
            exchange(&mut servers);
            assert!(servers[at].engine.allocations.find(&client(2)).is_some());
            let late = servers[at].deliver(client(2), &request).unwrap();
            assert_eq!(first.0, late.0);
        }
    }
}

#[test]
fn a_client_that_got_no_answer_may_show_the_old_ticket_elsewhere() {
    let mut servers = engines::<2>();
    let (relay, first) = mobile(&mut servers[0], client(1));
    let lost = ticket_of(&claim_at(&mut servers, 1, client(2), &first));
    let second = ticket_of(&claim_at(&mut servers, 0, client(3), &first));
    assert!(!servers[1].engine.has_allocation(&client(2)), "it is not expected there any more");
    assert_eq!(claim_at(&mut servers, 0, client(4), &lost).code(), 400);
    assert_eq!(send(&mut servers[0], client(3)), Some((relay, peer(1, 9))));
    assert_eq!(claim_at(&mut servers, 0, client(4), &first).code(), 400);
    assert_eq!(claim_at(&mut servers, 0, client(4), &second).code(), 0);
}

#[test]
fn what_is_refused_moves_nothing() {
    let mut server = Server::new(|_| {});
    let (relay, ticket) = mobile(&mut server, client(1));
    server.allocated(client(2));
    assert_eq!(claim_as(&mut server, client(3), "bob", &ticket).code(), 441);
    assert_eq!(claim(&mut server, client(1), &ticket).code(), 400, "it has not moved");
    assert_eq!(claim(&mut server, client(2), &ticket).code(), 437, "there is another");
    for foreign in [&[][..], &[b'a'; 24], &ticket[..23], &[&ticket[..], &[0]].concat()] {
        assert_eq!(claim(&mut server, client(3), foreign).code(), 400);
    }
    let filled = server.allocate(client(3), |writer| {
        writer.attribute(&MobilityTicket(&ticket)).unwrap();
    });
    assert_eq!(filled.code(), 400);
    let other_family = server.request(client(3), "alice", Method::REFRESH, |writer| {
        let family = RequestedAddressFamily(Some(AddressFamily::Ipv6));
        writer.attribute(&MobilityTicket(&ticket)).unwrap().attribute(&family).unwrap();
    });
    assert_eq!(other_family.code(), 443);
    assert_eq!(send(&mut server, client(3)), None);
    assert_eq!((client_of(&mut server, relay), tickets(&server)), (Some(client(1)), 1));

    let config = EngineConfig { mobility: false, ..(*server.engine.config).clone() };
    server.engine.reconfigure(server.now, config.into());
    assert_eq!(claim(&mut server, client(3), &ticket).code(), 405);
    let asked = server.allocate(client(3), |writer| {
        writer.attribute(&MobilityTicket(&[])).unwrap();
    });
    assert_eq!(asked.code(), 405);
}

#[test]
fn a_connection_that_breaks_ends_no_allocation_with_a_ticket() {
    for at in [0, 1] {
        let mut servers = engines::<2>();
        let tcp = |port| FiveTuple { transport: Transport::Tcp, ..client(port) };
        let (relay, ticket) = mobile(&mut servers[0], tcp(1));
        let now = servers[0].now;
        servers[0].engine.handle_client_gone(now, tcp(1));
        assert_eq!(
            (client_of(&mut servers[0], relay), servers[0].engine.counters().dropped.no_client),
            (None, 1)
        );
        // Its five-tuple is free, and who comes there gets nothing of it.
        servers[0].allocated(tcp(1));
        assert_eq!(client_of(&mut servers[0], relay), None);
        // Nobody is left to come from the old place, so the new one has it at once.
        let second = ticket_of(&claim_at(&mut servers, at, tcp(2), &ticket));
        assert!(servers[at].engine.allocations.find(&tcp(2)).is_some());

        // The old connection breaks before the new one is used; then the new one does.
        claim_at(&mut servers, 0, tcp(3), &second);
        servers[at].engine.handle_client_gone(now, tcp(2));
        exchange(&mut servers);
        assert!(servers[0].engine.allocations.find(&tcp(3)).is_some());
        servers[0].engine.handle_client_gone(now, tcp(3));
        assert_eq!(servers[0].engine.allocations(), 2);
        servers[0].pass(Duration::from_secs(600));
        assert_eq!((servers[0].engine.allocations(), tickets(&servers[0])), (0, 0));
        assert_eq!(servers[0].engine.shared.seats() + servers[0].sockets.len(), 0);
    }
}

#[test]
fn a_new_connection_that_breaks_before_its_use_leaves_all_as_it_was() {
    for at in [0, 1] {
        let mut servers = engines::<2>();
        let (relay, first) = mobile(&mut servers[0], client(1));
        let tcp = FiveTuple { transport: Transport::Tcp, ..client(2) };
        let second = ticket_of(&claim_at(&mut servers, at, tcp, &first));
        let now = servers[at].now;
        servers[at].engine.handle_client_gone(now, tcp);
        exchange(&mut servers);
        assert_eq!(client_of(&mut servers[0], relay), Some(client(1)));
        assert_eq!((send(&mut servers[at], tcp), servers[at].engine.has_allocation(&tcp)), (None, false));
        assert_eq!(claim_at(&mut servers, at, client(3), &second).code(), 0);
    }
}

/// It has asked for the allocation, and is gone when that comes.
#[test]
fn an_allocation_that_arrives_where_nobody_is_left_waits_for_its_client() {
    let mut servers = engines::<2>();
    let (_, first) = mobile(&mut servers[0], client(1));
    let tcp = FiveTuple { transport: Transport::Tcp, ..client(2) };
    let second = ticket_of(&claim_at(&mut servers, 1, tcp, &first));
    send(&mut servers[1], tcp);
    let told = servers[1].engine.poll_notice().unwrap();
    let now = servers[0].now;
    servers[0].engine.handle_notice(now, told.notice);
    servers[1].engine.handle_client_gone(now, tcp);
    exchange(&mut servers);
    assert_eq!((servers[1].engine.allocations(), servers[1].engine.has_allocation(&tcp)), (1, false));
    claim_at(&mut servers, 0, client(3), &second);
    assert!(servers[0].engine.allocations.find(&client(3)).is_some());
}

#[test]
fn an_allocation_that_ends_meanwhile_is_expected_by_nobody() {
    let mut servers = engines::<2>();
    let (_, ticket) = mobile(&mut servers[0], client(1));
    claim_at(&mut servers, 1, client(2), &ticket);
    let second = servers[0].request(client(1), "alice", Method::REFRESH, |writer| {
        writer.attribute(&Lifetime(0)).unwrap();
    });
    assert_eq!(second.code(), 0);
    exchange(&mut servers);
    assert!(!servers[1].engine.has_allocation(&client(2)));
    // It ends while the claim is on its way.
    let (_, ticket) = mobile(&mut servers[0], client(1));
    let request = claim_message(&mut servers[1], client(2), &ticket);
    assert!(servers[1].deliver(client(2), &request).is_none());
    servers[0].pass(Duration::from_secs(600));
    let Exchanged { mut sent, .. } = exchange(&mut servers);
    assert_eq!(Reply(sent.remove(0).payload).code(), 400);
    assert_eq!((servers[1].engine.has_allocation(&client(2)), tickets(&servers[0])), (false, 0));
}

#[test]
fn a_ticket_ends_an_allocation_too() {
    for at in [0, 1] {
        let mut servers = engines::<2>();
        let (_, ticket) = mobile(&mut servers[0], client(1));
        let request = servers[at].signed(client(2), "alice", Method::REFRESH, |writer| {
            writer.attribute(&MobilityTicket(&ticket)).unwrap().attribute(&Lifetime(0)).unwrap();
        });
        let reply = ask(&mut servers, at, client(2), &request);
        assert_eq!((reply.code(), reply.lifetime()), (0, 0));
        assert_eq!(
            (servers[0].engine.allocations(), servers[0].sockets.len(), tickets(&servers[0])),
            (0, 0, 0)
        );
    }
}

/// What one family is left of two goes along, and what is gone does not come again.
#[test]
fn a_family_that_was_given_up_stays_so() {
    let mut servers = engines::<2>();
    let reply = servers[0].allocate(client(1), |writer| {
        let both = AdditionalAddressFamily(Some(AddressFamily::Ipv6));
        writer.attribute(&both).unwrap().attribute(&MobilityTicket(&[])).unwrap();
    });
    let ipv4 = RequestedAddressFamily(Some(AddressFamily::Ipv4));
    let given_up = servers[0].request(client(1), "alice", Method::REFRESH, |writer| {
        writer.attribute(&Lifetime(0)).unwrap().attribute(&ipv4).unwrap();
    });
    assert_eq!((reply.code(), given_up.code()), (0, 0));
    let ticket = ticket_of(&reply);
    let of_family = |servers: &mut [Server], family| {
        let request = servers[1].signed(client(2), "alice", Method::REFRESH, |writer| {
            writer.attribute(&MobilityTicket(&ticket)).unwrap().attribute(&family).unwrap();
        });
        ask(servers, 1, client(2), &request)
    };
    assert_eq!(of_family(&mut servers, ipv4).code(), 443);
    let ipv6 = RequestedAddressFamily(Some(AddressFamily::Ipv6));
    assert_eq!(of_family(&mut servers, ipv6).code(), 0);
    send(&mut servers[1], client(2));
    exchange(&mut servers);
    assert_eq!((servers[1].engine.allocations(), servers[1].sockets.len()), (1, 1));
}

#[test]
fn what_waits_is_bounded() {
    let mut servers = engines::<2>();
    let (_, ticket) = mobile(&mut servers[0], client(1));
    claim_at(&mut servers, 1, client(2), &ticket);
    let data = [&b"\x40\x00\x04\xb0"[..], &[7; 1200]].concat();
    for _ in 0..1000 {
        let now = servers[1].now;
        assert_eq!(servers[1].engine.handle_datagram(now, UNIX, client(2), &data), None);
    }
    assert_eq!(exchange(&mut servers).forwards.len(), (64 << 10) / 1204);
}

/// Three engines, of which the first has the allocation.
#[test]
fn of_two_moves_at_one_instant_none_is_told_what_does_not_hold() {
    for first_is_used in [true, false] {
        let mut servers = engines::<3>();
        let (_, ticket) = mobile(&mut servers[0], client(1));
        let there = ticket_of(&claim_at(&mut servers, 1, client(2), &ticket));
        // The client comes, and shows a ticket at a third engine before the allocation has followed it.
        assert_eq!(send(&mut servers[1], client(2)), None);
        let shown = if first_is_used { &ticket } else { &there };
        let request = claim_message(&mut servers[2], client(3), shown);
        assert!(servers[2].deliver(client(3), &request).is_none());
        let [wanted, claimed] = [1, 2].map(|from| servers[from].engine.poll_notice().unwrap());
        let mut all = Exchanged::default();
        carry(&mut servers, 1, wanted, &mut all);
        let moved = servers[0].engine.poll_notice().unwrap();
        assert_eq!(moved.relays.len(), 1);
        // The claim overtakes the allocation, and waits for it.
        carry(&mut servers, 2, claimed, &mut all);
        let forwarded = servers[0].engine.poll_notice().unwrap();
        carry(&mut servers, 0, forwarded, &mut all);
        assert!(all.sent.is_empty());
        carry(&mut servers, 0, moved, &mut all);
        assert_eq!(all.forwards.len(), 1, "what waited goes by the first move");
        all.sent.extend(exchange(&mut servers).sent);
        let reply = Reply(all.sent.remove(0).payload);
        if first_is_used {
            assert_eq!(reply.code(), 400, "a ticket that was used");
            continue;
        }
        assert_eq!(reply.code(), 0);
        assert_eq!(send(&mut servers[2], client(3)), None);
        assert_eq!(exchange(&mut servers).forwards.len(), 1);
        assert_eq!((servers[2].engine.allocations(), tickets(&servers[0])), (1, 1));
        assert_eq!(claim_at(&mut servers, 0, client(4), &ticket_of(&reply)).code(), 0);
    }
}

/// What engines tell each other, on its way: only from one to another it stays in its order.
#[derive(Default)]
struct Ways(BTreeMap<(usize, usize), VecDeque<(usize, OutgoingNotice)>>);

impl Ways {
    fn take(&mut self, servers: &mut [Server]) {
        for (from, server) in servers.iter_mut().enumerate() {
            while let Some(told) = server.engine.poll_notice() {
                self.0.entry((from, told.shard)).or_default().push_back((from, told));
            }
        }
    }
}

/// A client that claims its allocation, sends and leaves at random places, while what the engines tell each other takes its
/// time: in the end the allocation is there once, and may be had by the last ticket that it was given.
#[test]
fn whatever_comes_in_between_an_allocation_is_at_one_place() {
    let place = |port: u16| (usize::from(port % 3), client(port));
    for seed in 0..500 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut servers = engines::<3>();
        let (_, first) = mobile(&mut servers[0], client(3));
        let mut known = vec![first];
        let mut ways = Ways::default();
        for _ in 0..80 {
            let (at, from) = place(rng.random_range(3..12));
            let mut all = Exchanged::default();
            let server = &mut servers[at];
            match rng.random_range(0..12) {
                0 => server.engine.handle_client_gone(server.now, from),
                1..4 => {
                    let request = claim_message(server, from, &known[rng.random_range(0..known.len())]);
                    let reply = server.deliver(from, &request);
                    known.extend(reply.filter(|reply| reply.code() == 0).as_ref().map(ticket_of));
                }
                4..6 => _ = send(server, from),
                _ => {
                    let way = ways.0.values_mut().filter(|way| !way.is_empty()).choose(&mut rng);
                    if let Some((from, told)) = way.and_then(VecDeque::pop_front) {
                        carry(&mut servers, from, told, &mut all);
                    }
                }
            }
            ways.take(&mut servers);
            let replies = all.sent.into_iter().map(|sent| Reply(sent.payload));
            known.extend(replies.filter(|reply| reply.code() == 0).map(|reply| ticket_of(&reply)));
            known.drain(..known.len().saturating_sub(3));
        }
        while let Some((from, told)) = ways.0.values_mut().find_map(VecDeque::pop_front) {
            carry(&mut servers, from, told, &mut Exchanged::default());
            ways.take(&mut servers);
        }
        let count = |of: fn(&Server) -> usize| servers.iter().map(of).sum::<usize>();
        assert_eq!(
            (count(|it| it.engine.allocations()), count(|it| it.sockets.len())),
            (1, 1),
            "seed {seed}"
        );
        assert!(tickets(&servers[0]) <= 2, "seed {seed}");
        let allocation =
            servers.iter_mut().find_map(|server| server.engine.allocations.iter_mut().next()).unwrap();
        let last = allocation.owner.mobility.as_ref().unwrap().ticket.value().to_vec();
        let (at, from) = place(12);
        assert_eq!(claim_at(&mut servers, at, from, &last).code(), 0, "seed {seed}");
        send(&mut servers[at], from);
        exchange(&mut servers);
        let guests =
            servers.iter().filter(|server| (3..13).any(|port| server.engine.moves.is_guest(&client(port))));
        assert_eq!((guests.count(), tickets(&servers[0])), (0, 1), "seed {seed}");
        assert!(servers[at].engine.allocations.find(&from).is_some(), "seed {seed}");
    }
}
