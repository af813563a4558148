//! The relay's settings, under the names that coturn gave them.
//!
//! [`KEYS`] is what file, environment and flags take; [`Settings::from_values`] gives them types and refuses what cannot
//! be; [`Settings::config`] is what the server starts with.

mod credentials;
mod limits;
mod realms;
mod redirects;
mod sources;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::time::Duration;

use thirl_common::auth::{Credentials, RestSecrets, SecurityFeatures};
use thirl_common::config::{ConfigError, Key, Problem, Values, parse};
use thirl_common::io::Technique;
use thirl_common::proxy_protocol::TrustedProxies;

use thirl_stun_server::binding::BindingConfig;
use thirl_stun_server::operation::{self, Operation};
use thirl_stun_server::{secure, settings as stun};

use crate::engine::{Bandwidth, EngineConfig, PeerPolicy, PeerRule, Redirects};
pub use realms::RealmSettings;
pub use sources::Sources;

use crate::server::{Config, ExternalIp, Listen, RelayAddresses, Secure};

/// Every setting of the relay.
pub const KEYS: &[Key] = &[
    stun::LISTENING_IP,
    stun::LISTENING_PORT,
    Key::list("relay-ip", "IP", "Address to relay from; may be repeated. Default: where the client arrived"),
    stun::EXTERNAL_IP,
    stun::ALT_LISTENING_PORT,
    stun::RFC5780,
    stun::PARTNER,
    stun::PARTNER_SECRET,
    stun::RATE_LIMIT,
    stun::PROXY_PROTOCOL_FROM,
    Key::single("min-port", "PORT", "Lowest port of relayed transport addresses. Default: 49152")
        .example("50000"),
    Key::single("max-port", "PORT", "Highest port of relayed transport addresses. Default: 65535")
        .example("59999"),
    credentials::REALM,
    credentials::USER,
    credentials::STATIC_AUTH_SECRET,
    sources::SERVER_NAME,
    sources::OAUTH_KEY,
    sources::AUTH_URL,
    sources::AUTH_TOKEN,
    sources::AUTH_CACHE,
    credentials::SHA256,
    credentials::USERHASH,
    Key::list(
        "allowed-peer-ip",
        "RULE",
        "Peers to allow: IP, CIDR or first-last, then :PORT or :PORT-PORT if not all ports; the narrowest rule wins, in \
         doubt the denial; may be repeated",
    )
    .example("[\"10.1.2.0/24\", \"10.0.0.0/8:53\"]"),
    Key::list(
        "denied-peer-ip",
        "RULE",
        "Peers to deny, besides loopback, private and reserved ones, written alike; may be repeated",
    )
    .example("[\"198.51.100.0/24\", \"203.0.113.1-203.0.113.9\"]"),
    limits::USER_QUOTA,
    limits::IP_QUOTA,
    limits::TOTAL_QUOTA,
    limits::MAX_BPS,
    limits::USER_MAX_BPS,
    limits::BPS_CAPACITY,
    Key::single("no-tcp-relay", "BOOLEAN", "Relay no TCP (RFC 6062) to clients over TCP and TLS. Default: false"),
    Key::single(
        "max-peer-connections",
        "COUNT",
        "Connections to peers of one TCP allocation at most (RFC 6062); one more is refused with 508. Default: 64",
    )
    .example("16"),
    redirects::ALTERNATE_SERVER,
    redirects::TLS_ALTERNATE_SERVER,
    redirects::ALTERNATE_SERVER_WHEN,
    Key::single("max-allocate-lifetime", "SECONDS", "Lifetime of an allocation at most. Default: 3600")
        .example("3600"),
    Key::single(
        "end-with-credentials",
        "BOOLEAN",
        "End allocations when the REST credentials expire that made them, as it is with access tokens anyway. \
         Default: false",
    ),
    Key::single(
        "mobility",
        "BOOLEAN",
        "Let clients that ask for a mobility ticket keep their allocations when their address changes (RFC 8016); such an \
         allocation outlives its connection. Default: true",
    )
    .example("false"),
    Key::single("stale-nonce", "SECONDS", "How long a nonce is good for. Default: 600"),
    Key::single(
        "relay-threads",
        "COUNT",
        "Shards, each with a thread and sockets of its own. Default: one for each core",
    ).fixed()
    .example("4"),
    secure::CERT,
    secure::PKEY,
    secure::TLS_LISTENING_PORT,
    secure::NO_TLS,
    secure::NO_DTLS,
    secure::HTTPS_BACKEND,
    secure::HTTPS_BACKEND_PROXY_PROTOCOL,
    stun::IO,
    realms::REALMS,
    operation::PROMETHEUS,
    operation::PROMETHEUS_PORT,
    operation::PROMETHEUS_ADDRESS,
    operation::LOG_FORMAT,
    operation::LOG_LEVEL,
    operation::RELOAD_ON_CHANGE,
    operation::PROC_USER,
    operation::PROC_GROUP,
    operation::DRAIN_TIMEOUT,
];

