//! Which of this host's networks an agent uses.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use thirl_common::io::internet_facing_ips;

use super::interfaces::{Listed, LocalAddress, choose, local_address};

type Filter = dyn Fn(&str, IpAddr) -> bool + Send + Sync;

/// All of them, unless the application says otherwise.
#[derive(Clone, Default)]
pub(super) struct Networks {
    pub(super) filter: Option<Arc<Filter>>,
    /// Only the addresses from which packets to the internet leave.
    pub(super) default_route_only: bool,
}

impl Networks {
    /// The addresses of these networks that are worth a socket, the best first.
    pub(super) fn choose(&self, listed: &[Listed]) -> Vec<LocalAddress> {
        let facing = if self.default_route_only { internet_facing_ips() } else { [None; 2] };
        let wanted = |address: &&Listed| {
            let routed = !self.default_route_only || facing.contains(&Some(address.ip));
            routed && self.filter.as_ref().is_none_or(|filter| filter(&address.interface, address.ip))
        };
        let wanted = listed.iter().filter(wanted).cloned().collect();
        choose(wanted).iter().map(local_address).collect()
    }
}

impl fmt::Debug for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Networks { filter, default_route_only } = self;
        let filtered = filter.is_some();
        f.debug_struct("Networks")
            .field("filtered", &filtered)
            .field("default_route_only", default_route_only)
            .finish()
    }
}
