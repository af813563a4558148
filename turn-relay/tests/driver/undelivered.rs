//! Relayed datagrams that are too large, or do not arrive: what is on the wire, and what the client is told.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use thirl_common::io::Technique;
use thirl_common::net::Transport;
use thirl_common::wire::*;
use thirl_turn_relay::server::Running;

use crate::client::*;

/// Runs a test with io_uring and with epoll.
fn with_each_technique(test: impl Fn(&Running)) {
    for technique in [Technique::IoUring, Technique::Epoll] {
        match try_start(|config| config.listen.technique = Some(technique)) {
            Ok(running) => test(&running),
            Err(error) => could_not_run(&format!("with {technique}: {error}")),
        }
    }
}

/// `if_ether.h`.
const ETH_P_IP: u16 = 0x0800;

/// Sees the UDP datagrams over IPv4 to one port, on every interface; the right to do so is root's.
struct Wire(Socket);

impl Wire {
    fn tap(port: u16) -> std::io::Result<Wire> {
        let protocol = Protocol::from(i32::from(ETH_P_IP.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let instruction = |code, jf, k| SockFilter::new(code, 0, jf, k);
        socket.attach_filter(&[
            // The protocol is UDP: `ldb [9]`, `jeq #17`.
            instruction(0x30, 0, 9),
            instruction(0x15, 4, 17),
            // So is the port, behind a header of any length: `ldxb 4*([0]&0xf)`, `ldh [x+2]`, `jeq #port`.
            instruction(0xb1, 0, 0),
            instruction(0x48, 0, 2),
            instruction(0x15, 1, port.into()),
            // All of it, or nothing.
            instruction(0x06, 0, u32::MAX),
            instruction(0x06, 0, 0),
        ])?;
        Ok(Wire(socket))
    }

    /// The DF bit of the next datagram that carries `payload`.
    fn df_bit(&mut self, payload: &[u8]) -> bool {
        let mut packet = [0; 2048];
        loop {
            let len = self.0.read(&mut packet).unwrap();
            let packet = &packet[..len];
            let header = usize::from(packet[0] & 0xF) * 4;
            if &packet[header + 8..] == payload {
                return packet[6] & 0x40 != 0;
            }
        }
    }
}

/// As `requires!` of the crate `thirl-tests` says it, which `cargo xtask test` collects.
fn could_not_run(reason: &str) {
    let current = std::thread::current();
    let test = current.name().unwrap_or("a test");
    let _ = writeln!(std::io::stderr().lock(), "\nCOULD NOT RUN {test}: {reason}");
}

fn send_indication(to: SocketAddr, data: &[u8], dont_fragment: bool) -> Vec<u8> {
    let mut buffer = [0; 2048];
    let id = TransactionId([98; 12]);
    let mut writer = MessageWriter::new(&mut buffer, Class::Indication, Method::SEND, id).unwrap();
    writer.attribute(&XorPeerAddress(to)).unwrap();
    if dont_fragment {
        writer.attribute(&DontFragment).unwrap();
    }
    writer.attribute(&Data(data)).unwrap();
    writer.finish().to_vec()
}

#[test]
fn the_df_bit_is_set_for_who_asks_and_for_no_other() {
    let peer = peer(LOOPBACK_V4);
    let to = peer.local_addr().unwrap();
    let wire = match Wire::tap(to.port()) {
        Ok(wire) => wire,
        Err(error) => return could_not_run(&format!("a packet socket needs CAP_NET_RAW: {error}")),
    };
    let wire = RefCell::new(wire);
    with_each_technique(|running| {
        for transport in [Transport::Udp, Transport::Tcp] {
            let mut client = Client::connect(running, transport, true);
            let allocated = client.request(Method::ALLOCATE, |writer| {
                writer.attribute(&RequestedTransport::UDP).unwrap().attribute(&DontFragment).unwrap();
            });
            assert_eq!(code(&allocated), 0);
            assert_eq!(client.bind(to), 0);
            // Sent in one go, so that they lie in one batch; the last the longest, so that none joins it.
            client.send(&send_indication(to, b"plain", false));
            client.send(&send_indication(to, b"whole", true));
            client.send(b"\x40\x00\x00\x07channel");
            client.send(&send_indication(to, b"afterwards", false));
            for (payload, expected) in
                [(&b"plain"[..], false), (b"whole", true), (b"channel", false), (b"afterwards", false)]
            {
                assert_eq!(receive_from(&peer).0, payload, "in their order");
                assert_eq!(wire.borrow_mut().df_bit(payload), expected, "{payload:?}");
            }
        }
    });
}

/// The ICMP error that a Data indication tells, and of which peer.
fn icmp_of(indication: &[u8]) -> (SocketAddr, Icmp) {
    let message = Message::parse(indication).unwrap();
    assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
    (message.require::<XorPeerAddress>().unwrap().0, message.require::<Icmp>().unwrap())
}

#[test]
fn a_closed_port_is_told_and_nothing_else_suffers() {
    with_each_technique(|running| {
        for (transport, ip, expected) in [
            (Transport::Udp, LOOPBACK_V4, (3, 3)),
            (Transport::Tcp, LOOPBACK_V4, (3, 3)),
            (Transport::Udp, LOOPBACK_V6, (1, 4)),
        ] {
            let mut client = Client::connect(running, transport, true);
            let relayed = client.allocate(AddressFamily::of(ip)).unwrap();
            let (open, closed) = (peer(ip), peer(ip).local_addr().unwrap());
            let open_addr = open.local_addr().unwrap();
            assert_eq!((client.bind(open_addr), client.permit(closed)), (0, 0));
            for round in 0..4 {
                client.send_indication(closed, b"anybody there?");
                let (peer, icmp) = icmp_of(&client.receive());
                assert_eq!((peer, (icmp.ty, icmp.code), icmp.data), (closed, expected, 0));
                // Whatever the error does to the socket, no datagram pays for it.
                client.send_indication(closed, b"anybody there?");
                client.send(&[0x40, 0, 0, 1, round]);
                assert_eq!(receive_from(&open), (vec![round], relayed));
                assert_eq!(icmp_of(&client.receive()).0, closed);
                open.send_to(&[round], relayed).unwrap();
                assert_eq!(ChannelData::parse(&client.receive()).unwrap().data, [round]);
            }
        }
    });
}

/// An ICMP error as a router sends it, about a datagram from one address to another.
fn icmp_error(ty: u8, code: u8, mtu: u16, [from, to]: [SocketAddr; 2]) -> Vec<u8> {
    let (IpAddr::V4(from_ip), IpAddr::V4(to_ip)) = (from.ip(), to.ip()) else { panic!("IPv4") };
    let mut packet = vec![ty, code, 0, 0, 0, 0];
    packet.extend(mtu.to_be_bytes());
    // What is quoted: an IP header with DF, a UDP header.
    packet.extend([0x45, 0, 5, 220, 0, 1, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(from_ip.octets());
    packet.extend(to_ip.octets());
    packet.extend(
        [from.port().to_be_bytes(), to.port().to_be_bytes(), 1480_u16.to_be_bytes(), [0; 2]].concat(),
    );
    let sum = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    let folded = (sum & 0xFFFF) + (sum >> 16);
    let checksum = !(u16::try_from((folded & 0xFFFF) + (folded >> 16)).unwrap());
    packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    packet
}

#[test]
fn what_routers_say_is_told() {
    let router = match Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)) {
        Ok(router) => router,
        Err(error) => return could_not_run(&format!("a raw socket needs CAP_NET_RAW: {error}")),
    };
    with_each_technique(|running| {
        let mut client = Client::connect(running, Transport::Udp, true);
        let relayed = client.allocate(AddressFamily::Ipv4).unwrap();
        let peer = peer(LOOPBACK_V4).local_addr().unwrap();
        let stranger = SocketAddr::new(LOOPBACK_V4, 9);
        assert_eq!(client.permit(peer), 0);
        let say = |packet: &[u8]| {
            router.send_to(packet, &SocketAddr::new(LOOPBACK_V4, 0).into()).unwrap();
        };
        for (ty, code, mtu) in [(3, 4, 1400), (11, 0, 0), (3, 5, 0), (3, 13, 0)] {
            // Of the wrong kind; about a datagram that another socket sent.
            say(&icmp_error(12, 0, 0, [relayed, peer]));
            say(&icmp_error(ty, code, mtu, [stranger, peer]));
            say(&icmp_error(ty, code, mtu, [relayed, peer]));
            let expected = Icmp { ty, code, data: mtu.into() };
            assert_eq!(icmp_of(&client.receive()), (peer, expected));
        }
        assert_eq!(client.permit(peer), 0, "it is served on");
    });
}