/// The values with their types.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Empty: all.
    pub listening_ips: Vec<IpAddr>,
    /// 0 lets the system choose.
    pub listening_port: u16,
    /// Empty: where the client arrived.
    pub relay_ips: Vec<IpAddr>,
    /// 1:1 NATs.
    pub external_ips: Vec<ExternalIp>,
    /// Binding requests, and how much strangers may ask.
    pub binding: BindingConfig,
    /// Who says first which client it speaks for.
    pub proxies: TrustedProxies,
    /// Ports of relayed transport addresses.
    pub relay_ports: RangeInclusive<u16>,
    /// Realm.
    pub realm: String,
    /// Further realms.
    pub realms: Vec<RealmSettings>,
    /// Users and secrets; neither: [`Settings::ensure_credentials`] makes a secret.
    pub credentials: Credentials,
    /// Those who know users besides these.
    pub sources: Sources,
    /// Whether SHA-256 is offered, and usernames are to be hidden.
    pub features: SecurityFeatures,
    /// Peers to allow.
    pub allowed_peers: Vec<PeerRule>,
    /// Peers to deny.
    pub denied_peers: Vec<PeerRule>,
    /// Allocations of one user at most.
    pub user_quota: Option<usize>,
    /// Allocations of one client address at most.
    pub address_quota: Option<usize>,
    /// Allocations at most.
    pub total_quota: usize,
    /// How much data is relayed at most.
    pub bandwidth: Bandwidth,
    /// Whether TCP is relayed (RFC 6062).
    pub tcp_relay: bool,
    /// Connections to peers of one TCP allocation at most.
    pub max_peer_connections: usize,
    /// Other servers that clients are sent to.
    pub redirects: Redirects,
    /// Lifetime of an allocation at most.
    pub max_lifetime: Duration,
    /// Whether allocations end when the REST credentials do that made them.
    pub end_with_credentials: bool,
    /// Whether clients may move their allocations.
    pub mobility: bool,
    /// How long a nonce is good for.
    pub nonce_lifetime: Duration,
    /// `None`: one for each core.
    pub shards: Option<NonZeroUsize>,
    /// TLS and DTLS, if there is a certificate.
    pub secure: Option<Secure>,
    /// `None`: io_uring where it can be used, otherwise epoll.
    pub technique: Option<Technique>,
    /// For those who operate it.
    pub operation: Operation,
}

