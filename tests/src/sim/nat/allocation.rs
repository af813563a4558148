//! Which external address and port a new mapping gets (RFC 4787, sections 4.1 and 4.2).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rand::Rng;
use rand::rngs::StdRng;

use super::NatSpec;
use crate::behaviour::PortAllocation;

/// What a NAT that preserves ports does if somebody has the port (RFC 4787, section 4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contention {
    /// Any port.
    Random,
    /// The next one that is free.
    Next,
    /// The mapping that had it ends: "port overloading", which REQ-3 forbids.
    Overload,
}

/// How the external addresses of a NAT that has several are shared out (RFC 4787, section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// A host keeps one (REQ-2).
    Paired,
    /// Each mapping gets any.
    Arbitrary,
}

/// Where sequential ports begin, and begin again.
const FIRST_PORT: u16 = 20_000;
/// No port below is given.
const FIRST_OF_ALL: u16 = 1024;

/// What a NAT remembers of the ports it gave.
#[derive(Debug)]
pub(super) struct Allocator {
    next: u16,
    /// When it last counted what other hosts take.
    counted: Option<Instant>,
    addresses: BTreeMap<IpAddr, usize>,
    /// The first port of each host's block.
    blocks: BTreeMap<IpAddr, u16>,
}

impl Allocator {
    pub(super) fn new() -> Allocator {
        Allocator { next: FIRST_PORT, counted: None, addresses: BTreeMap::new(), blocks: BTreeMap::new() }
    }

    /// Forgets which host has which address and which ports.
    pub(super) fn forget(&mut self) {
        self.addresses.clear();
        self.blocks.clear();
    }

    /// An external endpoint for an internal one; `None` if none is free.
    pub(super) fn allocate(
        &mut self,
        spec: &NatSpec,
        (now, rng): (Instant, &mut StdRng),
        externals: &[IpAddr],
        internal: SocketAddr,
        is_free: impl Fn(SocketAddr) -> bool,
    ) -> Option<SocketAddr> {
        let ip = self.address(spec, rng, externals, internal.ip())?;
        let is_free = |port: u16| is_free(SocketAddr::new(ip, port));
        let wanted = internal.port();
        let port = match (spec.allocation, spec.contention) {
            (PortAllocation::Preserving, Contention::Overload) => Some(wanted),
            (PortAllocation::Preserving, _) if is_free(wanted) => Some(wanted),
            (PortAllocation::Preserving, Contention::Next) => {
                (wanted..=u16::MAX).chain(FIRST_OF_ALL..wanted).find(|port| is_free(*port))
            }
            (PortAllocation::Sequential, _) => {
                self.count_others(spec, now, rng);
                let ports = (self.next..=u16::MAX).chain(FIRST_PORT..self.next);
                let port = ports.step_by(usize::from(spec.step).max(1)).find(|port| is_free(*port))?;
                self.next = port.checked_add(spec.step).unwrap_or(FIRST_PORT);
                Some(port)
            }
            _ => {
                let (first, last) = self.ports(spec, rng, internal.ip());
                let any = rng.random_range(first..=last);
                (any..=last).chain(first..any).find(|port| is_free(*port))
            }
        }?;
        Some(SocketAddr::new(ip, port))
    }

    fn address(
        &mut self,
        spec: &NatSpec,
        rng: &mut StdRng,
        externals: &[IpAddr],
        internal: IpAddr,
    ) -> Option<IpAddr> {
        if externals.len() < 2 {
            return externals.first().copied();
        }
        let any = rng.random_range(0..externals.len());
        let index = match spec.pooling {
            Pooling::Arbitrary => any,
            Pooling::Paired => *self.addresses.entry(internal).or_insert(any),
        };
        externals.get(index).copied()
    }

    /// The first and the last port that a host gets.
    fn ports(&mut self, spec: &NatSpec, rng: &mut StdRng, internal: IpAddr) -> (u16, u16) {
        let Some(size) = spec.block else { return (FIRST_OF_ALL, u16::MAX) };
        let blocks = (u16::MAX - FIRST_OF_ALL) / size;
        let any = FIRST_OF_ALL + rng.random_range(0..blocks) * size;
        let first = *self.blocks.entry(internal).or_insert(any);
        (first, first + (size - 1))
    }

    /// Other hosts take ports as a Poisson process.
    fn count_others(&mut self, spec: &NatSpec, now: Instant, rng: &mut StdRng) {
        let since = self.counted.replace(now).map_or(0.0, |then| (now - then).as_secs_f64());
        let mut left = since * f64::from(spec.noise);
        while left > 0.0 {
            left += rng.random_range(f64::EPSILON..1.0).ln();
            if left > 0.0 {
                self.next = self.next.checked_add(spec.step).unwrap_or(FIRST_PORT);
            }
        }
    }
}
