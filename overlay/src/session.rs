//! What two nodes say to each other through signalling to open a path: ICE descriptions and candidates.
//!
//! A [`SessionMessage`] names its session by a random [`SessionId`], is [sealed](SessionMessage::seal) for the other
//! node, and then goes into [`Signalling`](crate::signalling::Signalling). Candidates and credentials are the strings of
//! SDP (RFC 8839, section 5), so that any ICE agent can take them. Trickle is allowed (RFC 8838): an offer or an answer
//! may carry some or no candidates, `candidates` carries more, `end_of_candidates` ends them.
//!
//! ```text
//! dialler                       listener
//!   │ offer {description, nat} ───►│
//!   │◄─── answer {description, nat}│
//!   │◄── candidates ──────────────►│   any number, both ways
//!   │◄── end_of_candidates ───────►│
//!   │        … a path …            │
//!   │◄── restart {description} ───►│   answered with answer
//!   │◄── bye {reason} ────────────►│
//! ```
//!
//! A session can also be one question, which opens no path:
//!
//! ```text
//!   │ diagnose ───────────────────►│
//!   │◄── diagnosing {at_most_s}    │   at once
//!   │◄── diagnosis {facts}         │   or bye {reason}
//! ```
//!
//! A carrier may repeat messages. A repeated offer opens a session that the dialler no longer knows, so whoever listens
//! remembers the ids it has seen for as long as an attempt lasts.

use std::fmt;

use serde::{Deserialize, Serialize};
use thirl_ice_agent::nat::{Facts, InvalidFacts};

use crate::encoding::base64_array;
use crate::identity::{NodeId, NodeKey};
use crate::seal;

/// The version of these messages.
pub const VERSION: u32 = 1;

/// Most candidates in one message.
pub const MAX_CANDIDATES: usize = 64;

/// Most bytes of one candidate.
pub const MAX_CANDIDATE: usize = 256;

/// Bytes of an ICE user fragment (RFC 8839, section 5.4).
pub const UFRAG_LENGTH: std::ops::RangeInclusive<usize> = 4..=256;

/// Bytes of an ICE password (RFC 8839, section 5.4).
pub const PWD_LENGTH: std::ops::RangeInclusive<usize> = 22..=256;

/// The name of a session: 128 random bits, made by the dialler.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(#[serde(with = "base64_array")] [u8; 16]);

impl SessionId {
    /// The id made of 16 bytes from the system's random generator.
    pub fn from_bytes(bytes: [u8; 16]) -> SessionId {
        SessionId(bytes)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// One message of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionMessage {
    /// Which session it is about.
    pub session: SessionId,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Body {
    /// Opens a session. Its sender is the controlling agent (RFC 8445, section 6.1.1).
    Offer {
        /// The dialler's description.
        description: Description,
        /// What the dialler knows of its NAT.
        #[serde(default)]
        nat: NatHint,
    },
    /// Accepts an offer or a restart.
    Answer {
        /// The answerer's description.
        description: Description,
        /// What the answerer knows of its NAT.
        #[serde(default)]
        nat: NatHint,
    },
    /// More candidates of the description that was sent last.
    Candidates {
        /// The user fragment of that description: candidates of an earlier one are void (RFC 8838, section 4.4).
        ufrag: String,
        /// The candidates.
        candidates: Vec<Candidate>,
    },
    /// No more candidates will come for that description.
    EndOfCandidates {
        /// The user fragment of that description.
        ufrag: String,
        /// What its sender has learnt of its NAT while gathering.
        #[serde(default)]
        nat: NatHint,
    },
    /// Starts ICE anew within the session (RFC 8445, section 2.4). The path in use is kept until a new one is found.
    Restart {
        /// The new description.
        description: Description,
        /// What its sender now knows of its NAT.
        #[serde(default)]
        nat: NatHint,
    },
    /// Ends the session, or refuses it.
    Bye {
        /// Why.
        #[serde(default)]
        reason: ByeReason,
    },
    /// Asks for the facts of the network that its receiver is in.
    Diagnose,
    /// They are being measured.
    Diagnosing {
        /// How long that takes at the most, in seconds.
        at_most_s: u16,
    },
    /// The facts.
    Diagnosis {
        /// What the sender measured.
        facts: Box<Facts>,
    },
    /// A message of a later build: ignored.
    #[serde(other)]
    Unknown,
}

/// The ICE credentials of one side and candidates to begin with. `Debug` shows no password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// `ice-ufrag`.
    pub ufrag: String,
    /// `ice-pwd`.
    pub pwd: String,
    /// Candidates known so far; none when all of them trickle.
    #[serde(default)]
    pub candidates: Vec<Candidate>,
}

impl fmt::Debug for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Description")
            .field("ufrag", &self.ufrag)
            .field("pwd", &"…")
            .field("candidates", &self.candidates)
            .finish()
    }
}

