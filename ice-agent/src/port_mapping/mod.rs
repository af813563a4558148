//! Port mapping: asking the gateway for a way in, by PCP (RFC 6887), NAT-PMP (RFC 6886) or UPnP IGD.
//!
//! In the order in which a mapping comes about:
//!
//! 1. [`routes`]: the default gateway, from Linux' routing tables.
//! 2. [`PortMapper`]: the sans-IO machine for one gateway and one address of this host. It finds out which protocols are
//!    spoken, makes mappings, renews and removes them, and makes them anew when the gateway has lost them.
//! 3. [`wire`]: the datagrams of PCP and NAT-PMP. UPnP's requests are actions, which the driver carries out.
//! 4. [`MappingError`], [`ResultCode`], [`UpnpError`]: why not, in words.
//! 5. `driver` (feature `driver`): the machine on a socket, and UPnP by `igd-next`.
//!
//! Left out: a gateway may announce by multicast that it has rebooted (RFC 6887, section 14.1.2; RFC 6886, section
//! 3.2.1). The port for that can have only one listener on a host, and Wi-Fi and switches lose much multicast; so
//! [`PortMapper::check`] asks instead, and every renewal tells.

#[cfg(feature = "driver")]
pub mod driver;
mod epoch;
mod error;
mod event;
mod mapper;
mod mapping;
mod requests;
pub mod routes;
#[cfg(test)]
pub(crate) mod simulated;
#[cfg(test)]
mod tests;
#[cfg(feature = "driver")]
mod upnp;
pub mod wire;

pub use error::{MappingError, Protocol, ResultCode, UpnpError};
pub use event::{Action, Event, MappingId, MappingRequest, UpnpMap};
pub use mapper::PortMapper;
