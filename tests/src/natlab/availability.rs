//! Whether this machine can run a lab, and if not, precisely why.

use std::env;
use std::sync::OnceLock;

use super::Lab;
use super::process::path;
use super::spec::{Nat, Site};

/// Why there can be no lab on this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unavailable {
    /// What is missing and what it is wanted for.
    pub reason: String,
}

/// What the lab runs, the Debian package that has it, and what for.
const PROGRAMS: [(&str, &str, &str); 5] = [
    ("unshare", "util-linux", "makes the namespaces"),
    ("nsenter", "util-linux", "runs programs in them"),
    ("ip", "iproute2", "makes links, addresses and routes"),
    ("nft", "nftables", "makes the NATs and firewalls"),
    ("conntrack", "conntrack", "makes a NAT forget its mappings"),
];

/// Says whether a lab can be made here; asked once per process, by making a small one.
///
/// # Errors
/// The first thing that is missing.
pub fn availability() -> Result<(), Unavailable> {
    static ANSWER: OnceLock<Result<(), Unavailable>> = OnceLock::new();
    ANSWER.get_or_init(try_out).clone()
}

fn try_out() -> Result<(), Unavailable> {
    let path = path();
    for (program, package, purpose) in PROGRAMS {
        if !env::split_paths(&path).any(|directory| directory.join(program).is_file()) {
            let reason =
                format!("no program `{program}`, which {purpose} of the NAT lab: apt-get install {package}");
            return Err(Unavailable { reason });
        }
    }
    let trial = Lab::builder().site(Site::A, Nat::new()).build();
    trial.map(drop).map_err(|error| Unavailable {
        reason: format!(
            "the NAT lab needs namespaces, veth, bridge, nftables NAT and conntrack of the kernel: {error}"
        ),
    })
}
