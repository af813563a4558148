//! The driver: hickory-resolver answers the queries.

use std::net::Ipv6Addr;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{RData, RecordType};

use super::{
    NaptrRecord, Query, Records, Resolution, ResolvedServer, SrvRecord, Target, UnsupportedTransport,
};
use crate::net::{Nat64Prefix, Transport};

/// Has no AAAA records, so that whoever is told some has a DNS64 before it (RFC 7050, section 8.2).
const IPV4_ONLY: &str = "ipv4only.arpa.";

/// Resolves URIs through DNS.
#[derive(Clone)]
pub struct Resolver {
    dns: TokioResolver,
}

/// Why a URI led to no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolverError {
    /// The URI is to blame.
    #[error(transparent)]
    UnsupportedTransport(#[from] UnsupportedTransport),
    /// The system's DNS settings cannot be used.
    #[error("the system's DNS settings cannot be used: {0}")]
    System(NetError),
    /// DNS knows no server of this name.
    #[error("{host} has no address")]
    NoServer {
        /// Whose.
        host: String,
    },
    /// DNS did not answer, so nobody knows.
    #[error("the name {host} could not be resolved: {reason}")]
    Failed {
        /// Whose.
        host: String,
        /// The last failure.
        reason: NetError,
    },
}

impl Resolver {
    /// With the name servers of the system.
    pub fn from_system() -> Result<Resolver, ResolverError> {
        let dns = TokioResolver::builder_tokio().and_then(hickory_resolver::ResolverBuilder::build);
        dns.map(Resolver::new).map_err(ResolverError::System)
    }

    /// With a resolver that was configured before.
    pub fn new(dns: TokioResolver) -> Resolver {
        Resolver { dns }
    }

    /// The servers to try, in order; at least one. `supported` and `seed` are as in [`Resolution::new`].
    pub async fn resolve(
        &self,
        target: &Target,
        supported: &[Transport],
        seed: u64,
    ) -> Result<Vec<ResolvedServer>, ResolverError> {
        let mut resolution = Resolution::new(target, supported, seed)?;
        let mut failure = None;
        while let Some(query) = resolution.poll_query() {
            let answer = self.ask(&query).await.unwrap_or_else(|reason| {
                if !reason.is_no_records_found() {
                    failure = Some(reason);
                }
                Records::Addresses(Vec::new())
            });
            resolution.handle_answer(answer);
        }
        let host = || target.uri.host.to_string();
        match (resolution.servers(), failure) {
            ([], None) => Err(ResolverError::NoServer { host: host() }),
            ([], Some(reason)) => Err(ResolverError::Failed { host: host(), reason }),
            (servers, _) => Ok(servers.to_vec()),
        }
    }

    /// The prefixes of this network's NAT64, the one to use first (RFC 7050, section 3); none if DNS knows of none.
    pub async fn nat64_prefixes(&self) -> Result<Vec<Nat64Prefix>, ResolverError> {
        match self.dns.lookup(IPV4_ONLY, RecordType::AAAA).await {
            Ok(found) => {
                let records: Vec<_> =
                    found.answers().iter().filter_map(|record| aaaa(&record.data)).collect();
                Ok(Nat64Prefix::discover(&records))
            }
            Err(reason) if reason.is_no_records_found() => Ok(Vec::new()),
            Err(reason) => Err(ResolverError::Failed { host: IPV4_ONLY.to_owned(), reason }),
        }
    }

    async fn ask(&self, query: &Query) -> Result<Records, NetError> {
        Ok(match query {
            // The dot keeps the system's search domains out; addresses may be known by a short name.
            Query::Naptr(name) => {
                let found = self.dns.lookup(format!("{name}."), RecordType::NAPTR).await?;
                Records::Naptr(found.answers().iter().filter_map(|record| naptr(&record.data)).collect())
            }
            Query::Srv(name) => {
                let found = self.dns.lookup(format!("{name}."), RecordType::SRV).await?;
                Records::Srv(found.answers().iter().filter_map(|record| srv(&record.data)).collect())
            }
            Query::Addresses(name) => {
                Records::Addresses(self.dns.lookup_ip(name.as_str()).await?.iter().collect())
            }
        })
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

fn naptr(data: &RData) -> Option<NaptrRecord> {
    let RData::NAPTR(record) = data else { return None };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(NaptrRecord {
        order: record.order,
        preference: record.preference,
        flags: text(&record.flags),
        services: text(&record.services),
        regexp: text(&record.regexp),
        replacement: record.replacement.to_ascii(),
    })
}

fn aaaa(data: &RData) -> Option<Ipv6Addr> {
    let RData::AAAA(record) = data else { return None };
    Some(record.0)
}

fn srv(data: &RData) -> Option<SrvRecord> {
    let RData::SRV(record) = data else { return None };
    Some(SrvRecord {
        priority: record.priority,
        weight: record.weight,
        port: record.port,
        target: record.target.to_ascii(),
    })
}
