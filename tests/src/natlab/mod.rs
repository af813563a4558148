//! A NAT lab on the real kernel: routers, NATs and hosts as network namespaces joined by veth pairs, with nftables.
//!
//! ```text
//!  a a2 ── natA ──┐                    ┌── srv   203.0.113.10 .11, 2001:db8:53::10 ::11
//!  192.168.1.0/24 ├─[cgn]── inet ──────┼─[srv2]  192.0.2.130, 2001:db8:54::10
//!  b b2 ── natB ──┘ [cgn2]             └── (public addresses: A 198.51.100.10, B .20, CGN .100, CGN2 .200)
//!  192.168.2.0/24
//! ```
//! One [`Lab`] is one process tree in private mount, network and pid namespaces (and a user namespace when not root):
//! the names of two labs never clash, and dropping the value ends every process in it and removes every interface.
//!
//! Data flows through the files in this order: [`spec`](Nat) (what a test asks for) → `ruleset` (one NAT as nftables)
//! → `topology` (the nodes as scripts) → `process` (the tree that runs them) → `operations` (changes in mid-life), `igd`
//! (port mapping on a NAT), `proxy` (HTTP), `dns64`.
//!
//! ```no_run
//! use thirl_tests::natlab::{Filtering, Lab, Mapping, Nat, Node, Site};
//!
//! let lab = Lab::builder()
//!     .site(Site::A, Nat::new().mapping(Mapping::EndpointIndependent).filtering(Filtering::AddressAndPortDependent))
//!     .site(Site::B, Nat::symmetric())
//!     .build()?;
//! let pinged = lab.command(Node::A, "ping").args(["-c1", "203.0.113.10"]).status();
//! # Ok::<(), thirl_tests::natlab::LabError>(())
//! ```

mod availability;
mod dns64;
mod igd;
mod nat64;
mod operations;
mod process;
mod proxy;
mod ruleset;
mod spec;
mod topology;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::Command;

pub use crate::behaviour::{Filtering, Mapping, PortAllocation};
pub use availability::{Unavailable, availability};
pub use igd::Igd;
pub use operations::OldAddress;
pub use spec::{Firewall, Ipv6, Nat, Network, Node, Site};

use process::ProcessTree;
use topology::Topology;

/// First IPv4 address of [`Node::Srv`].
pub const SRV: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// Second IPv4 address of [`Node::Srv`], as RFC 5780 wants one.
pub const SRV_ALTERNATE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
/// First IPv6 address of [`Node::Srv`].
pub const SRV_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x10);
/// Second IPv6 address of [`Node::Srv`].
pub const SRV_ALTERNATE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x11);
/// IPv4 address of [`Node::Srv2`].
pub const SRV2: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 130);
/// IPv6 address of [`Node::Srv2`].
pub const SRV2_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x54, 0, 0, 0, 0, 0x10);

/// Where the router of each site that has IPv6 answers, so that one address is every client's resolver.
pub const RESOLVER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x53);

/// A running lab. Dropping it kills every process in it.
#[derive(Debug)]
pub struct Lab {
    tree: ProcessTree,
    topology: Topology,
}

impl Lab {
    /// Decide, in this order: the sites, how the CGN behaves if a site is behind it, whether root's rights are shed.
    pub fn builder() -> LabBuilder {
        LabBuilder { sites: BTreeMap::new(), cgn: Nat::new(), second_server: false, user_namespace: false }
    }

    /// A command that runs `program` on `node`, in the current directory (a `current_dir` of its own is lost on the
    /// way in). The process that it spawns passes standard streams, environment and exit status through, and killing
    /// it kills the program.
    pub fn command(&self, node: Node, program: impl AsRef<OsStr>) -> Command {
        self.tree.command(node, program.as_ref())
    }

    /// The address from which the internet sees `site`: that of the CGN where the site is behind it.
    pub fn public_address(&self, site: Site) -> Option<Ipv4Addr> {
        self.topology.public_address(site)
    }

    /// The address of a client in its LAN, wherever it is now.
    pub fn client_address(&self, client: Node) -> Option<Ipv4Addr> {
        self.topology.client_address(client)
    }
}

/// Collects what a lab shall be.
#[derive(Debug, Clone)]
pub struct LabBuilder {
    sites: BTreeMap<Site, Network>,
    cgn: Nat,
    second_server: bool,
    user_namespace: bool,
}

impl LabBuilder {
    /// Adds `site`; a bare [`Nat`] is a network with one client, no firewall of its own and no IPv6.
    #[must_use]
    pub fn site(mut self, site: Site, network: impl Into<Network>) -> Self {
        self.sites.insert(site, network.into());
        self
    }

    /// How a carrier-grade NAT behaves before the sites that are [`Network::behind_cgn`], and the second one as well.
    #[must_use]
    pub fn cgn(mut self, nat: Nat) -> Self {
        self.cgn = nat;
        self
    }

    /// Adds [`Node::Srv2`].
    #[must_use]
    pub fn second_server(mut self) -> Self {
        self.second_server = true;
        self
    }

    /// Uses a user namespace even as root, as is always done without root.
    #[must_use]
    pub fn unprivileged(mut self) -> Self {
        self.user_namespace = true;
        self
    }

    /// Makes the namespaces and everything in them.
    ///
    /// # Errors
    /// [`LabError::Spec`] if the lab asked for cannot exist; the others if this machine cannot make it.
    pub fn build(self) -> Result<Lab, LabError> {
        let topology = Topology::new(self.sites, self.cgn, self.second_server)?;
        let tree = ProcessTree::start(self.user_namespace)?;
        tree.run(&topology.script())?;
        Ok(Lab { tree, topology })
    }
}

/// Why there is no lab, or why it cannot be changed so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// The test asks for something that cannot be: correct the test.
    #[error("the lab asked for cannot exist: {0}")]
    Spec(String),
    /// The machine refuses namespaces: see [`availability`].
    #[error("cannot make namespaces: {0}")]
    Namespaces(String),
    /// A command inside the lab failed: see its messages.
    #[error("setting up the lab failed ({status}): {messages}")]
    Setup {
        /// Exit status of the script.
        status: std::process::ExitStatus,
        /// What `ip`, `nft` or `conntrack` said.
        messages: String,
    },
    /// A program could not be started at all.
    #[error("cannot run {program}: {source}")]
    Program {
        /// Which program.
        program: &'static str,
        /// Why.
        source: std::io::Error,
    },
}