/// `candidate:…`, an attribute line of RFC 8839, section 5.1, without `a=`.
pub type Candidate = String;

/// What a node knows of its NAT, so that each side can say why a path is relayed. `None`: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatHint {
    /// Whether the mapping depends on the destination (RFC 4787, section 4.1, "address-dependent" and worse).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping_depends_on_destination: Option<bool>,
    /// Whether no UDP passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp_blocked: Option<bool>,
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ByeReason {
    /// It is no longer needed.
    Done,
    /// No path was found.
    NoPath,
    /// The node takes no more sessions now.
    Busy,
    /// The node does not talk to that node.
    NotAllowed,
    /// The session is not known, for instance after a restart of the program.
    UnknownSession,
    /// Another reason, of a later build.
    #[default]
    #[serde(other)]
    Unknown,
}

impl SessionMessage {
    /// Encodes the message and seals it from `from` for `to`. `seed` as for [`seal::seal`].
    pub fn seal(&self, from: &NodeKey, to: NodeId, seed: &[u8; 32]) -> Result<Vec<u8>, SessionError> {
        Ok(seal::seal(from, to, &self.encode()?, seed)?)
    }

    /// Opens and decodes what `from` sealed for `me`.
    pub fn open(me: &NodeKey, from: NodeId, sealed: &[u8]) -> Result<SessionMessage, SessionError> {
        SessionMessage::decode(&seal::open(me, from, sealed)?)
    }

    /// The message as JSON, refused if it is beyond a bound.
    pub fn encode(&self) -> Result<Vec<u8>, SessionError> {
        self.body.check()?;
        let envelope = Envelope { version: VERSION, session: self.session, body: &self.body };
        serde_json::to_vec(&envelope).map_err(|_| SessionError::Malformed)
    }

    /// Reads a message. Fields that are not known are ignored.
    pub fn decode(bytes: &[u8]) -> Result<SessionMessage, SessionError> {
        if bytes.len() > seal::MAX_PLAINTEXT {
            return Err(SessionError::Bound { what: "message", most: seal::MAX_PLAINTEXT });
        }
        let Version { version } = serde_json::from_slice(bytes).map_err(|_| SessionError::Malformed)?;
        if version != VERSION {
            return Err(SessionError::Version { found: version });
        }
        let envelope: Envelope<Body> = serde_json::from_slice(bytes).map_err(|_| SessionError::Malformed)?;
        envelope.body.check()?;
        Ok(SessionMessage { session: envelope.session, body: envelope.body })
    }
}

impl Body {
    fn check(&self) -> Result<(), SessionError> {
        match self {
            Body::Offer { description, .. }
            | Body::Answer { description, .. }
            | Body::Restart { description, .. } => {
                check_credential("ice-ufrag", &description.ufrag, UFRAG_LENGTH)?;
                check_credential("ice-pwd", &description.pwd, PWD_LENGTH)?;
                check_candidates(&description.candidates)
            }
            Body::Candidates { ufrag, candidates } => {
                check_credential("ice-ufrag", ufrag, UFRAG_LENGTH)?;
                check_candidates(candidates)
            }
            Body::EndOfCandidates { ufrag, .. } => check_credential("ice-ufrag", ufrag, UFRAG_LENGTH),
            Body::Diagnosis { facts } => Ok(facts.check()?),
            Body::Bye { .. } | Body::Diagnose | Body::Diagnosing { .. } | Body::Unknown => Ok(()),
        }
    }
}

