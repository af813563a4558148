//! What the engine is told.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use thirl_common::auth::{CredentialStore, Credentials, NonceKey, SecurityFeatures};
use thirl_common::wire::AddressFamily;
use thirl_stun_server::Limit;

use super::bandwidth::Bandwidth;
use super::peer_policy::PeerPolicy;
use super::realm::RealmConfig;
use super::redirect::Redirects;

/// What an [`Engine`](super::Engine) is told. The defaults admit nobody, since they know no credentials.
#[derive(Clone)]
pub struct EngineConfig {
    /// REALM, of at most 127 characters (RFC 8489, section 14.9). It stands in every 401, so a short one is best.
    pub realm: String,
    /// Whom the relay serves.
    pub credentials: Arc<dyn CredentialStore + Send + Sync>,
    /// Further realms, each with credentials of its own.
    pub realms: Vec<RealmConfig>,
    /// What clients are offered (RFC 8489, section 9.2). Nothing by default: each feature makes a 401 larger, by 28 bytes
    /// in all, and whoever forges a sender makes the server send them elsewhere. SHA-256 is taken from clients that use it
    /// by themselves, and USERHASH is if the credentials know it.
    pub features: SecurityFeatures,
    /// The name of this server to those that make access tokens for it, which 401s tell the clients (RFC 7635, section
    /// 6.1); the tokens are taken by `credentials`.
    pub token_server: Option<String>,
    /// With what nonces are made. `None`: with a key from the engine's seed. Engines of one server must share one, since
    /// a client that comes again from another port may meet another engine.
    pub nonce_key: Option<NonceKey>,
    /// How long a client may use a nonce before it is sent a new one (438).
    pub nonce_lifetime: Duration,
    /// Lifetime of an allocation if the client asks for none or less. "Default 10 minutes" (RFC 8656, section 3.2).
    pub default_lifetime: Duration,
    /// Lifetime of an allocation at most. "One hour" is recommended (RFC 8656, section 7.2).
    pub max_lifetime: Duration,
    /// The families of relayed transport addresses; others draw a 440.
    pub families: Vec<AddressFamily>,
    /// Other servers that clients are sent to.
    pub redirects: Redirects,
    /// Whether allocations end when REST credentials do that made them, as they do with access tokens.
    pub end_with_credentials: bool,
    /// Allocations of all clients at most.
    pub total_quota: usize,
    /// Allocations of one user at most, whose REST credentials count together; `None`: as many as of all.
    pub user_quota: Option<usize>,
    /// Allocations of one client address at most, or of one IPv6 /64; `None`: as many as of all.
    pub address_quota: Option<usize>,
    /// How much data is relayed at most.
    pub bandwidth: Bandwidth,
    /// Permissions of one allocation at most: 48 bytes each, 12 KB in all with the default of 256, and
    /// as much again as their ports take where `peers` has rules for ports.
    pub max_permissions: usize,
    /// Channels of one allocation at most: 110 bytes each, 28 KB in all with the default of 256.
    pub max_channels: usize,
    /// Whether TCP is relayed to clients over TCP and TLS (RFC 6062).
    pub tcp_relay: bool,
    /// Connections to peers of one TCP allocation at most.
    pub max_peer_connections: usize,
    /// How often one source may ask this engine without credentials that hold; what it asks too much is not answered.
    /// `None`: as often as it likes. Whoever has credentials is not counted.
    pub stranger_limit: Option<Limit>,
    /// Whether clients may move their allocations to other five-tuples (RFC 8016). It costs nothing for who does not ask.
    pub mobility: bool,
    /// Which peers clients may reach.
    pub peers: PeerPolicy,
    /// Whether whoever runs the engine takes `InstallFastPath` and `RemoveFastPath` actions.
    pub fast_path: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            realm: "thirl".to_owned(),
            credentials: Arc::new(Credentials::default()),
            realms: Vec::new(),
            features: SecurityFeatures::default(),
            token_server: None,
            nonce_key: None,
            nonce_lifetime: Duration::from_secs(600),
            default_lifetime: Duration::from_secs(600),
            max_lifetime: Duration::from_secs(3600),
            families: vec![AddressFamily::Ipv4, AddressFamily::Ipv6],
            redirects: Redirects::default(),
            end_with_credentials: false,
            total_quota: 100_000,
            user_quota: None,
            address_quota: None,
            bandwidth: Bandwidth::default(),
            max_permissions: 256,
            max_channels: 256,
            tcp_relay: true,
            max_peer_connections: 64,
            stranger_limit: None,
            mobility: true,
            peers: PeerPolicy::default(),
            fast_path: false,
        }
    }
}

impl EngineConfig {
    /// The lifetime that a client gets who asks for `requested` seconds (RFC 8656, section 7.2).
    pub(super) fn lifetime(&self, requested: Option<u32>) -> Duration {
        let requested = requested.map_or(Duration::ZERO, |seconds| Duration::from_secs(seconds.into()));
        requested.min(self.max_lifetime).max(self.default_lifetime)
    }
}

impl fmt::Debug for EngineConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineConfig")
            .field("realm", &self.realm)
            .field("realms", &self.realms.iter().map(|realm| &realm.name).collect::<Vec<_>>())
            .field("features", &self.features)
            .field("default_lifetime", &self.default_lifetime)
            .field("max_lifetime", &self.max_lifetime)
            .field("total_quota", &self.total_quota)
            .field("user_quota", &self.user_quota)
            .field("address_quota", &self.address_quota)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}