impl Settings {
    /// Gives the values their types. What is wrong is named with its source and a hint.
    pub fn from_values(values: &Values) -> Result<Settings, ConfigError> {
        let min = values.one("min-port", parse::port)?.unwrap_or(49152);
        let max = values.one("max-port", parse::port)?.unwrap_or(65535);
        if min > max {
            let problem = Problem::new(
                format!("max-port {max} is below min-port {min}"),
                "give a range with some ports in it; an allocation takes one",
            );
            return Err(values.refuse("max-port", problem));
        }
        let realm = credentials::realm(values)?;
        let features = credentials::features(values)?;
        let credentials = credentials::credentials(values, &realm, features)?;
        let listening_ips = values.all(stun::LISTENING_IP.name, parse::ip)?;
        let listening_port =
            values.one(stun::LISTENING_PORT.name, parse::listening_port)?.unwrap_or(stun::DEFAULT_PORT);
        let sources = Sources::read(values)?;
        let server =
            realms::Server { realm: &realm, features, listening_ips: &listening_ips, sources: &sources };
        let realms = realms::realms(values, &server)?;
        if features.username_anonymity {
            credentials::check_anonymity(values, &credentials, &realms, &sources)?;
        }
        let external_ips = values.all(stun::EXTERNAL_IP.name, parse::external_ip)?;
        Ok(Settings {
            redirects: redirects::redirects(values, &external_ips)?,
            secure: secure::secure(values, &listening_ips, listening_port)?,
            binding: stun::binding(values, &listening_ips, listening_port)?,
            proxies: stun::proxies(values)?,
            listening_ips,
            listening_port,
            relay_ips: values.all("relay-ip", parse::ip)?,
            external_ips,
            relay_ports: min..=max,
            realm,
            realms,
            credentials,
            sources,
            features,
            allowed_peers: values.all("allowed-peer-ip", peer_rule)?,
            denied_peers: values.all("denied-peer-ip", peer_rule)?,
            user_quota: limits::quota(values, &limits::USER_QUOTA)?,
            address_quota: limits::quota(values, &limits::IP_QUOTA)?,
            total_quota: limits::quota(values, &limits::TOTAL_QUOTA)?.unwrap_or(100_000),
            bandwidth: limits::bandwidth(values)?,
            tcp_relay: !values.one("no-tcp-relay", parse::boolean)?.unwrap_or(false),
            max_peer_connections: values
                .one("max-peer-connections", parse::number(1, 1024))?
                .map_or(EngineConfig::default().max_peer_connections, count),
            max_lifetime: values
                .one("max-allocate-lifetime", parse::seconds(600, 86_400))?
                .unwrap_or(Duration::from_secs(3600)),
            end_with_credentials: values.one("end-with-credentials", parse::boolean)?.unwrap_or(false),
            mobility: values.one("mobility", parse::boolean)?.unwrap_or(true),
            nonce_lifetime: values
                .one("stale-nonce", parse::seconds(60, 86_400))?
                .unwrap_or(Duration::from_secs(600)),
            shards: values
                .one("relay-threads", parse::number(1, 1024))?
                .and_then(|threads| NonZeroUsize::new(count(threads))),
            technique: stun::technique(values)?,
            operation: operation::settings(values)?,
        })
    }

    /// Makes a secret of `random` if nobody is known in any realm, nor by others: a relay is never open to all. Returns it for
    /// the operator to be told.
    pub fn ensure_credentials(&mut self, random: [u8; 16]) -> Option<String> {
        if !self.credentials.is_empty() || !self.realms.is_empty() || !self.sources.is_empty() {
            return None;
        }
        self.ensure_secret(random)
    }

    /// Makes a secret of `random` if there is none, for a server that hands out credentials itself. Returns it if so.
    pub fn ensure_secret(&mut self, random: [u8; 16]) -> Option<String> {
        if !self.credentials.rest.is_empty() {
            return None;
        }
        let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        self.credentials.rest = RestSecrets::new(vec![secret.clone()]);
        Some(secret)
    }

    /// What the server starts with.
    pub fn config(&self) -> Config {
        let peers = PeerPolicy {
            allowed: self.allowed_peers.clone(),
            denied: self.denied_peers.clone(),
            listening_ports: self.operation.monitor.iter().map(SocketAddr::port).collect(),
            ..PeerPolicy::default()
        };
        let stores = self.sources.stores();
        Config {
            listen: Listen {
                shards: self.shards,
                secure: self.secure.clone(),
                proxies: self.proxies.clone(),
                technique: self.technique,
                ..stun::listen(&self.listening_ips, self.listening_port)
            },
            relay: RelayAddresses {
                ips: self.relay_ips.clone(),
                external: self.external_ips.clone(),
                ports: self.relay_ports.clone(),
            },
            binding: self.binding.clone(),
            engine: EngineConfig {
                realm: self.realm.clone(),
                realms: self.realms.iter().map(|realm| realm.config(&stores)).collect(),
                credentials: stores.realm(&self.credentials, self.sources.tokens.as_ref()),
                token_server: sources::name_for_tokens(self.sources.tokens.as_ref()),
                features: SecurityFeatures {
                    // Nobody can tell from a hash when REST credentials expire.
                    username_anonymity: self.features.username_anonymity && self.credentials.rest.is_empty(),
                    ..self.features
                },
                nonce_lifetime: self.nonce_lifetime,
                max_lifetime: self.max_lifetime,
                total_quota: self.total_quota,
                user_quota: self.user_quota,
                address_quota: self.address_quota,
                redirects: self.redirects.clone(),
                end_with_credentials: self.end_with_credentials,
                mobility: self.mobility,
                bandwidth: self.bandwidth,
                tcp_relay: self.tcp_relay,
                max_peer_connections: self.max_peer_connections,
                peers,
                ..EngineConfig::default()
            },
        }
    }
}

