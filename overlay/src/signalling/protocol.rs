//! The messages between a node and a signalling server: JSON, one object in a WebSocket text frame.
//!
//! ```text
//! node                                                       server
//!   │◄── {"type":"challenge","version":1,"nonce":…}             │  on opening
//!   │    {"type":"prove","version":1,"node":…,"server":…,       │
//!   │     "signature":…} ──────────────────────────────────────►│  within ten seconds
//!   │◄── {"type":"welcome","ice_servers":[…]}                   │
//!   │    {"type":"send","to":…,"payload":…} ───────────────────►│──► {"type":"deliver","from":…,"payload":…}
//!   │◄── {"type":"undeliverable","to":…,"reason":"offline"}     │
//!   │    {"type":"refresh"} ───────────────────────────────────►│
//!   │◄── {"type":"ice_servers","ice_servers":[…]}               │
//!   │◄── {"type":"error","reason":"malformed","detail":…}       │
//! ```
//!
//! Fields that are not known are ignored; a message type that is not known is answered with an error and nothing else.
//! Keys are z-base-32 ([`NodeId`]); nonces, signatures and payloads are base64.

use std::fmt;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::encoding::{base64_array, base64_bytes};
use crate::identity::{BadSignature, Domain, NodeId, NodeKey};

/// The version of this protocol, which a proof binds.
pub const VERSION: u32 = 1;

/// The path of the WebSocket.
pub const PATH: &str = "/v1/signal";

/// Most bytes of a frame.
pub const MAX_FRAME: usize = 32 * 1024;

/// Most bytes of a payload, before base64: a sealed message fits.
pub const MAX_PAYLOAD: usize = crate::seal::MAX_SEALED;

const PROOF: Domain = Domain::new("signalling-proof-v1");

/// What a node says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ClientMessage {
    /// Answers the challenge.
    Prove(Proof),
    /// Asks to carry a message.
    Send {
        /// Whom to.
        to: NodeId,
        /// What.
        payload: Payload,
    },
    /// Asks for fresh ICE servers.
    Refresh,
    /// A message of a later build.
    #[serde(other)]
    Unknown,
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ServerMessage {
    /// Asks the node to prove its key.
    Challenge {
        /// The version that the server speaks.
        version: u32,
        /// What to sign: never used twice.
        nonce: Nonce,
    },
    /// The proof holds: the node is online.
    Welcome {
        /// STUN and TURN servers for it.
        #[serde(default)]
        ice_servers: Vec<IceServer>,
    },
    /// Answers `refresh`.
    IceServers {
        /// STUN and TURN servers, with fresh credentials.
        ice_servers: Vec<IceServer>,
    },
    /// Carries a message.
    Deliver {
        /// Who sent it: the server has seen the proof.
        from: NodeId,
        /// What.
        payload: Payload,
    },
    /// A message was not carried.
    Undeliverable {
        /// Whom it was for.
        to: NodeId,
        /// Why.
        reason: UndeliverableReason,
    },
    /// Something was refused.
    Error {
        /// Why, for programs.
        reason: ErrorReason,
        /// Why and what to do, for people.
        #[serde(default)]
        detail: String,
    },
    /// A message of a later build.
    #[serde(other)]
    Unknown,
}

/// A message as text. `Debug` shows its length only, for it may hold credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame(String);

impl Frame {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, to send.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({} bytes)", self.0.len())
    }
}

impl ClientMessage {
    /// The message as a frame.
    pub fn to_frame(&self) -> Frame {
        to_frame(self)
    }

    /// Reads a frame.
    pub fn from_frame(text: &str) -> Result<ClientMessage, FrameError> {
        from_frame(text)
    }
}

impl ServerMessage {
    /// The message as a frame.
    pub fn to_frame(&self) -> Frame {
        to_frame(self)
    }

    /// Reads a frame.
    pub fn from_frame(text: &str) -> Result<ServerMessage, FrameError> {
        from_frame(text)
    }
}

/// Why a frame was not read. The fault is with who sent it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// More than [`MAX_FRAME`] bytes.
    #[error("a frame of {size} bytes: {MAX_FRAME} are allowed")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
    },
    /// Not JSON, or a known message with a field that is missing or wrong. Says where, and shows nothing of the frame.
    #[error("not a signalling message, at column {column}")]
    Malformed {
        /// The column where reading ended.
        column: usize,
    },
}

/// 32 bytes that a server makes for one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nonce(#[serde(with = "base64_array")] pub [u8; 32]);

/// Shows that a node holds its key, to one server and on one connection.
///
/// What is signed is `version (4, big-endian) ‖ nonce (32) ‖ server`, where `server` is the `host:port` that the node
/// dialled. A server that knows its names refuses any other, so a proof given to a server that hands it on is worthless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The version that the node speaks.
    pub version: u32,
    /// Who it is.
    pub node: NodeId,
    /// The server that it dialled, as `host:port`.
    pub server: String,
    /// The signature (RFC 8032, section 5.1.6).
    #[serde(with = "base64_array")]
    pub signature: [u8; 64],
}

