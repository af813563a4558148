//! How IPv4 is reached where there is only IPv6: NAT64 (RFC 6146), whose prefix DNS64 tells (RFC 7050).

use serde::{Serialize, Serializer};
use thirl_common::net::Nat64Prefix;

/// The network's NAT64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Nat64Report {
    /// Its prefix; `None` if there is none, or none is known.
    #[serde(serialize_with = "as_text")]
    pub prefix: Option<Nat64Prefix>,
    /// Whether what is said of IPv4 was measured through it.
    pub used: bool,
    /// What that rests on.
    pub reason: String,
}

impl Nat64Report {
    /// From what the DNS told; `Err` says why that is not known.
    pub fn new(told: Result<Vec<Nat64Prefix>, String>) -> Nat64Report {
        let (prefix, reason) = match told {
            Ok(prefixes) => match prefixes.first() {
                Some(prefix) => (Some(*prefix), "the network's DNS64 tells it (RFC 7050)".to_owned()),
                None => (None, "the network's DNS knows of none (RFC 7050)".to_owned()),
            },
            Err(reason) => (None, reason),
        };
        Nat64Report { prefix, used: false, reason }
    }
}

fn as_text<S: Serializer>(prefix: &Option<Nat64Prefix>, serializer: S) -> Result<S::Ok, S::Error> {
    match prefix {
        Some(prefix) => serializer.collect_str(prefix),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_text_in_json() {
        let report = Nat64Report::new(Ok(vec!["64:ff9b::/96".parse().unwrap()]));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!([&json["prefix"], &json["used"]], [&"64:ff9b::/96".into(), &serde_json::json!(false)]);
        let json = serde_json::to_value(Nat64Report::new(Err("no answer".to_owned()))).unwrap();
        assert!(json["prefix"].is_null() && json["reason"] == "no answer", "{json}");
    }
}
