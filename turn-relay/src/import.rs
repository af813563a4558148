//! coturn's `turnserver.conf`, said in this relay's words.
//!
//! [`import`] reads it line by line: `OPTIONS` tells what becomes of each. What has the same meaning here is written as
//! TOML; what needs nothing is left out; what cannot be carried over is listed with its line and what to do instead.

use std::collections::BTreeMap;
use std::fmt;

use thirl_common::net::IpRange;

use crate::engine::DENIED_BY_DEFAULT;
use crate::settings::KEYS;

/// What became of a `turnserver.conf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The settings, for `turn-relay --config`. It holds what secrets the file held.
    pub toml: String,
    /// What it does not say, in the order of the lines.
    pub left: Vec<Left>,
}

/// A line that could not be carried over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Counted from 1.
    pub line: usize,
    /// coturn's name for it. Its value is not quoted: it may be a secret.
    pub option: String,
    /// What that means, and what to do.
    pub what: &'static str,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.line, self.option, self.what)
    }
}

/// What becomes of an option of coturn's.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It has the same name and meaning here.
    Same,
    /// The same, but that coturn's 0 stands for the default.
    SameBut0,
    /// A flag that is the same.
    Flag,
    /// Other settings, whatever its value.
    Becomes(&'static [(&'static str, &'static str)]),
    /// It needs no setting: this is how the relay is.
    Nothing,
    /// It needs no setting if it has this value.
    NothingIf(&'static str, &'static str),
    /// Not carried over, and why.
    Left(&'static str),
}

use Fate::{Becomes, Flag, Left as Leave, Nothing, NothingIf, Same, SameBut0};

const DATABASE: &str = "databases are not read: give users by `user`, have a service asked by `auth-url`, or share a `static-auth-secret`; \
                        realms, their origins and their quotas by `[realms]`";
const NAMED: &str = "addresses are chosen by `listening-ip` and `relay-ip`, not by device";

/// Every option of coturn up to 4.17 and what becomes of it.
const OPTIONS: &[(&str, Fate)] = &[
    ("listening-ip", Same),
    ("listening-port", Same),
    ("tls-listening-port", Same),
    ("alt-listening-port", SameBut0),
    ("relay-ip", Same),
    ("external-ip", Same),
    ("min-port", Same),
    ("max-port", Same),
    ("realm", Same),
    ("user", Same),
    ("static-auth-secret", Same),
    ("allowed-peer-ip", Same),
    ("denied-peer-ip", Same),
    ("user-quota", SameBut0),
    ("total-quota", SameBut0),
    ("max-bps", SameBut0),
    ("bps-capacity", SameBut0),
    ("max-allocate-lifetime", Same),
    ("stale-nonce", SameBut0),
    ("relay-threads", SameBut0),
    ("cert", Same),
    ("pkey", Same),
    ("no-tcp-relay", Flag),
    ("no-tls", Flag),
    ("no-dtls", Flag),
    ("rfc5780", Becomes(&[("rfc5780", "true")])),
    ("no-rfc5780", Becomes(&[("rfc5780", "false")])),
    ("allow-loopback-peers", Becomes(&[("allowed-peer-ip", "127.0.0.0/8"), ("allowed-peer-ip", "::1")])),
    // How the relay is anyway.
    ("lt-cred-mech", Nothing),
    ("use-auth-secret", Nothing),
    ("fingerprint", Nothing),
    ("no-multicast-peers", Nothing),
    ("no-loopback-peers", Nothing),
    ("no-software-attribute", Nothing),
    ("software-attribute", Leave("SOFTWARE is never sent: it would make responses longer than requests")),
    ("no-cli", Nothing),
    ("cli", Leave("there is no port for commands")),
    ("cli-ip", Nothing),
    ("cli-port", Nothing),
    ("cli-password", Nothing),
    ("cli-max-output-sessions", Nothing),
    ("web-admin", Leave("there is no web administration")),
    ("web-admin-ip", Nothing),
    ("web-admin-port", Nothing),
    ("web-admin-listen-on-workers", Nothing),
    ("no-dynamic-ip-list", Nothing),
    ("no-dynamic-realms", Nothing),
    ("no-auth-pings", Nothing),
    ("no-tlsv1", Nothing),
    ("no-tlsv1_1", Nothing),
    ("no-sslv3", Nothing),
    ("no-sslv2", Nothing),
    ("dh566", Nothing),
    ("dh1066", Nothing),
    ("dh2066", Nothing),
    ("dh-file", Nothing),
    ("ec-curve-name", Nothing),
    ("keep-address-family", Nothing),
    ("udp-self-balance", Nothing),
    ("ne", Nothing),
    // Of the service manager, and of logs, which go to standard error.
    ("daemon", Nothing),
    ("pidfile", Nothing),
    ("log-file", Nothing),
    ("no-stdout-log", Nothing),
    ("syslog", Nothing),
    ("syslog-facility", Nothing),
    ("simple-log", Nothing),
    ("new-log-timestamp", Nothing),
    ("new-log-timestamp-format", Nothing),
    ("verbose", Becomes(&[("log-level", "debug")])),
    ("Verbose", Becomes(&[("log-level", "trace")])),
    ("log-binding", Leave("Binding requests are counted (`prometheus`), never logged")),
    // What is given by the standard.
    ("channel-lifetime", NothingIf("600", "channels last 600 seconds, as RFC 8656 has it")),
    ("permission-lifetime", NothingIf("300", "permissions last 300 seconds, as RFC 8656 has it")),
    (
        "allocation-default-address-family",
        NothingIf("ipv4", "without REQUESTED-ADDRESS-FAMILY it is IPv4, as RFC 8656 has it"),
    ),
    ("rest-api-separator", NothingIf(":", "the username of REST credentials is `expiry[:user]`")),
    ("no-stun-backward-compatibility", Leave("clients of RFC 3489 are answered; it costs nothing")),
    ("response-origin-only-with-rfc5780", Nothing),
    // What the relay will not do.
    ("no-auth", Leave("a relay is never open to all: give `user` or `static-auth-secret`")),
    ("server-relay", Leave("a relay is never open to all: give `user` or `static-auth-secret`")),
    ("secure-stun", Leave("Binding requests are answered without credentials")),
    // What it cannot do.
    ("listening-device", Leave(NAMED)),
    ("relay-device", Leave(NAMED)),
    ("alt-tls-listening-port", Leave("discovery (RFC 5780) is over UDP and TCP")),
    ("aux-server", Leave("give all addresses by `listening-ip`, on one port")),
    (
        "tcp-proxy-port",
        Leave(
            "every port takes the PROXY protocol, from proxies that are trusted: give them by `proxy-protocol-from`",
        ),
    ),
    ("no-udp", Leave("clients over UDP are always served; a firewall can keep them out")),
    ("no-tcp", Leave("clients over TCP are always served; a firewall can keep them out")),
    ("no-udp-relay", Leave("to relay UDP is what this server is for")),
    ("no-stun", Leave("Binding requests are always answered, within `rate-limit`")),
    ("stun-only", Leave("run `stun-server` in its place")),
    ("userdb", Leave(DATABASE)),
    ("psql-userdb", Leave(DATABASE)),
    ("mysql-userdb", Leave(DATABASE)),
    ("mongo-userdb", Leave(DATABASE)),
    ("redis-userdb", Leave(DATABASE)),
    ("secret-key-file", Leave(DATABASE)),
    ("redis-statsdb", Leave("statistics are not sent to a database")),
    ("prometheus", Flag),
    ("prometheus-port", Same),
    ("prometheus-address", Same),
    ("prometheus-username-labels", Leave("metrics have no label per user: it would have no bound")),
    ("alternate-server", Same),
    ("tls-alternate-server", Same),
    ("mobility", Flag),
    (
        "oauth",
        Leave("give the keys of authorization servers, which coturn has in its database, by `oauth-key`"),
    ),
    ("server-name", Same),
    (
        "check-origin-consistency",
        Leave("ORIGIN chooses the realm of `[realms]`, and need not come with every request"),
    ),
    ("max-allocate-timeout", Nothing),
    ("acme-redirect", Leave("HTTP is not spoken: let a web server renew the certificate")),
    ("cipher-list", Leave("the ciphers of TLS 1.2 and 1.3 are chosen by rustls, all of them sound")),
    ("pkey-pwd", Leave("an encrypted key cannot be read: decrypt it with `openssl pkey -in KEY -out NEW`")),
    ("proc-user", Same),
    ("proc-group", Same),
];

const UNKNOWN: &str = "this is no option of coturn's that is known here";
const PRECEDENCE: &str =
    "in coturn what is allowed goes before what is denied; here the narrowest range wins: compare them";
const WIDE: &str = "in coturn this allows private networks and others too, which here are allowed only by rules as narrow as \
                    they are, such as 10.0.0.0/8";
const KEYS_OF_REALM: &str =
    "the keys of `user` were made for a realm, which the file does not name: set `realm` to it";

/// Reads the text of a `turnserver.conf`.
pub fn import(text: &str) -> Imported {
    let mut values: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut left = Vec::new();
    let mut rules = [None, None];
    let names_realm = text.lines().filter_map(Line::read).any(|line| line.name == "realm");
    for (at, option) in text.lines().enumerate().filter_map(|(at, line)| Some((at + 1, Line::read(line)?))) {
        let Line { name, value } = option;
        let mut leave = |what| left.push(Left { line: at, option: name.to_owned(), what });
        let mut set = |name: &str, value: &str| {
            let Some(key) = KEYS.iter().find(|key| key.name == name) else { return };
            let values = values.entry(key.name).or_default();
            if !key.repeat {
                // The last line counts, as in coturn.
                values.clear();
            }
            values.push(value.to_owned());
        };
        match OPTIONS.iter().find(|(known, _)| *known == name).map(|(_, fate)| *fate) {
            Some(Same) => set(name, value),
            Some(SameBut0) if value != "0" && !value.is_empty() => set(name, value),
            Some(Flag) => set(name, if is_true(value) { "true" } else { "false" }),
            Some(Becomes(settings)) if is_true(value) => {
                settings.iter().for_each(|(name, value)| set(name, value));
            }
            Some(NothingIf(same, what)) if value != same => leave(what),
            Some(Leave(what)) if is_true(value) => leave(what),
            Some(_) => {}
            None => leave(UNKNOWN),
        }
        match name {
            "allowed-peer-ip" | "allow-loopback-peers" => rules[0] = Some(at),
            "denied-peer-ip" => rules[1] = Some(at),
            _ => {}
        }
        if name == "allowed-peer-ip" && value.parse().is_ok_and(|range| is_wide(&range)) {
            leave(WIDE);
        }
        if name == "user" && value.contains(":0x") && !names_realm {
            leave(KEYS_OF_REALM);
        }
    }
    if let [Some(allowed), Some(denied)] = rules {
        left.push(Left { line: allowed.max(denied), option: "denied-peer-ip".to_owned(), what: PRECEDENCE });
    }
    Imported { toml: to_toml(&values), left }
}

/// Whether some of what is denied by default lies within, and stays denied for that.
fn is_wide(allowed: &IpRange) -> bool {
    DENIED_BY_DEFAULT.iter().any(|denied| denied.width() < allowed.width() && allowed.overlaps(denied))
}

/// An option and its value, which is empty for a flag.
struct Line<'a> {
    name: &'a str,
    value: &'a str,
}

