//! UPnP IGD by `igd-next`, which bounds sizes and depth of what it reads; time is bounded here.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{AddPortError, PortMappingProtocol, RemovePortError, RequestError, SearchOptions};
use thirl_common::net::Transport;
use tokio::task::JoinSet;

use super::error::UpnpError;
use super::event::{Action, UpnpMap};
use super::mapper::PortMapper;

/// Where devices hear searches (UPnP Device Architecture 1.1, section 1.3.2).
const SSDP_GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
const SSDP_PORT: u16 = 1900;

/// A search over multicast may be answered as late as this: the MX of the request.
const SEARCH: Duration = Duration::from_secs(3);
/// Each search is begun a second time, since datagrams get lost.
const SECOND_SEARCH: Duration = Duration::from_secs(1);
/// For one request over HTTP.
const REQUEST: Duration = Duration::from_secs(3);

/// What routers show their owners beside the mapping.
const DESCRIPTION: &str = "Thirl";

/// Of a router's own words, no more are repeated.
const MAX_WORDS: usize = 80;

type Igd = Gateway<Tokio>;

/// The actions that are under way.
#[derive(Debug)]
pub(super) struct Upnp {
    finder: Finder,
    known: Option<Igd>,
    running: JoinSet<(Option<Igd>, Answer)>,
}

/// Whom to search for, and from where.
#[derive(Clone, Copy, Debug)]
struct Finder {
    gateway: IpAddr,
    local: IpAddr,
}

/// The outcome of an action.
#[derive(Debug)]
pub(super) enum Answer {
    Found(Result<Option<IpAddr>, UpnpError>),
    Mapped(UpnpMap, Result<IpAddr, UpnpError>),
    Removed(UpnpMap, Result<(), UpnpError>),
}

impl Answer {
    pub(super) fn give(self, now: Instant, mapper: &mut PortMapper) {
        match self {
            Answer::Found(found) => mapper.upnp_found(now, found),
            Answer::Mapped(map, mapped) => mapper.upnp_mapped(now, map, mapped),
            Answer::Removed(map, removed) => mapper.upnp_removed(map, removed),
        }
    }
}

impl Upnp {
    pub(super) fn new(gateway: IpAddr, local: IpAddr) -> Upnp {
        Upnp { finder: Finder { gateway, local }, known: None, running: JoinSet::new() }
    }

    pub(super) fn begin(&mut self, action: Action) {
        let (finder, known) = (self.finder, self.known.clone());
        self.running.spawn(async move {
            match action {
                Action::FindUpnp => find(finder).await,
                Action::MapUpnp(map) => {
                    let (igd, mapped) = finder.ask(known, map, add).await;
                    (igd, Answer::Mapped(map, mapped))
                }
                Action::RemoveUpnp(map) => {
                    let (igd, removed) = finder.ask(known, map, remove).await;
                    (igd, Answer::Removed(map, removed))
                }
            }
        });
    }

