//! Who is where: two hosts with one address each, and the candidates that each is told of the other.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use super::Options;

/// Candidates that are told one by one come so far apart.
const TRICKLE: Duration = Duration::from_millis(20);

/// Where dead candidates are, and how they rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Dead {
    /// In the live one's own subnet, all of higher priority.
    Subnet,
    /// In other private networks, as containers and VPNs have them, all of higher priority.
    Private,
    /// In the live one's own subnet, which has any place among them.
    Anywhere,
}

/// How candidates are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Told {
    /// All at once; the time counts from there.
    AtOnce,
    /// One by one, 20 ms apart and the live one last; the time counts from that one.
    Trickled,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene {
    pub(super) dead: Dead,
    /// How many of them each side tells.
    pub(super) count: u8,
    /// One way.
    pub(super) delay: Duration,
    /// The probability that a packet is lost: 0 to 1.
    pub(super) loss: f64,
    pub(super) told: Told,
}

/// The addresses of the two hosts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hosts {
    pub(super) a: SocketAddr,
    pub(super) b: SocketAddr,
}

impl Hosts {
    /// Two in one LAN.
    pub(super) const LAN: Hosts = Hosts {
        a: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 168, 1, 10)), 40_000),
        b: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 168, 1, 20)), 40_000),
    };
}

impl Scene {
    /// All that were asked for.
    pub(super) fn all(options: &Options) -> Vec<Scene> {
        let mut scenes = Vec::new();
        for &dead in &options.dead {
            for &told in &options.told {
                for &loss in &options.loss {
                    for &delay in &options.delay {
                        for &count in &options.n {
                            let scene =
                                Scene { dead, count, delay: Duration::from_millis(delay), loss, told };
                            // Without dead candidates these scenes are all the same.
                            let first =
                                (options.dead.first(), options.told.first()) == (Some(&dead), Some(&told));
                            if count > 0 || first {
                                scenes.push(scene);
                            }
                        }
                    }
                }
            }
        }
        scenes
    }

    /// The candidates of one side, in the order in which they are told: each with the time from the first on.
    pub(super) fn candidates(
        &self,
        live: SocketAddr,
        dead: impl Fn(u8) -> SocketAddr,
        rng: &mut StdRng,
    ) -> Vec<(Duration, String)> {
        let place = match self.dead {
            Dead::Anywhere => rng.random_range(0..=self.count),
            Dead::Subnet | Dead::Private => self.count,
        };
        let mut dead = (0..self.count).map(dead);
        let ranked = (0..=self.count).filter_map(|rank| {
            let address = if rank == place { live } else { dead.next()? };
            Some((rank == place, line(rank, address)))
        });
        let mut ranked: Vec<_> = ranked.collect();
        if self.told == Told::Trickled {
            ranked.sort_by_key(|(is_live, _)| *is_live);
        }
        let apart = if self.told == Told::Trickled { TRICKLE } else { Duration::ZERO };
        (0..).zip(ranked).map(|(n, (_, line))| (apart * n, line)).collect()
    }

    /// The time from the first candidate to the last.
    pub(super) fn telling(&self) -> Duration {
        if self.told == Told::Trickled { TRICKLE * u32::from(self.count) } else { Duration::ZERO }
    }

    /// The address of a dead candidate beside a host of [`Hosts::LAN`].
    pub(super) fn dead_in_the_lan(&self, n: u8, port: u16) -> SocketAddr {
        let ip = match self.dead {
            Dead::Subnet | Dead::Anywhere => Ipv4Addr::new(192, 168, 1, 100 + n),
            Dead::Private if n.is_multiple_of(2) => Ipv4Addr::new(172, 17 + n / 2, 0, 1),
            Dead::Private => Ipv4Addr::new(10, 8, n, 2),
        };
        SocketAddr::new(ip.into(), port)
    }
}

/// A host candidate; the smaller its rank, the higher its priority.
fn line(rank: u8, address: SocketAddr) -> String {
    // RFC 8445, section 5.1.2.1, with the type preference of host candidates.
    let priority = (126 << 24) + ((65_535 - u32::from(rank)) << 8) + 255;
    let foundation = u32::from(rank) + 1;
    format!("candidate:{foundation} 1 udp {priority} {} {} typ host", address.ip(), address.port())
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dead = match self.dead {
            _ if self.count == 0 => "-",
            Dead::Subnet => "subnet",
            Dead::Private => "private",
            Dead::Anywhere => "anywhere",
        };
        let told = match self.told {
            Told::AtOnce => "at once",
            Told::Trickled => "trickled",
        };
        let (delay, loss) = (self.delay.as_millis(), self.loss * 100.0);
        write!(f, "{dead:<9} {told:<9} {:>4} {delay:>5} {loss:>4.0}%", self.count)
    }
}