impl Proof {
    /// Answers the challenge `nonce` of the server that was dialled as `server` ([`authority`]).
    ///
    /// [`authority`]: super::ServerUrl::authority
    pub fn new(key: &NodeKey, nonce: &Nonce, server: &str) -> Proof {
        let signature = key.sign(PROOF, &signed(VERSION, nonce, server));
        Proof { version: VERSION, node: key.id(), server: server.to_owned(), signature }
    }

    /// Whether it answers `nonce`. That it is for this server is another question.
    pub fn verify(&self, nonce: &Nonce) -> Result<(), BadSignature> {
        self.node.verify(PROOF, &signed(self.version, nonce, &self.server), &self.signature)
    }
}

/// Bytes that the server carries and cannot read. `Debug` shows their number only.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(Vec<u8>);

impl Payload {
    /// Takes at most [`MAX_PAYLOAD`] bytes; gives the size back when there are more.
    pub fn new(bytes: Vec<u8>) -> Result<Payload, usize> {
        if bytes.len() <= MAX_PAYLOAD { Ok(Payload(bytes)) } else { Err(bytes.len()) }
    }

    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        base64_bytes::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Payload, D::Error> {
        Payload::new(base64_bytes::deserialize(deserializer)?)
            .map_err(|_| D::Error::custom("the payload is too large"))
    }
}

/// STUN or TURN servers as WebRTC's `RTCIceServer` names them, and for how long. `Debug` shows no credential.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceServer {
    /// `stun:` and `turn:` URIs (RFC 7064, RFC 7065).
    pub urls: Vec<String>,
    /// The username, for TURN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The password, for TURN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// Seconds for which the credentials are valid; absent when they do not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u32>,
}

impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceServer")
            .field("urls", &self.urls)
            .field("username", &self.username)
            .field("credential", &self.credential.as_ref().map(|_| "…"))
            .field("ttl_seconds", &self.ttl_seconds)
            .finish()
    }
}

/// Why a message was not carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UndeliverableReason {
    /// The node is not connected to this server.
    Offline,
    /// Too much waits for the node already: try again in a while.
    Busy,
    /// Another reason, of a later build.
    #[serde(other)]
    Unknown,
}

/// Why the server refused something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorReason {
    /// Not a message. The connection stays.
    Malformed,
    /// A message that this server does not know, or not at this time. The connection stays.
    Unsupported,
    /// Messages come too quickly; those over the rate are dropped. The connection stays.
    RateLimited,
    /// A frame is too large. The connection ends, as it does for all that follow.
    TooLarge,
    /// Another version of the protocol.
    Version,
    /// The first message was not a proof.
    ProofExpected,
    /// The proof does not hold.
    BadProof,
    /// The proof is for another server.
    WrongServer,
    /// No proof came in time.
    TimedOut,
    /// The node has connected again elsewhere.
    Replaced,
    /// The server, or the part of it for this source, is full.
    Full,
    /// What the server sent was not read.
    SlowReader,
    /// The server ends: connect again.
    ShuttingDown,
    /// Another reason, of a later build.
    #[serde(other)]
    Unknown,
}

fn signed(version: u32, nonce: &Nonce, server: &str) -> Vec<u8> {
    [version.to_be_bytes().as_slice(), &nonce.0, server.as_bytes()].concat()
}

fn to_frame(message: &impl Serialize) -> Frame {
    #[expect(
        clippy::expect_used,
        reason = "strings, numbers and lists of them: nothing that JSON cannot hold"
    )]
    let text = serde_json::to_string(message).expect("a message is JSON");
    Frame(text)
}

