//! The links of a server, which its shards share: what comes from a partner comes to one of them, and what is for it comes
//! to all. Only requests for a partner, and what it sends, take a lock.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use thirl_common::net::Transmit;

use super::{Link, LinkAddrs, LinkEvent, PartnerSecrets};
use crate::Discovery;

/// One link of each family at the most.
#[derive(Debug)]
pub(crate) struct Links {
    links: Vec<(LinkAddrs, Mutex<Link>)>,
    started: Instant,
    /// How often one has gone up or down.
    changes: AtomicU64,
}

impl Links {
    /// The links of a server that has these addresses, from now on; `None` without any.
    pub(crate) fn start(discovery: &Discovery, secrets: &PartnerSecrets) -> Option<Links> {
        #[expect(clippy::disallowed_methods, reason = "a driver reads the clock")]
        let now = Instant::now();
        let random = RandomState::new();
        let seed = |addrs: &LinkAddrs| {
            let mut seed = [0; 32];
            for (at, bytes) in seed.chunks_exact_mut(8).enumerate() {
                bytes.copy_from_slice(&random.hash_one((at, addrs.partner)).to_be_bytes());
            }
            seed
        };
        let link = |addrs: LinkAddrs| (addrs, Mutex::new(Link::new(addrs, secrets, seed(&addrs), now)));
        let links: Vec<_> = discovery.links().map(link).collect();
        (!links.is_empty()).then(|| Links { links, started: now, changes: AtomicU64::new(0) })
    }

    /// When they were made, and have something to do for the first time.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// How often a link has gone up or down: who has seen another number asks anew which are up.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// `discovery` without the pairs whose partner is down.
    pub(crate) fn reachable(&self, discovery: Discovery) -> Discovery {
        discovery.without_silent_partners(|addrs| {
            self.to(addrs.partner.ip()).is_some_and(|(_, link)| link.is_up())
        })
    }

    /// The link to the partner that has this address.
    pub(crate) fn to(&self, partner: IpAddr) -> Option<(&LinkAddrs, MutexGuard<'_, Link>)> {
        let (addrs, link) = self.links.iter().find(|(addrs, _)| addrs.partner.ip() == partner)?;
        Some((addrs, lock(link)))
    }

    /// Handles what is due, and returns when more is.
    pub(crate) fn handle_timeout(&self, now: Instant, transmits: &mut Vec<Transmit>) -> Option<Instant> {
        let handle = |(_, link): &(LinkAddrs, Mutex<Link>)| {
            let mut link = lock(link);
            link.handle_timeout(now);
            self.collect(&mut link, transmits);
            link.poll_timeout()
        };
        self.links.iter().filter_map(handle).min()
    }

    /// Takes what a link wants sent, and says what became of it.
    pub(crate) fn collect(&self, link: &mut Link, transmits: &mut Vec<Transmit>) {
        transmits.extend(std::iter::from_fn(|| link.poll_transmit()));
        let partner = link.addrs().partner;
        while let Some(event) = link.poll_event() {
            // Before it is said, for whoever acts on that.
            self.changes.fetch_add(1, Ordering::Release);
            match event {
                LinkEvent::Up => {
                    tracing::info!(%partner, "the partner is up: it answers from the other address");
                }
                LinkEvent::Down(reason) => {
                    tracing::warn!(%partner, %reason, "the partner is down: no NAT behaviour discovery until it is up");
                }
            }
        }
    }
}

fn lock(link: &Mutex<Link>) -> MutexGuard<'_, Link> {
    link.lock().unwrap_or_else(PoisonError::into_inner)
}
