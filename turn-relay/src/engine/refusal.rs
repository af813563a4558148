//! Why a request is refused, and which error code says so.

use thirl_common::net::PeerAddr;
use thirl_common::wire::{AttributeError, ErrorCode, UnknownAttributes};

use super::channel::BindingRefused;
use super::output::BindError;
use super::redirect::Alternate;
use super::shared::QuotaReached;

/// Why a request is refused. Handlers return it, so that `?` sends the error response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The first request of every client: it is told realm and nonce.
    #[error("the request carries no credentials yet")]
    Challenge,
    /// Unknown user, expired credentials, a wrong password, or an access token that does not hold.
    #[error("the credentials of {username:?} do not hold")]
    WrongCredentials {
        /// The USERNAME as it came, or the USERHASH.
        username: String,
    },
    /// Somebody on the way changed what this server offers, or the client is broken.
    #[error("the client's password algorithms are not those that it was offered")]
    AlgorithmMismatch,
    /// MESSAGE-INTEGRITY without USERNAME, REALM or NONCE.
    #[error("the client's credentials are incomplete")]
    IncompleteCredentials,
    /// The client is told a new nonce.
    #[error("the nonce is no longer valid")]
    StaleNonce,
    /// An attribute is missing or broken.
    #[error(transparent)]
    Malformed(#[from] AttributeError),
    /// Attributes that must not stand together.
    #[error("the client's {0} exclude each other")]
    Conflicting(&'static str),
    /// Comprehension-required attributes that this server does not know.
    #[error("the client uses attributes that this server does not support")]
    UnknownAttributes(UnknownAttributes),
    /// The five-tuple has no allocation.
    #[error("the client has no allocation")]
    NoAllocation,
    /// The five-tuple has one already, made by another request.
    #[error("the client has an allocation already")]
    AllocationExists,
    /// Who asks for a mobility ticket, or shows one, where there are none (RFC 8016, section 3.4).
    #[error("allocations do not move; an operator may let them with mobility")]
    MobilityForbidden,
    /// No ticket of an allocation that there is, or one that was used.
    #[error("the client's mobility ticket is good for no allocation")]
    InvalidTicket,
    /// The ticket of the allocation that the five-tuple has already.
    #[error("the client shows a mobility ticket though it has not moved")]
    NotMoved,
    /// The allocation is another user's.
    #[error("the allocation was made with another username")]
    OtherUser,
    /// A transport between server and peer that is not relayed.
    #[error("the transport is not relayed")]
    UnsupportedTransport,
    /// A TCP allocation is asked for by datagrams (RFC 6062, section 5.1).
    #[error("a client over UDP or DTLS asks for TCP")]
    NotOverStream,
    /// Connect for a UDP allocation, or ChannelBind for a TCP allocation.
    #[error("the allocation relays another transport")]
    OtherTransport,
    /// There is, or will be, a connection to this peer.
    #[error("the allocation has a connection to {0} already")]
    ConnectionExists(PeerAddr),
    /// The peer cannot be connected to, or not in time.
    #[error("the peer {0} cannot be connected to")]
    NotConnected(PeerAddr),
    /// No such connection waits for a client.
    #[error("no such connection waits for the client")]
    NoConnection,
    /// No relayed transport address of that family.
    #[error("the address family is not relayed")]
    UnsupportedFamily,
    /// The peer, or the refresh, is for another family than the allocation's.
    #[error("the allocation has no relayed transport address of this family")]
    FamilyMismatch,
    /// Nobody may reach this peer, see [`PeerPolicy`](super::PeerPolicy).
    #[error("the peer {0} is denied; an operator may allow it with allowed-peer-ip")]
    PeerDenied(PeerAddr),
    /// The channel or the peer is bound otherwise.
    #[error("the channel or the peer is bound otherwise")]
    ChannelTaken,
    /// The user has as many allocations as it may have.
    #[error("the user has reached user-quota")]
    UserQuotaReached,
    /// The client's address has as many allocations as it may have.
    #[error("the client's address has reached ip-quota")]
    AddressQuotaReached,
    /// The users of the realm have as many allocations as they may have together.
    #[error("the realm has reached its total-quota")]
    RealmQuotaReached,
    /// The server has as many allocations as it may have.
    #[error("the server has reached total-quota")]
    TotalQuotaReached,
    /// The allocation has as many permissions, channels or connections as it may have.
    #[error("the allocation has as many permissions, channels or connections as it may have")]
    AllocationFull,
    /// The server takes no new allocations.
    #[error("the server is about to end and takes no new allocations")]
    Draining,
    /// Another server is to serve the client.
    #[error("the client is sent to {}", _0.addr)]
    TryAlternate(Alternate),
    /// No socket for the relay.
    #[error(transparent)]
    NotBound(#[from] BindError),
}

impl Refusal {
    /// The error code that it is answered with.
    pub fn error_code(&self) -> ErrorCode<'static> {
        match self {
            Refusal::Challenge | Refusal::WrongCredentials { .. } => ErrorCode::UNAUTHENTICATED,
            Refusal::StaleNonce => ErrorCode::STALE_NONCE,
            Refusal::AlgorithmMismatch
            | Refusal::IncompleteCredentials
            | Refusal::Malformed(_)
            | Refusal::Conflicting(_)
            | Refusal::InvalidTicket
            | Refusal::NotMoved
            | Refusal::NotOverStream
            | Refusal::NoConnection
            | Refusal::ChannelTaken => ErrorCode::BAD_REQUEST,
            Refusal::UnknownAttributes(_) => ErrorCode::UNKNOWN_ATTRIBUTE,
            Refusal::NoAllocation | Refusal::AllocationExists => ErrorCode::ALLOCATION_MISMATCH,
            Refusal::MobilityForbidden => ErrorCode::MOBILITY_FORBIDDEN,
            Refusal::OtherUser => ErrorCode::WRONG_CREDENTIALS,
            Refusal::UnsupportedTransport => ErrorCode::UNSUPPORTED_TRANSPORT,
            Refusal::UnsupportedFamily | Refusal::NotBound(BindError::NoAddress) => {
                ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED
            }
            Refusal::FamilyMismatch => ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH,
            Refusal::PeerDenied(_) | Refusal::OtherTransport => ErrorCode::FORBIDDEN,
            Refusal::ConnectionExists(_) => ErrorCode::CONNECTION_ALREADY_EXISTS,
            Refusal::NotConnected(_) => ErrorCode::CONNECTION_TIMEOUT_OR_FAILURE,
            Refusal::UserQuotaReached | Refusal::AddressQuotaReached | Refusal::RealmQuotaReached => {
                ErrorCode::ALLOCATION_QUOTA_REACHED
            }
            Refusal::TotalQuotaReached
            | Refusal::AllocationFull
            | Refusal::Draining
            | Refusal::NotBound(_) => ErrorCode::INSUFFICIENT_CAPACITY,
            Refusal::TryAlternate(_) => ErrorCode::TRY_ALTERNATE,
        }
    }

    /// Whether the response tells realm and nonce (RFC 8489, section 9.2.4).
    pub(super) fn is_challenge(&self) -> bool {
        matches!(self, Refusal::Challenge | Refusal::WrongCredentials { .. } | Refusal::StaleNonce)
    }

    /// Whether every client may meet it, so that it is no event.
    pub(super) fn is_routine(&self) -> bool {
        matches!(self, Refusal::Challenge | Refusal::StaleNonce | Refusal::TryAlternate(_))
    }
}

impl From<QuotaReached> for Refusal {
    fn from(reached: QuotaReached) -> Refusal {
        match reached {
            QuotaReached::User => Refusal::UserQuotaReached,
            QuotaReached::Address => Refusal::AddressQuotaReached,
            QuotaReached::Realm => Refusal::RealmQuotaReached,
            QuotaReached::Total => Refusal::TotalQuotaReached,
        }
    }
}

impl From<BindingRefused> for Refusal {
    fn from(refused: BindingRefused) -> Refusal {
        match refused {
            BindingRefused::NumberTaken | BindingRefused::PeerTaken => Refusal::ChannelTaken,
            BindingRefused::NoRoom => Refusal::AllocationFull,
        }
    }
}
