//! Settings of other servers that clients are sent to.

use std::net::SocketAddr;

use thirl_common::config::{ConfigError, Key, Problem, Values};
use thirl_common::net::ExternalIp;
use thirl_common::uri::{Host, host_and_port};
use thirl_common::wire::AlternateDomain;

use crate::engine::{Alternate, RedirectWhen, Redirects};

pub(super) const ALTERNATE_SERVER: Key = Key::list(
    "alternate-server",
    "IP[:PORT]",
    "Server that clients over UDP and TCP are sent to once they are authenticated; of several each client has its own. \
     May be repeated; this server may be among them. The port is 3478 if left out",
)
.example("[\"203.0.113.11:3478\", \"[2001:db8::11]:3478\"]");

pub(super) const TLS_ALTERNATE_SERVER: Key = Key::list(
    "tls-alternate-server",
    "IP[:PORT][/NAME]",
    "The same for clients over TLS and DTLS, with the name in its certificate if that is another than this server's; \
     may be repeated. The port is 5349 if left out",
)
.example("[\"203.0.113.11:5349/turn2.example.org\"]");

pub(super) const ALTERNATE_SERVER_WHEN: Key = Key::single(
    "alternate-server-when",
    "WHEN",
    "`always`, or `full`: only when total-quota or the ports are used up, or while the server drains. Default: always",
)
.example("\"full\"");

/// Where clients are sent, and when.
pub(super) fn redirects(values: &Values, external: &[ExternalIp]) -> Result<Redirects, ConfigError> {
    let redirects = Redirects {
        plain: values.all(ALTERNATE_SERVER.name, |text| alternate(text, 3478))?,
        secure: values.all(TLS_ALTERNATE_SERVER.name, named_alternate)?,
        when: values.one(ALTERNATE_SERVER_WHEN.name, when)?.unwrap_or_default(),
        external: external.to_vec(),
    };
    if redirects.when == RedirectWhen::Full && redirects.plain.is_empty() && redirects.secure.is_empty() {
        let hint = "give alternate-server or tls-alternate-server, or leave this out";
        let problem = Problem::new("there is no server to send clients to", hint);
        return Err(values.refuse(ALTERNATE_SERVER_WHEN.name, problem));
    }
    Ok(redirects)
}

fn alternate(text: &str, default_port: u16) -> Result<Alternate, Problem> {
    // An IPv6 address alone needs no brackets.
    let found = match text.parse() {
        Ok(ip) => Ok((Host::Ip(ip), None)),
        Err(_) => host_and_port(text),
    };
    let hint = "give an IP address, as clients are told no names: 203.0.113.11:3478 or [2001:db8::11]:3478";
    match found {
        Ok((Host::Ip(ip), port)) if !ip.is_unspecified() => {
            Ok(Alternate { addr: SocketAddr::new(ip, port.unwrap_or(default_port)), domain: None })
        }
        Ok(_) => Err(Problem::new(format!("{text:?} is no address of a server"), hint)),
        Err(error) => Err(Problem::new(error.to_string(), hint)),
    }
}

fn named_alternate(text: &str) -> Result<Alternate, Problem> {
    let Some((addr, name)) = text.split_once('/') else { return alternate(text, 5349) };
    match host_and_port(name) {
        Ok((Host::Name(domain), None)) if domain.len() <= AlternateDomain::MAX_LEN => {
            Ok(Alternate { domain: Some(domain), ..alternate(addr, 5349)? })
        }
        _ => {
            let hint = "give the name in the certificate, as in 203.0.113.11:5349/turn2.example.org";
            Err(Problem::new(format!("{name:?} is no name of a server"), hint))
        }
    }
}

fn when(text: &str) -> Result<RedirectWhen, Problem> {
    match text {
        "always" => Ok(RedirectWhen::Always),
        "full" => Ok(RedirectWhen::Full),
        _ => {
            Err(Problem::new(format!("{text:?} is no time to send clients away"), "give `always` or `full`"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::settings;
    use super::*;

    #[test]
    fn servers_with_and_without_ports_and_names() {
        let given = [
            ("alternate-server", "203.0.113.11,2001:db8::11,[2001:db8::12]:3479"),
            ("tls-alternate-server", "203.0.113.11/turn2.example.org,203.0.113.12:443"),
            ("alternate-server-when", "full"),
        ];
        let redirects = settings(&given).unwrap().config().engine.redirects;
        let addrs =
            |alternates: &[Alternate]| alternates.iter().map(|it| it.addr.to_string()).collect::<Vec<_>>();
        assert_eq!(
            addrs(&redirects.plain),
            ["203.0.113.11:3478", "[2001:db8::11]:3478", "[2001:db8::12]:3479"]
        );
        assert_eq!(addrs(&redirects.secure), ["203.0.113.11:5349", "203.0.113.12:443"]);
        assert_eq!(redirects.secure[0].domain.as_deref(), Some("turn2.example.org"));
        assert_eq!(redirects.when, RedirectWhen::Full);
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for (key, value) in [
            ("alternate-server", "turn2.example.org"),
            ("alternate-server", "0.0.0.0:3478"),
            ("alternate-server", "203.0.113.11:0"),
            ("alternate-server", "203.0.113.11/turn2.example.org"),
            ("tls-alternate-server", "203.0.113.11/203.0.113.11"),
            ("tls-alternate-server", "203.0.113.11/turn 2"),
            ("alternate-server-when", "full"),
            ("alternate-server-when", "sometimes"),
        ] {
            let error = settings(&[(key, value)]).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("hint:"), "{error}");
        }
    }
}
