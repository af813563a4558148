//! What clients, peers and time do.

use thirl_common::wire::AddressFamily;

/// Clients, each with a five-tuple.
pub(super) const CLIENTS: u8 = 3;
/// Peers: those from [`FIRST_IPV6_PEER`] on have IPv6 addresses.
pub(super) const PEERS: u8 = 5;
pub(super) const FIRST_IPV6_PEER: u8 = 3;
/// Channel numbers in use.
pub(super) const CHANNELS: u16 = 3;
/// The client that comes by TCP, and may have TCP relayed; the others come by UDP.
pub(super) const STREAM_CLIENT: u8 = 2;
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
    /// The client sends data, if it may move an allocation to where it is.
    Speak { client: u8 },
    /// A peer connects to the client's relay.
    PeerConnects { client: u8, peer: u8 },
    /// What came of the attempt to connect to a peer, of which it was the nth connection.
    Connected { nth: usize, success: bool },
    /// A peer closes the nth connection.
    Closed { nth: usize },
    /// A ConnectionBind for the nth connection.
    BindConnection { nth: usize, user: usize },
    /// Few values, so that what lasts 30, 300 or 600 seconds is often met at its very end.
    Pass { seconds: u64 },
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    Allocate(Wish),
    Refresh {
        lifetime: u32,
        family: Option<AddressFamily>,
    },
    Permit {
        peers: [u8; 2],
    },
    Bind {
        channel: u16,
        peer: u8,
    },
    /// A Refresh with the mobility ticket that was told as the nth, or with one that was not.
    Claim {
        nth: usize,
        lifetime: u32,
    },
    Connect {
        peer: u8,
    },
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
    /// IPv4, with a ticket to move by.
    Mobile,
    /// IPv4, for TCP.
    Tcp,
    /// By the reservation token that was told as the nth, or by one that was not.
    Reserved(usize),
}

impl Step {
    pub(super) fn read(bytes: &[u8]) -> Step {
        let [op, a, b] = bytes else { return Step::Pass { seconds: 0 } };
        let (client, user) = (a % CLIENTS, usize::from(a >> 7));
        let request = |operation| Step::Request { client, user, operation };
        match op % 24 {
            0..=2 => request(Operation::Allocate(match b % 8 {
                0 | 1 if op >> 4 & 3 == 1 => Wish::Mobile,
                0 | 1 if op >> 4 & 3 == 2 => Wish::Tcp,
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
            16 => request(Operation::Allocate(Wish::Mobile)),
            17 => Step::Request { client: STREAM_CLIENT, user, operation: Operation::Allocate(Wish::Tcp) },
            18 => request(Operation::Claim {
                nth: usize::from(b % 16),
                lifetime: if b >> 4 == 0 { 0 } else { 600 },
            }),
            19 => Step::Speak { client },
            20 => Step::Request {
                client: STREAM_CLIENT,
                user,
                operation: Operation::Connect { peer: b % PEERS },
            },
            21 => Step::PeerConnects { client: STREAM_CLIENT, peer: b % FIRST_IPV6_PEER },
            22 => Step::Connected { nth: usize::from(b % 16), success: a % 4 != 0 },
            23 => match a % 4 {
                0 => Step::Closed { nth: usize::from(b % 16) },
                _ => Step::BindConnection { nth: usize::from(b % 16), user },
            },
            _ => Step::Pass { seconds: [30, 270, 300, 600, 29, 1][usize::from(b % 6)] },
        }
    }
}
