//! ICMP errors that datagrams to peers drew, passed on to the client (RFC 8656, sections 11.5 and 11.6).

use std::time::{Duration, Instant};

use thirl_common::net::{PeerAddr, Transmit};
use thirl_common::wire::{Class, Icmp, MessageWriter, Method, TransactionId, XorPeerAddress};

use super::Engine;
use super::output::RelayId;

/// A Data indication's header (20), XOR-PEER-ADDRESS for IPv6 (24), ICMP (12).
const MAX_LEN: usize = 56;

/// A client is told of so many errors in each [`WINDOW`]: enough for a search of the path's MTU, and too few to be of use to
/// somebody who forges them.
const MAX_ERRORS: u8 = 8;
const WINDOW: Duration = Duration::from_secs(1);

/// How many errors an allocation's client was told of since when.
#[derive(Clone, Copy, Debug)]
pub(super) struct IcmpWindow {
    since: Instant,
    told: u8,
}

impl IcmpWindow {
    pub(super) fn new(now: Instant) -> IcmpWindow {
        IcmpWindow { since: now, told: 0 }
    }

    fn admit(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= WINDOW {
            *self = IcmpWindow::new(now);
        }
        let admitted = self.told < MAX_ERRORS;
        self.told += u8::from(admitted);
        admitted
    }
}

impl Engine {
    pub(super) fn relay_icmp(
        &mut self,
        now: Instant,
        relay: RelayId,
        to: PeerAddr,
        error: Icmp,
    ) -> Option<Transmit> {
        let allocation = self.allocations.of_relay(relay).filter(|allocation| allocation.connected)?;
        let permitted = allocation.permissions.get(to.ip(), now).is_some();
        if !(permitted && is_passed_on(to, error) && allocation.owner.icmp.admit(now)) {
            self.counters.dropped.icmp += 1;
            return None;
        }
        let five_tuple = allocation.five_tuple;
        let id = TransactionId(self.transaction_ids.next());
        let mut buffer = [0; MAX_LEN];
        let mut writer = MessageWriter::new(&mut buffer, Class::Indication, Method::DATA, id).ok()?;
        writer.attribute(&XorPeerAddress(to.0)).ok()?.attribute(&error).ok()?;
        self.counters.icmp_relayed += 1;
        Some(Transmit {
            transport: five_tuple.transport,
            from: five_tuple.server.0,
            to: five_tuple.client.0,
            payload: writer.finish().to_vec(),
        })
    }
}

/// Destination unreachable and time exceeded, and over IPv6 packet too big.
fn is_passed_on(to: PeerAddr, error: Icmp) -> bool {
    if to.ip().is_ipv4() { matches!(error.ty, 3 | 11) } else { matches!(error.ty, 1..=3) }
}
