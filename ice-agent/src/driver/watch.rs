//! This host's addresses, as they change: one thread looks for all agents of the process. On Linux the kernel wakes it; where
//! the kernel tells nothing, it looks from time to time.

#[cfg(any(target_os = "linux", target_os = "android"))]
mod kernel;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::interfaces::{Listed, LocalAddress, list};
use super::networks::Networks;
use crate::port_mapping::driver::default_gateway;

/// How often a change is looked for where nobody tells of it.
const INTERVAL: Duration = Duration::from_secs(2);
/// Changes come in bursts: the first is told at once, others not sooner than after this.
const PAUSE: Duration = Duration::from_millis(50);

/// What the system lists at some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Host {
    listed: Vec<Listed>,
    /// Where packets to other networks go, of IPv4 and IPv6: another router may mean another NAT.
    gateways: [Option<SocketAddr>; 2],
}

/// The addresses that an agent may use at some time.
#[derive(Clone, Debug, Default)]
pub(super) struct HostAddresses {
    /// Those worth a socket, the best first.
    pub(super) chosen: Vec<LocalAddress>,
    /// All that are up. A deprecated one still carries what began on it (RFC 4862, section 5.5.4).
    pub(super) present: Vec<IpAddr>,
}

impl Host {
    /// As it is now.
    pub(super) fn list() -> io::Result<Host> {
        Ok(Host { listed: list()?, gateways: [true, false].map(default_gateway) })
    }

    /// For an agent that uses these networks.
    pub(super) fn addresses(&self, networks: &Networks) -> HostAddresses {
        let chosen = networks.choose(&self.listed);
        HostAddresses { chosen, present: self.listed.iter().map(|listed| listed.ip).collect() }
    }
}

impl HostAddresses {
    /// Those, and no others.
    pub(super) fn given(addresses: impl IntoIterator<Item = LocalAddress>) -> HostAddresses {
        let chosen: Vec<_> = addresses.into_iter().collect();
        let present = chosen.iter().map(|local| local.address.ip()).collect();
        HostAddresses { chosen, present }
    }
}

/// Changes from now on; also told when the machine has slept.
pub(super) fn changes() -> io::Result<watch::Receiver<Arc<Host>>> {
    static WATCHED: Mutex<Option<watch::Receiver<Arc<Host>>>> = Mutex::new(None);
    let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(receiver) = watched.as_ref().filter(|receiver| receiver.has_changed().is_ok()) {
        let mut receiver = receiver.clone();
        receiver.mark_unchanged();
        return Ok(receiver);
    }
    // Before anything is listed: what changes meanwhile is told.
    let alarm = Alarm::new();
    let (sender, receiver) = watch::channel(Arc::new(Host::list()?));
    std::thread::Builder::new().name("thirl-addresses".to_owned()).spawn(move || run(&alarm, &sender))?;
    *watched = Some(receiver.clone());
    Ok(receiver)
}

fn run(alarm: &Alarm, told: &watch::Sender<Arc<Host>>) {
    loop {
        let slept = alarm.wait();
        // A list that cannot be had now is had after the next change.
        if let Ok(listed) = Host::list() {
            told.send_if_modified(|known| {
                let changed = slept || **known != listed;
                if changed {
                    *known = Arc::new(listed);
                }
                changed
            });
        }
        std::thread::park_timeout(PAUSE);
    }
}

/// Says when to look.
enum Alarm {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    Kernel(kernel::Alarm),
    Interval,
}

impl Alarm {
    /// Android lets apps have no netlink of routes.
    fn new() -> Alarm {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Ok(alarm) = kernel::Alarm::new() {
            return Alarm::Kernel(alarm);
        }
        Alarm::Interval
    }

    /// Whether the machine may have slept.
    fn wait(&self) -> bool {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Alarm::Kernel(alarm) = self
            && let Ok(slept) = alarm.wait()
        {
            return slept;
        }
        std::thread::park_timeout(INTERVAL);
        false
    }
}
