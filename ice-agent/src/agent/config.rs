//! What an agent is told at its birth.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use serde::Serialize;
use thirl_common::net::{Nat64Prefix, Transport};
use thirl_common::uri::Host;

use crate::turn::{Families, TurnCredentials};

use super::external::{CandidateFilter, ExternalAddress};
use super::shared_pace::SharedPace;

/// Who nominates (RFC 8445, section 6.1.1). If both sides claim the same role, the agents settle it between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Nominates.
    Controlling,
    /// Waits for the other side's nomination.
    Controlled,
}

impl Role {
    /// The other one.
    pub fn opposite(self) -> Role {
        match self {
            Role::Controlling => Role::Controlled,
            Role::Controlled => Role::Controlling,
        }
    }
}

/// Which kinds of candidates may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// All of them.
    #[default]
    All,
    /// None of this host's own addresses are told, and only those that face the internet are used.
    NoHost,
    /// Relayed ones only, so that the peer does not learn this host's addresses.
    Relay,
}

/// What a side can do, as its description says (RFC 8839, sections 5.3 and 5.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Capabilities {
    /// `a=ice-lite`: it answers checks and sends none.
    pub lite: bool,
    /// The option `ice2`: it follows RFC 8445 and never nominates aggressively.
    pub ice2: bool,
    /// The option `trickle` (RFC 8840, section 4.1).
    pub trickle: bool,
    /// The option `renomination` (draft-thatcher-ice-renomination): the latest nomination counts, whatever the priorities.
    pub renomination: bool,
}

/// A username fragment and a password, which make one session (RFC 8445, section 5.3).
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// 4 to 256 characters.
    pub ufrag: String,
    /// 22 to 256 characters.
    pub pwd: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}, pwd redacted)", self.ufrag)
    }
}

/// The credentials cannot be used: the fault of whoever made them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// RFC 8839, section 5.4.
    #[error("a ufrag has 4 to 256 letters, digits, '+' or '/'")]
    Ufrag,
    /// RFC 8839, section 5.4.
    #[error("a pwd has 22 to 256 letters, digits, '+' or '/'")]
    Pwd,
}

/// "ice-char = ALPHA / DIGIT / "+" / "/"" (RFC 8839, section 5.1).
const ICE_CHARS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

impl Credentials {
    /// 48 random bits in the ufrag and 144 in the pwd: more than the 24 and 128 of RFC 8445, section 5.3.
    pub fn generate(rng: &mut StdRng) -> Credentials {
        let mut text =
            |len| (0..len).map(|_| char::from(ICE_CHARS[rng.random_range(0..ICE_CHARS.len())])).collect();
        Credentials { ufrag: text(8), pwd: text(24) }
    }

    /// Whether they are what RFC 8839, section 5.4, lets them be. Peers that use other characters are let pass.
    pub fn check(&self) -> Result<(), CredentialsError> {
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        match self {
            Credentials { ufrag, .. } if !(4..=256).contains(&ufrag.len()) || !plain(ufrag) => {
                Err(CredentialsError::Ufrag)
            }
            Credentials { pwd, .. } if !(22..=256).contains(&pwd.len()) || !plain(pwd) => {
                Err(CredentialsError::Pwd)
            }
            _ => Ok(()),
        }
    }
}

/// A TURN server and who one is there.
#[derive(Clone, PartialEq, Eq)]
pub struct TurnServer {
    /// Where it is. Unspecified if a proxy has to find it.
    pub address: SocketAddr,
    /// What it is called: its certificate has to bear this over TLS and DTLS, and a proxy is asked for it. `None`: its
    /// address.
    pub host: Option<Host>,
    /// What carries the packets to it.
    pub transport: Transport,
    /// Who one is there. With [`TurnCredentials::None`] the application is asked for a token when the server wants one
    /// ([`Event::TokenWanted`](super::Event::TokenWanted)).
    pub credentials: TurnCredentials,
}

impl fmt::Debug for TurnServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TurnServer({} over {}, {:?})", self.address, self.transport, self.credentials)
    }
}

/// What is done where a NAT's mapping depends on the destination, so that nobody can tell the peer which address its packets
/// will come from. The peer has to do it too; one that does not is not harmed. `docs/hard-nats.md` has what each costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardNats {
    /// Where ports come in sequence, the next ones are told, tried, and looked up anew.
    pub prediction: bool,
    /// Where they do not, and the peer's mapping is endpoint-independent: many sockets on this side, many checks on the
    /// other.
    pub birthday: bool,
    /// This host's ports are told at the public address too, in case that the NAT keeps them or somebody forwards them.
    pub optimistic: bool,
}

impl HardNats {
    /// All of it.
    pub const ALL: HardNats = HardNats { prediction: true, birthday: true, optimistic: true };
    /// Nothing beyond RFC 8445.
    pub const OFF: HardNats = HardNats { prediction: false, birthday: false, optimistic: false };
}

impl Default for HardNats {
    fn default() -> Self {
        HardNats::ALL
    }
}

