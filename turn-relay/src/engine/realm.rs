//! Realms: whom a server serves, by where a client comes from (draft-ietf-tram-stun-origin) or arrives.

use std::net::IpAddr;
use std::sync::Arc;

use thirl_common::auth::CredentialStore;
use thirl_common::net::ServerAddr;
use thirl_common::wire::{Message, Origin, Realm};

use super::bandwidth::Bandwidth;
use super::config::EngineConfig;

/// A realm besides [`EngineConfig::realm`], with credentials of its own.
///
/// A client is told the realm that has its ORIGIN among `origins`, else the one to which the address belongs that it sent
/// to, else [`EngineConfig::realm`]. ORIGIN is what the client says, and proves nothing: it decides which credentials are
/// asked for, and those have to hold.
#[derive(Clone)]
pub struct RealmConfig {
    /// REALM, of at most 127 characters (RFC 8489, section 14.9), none of them a line's end.
    pub name: Arc<str>,
    /// Web origins such as `https://example.org`. Empty: every client that arrives at `listening`.
    pub origins: Vec<String>,
    /// Addresses of the server at which this realm is served, and no other that has no origins. Empty: all.
    pub listening: Vec<IpAddr>,
    /// Whom it serves.
    pub credentials: Arc<dyn CredentialStore + Send + Sync>,
    /// As [`EngineConfig::token_server`], for this realm.
    pub token_server: Option<String>,
    /// How much its users may have.
    pub limits: RealmLimits,
}

/// What the users of a realm may have. What is `None` is not limited but as for all users of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RealmLimits {
    /// Allocations of one user at most, in place of [`EngineConfig::user_quota`].
    pub user_quota: Option<usize>,
    /// Allocations of all its users at most, within [`EngineConfig::total_quota`].
    pub total_quota: Option<usize>,
    /// For one allocation and for one user in place of [`EngineConfig::bandwidth`]; `total` is for all users of the realm,
    /// within that of the server.
    pub bandwidth: Bandwidth,
}

/// The realm of a request.
pub(super) struct Served<'c> {
    pub(super) name: &'c str,
    /// `None`: the server's own.
    pub(super) other: Option<&'c Arc<str>>,
    pub(super) credentials: &'c (dyn CredentialStore + Send + Sync),
    /// For THIRD-PARTY-AUTHORIZATION.
    pub(super) token_server: Option<&'c str>,
}

impl EngineConfig {
    /// The realm that a request names, if it is served where the request arrived; else the one that its client is told.
    ///
    /// So a client may leave ORIGIN out of all requests but the first.
    pub(super) fn realm_of(&self, server: ServerAddr, message: &Message<'_>) -> Served<'_> {
        let here = || self.realms.iter().filter(|realm| realm.is_served_at(server.ip()));
        let of_listener = || here().find(|realm| realm.origins.is_empty());
        let named = message.get().ok().flatten().map(|Realm(name)| name);
        let of_origin = || {
            let mut origins = message.get_all::<Origin<'_>>().filter_map(Result::ok);
            origins.find_map(|Origin(origin)| here().find(|realm| realm.has_origin(origin)))
        };
        let other = match named {
            _ if self.realms.is_empty() => None,
            Some(name) if name == self.realm && of_listener().is_none() => None,
            Some(name) => here().find(|realm| *realm.name == *name).or_else(of_origin).or_else(of_listener),
            None => of_origin().or_else(of_listener),
        };
        match other {
            Some(RealmConfig { name, credentials, token_server, .. }) => Served {
                name,
                other: Some(name),
                credentials: &**credentials,
                token_server: token_server.as_deref(),
            },
            None => Served {
                name: &self.realm,
                other: None,
                credentials: &*self.credentials,
                token_server: self.token_server.as_deref(),
            },
        }
    }
}

impl EngineConfig {
    /// Whether nobody's bandwidth is another than with `other`.
    pub(super) fn has_the_bandwidths_of(&self, other: &EngineConfig) -> bool {
        let of_realm = |realm: &RealmConfig| (realm.name.clone(), realm.limits.bandwidth);
        self.bandwidth == other.bandwidth
            && self.realms.iter().map(of_realm).eq(other.realms.iter().map(of_realm))
    }

    /// What holds for the users of a realm; `None`: the server's own.
    pub(super) fn limits_of(&self, realm: Option<&str>) -> RealmLimits {
        let other = realm.and_then(|name| self.realms.iter().find(|realm| *realm.name == *name));
        let RealmLimits { user_quota, total_quota, bandwidth } =
            other.map(|realm| realm.limits).unwrap_or_default();
        RealmLimits {
            user_quota: user_quota.or(self.user_quota),
            total_quota,
            bandwidth: Bandwidth {
                allocation: bandwidth.allocation.or(self.bandwidth.allocation),
                user: bandwidth.user.or(self.bandwidth.user),
                total: bandwidth.total,
            },
        }
    }
}

/// Whom quotas count: a user of a realm, no two of whom have the same name. A username holds no line's end; in what another
/// store takes for one, a line's end does not count.
pub(super) fn account(user: Arc<str>, realm: Option<&str>) -> Arc<str> {
    match realm {
        Some(realm) => format!("{user}\n{realm}").into(),
        None if user.contains('\n') => user.replace('\n', " ").into(),
        None => user,
    }
}

/// The realm of an account, unless it is the server's own.
pub(super) fn realm_of(account: &str) -> Option<&str> {
    account.rsplit_once('\n').map(|(_, realm)| realm)
}

impl RealmConfig {
    fn is_served_at(&self, ip: IpAddr) -> bool {
        self.listening.is_empty() || self.listening.contains(&ip)
    }

    fn has_origin(&self, origin: &str) -> bool {
        self.origins.iter().any(|known| bare_origin(known).eq_ignore_ascii_case(bare_origin(origin)))
    }
}

/// An origin without what may be left out: the port of its scheme, and a slash (RFC 6454, section 6.2).
fn bare_origin(origin: &str) -> &str {
    let origin = origin.strip_suffix('/').unwrap_or(origin);
    let port = if origin.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:")) {
        ":443"
    } else {
        ":80"
    };
    origin.strip_suffix(port).unwrap_or(origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_as_browsers_mean_them() {
        for (one, other, same) in [
            ("https://example.org", "HTTPS://Example.ORG", true),
            ("https://example.org", "https://example.org:443", true),
            ("https://example.org", "https://example.org/", true),
            ("http://example.org:80", "http://example.org", true),
            ("https://example.org", "http://example.org", false),
            ("https://example.org", "https://example.org:80", false),
            ("https://example.org:8443", "https://example.org", false),
            ("https://example.org", "https://example.org.evil.example", false),
            ("https://example.org", "", false),
            ("https://example.org", "h\u{e9}h\u{e9}h\u{e9}", false),
        ] {
            assert_eq!(bare_origin(one).eq_ignore_ascii_case(bare_origin(other)), same, "{one} {other}");
        }
    }
}
