//! What a seed stands for: a topology, its links, and what goes wrong in it.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use thirl_tests::sim::{
    Addresses, Contention, Filtering, FirewallSpec, Hairpin, Layer, Lifetimes, Link, Mapping, NatSpec, PROXY,
    Pooling, PortAllocation, Refresh, Site, Speaks, TcpPolicy, Topology,
};

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// One of a side's middleboxes, or of those that both share, loses what it knows.
    Reboot(Which),
    /// A NAT gets another address.
    Renumber(Which),
    /// A middlebox has no way out for so long.
    Cut(Which, Duration),
    /// A host is unplugged for so long.
    Unplug(usize, Duration),
    /// A host sleeps for so long.
    Sleep(usize, Duration),
    /// A host's link loses most of what it carries, for so long.
    Noise(usize, Duration),
    /// The relay is killed, and is back after so long.
    RelayRestart(Duration),
}

/// Which middlebox: of a side, or of both; the number is taken modulo their count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Which {
    /// `None` for what both share.
    pub(crate) side: Option<usize>,
    /// Which of them.
    pub(crate) number: usize,
}

/// All that a run is made of.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) topology: Topology,
    pub(crate) signalling: (Duration, Duration),
    /// Faults, and how long after the one before.
    pub(crate) faults: Vec<(Duration, Fault)>,
}

impl Scenario {
    pub(crate) fn new(seed: u64) -> Scenario {
        let mut dice = Dice(StdRng::seed_from_u64(seed ^ 0x5eed));
        let shared = if dice.happens(0.15) { vec![dice.nat(None)] } else { Vec::new() };
        let sites = [dice.site(), dice.site()];
        let least = dice.ms(0, 100);
        let signalling = (least, least + dice.ms(0, 300));
        let faults = (0..dice.0.random_range(0..4)).map(|_| (dice.ms(1000, 20_000), dice.fault())).collect();
        Scenario { topology: Topology { shared, sites }, signalling, faults }
    }
}

struct Dice(StdRng);

impl Dice {
    fn happens(&mut self, chance: f64) -> bool {
        self.0.random_bool(chance)
    }

    #[expect(clippy::unwrap_used, reason = "none is empty")]
    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        *all.choose(&mut self.0).unwrap()
    }

    fn ms(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.0.random_range(least..=most))
    }

    fn site(&mut self) -> Site {
        let link = self.link();
        let site = |layers: &[Layer]| Site { link, ..Site::behind(layers) };
        let native = FirewallSpec::stateful(self.of(&Filtering::ALL));
        match self.0.random_range(0..20) {
            0..3 => site(&[]),
            3..9 => site(&[self.nat(None)]),
            9..12 => site(&[self.nat(None), self.nat(None)]),
            12 => site(&[Layer::Firewall(FirewallSpec::tcp_only(TcpPolicy::All)), self.nat(None)]),
            13 => site(&[Layer::Firewall(FirewallSpec::tcp_only(TcpPolicy::Port(443))), self.nat(None)]),
            14 => {
                let strict = Layer::Firewall(FirewallSpec::tcp_only(TcpPolicy::Only(PROXY)));
                Site { proxied: true, ..site(&[strict, self.nat(None)]) }
            }
            15 => Site { addresses: Addresses::Ipv6, ..site(&[Layer::Nat64(self.spec(), native)]) },
            16 => Site { addresses: Addresses::Ipv6, ..site(&[Layer::Firewall(native)]) },
            17 => Site { addresses: Addresses::Both, ..site(&[Layer::DualStack(self.spec(), native)]) },
            18 => site(&[Layer::Firewall(native), self.nat(None)]),
            _ => {
                let speaks = self.of(&[Speaks::Pcp, Speaks::NatPmp]);
                site(&[self.nat(Some(speaks))])
            }
        }
    }

    fn link(&mut self) -> Link {
        let bad = self.happens(0.4);
        Link {
            jitter: if bad { self.ms(0, 30) } else { Duration::ZERO },
            loss: if bad { self.0.random_range(0.0..0.1) } else { 0.0 },
            duplication: if bad { self.0.random_range(0.0..0.05) } else { 0.0 },
            mtu: self.0.random_range(1280..=1500),
            ..Link::delayed(self.ms(1, 120))
        }
    }

    fn nat(&mut self, gateway: Option<Speaks>) -> Layer {
        Layer::Nat(self.spec(), gateway)
    }

    fn spec(&mut self) -> NatSpec {
        let mapping = if self.happens(0.5) { Mapping::EndpointIndependent } else { self.of(&Mapping::ALL) };
        let lifetimes = Lifetimes {
            idle: self.ms(30_000, 180_000),
            refresh: self.of(&[Refresh::Outbound, Refresh::Both]),
            absolute: self.happens(0.1).then(|| self.ms(60_000, 300_000)),
            ..Lifetimes::default()
        };
        NatSpec {
            tcp_filtering: self.of(&[Filtering::EndpointIndependent, Filtering::AddressAndPortDependent]),
            allocation: self.of(&[
                PortAllocation::Preserving,
                PortAllocation::Random,
                PortAllocation::Sequential,
            ]),
            block: self.of(&[None, None, Some(256), Some(2048)]),
            contention: self.of(&[Contention::Random, Contention::Next]),
            noise: self.of(&[0, 0, 1, 20]),
            pooling: Pooling::Paired,
            hairpin: self.of(&[Hairpin::None, Hairpin::ExternalSource, Hairpin::InternalSource]),
            lifetimes,
            blocks_udp: self.happens(0.05),
            ..NatSpec::new(mapping, self.of(&Filtering::ALL))
        }
    }

    fn fault(&mut self) -> Fault {
        let side = self.0.random_range(0..2);
        let which = Which { side: self.happens(0.8).then_some(side), number: self.0.random_range(0..4) };
        match self.0.random_range(0..8) {
            0 | 1 => Fault::Reboot(which),
            2 => Fault::Renumber(which),
            3 => Fault::Cut(which, self.ms(500, 45_000)),
            4 => Fault::Unplug(side, self.ms(500, 45_000)),
            5 => Fault::Sleep(side, self.ms(500, 90_000)),
            6 => Fault::Noise(side, self.ms(500, 10_000)),
            _ => Fault::RelayRestart(self.ms(0, 10_000)),
        }
    }
}
