//! What is wanted of a gateway, what happens, and what the driver is to do.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use thirl_common::net::Transport;

use super::error::{MappingError, Protocol};
#[cfg(doc)]
use super::mapper::PortMapper;

/// A mapping of a [`PortMapper`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MappingId(pub(super) u32);

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappingRequest {
    /// Over a stream TCP, else UDP.
    pub transport: Transport,
    /// The port of this host.
    pub internal_port: u16,
    /// How long a mapping is asked for at a time; it is renewed after half of that. The gateway may give less.
    pub lifetime: Duration,
    /// By this protocol only; `None` takes the first of [`Protocol::ALL`] that works.
    pub protocol: Option<Protocol>,
    /// Whether a mapping that stays until it is removed will do, should the gateway make no others (UPnP, error 725).
    pub permanent: bool,
}

impl MappingRequest {
    /// Two hours at a time (RFC 6886, section 3.3), by any protocol.
    pub fn new(transport: Transport, internal_port: u16) -> MappingRequest {
        let lifetime = Duration::from_secs(7200);
        MappingRequest { transport, internal_port, lifetime, protocol: None, permanent: true }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The gateway speaks this protocol. Comes again when it names another external address without a mapping.
    Found {
        /// Which.
        protocol: Protocol,
        /// Its external address, as far as it says: PCP does so with a mapping, or with some refusals of one.
        external: Option<IpAddr>,
    },
    /// The gateway does not speak this protocol, or refuses everything.
    Missing {
        /// Which.
        protocol: Protocol,
        /// Why.
        reason: MappingError,
    },
    /// What is sent to `external` reaches the internal port. Comes again when that address changes.
    Mapped {
        /// Which mapping.
        mapping: MappingId,
        /// Who made it.
        protocol: Protocol,
        /// The external transport address, as the gateway claims it.
        external: SocketAddr,
        /// How long that lasts unless renewed.
        lifetime: Duration,
    },
    /// It lasts longer now.
    Renewed {
        /// Which mapping.
        mapping: MappingId,
        /// How long.
        lifetime: Duration,
    },
    /// The gateway did not renew it in time. It is asked for anew, by any protocol.
    Lost {
        /// Which mapping.
        mapping: MappingId,
    },
    /// There is no mapping, and nothing more is tried.
    Failed {
        /// Which mapping.
        mapping: MappingId,
        /// Why, for each protocol.
        reasons: Vec<(Protocol, MappingError)>,
    },
    /// It was removed on demand.
    Removed {
        /// Which mapping.
        mapping: MappingId,
        /// Whether the gateway confirmed it.
        result: Result<(), MappingError>,
    },
}

/// What the driver is to do by UPnP, in whatever order. Each has its time limit, and each is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Search for the gateway and ask for its external address; answer with [`PortMapper::upnp_found`].
    FindUpnp,
    /// AddPortMapping, then ask for the external address; answer with [`PortMapper::upnp_mapped`].
    MapUpnp(UpnpMap),
    /// DeletePortMapping; answer with [`PortMapper::upnp_removed`].
    RemoveUpnp(UpnpMap),
}

/// A mapping as UPnP makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpnpMap {
    /// Whose.
    pub mapping: MappingId,
    /// Over a stream TCP, else UDP.
    pub transport: Transport,
    /// Where to.
    pub internal: SocketAddr,
    /// The external port.
    pub external_port: u16,
    /// The lease; zero for a permanent one.
    pub lease: Duration,
}
