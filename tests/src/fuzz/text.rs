//! Text from people, files and peers.

use std::path::Path;

use thirl_common::config::{ConfigError, Key, Source, Values, parse};
use thirl_common::net::Transport;
use thirl_common::uri::{Host, ServerUri};
use thirl_ice_agent::candidate::Candidate;
use thirl_ice_agent::driver::{Description, HttpProxy};
use thirl_ice_agent::nat::{PairPath, predict};
use thirl_ice_agent::sdp::IceDescription;
use thirl_overlay::Ticket;
use thirl_overlay::session::{Body, SessionMessage};
use thirl_overlay::signalling::protocol::{ClientMessage, ServerMessage};

/// A URI is printed as one that is read as the same.
pub fn uri(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(uri) = text.parse::<ServerUri>() else { return };
    let printed = uri.to_string();
    assert_eq!(printed.parse().as_ref(), Ok(&uri), "{printed}");
    assert_eq!(matches!(uri.transport(), Transport::Tls | Transport::Dtls), uri.scheme.is_secure());
    assert_ne!(uri.port, 0);
}

/// A proxy's URL is printed, without its secrets, as one that is read as the same proxy; any list of exceptions can be asked.
pub fn http_proxy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (text, except) = text.split_once('\n').unwrap_or((text, ""));
    let Ok(proxy) = text.parse::<HttpProxy>() else { return };
    let proxy = proxy.except(except);
    let printed = proxy.to_string();
    assert_eq!(printed.parse::<HttpProxy>().unwrap().to_string(), printed);
    let hosts =
        [Host::Name("turn.example".to_owned()), Host::Ip(std::net::Ipv4Addr::new(10, 1, 2, 3).into())];
    let served = hosts.map(|host| proxy.serves(&host));
    if except.split(',').any(|host| host.trim() == "*") {
        assert_eq!(served, [false; 2]);
    }
}

/// A description in JSON is written as one that is read as the same.
pub fn description(data: &[u8]) {
    let Ok(description) = serde_json::from_slice::<Description>(data) else { return };
    let written = serde_json::to_vec(&description).unwrap();
    assert_eq!(serde_json::from_slice::<Description>(&written).unwrap(), description);
}

/// Longer lines are refused.
const MAX_CANDIDATE_LINE: usize = 1024;

/// A `candidate:` line is printed as one that is read as the same, and what the strict reader takes the lenient one
/// reads alike.
pub fn candidate(data: &[u8]) {
    let Ok(line) = std::str::from_utf8(data) else { return };
    let lenient = Candidate::parse(line);
    if let Ok(strict) = Candidate::parse_strict(line) {
        assert_eq!(lenient.as_ref(), Ok(&strict));
    }
    let Ok(candidate) = lenient else { return };
    let printed = candidate.to_string();
    // Printing names the port of a related address that had none, which may take the line beyond what is read.
    if printed.len() > MAX_CANDIDATE_LINE {
        return;
    }
    assert_eq!(Candidate::parse(&printed), Ok(candidate), "{printed}");
}

/// What SDP says about ICE is printed as what is read as the same, and is bounded.
pub fn sdp(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let description = IceDescription::parse(text);
    assert!(description.streams.len() <= 256);
    let printed = description.to_string();
    // A candidate that grows in printing may become too long to be read.
    if printed.lines().any(|line| line.len() > MAX_CANDIDATE_LINE) {
        return;
    }
    let again = IceDescription::parse(&printed);
    assert_eq!(again, IceDescription { skipped: Vec::new(), ..description }, "{printed}");
}

/// A ticket has one spelling.
pub fn ticket(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(ticket) = text.parse::<Ticket>() {
        assert_eq!(ticket.to_string(), text.trim());
    }
}

/// A session message is written as one that is read as the same.
pub fn session(data: &[u8]) {
    let Ok(message) = SessionMessage::decode(data) else { return };
    let written = message.encode().unwrap();
    assert_eq!(SessionMessage::decode(&written).as_ref(), Ok(&message));
}

/// What two sides tell of their networks, a line each: the verdict about the pair is the same from both sides, and hiding
/// addresses leaves facts that can be.
pub fn facts(data: &[u8]) {
    let mut told =
        data.split(|byte| *byte == b'\n').filter_map(|line| match SessionMessage::decode(line).ok()?.body {
            Body::Diagnosis { facts } => Some(*facts),
            _ => None,
        });
    let Some(one) = told.next() else { return };
    let other = told.next().unwrap_or_else(|| one.clone());
    let [here, there] = [predict(&one, &other), predict(&other, &one)];
    assert_eq!((here.path, here.way, here.confidence), (there.path, there.way, there.confidence));
    assert_eq!(here.why.len(), there.why.len());
    let hidden = one.relay_only();
    assert_eq!(hidden.check(), Ok(()));
    assert_ne!(predict(&hidden, &other).path, PairPath::Direct);
}

/// So is a message to or from a signalling server.
pub fn signalling(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(message) = ClientMessage::from_frame(text) {
        assert_eq!(ClientMessage::from_frame(message.to_frame().as_str()).as_ref(), Ok(&message));
    }
    if let Ok(message) = ServerMessage::from_frame(text) {
        assert_eq!(ServerMessage::from_frame(message.to_frame().as_str()).as_ref(), Ok(&message));
    }
}

const SECRET: &str = "correct-horse-battery-staple";

const KEYS: &[Key] = &[
    Key::single("listening-port", "PORT", ""),
    Key::list("listening-ip", "IP", ""),
    Key::single("max-allocations", "NUMBER", ""),
    Key::single("verbose", "BOOLEAN", ""),
    Key::list("user", "NAME:PASSWORD", ""),
];

/// A settings file is refused with a line of it, which moves with the text, and no refusal tells a password that stands
/// there.
pub fn settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // The second user has no name, so a file that is good otherwise is refused too.
    let file = format!("user = [\"alice:{SECRET}\", \"{SECRET}\"]\n{text}");
    let line = refused_line(&file);
    assert!((1..=file.split('\n').count()).contains(&line), "line {line}");
    assert_eq!(refused_line(&format!("# moves down\n{file}")), line + 1);
}

fn refused_line(file: &str) -> usize {
    let Err(error) = read(file) else { panic!("a user without a name is taken") };
    let shown = format!("{error}\n{error:?}");
    assert!(!shown.contains(SECRET), "a refusal tells a password: {shown}");
    match error {
        ConfigError::Value { at: Source::File { line, .. }, .. }
        | ConfigError::Syntax { at: Source::File { line, .. }, .. } => line,
        other => panic!("refused for another reason than the text: {other}"),
    }
}

fn read(text: &str) -> Result<(), ConfigError> {
    let values = Values::from_file(KEYS, Path::new("thirl.toml"), text)?;
    values.one("listening-port", parse::port)?;
    values.all("listening-ip", parse::ip)?;
    values.one("max-allocations", parse::number(1, 1000))?;
    values.one("verbose", parse::boolean)?;
    values.all("user", parse::user)?;
    Ok(())
}
