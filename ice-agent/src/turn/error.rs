//! Why an allocation could not be had or kept, and whose fault it is.

use std::net::SocketAddr;
use std::time::Duration;

/// What ends an allocation, or refuses a permission.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TurnError {
    /// Nothing came back: the server is down, or something on the way drops the packets.
    #[error("the TURN server did not answer: check its address and that {transport} gets through to it")]
    TimedOut {
        /// What the packets were carried by.
        transport: thirl_common::net::Transport,
    },
    /// The stream to the server could not be opened, or was closed.
    #[error("the connection to the TURN server was closed")]
    Disconnected,
    /// Username or password are wrong, or have expired.
    #[error(
        "the TURN server refuses the credentials: check username, password, and whether they have expired"
    )]
    CredentialsRefused,
    /// The server has named the one whose access tokens it takes (RFC 7635), and there is none, or it is refused.
    #[error(
        "the TURN server takes access tokens that were made for {server:?}: there is none, or it has expired"
    )]
    TokenWanted {
        /// What the TURN server is called there: THIRD-PARTY-AUTHORIZATION.
        server: String,
    },
    /// There is a token, and the server takes none.
    #[error("the TURN server takes no access tokens: it wants a user and a password")]
    NoTokens,
    /// There are no credentials, and the server takes passwords.
    #[error("the TURN server wants a user and a password")]
    NoCredentials,
    /// The server's offer of stronger credentials was removed on the way, or it offers less than before.
    #[error(
        "somebody between here and the TURN server weakens the credentials: take another network, or TLS to the server"
    )]
    BidDown,
    /// The server takes no password algorithm that is known here.
    #[error("the TURN server takes no password algorithm that is known here (MD5, SHA-256)")]
    NoCommonAlgorithm,
    /// The server wants the client to go elsewhere (300).
    #[error("the TURN server asks to use {to} instead")]
    TryAlternate {
        /// ALTERNATE-SERVER.
        to: SocketAddr,
        /// ALTERNATE-DOMAIN: what that server's certificate bears, if it is another name.
        domain: Option<String>,
    },
    /// The server knows no such allocation any more, or another one holds the five-tuple (437).
    #[error("the TURN server has lost the allocation, or holds an older one of this address and port")]
    AllocationMismatch,
    /// The allocation is another user's (441): the credentials have changed since it was made.
    #[error("the TURN server says that the allocation was made with other credentials")]
    WrongCredentials,
    /// The server relays no addresses of this family (440).
    #[error("the TURN server relays no addresses of the family that was asked for")]
    FamilyNotSupported,
    /// The user has as many allocations as are allowed (486).
    #[error("the TURN server lets this user have no more allocations")]
    QuotaReached,
    /// The server has no room (508).
    #[error("the TURN server is full")]
    InsufficientCapacity,
    /// The server refuses for a reason of its own.
    #[error("the TURN server refuses: {code} {reason}")]
    Refused {
        /// The error code.
        code: u16,
        /// What the server says of it.
        reason: String,
    },
    /// The server's answer breaks the protocol.
    #[error("the TURN server misbehaves: {what}")]
    ServerMisbehaved {
        /// In which way.
        what: &'static str,
    },
}

impl TurnError {
    /// What the server's error code means.
    pub(super) fn of_code(code: u16, reason: &str) -> TurnError {
        match code {
            437 => TurnError::AllocationMismatch,
            440 => TurnError::FamilyNotSupported,
            441 => TurnError::WrongCredentials,
            486 => TurnError::QuotaReached,
            508 => TurnError::InsufficientCapacity,
            code => TurnError::Refused { code, reason: reason.to_owned() },
        }
    }

    /// How long to wait before the same server is asked again; `None` if that is of no use.
    ///
    /// A full server or quota: "it SHOULD wait at least 1 minute" (RFC 8656, section 7.4). Where nothing else is said, back
    /// off from the second that is told here.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            TurnError::QuotaReached | TurnError::InsufficientCapacity => Some(Duration::from_secs(60)),
            TurnError::TimedOut { .. } | TurnError::Disconnected | TurnError::AllocationMismatch => {
                Some(Duration::from_secs(1))
            }
            TurnError::Refused { code: 500.., .. } => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

/// Why data was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// There is no allocation to send through, not yet or not any more.
    #[error("there is no allocation on the TURN server")]
    NoAllocation,
    /// More than a UDP datagram holds.
    #[error("the datagram is larger than a relay can carry")]
    TooLarge,
}
