//! What clients, peers and time do.

use thirl_common::wire::AddressFamily;

/// Clients, each with a five-tuple.
pub(super) const CLIENTS: u8 = 3;
/// Peers: those from [`FIRST_IPV6_PEER`] on have IPv6 addresses.
pub(super) const PEERS: u8 = 5;
pub(super) const FIRST_IPV6_PEER: u8 = 3;
/// Channel numbers in use.
pub(super) const CHANNELS: u16 = 3;
/// Names of users.
pub(super) const USERS: [&str; 2] = ["alice", "bob"];

pub(super) fn family_of(peer: u8) -> AddressFamily {
    if peer < FIRST_IPV6_PEER { AddressFamily::Ipv4 } else { AddressFamily::Ipv6 }
}

/// Something that happens.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// A request of a client in a user's name.
    Request { client: u8, user: usize, operation: Operation },
    /// The client sends its last request once more.
    Repeat { client: u8 },
    /// A request to end the allocation, signed with a key that is not the user's.
    Forge { client: u8 },
    /// Bytes that nobody signed.
    Noise { client: u8, bytes: [u8; 2] },
    /// The client's connection is closed.
    Gone { client: u8 },
    /// Few values, so that what lasts 30, 300 or 600 seconds is often met at its very end.
    Pass { seconds: u64 },
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    Allocate(Wish),
    Refresh { lifetime: u32, family: Option<AddressFamily> },
    Permit { peers: [u8; 2] },
    Bind { channel: u16, peer: u8 },
}

/// Which relayed transport addresses.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wish {
    One(AddressFamily),
    Both,
    /// Both, of which the system has no IPv6 port.
    BothWithoutIpv6,
    /// IPv4, of which the system has no port.
    None,
    EvenAndNext,
    /// By the reservation token that was told as the nth, or by one that was not.
    Reserved(usize),
}

impl Step {
    pub(super) fn read(bytes: &[u8]) -> Step {
        let [op, a, b] = bytes else { return Step::Pass { seconds: 0 } };
        let (client, user) = (a % CLIENTS, usize::from(a >> 7));
        let request = |operation| Step::Request { client, user, operation };
        match op % 16 {
            0..=2 => request(Operation::Allocate(match b % 8 {
                0 | 1 => Wish::One(AddressFamily::Ipv4),
                2 => Wish::One(AddressFamily::Ipv6),
                3 => Wish::Both,
                4 => Wish::BothWithoutIpv6,
                5 => Wish::None,
                6 => Wish::EvenAndNext,
                _ => Wish::Reserved(usize::from(b >> 4)),
            })),
            3 | 4 => request(Operation::Refresh {
                lifetime: [0, 600, 9999, 1][usize::from(b % 4)],
                family: [None, None, Some(AddressFamily::Ipv4), Some(AddressFamily::Ipv6)]
                    [usize::from(b >> 2) % 4],
            }),
            5..=7 => request(Operation::Permit { peers: [b % PEERS, (b >> 4) % PEERS] }),
            8..=10 => request(Operation::Bind { channel: u16::from(b >> 4) % CHANNELS, peer: b % PEERS }),
            11 => Step::Repeat { client },
            12 => match b % 2 {
                0 => Step::Forge { client },
                _ => Step::Noise { client, bytes: [op >> 4, *b] },
            },
            13 => Step::Gone { client },
            _ => Step::Pass { seconds: [30, 270, 300, 600, 29, 1][usize::from(b % 6)] },
        }
    }
}