    /// The next outcome; never, if nothing is under way. May be dropped at any time.
    pub(super) async fn answer(&mut self) -> Answer {
        loop {
            match self.running.join_next().await {
                Some(Ok((known, answer))) => {
                    self.known = known;
                    return answer;
                }
                // A task of ours does not panic, and nobody aborts it.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }
}

async fn find(finder: Finder) -> (Option<Igd>, Answer) {
    let Some(igd) = finder.find().await else { return (None, Answer::Found(Err(UpnpError::NotFound))) };
    let external = external_ip(&igd).await.ok();
    (Some(igd), Answer::Found(Ok(external)))
}

impl Finder {
    /// Searches for the gateway by multicast, and since much multicast gets lost, asks it directly as well. Nobody else
    /// is believed: another device in the network could not open a port for us, but could say so.
    async fn find(self) -> Option<Igd> {
        let mut searches = JoinSet::new();
        for to in [self.gateway, SSDP_GROUP.into()] {
            for delay in [Duration::ZERO, SECOND_SEARCH] {
                let mut options = SearchOptions::default();
                options.bind_addr = SocketAddr::new(self.local, 0);
                options.broadcast_address = SocketAddr::new(to, SSDP_PORT);
                options.timeout = Some(SEARCH - delay);
                searches.spawn(async move {
                    tokio::time::sleep(delay).await;
                    search_gateway(options).await
                });
            }
        }
        while let Some(searched) = searches.join_next().await {
            if let Ok(Ok(igd)) = searched
                && igd.addr.ip() == self.gateway
            {
                return Some(igd);
            }
        }
        None
    }

    /// Asks the gateway as it is known; if that does not answer, searches first: after a restart it may be elsewhere.
    async fn ask<T, Asked: Future<Output = Result<T, UpnpError>>>(
        self,
        known: Option<Igd>,
        map: UpnpMap,
        request: fn(Igd, UpnpMap) -> Asked,
    ) -> (Option<Igd>, Result<T, UpnpError>) {
        if let Some(igd) = known {
            match request(igd.clone(), map).await {
                Err(UpnpError::Broken(_)) => {}
                answer => return (Some(igd), answer),
            }
        }
        let Some(igd) = self.find().await else { return (None, Err(UpnpError::NotFound)) };
        let answer = request(igd.clone(), map).await;
        (Some(igd), answer)
    }
}

/// The address first: without one a mapping would be of no use, and would stay.
async fn add(igd: Igd, map: UpnpMap) -> Result<IpAddr, UpnpError> {
    let external = external_ip(&igd).await?;
    let lease = u32::try_from(map.lease.as_secs()).unwrap_or(u32::MAX);
    let added = igd.add_port(protocol(map.transport), map.external_port, map.internal, lease, DESCRIPTION);
    in_time(added).await?.map_err(|error| match error {
        AddPortError::ActionNotAuthorized => UpnpError::NotAuthorized,
        AddPortError::PortInUse => UpnpError::Conflict,
        AddPortError::SamePortValuesRequired => UpnpError::SamePortRequired,
        AddPortError::OnlyPermanentLeasesSupported => UpnpError::OnlyPermanent,
        AddPortError::RequestError(error) => failed(error),
        error => UpnpError::Broken(printable(&error.to_string())),
    })?;
    Ok(external)
}

async fn remove(igd: Igd, map: UpnpMap) -> Result<(), UpnpError> {
    let removed = in_time(igd.remove_port(protocol(map.transport), map.external_port)).await?;
    match removed {
        Ok(()) | Err(RemovePortError::NoSuchPortMapping) => Ok(()),
        Err(RemovePortError::ActionNotAuthorized) => Err(UpnpError::NotAuthorized),
        Err(RemovePortError::RequestError(error)) => Err(failed(error)),
    }
}

async fn external_ip(igd: &Igd) -> Result<IpAddr, UpnpError> {
    let asked = in_time(igd.get_external_ip()).await?;
    asked.map_err(|error| match error {
        igd_next::GetExternalIpError::ActionNotAuthorized => UpnpError::NotAuthorized,
        igd_next::GetExternalIpError::RequestError(error) => failed(error),
    })
}

async fn in_time<T>(asked: impl Future<Output = T>) -> Result<T, UpnpError> {
    let late = |_| UpnpError::Broken(format!("no answer within {} s", REQUEST.as_secs()));
    tokio::time::timeout(REQUEST, asked).await.map_err(late)
}

fn failed(error: RequestError) -> UpnpError {
    match error {
        RequestError::ErrorCode(606, _) => UpnpError::NotAuthorized,
        RequestError::ErrorCode(code, words) => UpnpError::Code(code, printable(&words)),
        // Its text is the whole answer.
        RequestError::InvalidResponse(_) => {
            UpnpError::Broken("the router's answer makes no sense".to_owned())
        }
        error => UpnpError::Broken(printable(&error.to_string())),
    }
}

fn printable(words: &str) -> String {
    words.chars().filter(|char| !char.is_control()).take(MAX_WORDS).collect()
}

fn protocol(transport: Transport) -> PortMappingProtocol {
    if transport.is_reliable() { PortMappingProtocol::TCP } else { PortMappingProtocol::UDP }
}