/// Numbers are bounded where they are parsed.
fn count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn peer_rule(text: &str) -> Result<PeerRule, Problem> {
    text.parse().map_err(|error: crate::engine::PeerRuleError| {
        let hint = "give an address, a network or a range, and ports if not all: 10.0.0.1, 10.0.0.0/8:53, \
                    [2001:db8::/32]:1000-2000";
        Problem::new(error.to_string(), hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::OwnAddresses;
    use thirl_common::config::Flags;

    pub(super) fn settings(pairs: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        let variable = |name: &str| {
            let key = name.strip_prefix("THIRL_")?.to_lowercase().replace('_', "-");
            pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned())
        };
        Settings::from_values(&Values::load(KEYS, &Flags::default(), variable)?)
    }

    #[test]
    fn nothing_given_is_the_documented_default() {
        let settings = settings(&[]).unwrap();
        assert_eq!((settings.listening_port, settings.relay_ports.clone()), (3478, 49152..=65535));
        assert!(settings.listening_ips.is_empty() && settings.credentials.users.is_empty());
    }

    #[test]
    fn a_relay_without_credentials_makes_a_secret_once() {
        let mut bare = settings(&[]).unwrap();
        let secret = bare.ensure_credentials([0xab; 16]).unwrap();
        assert_eq!(secret.len(), 32);
        assert!(!format!("{bare:?}").contains(&secret), "Debug is for logs");
        assert_eq!(bare.ensure_credentials([0; 16]), None);
        let mut users = settings(&[("user", "alice:secret")]).unwrap();
        assert_eq!(users.ensure_credentials([0; 16]), None);
    }

    #[test]
    fn metrics_are_no_peer() {
        let given =
            [("prometheus", "true"), ("prometheus-port", "50001"), ("prometheus-address", "203.0.113.10")];
        let peers = PeerPolicy {
            relay_ips: vec![[203, 0, 113, 10].into()],
            ..settings(&given).unwrap().config().engine.peers
        };
        let reach = peers.reach([203, 0, 113, 10].into(), &OwnAddresses::default()).unwrap();
        assert!(reach.admits(50_000) && !reach.admits(50_001));
    }

    #[test]
    fn external_ip_as_coturn_writes_it() {
        let both = settings(&[("external-ip", "203.0.113.1/10.0.0.1,2001:db8::1")]).unwrap().external_ips;
        assert_eq!(both[0].local, Some("10.0.0.1".parse().unwrap()));
        assert_eq!(both[1].local, None);
        assert!(settings(&[("external-ip", "203.0.113.1/::1")]).is_err());
    }

    #[test]
    fn tcp_is_relayed_unless_said_otherwise() {
        assert!(settings(&[]).unwrap().config().engine.tcp_relay);
        assert!(!settings(&[("no-tcp-relay", "true")]).unwrap().config().engine.tcp_relay);
        let connections = |pairs| settings(pairs).unwrap().config().engine.max_peer_connections;
        assert_eq!((connections(&[]), connections(&[("max-peer-connections", "3")])), (64, 3));
    }

    #[test]
    fn usernames_are_hidden_unless_they_say_something() {
        let users = [("user", "alice:secret"), ("userhash", "true")];
        assert!(settings(&users).unwrap().config().engine.features.username_anonymity);
        let with_secret = [users[0], users[1], ("static-auth-secret", "north")];
        assert!(settings(&with_secret).is_err());
        // A server that hands out credentials itself makes a secret later.
        let mut later = settings(&users).unwrap();
        later.ensure_secret([1; 16]).unwrap();
        assert!(!later.config().engine.features.username_anonymity);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let error = settings(&[("min-port", "6000"), ("max-port", "5000")]).unwrap_err().to_string();
        assert!(error.starts_with("environment variable THIRL_MAX_PORT: max-port:"), "{error}");
        for (key, value) in [
            ("realm", ""),
            ("allowed-peer-ip", "10.0.0.0/40"),
            ("denied-peer-ip", "10.0.0.0/8:0"),
            ("total-quota", "0"),
            ("ip-quota", "-1"),
            ("end-with-credentials", "1"),
            ("mobility", "yes"),
            ("no-tcp-relay", "no"),
            ("max-peer-connections", "0"),
            ("stale-nonce", "1"),
            ("relay-threads", "0"),
            ("max-bps", "0"),
            ("bps-capacity", "1M"),
            ("sha256", "yes"),
            ("userhash", "true"),
        ] {
            assert!(settings(&[(key, value)]).is_err(), "{key}={value}");
        }
    }
}