fn from_frame<M: DeserializeOwned>(text: &str) -> Result<M, FrameError> {
    if text.len() > MAX_FRAME {
        return Err(FrameError::TooLarge { size: text.len() });
    }
    serde_json::from_str(text).map_err(|error| FrameError::Malformed { column: error.column() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> NodeKey {
        NodeKey::from_seed(&[1; 32])
    }

    #[test]
    fn a_proof_binds_node_nonce_server_and_version() {
        let proof = Proof::new(&key(), &Nonce([7; 32]), "example.org:3480");
        assert_eq!(proof.verify(&Nonce([7; 32])), Ok(()));
        assert_eq!(proof.verify(&Nonce([8; 32])), Err(BadSignature));
        let changed = |change: fn(&mut Proof)| {
            let mut proof = proof.clone();
            change(&mut proof);
            proof.verify(&Nonce([7; 32]))
        };
        assert_eq!(changed(|proof| proof.server = "example.com:3480".into()), Err(BadSignature));
        assert_eq!(changed(|proof| proof.version = 2), Err(BadSignature));
        assert_eq!(changed(|proof| proof.node = NodeKey::from_seed(&[2; 32]).id()), Err(BadSignature));
    }

    #[test]
    fn messages_round_trip_as_text() {
        let payload = Payload::new(vec![3; MAX_PAYLOAD]).unwrap();
        for message in [
            ClientMessage::Prove(Proof::new(&key(), &Nonce([7; 32]), "example.org:3480")),
            ClientMessage::Send { to: key().id(), payload: payload.clone() },
            ClientMessage::Refresh,
        ] {
            let frame = message.to_frame();
            assert!(frame.as_str().len() <= MAX_FRAME);
            assert_eq!(ClientMessage::from_frame(frame.as_str()), Ok(message));
        }
        for message in [
            ServerMessage::Challenge { version: VERSION, nonce: Nonce([7; 32]) },
            ServerMessage::Deliver { from: key().id(), payload },
            ServerMessage::Undeliverable { to: key().id(), reason: UndeliverableReason::Offline },
            ServerMessage::Error { reason: ErrorReason::BadProof, detail: String::new() },
        ] {
            assert_eq!(ServerMessage::from_frame(message.to_frame().as_str()), Ok(message));
        }
    }

    #[test]
    fn the_form_on_the_wire_is_this() {
        let id = key().id();
        let send = ClientMessage::Send { to: id, payload: Payload::new(b"hello".into()).unwrap() };
        assert_eq!(
            send.to_frame().into_string(),
            format!(r#"{{"type":"send","to":"{id}","payload":"aGVsbG8="}}"#)
        );
        assert_eq!(ClientMessage::Refresh.to_frame().as_str(), r#"{"type":"refresh"}"#);
        let welcome = ServerMessage::Welcome {
            ice_servers: vec![IceServer {
                urls: vec!["turn:example.org:3478".into()],
                username: Some("1:a".into()),
                credential: Some("c".into()),
                ttl_seconds: Some(600),
            }],
        };
        assert_eq!(
            welcome.to_frame().as_str(),
            concat!(
                r#"{"type":"welcome","ice_servers":[{"urls":["turn:example.org:3478"],"#,
                r#""username":"1:a","credential":"c","ttl_seconds":600}]}"#
            )
        );
    }

    #[test]
    fn later_builds_are_understood_as_far_as_possible() {
        assert_eq!(ClientMessage::from_frame(r#"{"type":"refresh","x":[1]}"#), Ok(ClientMessage::Refresh));
        assert_eq!(ClientMessage::from_frame(r#"{"type":"dance","x":[1]}"#), Ok(ClientMessage::Unknown));
        assert_eq!(ServerMessage::from_frame(r#"{"type":"dance"}"#), Ok(ServerMessage::Unknown));
        assert_eq!(
            ServerMessage::from_frame(r#"{"type":"error","reason":"moody"}"#),
            Ok(ServerMessage::Error { reason: ErrorReason::Unknown, detail: String::new() })
        );
    }

    #[test]
    fn malformed_and_oversize_frames_are_refused() {
        for text in ["", "[]", "{}", r#"{"type":1}"#, r#"{"type":"prove"}"#, r#"{"type":"send","to":"x"}"#] {
            assert!(matches!(ClientMessage::from_frame(text), Err(FrameError::Malformed { .. })), "{text}");
        }
        let size = MAX_FRAME + 1;
        assert_eq!(ClientMessage::from_frame(&" ".repeat(size)), Err(FrameError::TooLarge { size }));
        let large = data_encoding::BASE64.encode(&[0; MAX_PAYLOAD + 1]);
        let text = format!(r#"{{"type":"send","to":"{}","payload":"{large}"}}"#, key().id());
        assert!(matches!(ClientMessage::from_frame(&text), Err(FrameError::Malformed { .. })));
        assert_eq!(Payload::new(vec![0; MAX_PAYLOAD + 1]), Err(MAX_PAYLOAD + 1));
    }

    #[test]
    fn debug_shows_no_secret() {
        let server =
            IceServer { urls: vec![], username: None, credential: Some("secret".into()), ttl_seconds: None };
        let message = ServerMessage::Welcome { ice_servers: vec![server] };
        assert!(!format!("{message:?} {:?}", message.to_frame()).contains("secret"));
        let payload = Payload::new(b"secret".into()).unwrap();
        assert_eq!(format!("{payload:?}"), "Payload(6 bytes)");
    }

    proptest! {
        #[test]
        fn junk_never_panics(text in ".{0,300}") {
            let _ = ClientMessage::from_frame(&text);
            let _ = ServerMessage::from_frame(&text);
        }
    }
}