impl<'a> Line<'a> {
    /// `name=value`, `name value` or `name`; `None` for a comment or an empty line.
    fn read(line: &'a str) -> Option<Line<'a>> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let end = line.find(|char: char| char == '=' || char.is_whitespace()).unwrap_or(line.len());
        let (name, rest) = line.split_at(end);
        let value = rest.trim_start_matches(|char: char| char == '=' || char.is_whitespace());
        let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        Some(Line { name, value: quoted.unwrap_or(value) })
    }
}

/// A flag is on unless it says otherwise.
fn is_true(value: &str) -> bool {
    !matches!(value.to_ascii_lowercase().as_str(), "0" | "n" | "no" | "f" | "false" | "off")
}

/// One line a key, in the order of [`KEYS`].
fn to_toml(values: &BTreeMap<&str, Vec<String>>) -> String {
    let mut toml = String::new();
    for key in KEYS {
        let Some(values) = values.get(key.name) else { continue };
        let values: Vec<String> = values.iter().map(|value| literal(value)).collect();
        let value = if key.repeat { format!("[{}]", values.join(", ")) } else { values.join("") };
        toml += &format!("{} = {value}\n", key.name);
    }
    toml
}

/// A number or boolean as itself, everything else as a string.
fn literal(value: &str) -> String {
    let number = value.parse::<i64>().is_ok_and(|number| number.to_string() == value);
    if number || value == "true" || value == "false" {
        return value.to_owned();
    }
    let escaped = value.chars().map(|char| match char {
        '"' | '\\' => format!("\\{char}"),
        char if char.is_control() => format!("\\u{:04X}", u32::from(char)),
        char => char.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use thirl_common::config::Values;

    use super::*;
    use crate::settings::Settings;

    fn settings(toml: &str) -> Settings {
        Settings::from_values(&Values::from_file(KEYS, Path::new("imported.toml"), toml).unwrap()).unwrap()
    }

    #[test]
    fn a_usual_file_is_carried_over_whole() {
        let conf = r#"
# A comment, then the usual things
listening-port=3479
listening-ip = 192.0.2.1
listening-ip=2001:db8::1
external-ip=203.0.113.9/192.0.2.1
min-port 50000
max-port 51000
fingerprint
lt-cred-mech
realm="example.org"
user=alice:pass"word\x
user=bob:0x0123456789abcdef0123456789abcdef
denied-peer-ip=198.51.100.0-198.51.100.9
user-quota=12
total-quota=0
no-cli
no-multicast-peers
stale-nonce
no-tcp-relay
max-bps=64000
channel-lifetime=600
"#;
        let imported = import(conf);
        assert_eq!(imported.left, []);
        let settings = settings(&imported.toml);
        assert_eq!((settings.listening_port, settings.relay_ports.clone()), (3479, 50000..=51000));
        assert_eq!((settings.listening_ips.len(), settings.external_ips.len()), (2, 1));
        assert_eq!((settings.realm.as_str(), settings.user_quota), ("example.org", Some(12)));
        assert!(imported.toml.contains(r#"user = ["alice:pass\"word\\x", "bob:0x"#), "{}", imported.toml);
        assert!(!settings.tcp_relay);
        assert_eq!(settings.bandwidth.allocation.map(std::num::NonZeroU64::get), Some(64000));
    }

    #[test]
    fn what_cannot_be_carried_over_is_named_by_line_and_without_secrets() {
        let conf = "realm=x\n\nno-auth\nweb-admin\nredis-userdb=\"password=hidden\"\nfrobnicate=hidden\nno-tcp=0\nchannel-lifetime=30\n";
        let left = import(conf).left;
        let lines: Vec<_> = left.iter().map(|left| (left.line, left.option.as_str())).collect();
        let expected = [
            (3, "no-auth"),
            (4, "web-admin"),
            (5, "redis-userdb"),
            (6, "frobnicate"),
            (8, "channel-lifetime"),
        ];
        assert_eq!(lines, expected);
        assert!(left.iter().all(|left| !left.to_string().contains("hidden")));
    }

    #[test]
    fn rules_for_peers_that_coturn_reads_otherwise_are_pointed_out() {
        let imported = import("denied-peer-ip=10.0.0.0-10.255.255.255\nallow-loopback-peers\n");
        assert_eq!(imported.left.len(), 1);
        assert_eq!((imported.left[0].line, imported.left[0].what), (2, PRECEDENCE));
        assert_eq!(settings(&imported.toml).allowed_peers.len(), 2);
        let wide =
            |range| import(&format!("allowed-peer-ip={range}\n")).left.iter().any(|left| left.what == WIDE);
        assert!(wide("0.0.0.0-255.255.255.255") && wide("9.0.0.0-10.255.255.255"));
        assert!(
            !wide("10.0.0.0-10.255.255.255") && !wide("192.168.1.5") && !wide("83.166.64.0-83.166.95.255")
        );
    }

    #[test]
    fn other_servers_and_the_name_among_them_are_carried_over() {
        let imported = import(
            "alternate-server=203.0.113.11:3478\ntls-alternate-server=203.0.113.11:5349\nserver-name=x\n",
        );
        assert_eq!(imported.left, []);
        let redirects = settings(&imported.toml).redirects;
        assert_eq!((redirects.plain.len(), redirects.secure.len()), (1, 1));
    }

    #[test]
    fn keys_without_their_realm_are_pointed_out() {
        let left = import("user=bob:0x0123456789abcdef0123456789abcdef\n").left;
        assert_eq!(left.iter().map(|left| left.what).collect::<Vec<_>>(), [KEYS_OF_REALM]);
    }

    #[test]
    fn each_option_has_one_fate() {
        for (at, (name, fate)) in OPTIONS.iter().enumerate() {
            assert!(OPTIONS[..at].iter().all(|(earlier, _)| earlier != name), "{name} stands there twice");
            let becomes: Vec<_> = match fate {
                Same | SameBut0 | Flag => vec![name],
                Becomes(settings) => settings.iter().map(|(name, _)| name).collect(),
                Nothing | NothingIf(..) | Leave(_) => Vec::new(),
            };
            assert!(
                becomes.iter().all(|name| KEYS.iter().any(|key| key.name == **name)),
                "{name}: no setting"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_makes_toml_that_can_be_read(lines in proptest::collection::vec(
            (proptest::sample::select(OPTIONS), "[ -~\u{7f}\u{e9}]{0,12}"), 0..12)) {
            let conf: String = lines.iter().map(|((name, _), value)| format!("{name}={value}\n")).collect();
            prop_assert!(Values::from_file(KEYS, Path::new("imported.toml"), &import(&conf).toml).is_ok());
        }
    }
}
