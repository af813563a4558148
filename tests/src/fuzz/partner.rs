//! What partner servers say to each other.

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::time::Instant;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use thirl_common::net::ClientAddr;
use thirl_stun_server::partner::{Link, LinkAddrs, MAX_PARTNER_MESSAGE_LEN, PartnerSecrets, PassedOn};

const SECRET: &str = "a secret of these two";
const IPS: [[u8; 4]; 2] = [[192, 0, 2, 1], [192, 0, 2, 2]];
const PORT: u16 = 3478;

#[expect(clippy::disallowed_methods, reason = "any origin will do")]
static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Only what a partner signed is believed, only once, and only as it was signed; and whatever a partner signs does no
/// harm.
///
/// The whole is a datagram, without and with a signature; and the first 20 bytes are a client and a place in the message
/// that passes the rest on.
pub fn partner(data: &[u8]) {
    let [mut a, mut b] = connected();
    assert_eq!(b.handle_datagram(*NOW, data), None);
    assert!(b.poll_transmit().is_none(), "an answer to nobody");
    let signed = [data, &signature(data)].concat();
    let _ = b.handle_datagram(*NOW, &signed);
    assert!(b.poll_transmit().is_none_or(|transmit| transmit.payload.len() < 100));
    assert!(b.poll_transmit().is_none(), "one at the most");

    let Some((&[at, family, p0, p1, ref octets @ ..], request)) = data.split_first_chunk::<20>() else {
        return;
    };
    let ip = match (family.is_multiple_of(2), octets) {
        (true, &[a, b, c, d, ..]) => IpAddr::from([a, b, c, d]),
        _ => IpAddr::from(*octets),
    };
    let client = ClientAddr(SocketAddr::new(ip.to_canonical(), u16::from_be_bytes([p0, p1])));
    let passed_on = PassedOn { client, server_port: PORT, request };
    let mut out = [0; MAX_PARTNER_MESSAGE_LEN];
    let Some(message) = a.pass_on(*NOW, passed_on, &mut out) else {
        assert!(request.len() > 2048);
        return;
    };
    assert_eq!(a.handle_datagram(*NOW, message), None, "its own");
    let mut changed = message.to_vec();
    let at = usize::from(at) % changed.len();
    changed[at] ^= 1;
    assert_eq!(b.handle_datagram(*NOW, &changed), None);
    assert_eq!(b.handle_datagram(*NOW, message), Some(passed_on));
    assert_eq!(b.handle_datagram(*NOW, message), None, "once");
}

/// Of what the first sends to the second, by what the documentation says.
fn signature(unsigned: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    for [a, b, c, d] in IPS {
        mac.update(&[0; 10]);
        mac.update(&[0xFF, 0xFF, a, b, c, d]);
        mac.update(&PORT.to_be_bytes());
    }
    mac.chain_update(unsigned).finalize().into_bytes().into()
}

fn connected() -> [Link; 2] {
    let addr = |side: usize| SocketAddr::from((IPS[side], PORT));
    let mut links = [0, 1].map(|side| {
        let (local, partner) = (addr(side), addr(1 - side));
        let addrs = LinkAddrs { local, public: local, partner, second_port: PORT + 1 };
        let seed = if side == 0 { [1; 32] } else { [2; 32] };
        Link::new(addrs, &PartnerSecrets(vec![SECRET.to_owned()]), seed, *NOW)
    });
    links[0].handle_timeout(*NOW);
    let mut side = 0;
    while let Some(transmit) = links[side].poll_transmit() {
        side = 1 - side;
        assert_eq!(links[side].handle_datagram(*NOW, &transmit.payload), None);
    }
    assert!(links.iter().all(Link::is_up));
    links
}
