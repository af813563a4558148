//! What comes to a NAT diagnosis: answers and ICMP errors, true, wrong and made up.

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::time::Instant;

use thirl_common::net::{Obstacle, Transmit, Transport, Undelivered};
use thirl_common::wire::{Class, Message, MessageWriter, Method, XorMappedAddress};
use thirl_ice_agent::nat::{Action, Diagnosis, Options};

#[expect(clippy::disallowed_methods, reason = "any origin will do")]
static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A diagnosis takes no more steps, whatever comes.
const MAX_STEPS: usize = 20_000;

/// It ends, and says of the path only what can be.
pub fn diagnosis(data: &[u8]) {
    let servers: Vec<SocketAddr> = ["192.0.2.1:3478", "192.0.2.2:3478"].map(|it| it.parse().unwrap()).into();
    let mut input = data.iter().copied();
    let mut now = *NOW;
    let lifetime = input.next().is_some_and(|byte| byte & 1 == 1);
    let options = Options { hairpin: true, lifetime, ..Options::default() };
    let mut diagnosis = Diagnosis::new(now, &servers, options, [7; 32]);
    let (mut sent, mut port) = (Vec::new(), 1024);
    for step in 0.. {
        assert!(step < MAX_STEPS, "it does not end");
        while let Some(action) = diagnosis.poll_action() {
            if let Action::Bind { socket, .. } = action {
                port += 1;
                diagnosis.socket_bound(now, socket, Ok(([10, 0, 0, 1], port).into()));
            }
        }
        sent.extend(std::iter::from_fn(|| diagnosis.poll_transmit()));
        while diagnosis.poll_event().is_some() {}
        if diagnosis.is_over() {
            break;
        }
        match (input.next(), diagnosis.poll_timeout()) {
            (Some(choice @ 0..0x80), _) => arrive(&mut diagnosis, now, choice, &mut input, &sent),
            (_, Some(deadline)) => {
                now = now.max(deadline);
                diagnosis.handle_timeout(now);
            }
            (_, None) => break,
        }
    }
    let udp = diagnosis.report().udp;
    assert!(udp.layers.hops.iter().flatten().all(|hop| (1..=12).contains(&hop.distance)), "{udp:?}");
    let path_mtu = udp.path_mtu.iter();
    assert!(path_mtu.filter_map(|path| path.bytes).all(|bytes| (576..=9003).contains(&bytes)), "{udp:?}");
}

/// Something comes for a datagram of ours: which, and what, the input chooses.
fn arrive(
    diagnosis: &mut Diagnosis,
    now: Instant,
    choice: u8,
    input: &mut impl Iterator<Item = u8>,
    sent: &[Transmit],
) {
    let mut byte = || input.next().unwrap_or_default();
    let back = usize::from(byte()) + 1;
    let Some(of) = sent.len().checked_sub(back).and_then(|index| sent.get(index)) else { return };
    let (local, to) = (of.from, of.to);
    match choice % 4 {
        0 => {
            let mapped = ([198, 51, 100, byte()], u16::from(byte()) + 1024).into();
            if let Some(answer) = answer(&of.payload, mapped) {
                diagnosis.handle_datagram(now, of.transport, local, to, &answer);
            }
        }
        1 => {
            let len = byte().into();
            let bytes: Vec<_> = input.take(len).collect();
            diagnosis.handle_datagram(now, Transport::Udp, local, to, &bytes);
        }
        kind => {
            let obstacle = match byte() % 3 {
                0 => Obstacle::HopLimit,
                1 => Obstacle::TooBig { mtu: u32::from(byte()) << 8 | u32::from(byte()) },
                _ => Obstacle::Other,
            };
            let reporter = (choice & 4 == 0).then(|| IpAddr::from([100, 64, 0, byte()]));
            let len = usize::from(byte());
            let quoted = match kind {
                2 => of.payload.iter().copied().take(len).collect(),
                _ => input.take(len).collect(),
            };
            diagnosis.handle_undelivered(
                now,
                local,
                &Undelivered { to, reporter, obstacle, icmp: None, quoted },
            );
        }
    }
}

fn answer(request: &[u8], mapped: SocketAddr) -> Option<Vec<u8>> {
    let id = Message::parse(request).ok()?.transaction_id();
    let mut buffer = [0; 64];
    let mut writer = MessageWriter::new(&mut buffer, Class::Success, Method::BINDING, id).unwrap();
    writer.attribute(&XorMappedAddress(mapped)).unwrap();
    Some(writer.finish().to_vec())
}
