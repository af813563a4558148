//! aioice's module `stun`, in Python, by `tests/interop/aioice_stun.py`.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value as Json, json};
use thirl_tests::harness::Program;

use super::password;
use super::spec::{Class, Integrity, Spec, Value};

const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Aioice(Program);

/// The message with what it knows: no methods beyond ChannelBind, no integrity but SHA-1, and a fingerprint on whatever
/// is signed.
pub(crate) fn within(mut spec: Spec) -> Spec {
    spec.attributes.retain(|value| name(value).is_some());
    if ![1, 3, 4, 6, 7, 8, 9].contains(&spec.method) {
        spec.method = 1;
    }
    if spec.integrity != Integrity::None {
        spec.integrity = Integrity::Sha1;
        spec.fingerprint = true;
    }
    spec
}

impl Aioice {
    pub(crate) fn start(python: &Path) -> Aioice {
        let mut command = Command::new(python);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/interop/aioice_stun.py")).arg(password());
        Aioice(Program::spawn(command).unwrap().named("aioice"))
    }

    pub(crate) fn write(&mut self, spec: &Spec) -> Vec<u8> {
        let answer = self.ask(&json!({ "write": to_json(spec) }));
        let hex = answer["hex"].as_str().unwrap_or_else(|| panic!("{answer}"));
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    pub(crate) fn check(&mut self, spec: &Spec, bytes: &[u8]) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(self.ask(&json!({ "read": hex })), to_json(spec));
    }

    fn ask(&mut self, question: &Json) -> Json {
        self.0.write_line(&question.to_string()).unwrap();
        self.0.wait_for_json(LIMIT).unwrap()
    }
}

fn to_json(spec: &Spec) -> Json {
    let class = match spec.class {
        Class::Request => "REQUEST",
        Class::Indication => "INDICATION",
        Class::Success => "RESPONSE",
        Class::Error => "ERROR",
    };
    let id: String = spec.id.iter().map(|byte| format!("{byte:02x}")).collect();
    let attributes: Vec<_> =
        spec.attributes.iter().map(|value| json!([name(value), value_json(value)])).collect();
    json!({
        "class": class,
        "method": spec.method,
        "id": id,
        "attributes": attributes,
        "signed": spec.integrity == Integrity::Sha1,
        "fingerprint": spec.fingerprint,
    })
}

/// What it calls an attribute; `None` if it does not know it.
fn name(value: &Value) -> Option<&'static str> {
    Some(match value {
        Value::MappedAddress(_) => "MAPPED-ADDRESS",
        Value::XorMappedAddress(_) => "XOR-MAPPED-ADDRESS",
        Value::XorPeerAddress(_) => "XOR-PEER-ADDRESS",
        Value::XorRelayedAddress(_) => "XOR-RELAYED-ADDRESS",
        Value::Username(_) => "USERNAME",
        Value::Realm(_) => "REALM",
        Value::Nonce(_) => "NONCE",
        Value::Software(_) => "SOFTWARE",
        Value::ErrorCode(..) => "ERROR-CODE",
        Value::Lifetime(_) => "LIFETIME",
        Value::Data(_) => "DATA",
        Value::ChannelNumber(_) => "CHANNEL-NUMBER",
        Value::RequestedTransport(_) => "REQUESTED-TRANSPORT",
        _ => return None,
    })
}

/// As the script writes it: bytes are lists of numbers, and so is an address before its port.
fn value_json(value: &Value) -> Json {
    match value {
        Value::MappedAddress(addr)
        | Value::XorMappedAddress(addr)
        | Value::XorPeerAddress(addr)
        | Value::XorRelayedAddress(addr) => match addr.ip() {
            IpAddr::V4(ip) => json!([ip.octets(), addr.port()]),
            IpAddr::V6(ip) => json!([ip.octets(), addr.port()]),
        },
        Value::Username(text) | Value::Realm(text) | Value::Software(text) => json!(text),
        Value::Nonce(text) => json!(text.as_bytes()),
        Value::ErrorCode(code, reason) => json!([code, reason]),
        Value::Lifetime(seconds) => json!(seconds),
        Value::Data(data) => json!(data),
        Value::ChannelNumber(number) => json!(number),
        // It takes the protocol with the three reserved bytes for one number.
        Value::RequestedTransport(protocol) => json!(u32::from(*protocol) << 24),
        _ => Json::Null,
    }
}