/// How fast, and how patient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// Ta: the time between two new transactions, over all checks and all gathering. Never less than 5 ms (RFC 8445,
    /// section 14.2), whatever stands here.
    pub pacing: Duration,
    /// So many transactions may be ahead of that pace, 5 ms apart. With 0 the pace is RFC 8445's and no other.
    pub burst: u32,
    /// The least RTO of a check (RFC 8445, section 14.3).
    pub rto: Duration,
    /// How long the controlling agent, when a relayed pair works, waits for a direct one before it nominates. Data
    /// flows meanwhile, and a direct pair that works later is nominated then.
    pub relay_patience: Duration,
    /// How long an agent keeps trying before it says that it has failed, even with nothing left to try: the PAC timer
    /// (RFC 8863, section 4).
    pub patience: Duration,
    /// After so long, gathering is said to be complete even if a server has not answered yet.
    pub gathering: Duration,
    /// Once a server has answered and all have been asked, the others get so long.
    pub gathering_grace: Duration,
    /// The time between two consent checks, before it is randomised by ± 20 % (RFC 7675, section 5.1).
    pub consent_interval: Duration,
    /// What that time grows to while no data passes and the NAT keeps the mapping. With 24 s at most, and asks that are
    /// repeated when there is no answer, consent does not expire meanwhile.
    pub idle_interval: Duration,
    /// Without consent for so long, the agent stops sending (RFC 7675, section 5.1).
    pub consent_timeout: Duration,
    /// While data is sent and nothing comes back for so long, though the peer was asked, the agent says that it is
    /// disconnected, and tries other pairs.
    pub silence: Duration,
    /// The same where nothing but consent checks goes without an answer.
    pub disconnected: Duration,
    /// How often a server-reflexive candidate's mapping is kept open until a pair is selected (RFC 8445, section 11).
    pub keepalive: Duration,
}

impl Timings {
    /// "The agent MUST NOT use a Ta value smaller than 5 ms" (RFC 8445, section 14.2).
    pub const MIN_PACING: Duration = Duration::from_millis(5);
}

impl Default for Timings {
    fn default() -> Self {
        Timings {
            pacing: Duration::from_millis(50),
            burst: 32,
            rto: Duration::from_millis(500),
            relay_patience: Duration::from_secs(1),
            patience: Duration::from_millis(39_500),
            gathering: Duration::from_secs(5),
            gathering_grace: Duration::from_secs(1),
            consent_interval: Duration::from_secs(5),
            idle_interval: Duration::from_secs(20),
            consent_timeout: Duration::from_secs(30),
            silence: Duration::from_millis(2500),
            disconnected: Duration::from_secs(5),
            keepalive: Duration::from_secs(15),
        }
    }
}

/// What an agent is told at its birth.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Who nominates.
    pub role: Role,
    /// Made from the seed if not given.
    pub credentials: Option<Credentials>,
    /// Whether this is a lite implementation (RFC 8445, section 2.5), as a host with public addresses may be: it has host
    /// candidates only, sends no checks, and is controlled by any full peer.
    pub lite: bool,
    /// How many components each data stream has: from 1 to 256, of 256 streams at most. By default there is one stream
    /// of one component.
    pub streams: Vec<u16>,
    /// STUN servers, over UDP.
    pub stun: Vec<SocketAddr>,
    /// TURN servers; each is a STUN server as well.
    pub turn: Vec<TurnServer>,
    /// Which kinds of candidates may be used.
    pub policy: Policy,
    /// Which of them, if not all.
    pub filter: CandidateFilter,
    /// How this host's addresses are known outside, if it stands behind a 1:1 NAT.
    pub external_addresses: Vec<ExternalAddress>,
    /// Under what the network's NAT64 lets IPv6 hosts reach IPv4 ones, if it has one: see
    /// [`Agent::set_nat64`](super::Agent::set_nat64). For hosts that have no IPv4 of their own.
    pub nat64: Option<Nat64Prefix>,
    /// Of which families relayed candidates are wanted; [`Families::Both`] by default.
    pub relayed_families: Families,
    /// Whether allocations are to be kept when what carried them goes, where the server lets them be moved (RFC 8016). A
    /// server that forbids it costs a round trip.
    pub mobility: bool,
    /// What is done where a NAT's mapping depends on the destination; all by default.
    pub hard_nats: HardNats,
    /// A pace that this agent has in common with others; by default it has none.
    pub shared_pace: Option<SharedPace>,
    /// How fast, and how patient.
    pub timings: Timings,
}

impl AgentConfig {
    /// An agent for one component, without servers.
    pub fn new(role: Role) -> AgentConfig {
        AgentConfig {
            role,
            credentials: None,
            lite: false,
            streams: vec![1],
            stun: Vec::new(),
            turn: Vec::new(),
            policy: Policy::All,
            relayed_families: Families::Both,
            mobility: true,
            hard_nats: HardNats::ALL,
            filter: CandidateFilter::default(),
            external_addresses: Vec::new(),
            nat64: None,
            shared_pace: None,
            timings: Timings::default(),
        }
    }
}
