//! What becomes of relayed datagrams that are too large, seen on the wire.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::{Read, Write};
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use thirl_common::io::Technique;
use thirl_common::net::Transport;
use thirl_common::wire::*;

use crate::client::*;

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
    let test = "the_df_bit_is_set_for_who_asks_and_for_no_other";
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
    let mut wire = match Wire::tap(to.port()) {
        Ok(wire) => wire,
        Err(error) => return could_not_run(&format!("a packet socket needs CAP_NET_RAW: {error}")),
    };
    for technique in [Technique::IoUring, Technique::Epoll] {
        let running = match try_start(|config| config.listen.technique = Some(technique)) {
            Ok(running) => running,
            Err(error) => {
                could_not_run(&format!("with {technique}: {error}"));
                continue;
            }
        };
        for transport in [Transport::Udp, Transport::Tcp] {
            let mut client = Client::connect(&running, transport, true);
            let allocated = client.request(Method::ALLOCATE, |writer| {
                writer.attribute(&RequestedTransport::UDP).unwrap().attribute(&DontFragment).unwrap();
            });
            assert_eq!(code(&allocated), 0);
            assert_eq!(client.bind(to), 0);
            // Sent in one go, so that they lie in one batch.
            client.send(&send_indication(to, b"plain", false));
            client.send(&send_indication(to, b"whole", true));
            client.send(b"\x40\x00\x00\x07channel");
            client.send(&send_indication(to, b"after", false));
            for (payload, expected) in
                [(&b"plain"[..], false), (b"whole", true), (b"channel", false), (b"after", false)]
            {
                assert_eq!(receive_from(&peer).0, payload, "in their order");
                assert_eq!(wire.df_bit(payload), expected, "{technique}: {payload:?}");
            }
        }
    }
}