/// Why a message was not sent or not taken. When it was received, the fault is the sender's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// Not a message.
    #[error("not a session message")]
    Malformed,
    /// Of a version that this build does not know.
    #[error(
        "a session message of version {found}, this build knows {VERSION}: update the older of the two nodes"
    )]
    Version {
        /// Its version.
        found: u32,
    },
    /// Larger than a message may be.
    #[error("the {what} is larger than {most}")]
    Bound {
        /// What is too large.
        what: &'static str,
        /// The most it may be, in bytes, or in items for a list.
        most: usize,
    },
    /// Not what SDP allows.
    #[error("the {what} is not what RFC 8839 allows")]
    Syntax {
        /// What is wrong.
        what: &'static str,
    },
    /// What a side tells of its network cannot be.
    #[error(transparent)]
    Facts(#[from] InvalidFacts),
    /// It could not be sealed.
    #[error(transparent)]
    Seal(#[from] seal::SealError),
    /// It could not be opened.
    #[error(transparent)]
    Open(#[from] seal::OpenError),
}

#[derive(Serialize, Deserialize)]
struct Envelope<B> {
    version: u32,
    session: SessionId,
    #[serde(flatten)]
    body: B,
}

/// Read first: the rest of another version may be anything.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// `ice-char`: letters, digits, `+` and `/` (RFC 8839, section 5.4).
fn check_credential(
    what: &'static str,
    text: &str,
    length: std::ops::RangeInclusive<usize>,
) -> Result<(), SessionError> {
    let ice_char = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    if text.len() > *length.end() {
        return Err(SessionError::Bound { what, most: *length.end() });
    }
    if text.len() < *length.start() || !text.bytes().all(ice_char) {
        return Err(SessionError::Syntax { what });
    }
    Ok(())
}

fn check_candidates(candidates: &[Candidate]) -> Result<(), SessionError> {
    if candidates.len() > MAX_CANDIDATES {
        return Err(SessionError::Bound { what: "list of candidates", most: MAX_CANDIDATES });
    }
    for candidate in candidates {
        if candidate.len() > MAX_CANDIDATE {
            return Err(SessionError::Bound { what: "candidate", most: MAX_CANDIDATE });
        }
        let printable = candidate.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if !printable || !candidate.starts_with("candidate:") {
            return Err(SessionError::Syntax { what: "candidate" });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CANDIDATE: &str = "candidate:1 1 udp 2130706431 192.0.2.1 40000 typ host";

    fn description(candidates: usize) -> Description {
        Description {
            ufrag: "8hhY".into(),
            pwd: "asd88fgpdd777uzjYhagZg".into(),
            candidates: vec![CANDIDATE.into(); candidates],
        }
    }

    fn message(body: Body) -> SessionMessage {
        SessionMessage { session: SessionId::from_bytes([7; 16]), body }
    }

    fn facts() -> Facts {
        let ipv4 = r#"{"udp":true,"mapping":["EIM"],"filtering":["ADF","APDF"],"external":"198.51.100.1"}"#;
        serde_json::from_str(&format!(r#"{{"version":1,"ipv4":{ipv4}}}"#)).unwrap()
    }

    fn offer(description: Description) -> SessionMessage {
        let nat = NatHint { mapping_depends_on_destination: Some(true), udp_blocked: None };
        message(Body::Offer { description, nat })
    }

    #[test]
    fn the_form_on_the_wire_is_this() {
        let json = String::from_utf8(offer(description(1)).encode().unwrap()).unwrap();
        let expected = [
            r#"{"version":1,"session":"BwcHBwcHBwcHBwcHBwcHBw==","type":"offer","#,
            r#""description":{"ufrag":"8hhY","pwd":"asd88fgpdd777uzjYhagZg","#,
            r#""candidates":["candidate:1 1 udp 2130706431 192.0.2.1 40000 typ host"]},"#,
            r#""nat":{"mapping_depends_on_destination":true}}"#,
        ];
        assert_eq!(json, expected.concat());
    }

    #[test]
    fn every_message_round_trips_sealed() {
        let (from, to) = (NodeKey::from_seed(&[1; 32]), NodeKey::from_seed(&[2; 32]));
        for body in [
            Body::Offer { description: description(0), nat: NatHint::default() },
            Body::Answer { description: description(3), nat: NatHint::default() },
            Body::Restart { description: description(MAX_CANDIDATES), nat: NatHint::default() },
            Body::Candidates { ufrag: "8hhY".into(), candidates: vec![CANDIDATE.into()] },
            Body::EndOfCandidates { ufrag: "8hhY".into(), nat: NatHint::default() },
            Body::Bye { reason: ByeReason::NoPath },
            Body::Diagnose,
            Body::Diagnosing { at_most_s: 60 },
            Body::Diagnosis { facts: Box::new(facts()) },
        ] {
            let sent = message(body);
            let sealed = sent.seal(&from, to.id(), &[3; 32]).unwrap();
            assert_eq!(SessionMessage::open(&to, from.id(), &sealed), Ok(sent));
        }
    }

    #[test]
    fn later_builds_are_understood_as_far_as_possible() {
        let session = r#""version":1,"session":"BwcHBwcHBwcHBwcHBwcHBw==""#;
        let decode = |rest: &str| SessionMessage::decode(format!("{{{session},{rest}}}").as_bytes());
        assert_eq!(decode(r#""type":"handover","x":{"y":1}"#), Ok(message(Body::Unknown)));
        let bye = message(Body::Bye { reason: ByeReason::Unknown });
        assert_eq!(decode(r#""type":"bye","reason":"bored","also":1"#), Ok(bye.clone()));
        assert_eq!(decode(r#""type":"bye""#), Ok(bye));
        assert_eq!(
            SessionMessage::decode(br#"{"version":2,"session":{}}"#),
            Err(SessionError::Version { found: 2 })
        );
    }

    #[test]
    fn bounds_and_syntax_hold_both_ways() {
        let with = |change: fn(&mut Description)| {
            let mut description = description(1);
            change(&mut description);
            let unchecked = serde_json::to_vec(&Envelope {
                version: VERSION,
                session: SessionId::from_bytes([7; 16]),
                body: &Body::Answer { description: description.clone(), nat: NatHint::default() },
            });
            let decoded = SessionMessage::decode(&unchecked.unwrap()).unwrap_err();
            assert_eq!(offer(description).encode().unwrap_err(), decoded);
            decoded
        };
        let bound = |what, most| SessionError::Bound { what, most };
        let syntax = |what| SessionError::Syntax { what };
        assert_eq!(with(|d| d.candidates = vec![CANDIDATE.into(); 65]), bound("list of candidates", 64));
        assert_eq!(with(|d| d.candidates[0] = format!("candidate:{:247}", 1)), bound("candidate", 256));
        assert_eq!(with(|d| d.candidates[0] = "end".into()), syntax("candidate"));
        assert_eq!(with(|d| d.candidates[0] += "\r\na=x"), syntax("candidate"));
        assert_eq!(with(|d| d.ufrag = "abc".into()), syntax("ice-ufrag"));
        assert_eq!(with(|d| d.ufrag = "ab d".into()), syntax("ice-ufrag"));
        assert_eq!(with(|d| d.pwd = "a".repeat(21)), syntax("ice-pwd"));
        assert_eq!(with(|d| d.pwd = "a".repeat(257)), bound("ice-pwd", 256));
    }

    #[test]
    fn facts_that_cannot_be_are_refused_both_ways() {
        let mut wrong = facts();
        wrong.ipv4.as_mut().unwrap().external = Some("::1".parse().unwrap());
        let body = Body::Diagnosis { facts: Box::new(wrong) };
        let session = SessionId::from_bytes([7; 16]);
        let unchecked = serde_json::to_vec(&Envelope { version: VERSION, session, body: &body }).unwrap();
        let refused = SessionError::Facts(InvalidFacts::Field { field: "external address" });
        assert_eq!(SessionMessage::decode(&unchecked), Err(refused.clone()));
        assert_eq!(message(body).encode(), Err(refused));
    }

    #[test]
    fn debug_shows_no_password() {
        let shown = format!("{:?}", offer(description(1)));
        assert!(!shown.contains(&description(1).pwd), "{shown}");
    }

    proptest! {
        #[test]
        fn junk_never_panics(junk in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(SessionMessage::decode(&junk).is_err());
        }
    }
}
