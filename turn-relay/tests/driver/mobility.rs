//! Clients whose address changes, on a server with several shards: most moves are from one to another.
#![expect(clippy::unwrap_used, reason = "what a helper of a test cannot do, the test cannot")]

use super::*;
use thirl_turn_relay::server::Running;

const SHARDS: usize = 4;
const DATA: &[u8] = b"\x40\x00\x00\x05hello";

fn ticket_of(response: &[u8]) -> Vec<u8> {
    assert_eq!(code(response), 0);
    Message::parse(response).unwrap().require::<MobilityTicket<'_>>().unwrap().0.to_vec()
}

/// A client with a relay, its ticket, and a peer that its first channel is bound to.
struct Mobile {
    client: Client,
    relayed: SocketAddr,
    ticket: Vec<u8>,
    peer: UdpSocket,
}

impl Mobile {
    fn start(running: &Running, transport: Transport) -> Mobile {
        let mut client = Client::connect(running, transport, true);
        let response = client.request(Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP).unwrap().attribute(&MobilityTicket(&[])).unwrap();
        });
        let relayed = Message::parse(&response).unwrap().require::<XorRelayedAddress>().unwrap().0;
        let peer = peer(LOOPBACK_V4);
        assert_eq!(client.bind(peer.local_addr().unwrap()), 0);
        let mobile = Mobile { client, relayed, ticket: ticket_of(&response), peer };
        mobile.checked()
    }

    /// The client at another place, which it has not used yet, and at the old one.
    fn claimed(self, running: &Running, transport: Transport) -> (Mobile, Client) {
        let mut client = Client::connect(running, transport, true);
        let response = client.request(Method::REFRESH, |writer| {
            writer.attribute(&MobilityTicket(&self.ticket)).unwrap();
        });
        let ticket = ticket_of(&response);
        assert_ne!(ticket, self.ticket);
        (Mobile { client, ticket, ..self }, self.client)
    }

    fn moved(self, running: &Running, transport: Transport) -> Mobile {
        let (mobile, mut old) = self.claimed(running, transport);
        exchange(&mut old, &mobile.peer, mobile.relayed);
        let mobile = mobile.checked();
        assert_eq!(old.permit(mobile.peer.local_addr().unwrap()), 437, "what it left is nobody's");
        mobile
    }

    fn checked(mut self) -> Mobile {
        exchange(&mut self.client, &self.peer, self.relayed);
        self
    }
}

/// Data both ways.
fn exchange(client: &mut Client, peer: &UdpSocket, relayed: SocketAddr) {
    client.send(DATA);
    assert_eq!(receive_from(peer), (DATA[4..].to_vec(), relayed));
    peer.send_to(&DATA[4..], relayed).unwrap();
    assert_eq!(client.receive(), DATA);
}

fn several_shards(technique: Option<Technique>) -> Running {
    start(|config| {
        config.listen.shards = NonZeroUsize::new(SHARDS);
        config.listen.technique = technique;
    })
}

#[test]
fn allocations_go_from_shard_to_shard_and_transport_to_transport() {
    for technique in [None, Some(Technique::Epoll)] {
        let running = several_shards(technique);
        let mut mobile = Mobile::start(&running, Transport::Udp);
        let to = [Transport::Udp, Transport::Tcp, Transport::Tcp, Transport::Udp];
        for transport in to.into_iter().cycle().take(16) {
            mobile = mobile.moved(&running, transport);
        }
        assert_eq!(running.allocations(), 1);
        // Its port went along each time, and is closed once.
        let ended = mobile.client.request(Method::REFRESH, |writer| {
            writer.attribute(&Lifetime(0)).unwrap();
        });
        assert_eq!((code(&ended), running.allocations()), (0, 0));
        eventually("its port is free", || UdpSocket::bind(mobile.relayed).is_ok());
        running.shutdown();
        let report = running.join();
        assert_eq!((report.engine.allocations_created, report.engine.allocations_moved), (1, 16));
        assert_eq!((report.allocations, report.relays), (0, 0));
    }
}

#[test]
fn a_connection_that_breaks_ends_nothing_that_has_a_ticket() {
    let running = several_shards(None);
    let mut mobile = Mobile::start(&running, Transport::Tcp);
    for _ in 0..8 {
        let Mobile { client, relayed, ticket, peer } = mobile;
        drop(client);
        let client = Client::connect(&running, Transport::Tcp, true);
        let (next, _) = Mobile { client, relayed, ticket, peer }.claimed(&running, Transport::Tcp);
        mobile = next.checked();
    }
    assert_eq!(running.allocations(), 1);
}

/// What clients of one server send each other finds its way to another shard, too.
#[test]
fn other_clients_find_one_that_moved() {
    let running = several_shards(None);
    let mut other = Client::connect(&running, Transport::Udp, true);
    let other_relay = other.allocate(AddressFamily::Ipv4).unwrap();
    let mut mobile = Mobile::start(&running, Transport::Udp);
    let channel = ChannelNumber::new(0x4001).unwrap();
    assert_eq!((other.bind(mobile.relayed), mobile.client.bind_channel(channel, other_relay)), (0, 0));
    for _ in 0..8 {
        mobile = mobile.moved(&running, Transport::Udp);
        other.send(DATA);
        assert_eq!(mobile.client.receive(), b"\x40\x01\x00\x05hello");
        mobile.client.send(b"\x40\x01\x00\x05hello");
        assert_eq!(other.receive(), DATA);
    }
}
