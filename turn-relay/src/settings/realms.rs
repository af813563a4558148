//! Settings of further realms.

use std::net::IpAddr;

use thirl_common::auth::{AccessTokens, Credentials, SecurityFeatures};
use thirl_common::config::{ConfigError, Key, Problem, Table, Values, parse};
use thirl_common::uri::host_and_port;

use super::credentials::{self, STATIC_AUTH_SECRET, USER};
use super::limits;
use super::sources::{self, OAUTH_KEY, SERVER_NAME, Sources, Stores};
use crate::engine::{RealmConfig, RealmLimits};

const ORIGIN: Key = Key::list(
    "origin",
    "ORIGIN",
    "Web origins whose clients are in this realm, as in https://example.org, by what the client says (ORIGIN)",
);

const LISTENING_IP: Key = Key::list(
    "listening-ip",
    "IP",
    "Where this realm is served: of the addresses that the server listens on. Without origin it has them to itself",
);

const KEYS: &[Key] = &[
    ORIGIN,
    LISTENING_IP,
    USER,
    STATIC_AUTH_SECRET,
    Key {
        help: "Name for access tokens of this realm, in place of the server's; with oauth-key it stands in its 401s. Default: the \
               server's",
        ..SERVER_NAME
    },
    OAUTH_KEY,
    limits::OF_REALM[0],
    limits::OF_REALM[1],
    limits::OF_REALM[2],
    limits::OF_REALM[3],
    limits::OF_REALM[4],
];

pub(super) const REALMS: Key = Key::tables(
    "realms",
    "NAME",
    "Further realms, each with users or secrets of its own. A client is told the realm of its ORIGIN, else that of the \
     address where it arrives, else `realm`; its credentials hold in that realm only. Default: none but realm",
    KEYS,
    "[realms.\"video.example\"]
origin = [\"https://video.example\"]
static-auth-secret = [\"what `openssl rand -hex 32` prints\"]
total-quota = 1000
bps-capacity = 12500000

[realms.\"inner.example\"]
listening-ip = [\"10.0.0.1\"]
user = [\"bob:a password\"]",
);

/// A realm besides [`Settings::realm`](super::Settings::realm).
#[derive(Clone, Debug)]
pub struct RealmSettings {
    /// REALM.
    pub name: String,
    /// Empty: clients of any.
    pub origins: Vec<String>,
    /// Empty: where the server listens.
    pub listening_ips: Vec<IpAddr>,
    /// Users and secrets.
    pub credentials: Credentials,
    /// Authorization servers whose clients are in this realm.
    pub tokens: Option<AccessTokens>,
    /// How much its users may have.
    pub limits: RealmLimits,
}

/// What a realm has to know of its server.
pub(super) struct Server<'a> {
    pub(super) realm: &'a str,
    pub(super) features: SecurityFeatures,
    pub(super) listening_ips: &'a [IpAddr],
    pub(super) sources: &'a Sources,
}

impl RealmSettings {
    pub(super) fn config(&self, stores: &Stores) -> RealmConfig {
        RealmConfig {
            name: self.name.as_str().into(),
            origins: self.origins.clone(),
            listening: self.listening_ips.clone(),
            credentials: stores.realm(&self.credentials, self.tokens.as_ref()),
            token_server: sources::name_for_tokens(self.tokens.as_ref()),
            limits: self.limits,
        }
    }

    /// Whether some clients would be in both.
    fn claims_the_same(&self, other: &RealmSettings) -> bool {
        let anywhere = self.listening_ips.is_empty() || other.listening_ips.is_empty();
        let here = anywhere || self.listening_ips.iter().any(|ip| other.listening_ips.contains(ip));
        let both = self.origins.is_empty() && other.origins.is_empty();
        here && (both || self.origins.iter().any(|origin| other.origins.contains(origin)))
    }
}

/// The realms of the file, in which every client knows its own.
pub(super) fn realms(values: &Values, server: &Server<'_>) -> Result<Vec<RealmSettings>, ConfigError> {
    let mut realms: Vec<RealmSettings> = Vec::new();
    for table in values.tables(REALMS.name) {
        let realm = read(table, server)?;
        let listening_ips = server.listening_ips;
        let elsewhere = realm.listening_ips.iter().find(|ip| {
            !listening_ips.is_empty() && !listening_ips.iter().any(|own| own == *ip || own.is_unspecified())
        });
        let problem = if realm.name == server.realm {
            Some(Problem::new(
                "this is the server's own realm",
                "give it another name, or its users above all tables",
            ))
        } else if let Some(ip) = elsewhere {
            Some(Problem::new(
                format!("the server does not listen on {ip}"),
                "add it to listening-ip above all tables",
            ))
        } else {
            realms.iter().find(|other| realm.claims_the_same(other)).map(|other| {
                let what = format!("{:?} has clients of the same origin or address", other.name);
                Problem::new(what, "give each origin, and each listening-ip without origin, to one realm")
            })
        };
        if let Some(problem) = problem {
            return Err(refuse(table, problem));
        }
        realms.push(realm);
    }
    Ok(realms)
}

fn read(table: &Table, server: &Server<'_>) -> Result<RealmSettings, ConfigError> {
    let Table { name, values, .. } = table;
    let name = credentials::parse_realm(name).map_err(|problem| refuse(table, problem))?;
    let realm = RealmSettings {
        origins: values.all(ORIGIN.name, origin)?,
        listening_ips: values.all(LISTENING_IP.name, parse::ip)?,
        credentials: credentials::credentials(values, &name, server.features)?,
        tokens: server.sources.of_realm(values)?,
        limits: limits::of_realm(values)?,
        name,
    };
    if realm.credentials.is_empty() && realm.tokens.is_none() && server.sources.service.is_none() {
        let hint = "give it `user`, `static-auth-secret` or `oauth-key`, or the server `auth-url`";
        return Err(refuse(table, Problem::new("nobody can use this realm", hint)));
    }
    if realm.origins.is_empty() && realm.listening_ips.is_empty() {
        return Err(refuse(
            table,
            Problem::new("no client is told this realm", "give it `origin` or `listening-ip`"),
        ));
    }
    Ok(realm)
}

fn refuse(table: &Table, problem: Problem) -> ConfigError {
    ConfigError::Value { at: table.at.clone(), key: format!("realms.{:?}", table.name), problem }
}

/// In lower case, without the slash that some write.
fn origin(text: &str) -> Result<String, Problem> {
    let text = text.strip_suffix('/').unwrap_or(text).to_ascii_lowercase();
    let is_origin = text.split_once("://").is_some_and(|(scheme, authority)| {
        !scheme.is_empty()
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
            && host_and_port(authority).is_ok()
    });
    if is_origin {
        return Ok(text);
    }
    let hint = "give scheme and host, and the port if it is not the scheme's: https://example.org";
    Err(Problem::new(format!("{text:?} is no web origin"), hint))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::path::Path;

    use super::super::{KEYS, Settings};
    use super::*;

    fn settings(toml: &str) -> Result<Settings, ConfigError> {
        Settings::from_values(&Values::from_file(KEYS, Path::new("relay.toml"), toml)?)
    }

    #[test]
    fn the_example_of_the_reference() {
        let mut read = settings(&REALMS.toml()).unwrap();
        let [inner, video] = &read.realms[..] else { panic!("{:?}", read.realms) };
        assert_eq!((inner.name.as_str(), inner.listening_ips.len()), ("inner.example", 1));
        assert_eq!(
            (video.name.as_str(), &video.origins[..]),
            ("video.example", &["https://video.example".to_owned()][..])
        );
        assert!(!inner.credentials.users.is_empty() && !video.credentials.rest.is_empty());
        let config = read.config().engine;
        let [of_inner, of_video] = [0, 1].map(|at| config.realms[at].limits);
        assert_eq!((of_inner, of_video.total_quota), (RealmLimits::default(), Some(1000)));
        assert_eq!(of_video.bandwidth.total.map(NonZeroU64::get), Some(12_500_000));
        assert_eq!(read.ensure_credentials([1; 16]), None, "there are users, if not in every realm");
    }

    #[test]
    fn tokens_are_for_their_realm_by_the_name_that_the_server_has_there() {
        let read = settings(
            "server-name = \"turn\"\n\
             [realms.a]\nlistening-ip = \"::1\"\noauth-key = \"north:MDEyMzQ1Njc4OWFiY2RlZg==\"\n\
             [realms.b]\nlistening-ip = \"::2\"\nserver-name = \"b\"\noauth-key = \"north:MDEyMzQ1Njc4OWFiY2RlZg==\"\n\
             [realms.c]\nlistening-ip = \"::3\"\nuser = \"u:p\"\n",
        );
        let config = read.unwrap().config().engine;
        let names = config.realms.iter().map(|realm| realm.token_server.as_deref());
        assert_eq!(names.collect::<Vec<_>>(), [Some("turn"), Some("b"), None]);
        assert_eq!(config.token_server, None, "nobody's tokens are for the server's own realm");
    }

    #[test]
    fn a_service_is_enough_for_a_realm() {
        let of_service = "auth-url = \"https://users.example\"\n[realms.a]\nlistening-ip = \"::1\"\n";
        assert!(settings(of_service).is_ok());
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_line() {
        for (toml, place, what) in [
            ("[realms.a]\norigin = \"https://a.example\"\n", "relay.toml:1: realms.\"a\"", "nobody"),
            ("\n[realms.a]\nuser = \"u:p\"\n", "relay.toml:2: realms.\"a\"", "no client"),
            (
                "realm = \"a\"\n[realms.a]\nuser = \"u:p\"\nlistening-ip = \"10.0.0.1\"\n",
                "relay.toml:2",
                "own realm",
            ),
            (
                "listening-ip = \"10.0.0.2\"\n[realms.a]\nuser = \"u:p\"\nlistening-ip = \"10.0.0.1\"\n",
                "relay.toml:2",
                "10.0.0.1",
            ),
            ("[realms.a]\nuser = \"u:p\"\norigin = \"a.example\"\n", "relay.toml:3: origin", "a.example"),
            ("[realms.a]\nuser = \"nobody\"\n", "relay.toml:2: user", "hint:"),
            ("[realms.a]\nip-quota = 1\n", "relay.toml:2: ip-quota", "no such key"),
            ("[realms.a]\nuser-quota = 0\n", "relay.toml:2: user-quota", "hint:"),
            ("[realms.a]\nmax-bps = 0\n", "relay.toml:2: max-bps", "hint:"),
            ("[realms.\"a\\nb\"]\nuser = \"u:p\"\n", "relay.toml:1: realms", "control"),
            (
                "[realms.a]\norigin = \"https://a.example\"\noauth-key = \"north:MDEyMzQ1Njc4OWFiY2RlZg==\"\n",
                "relay.toml:3: oauth-key",
                "server-name",
            ),
            (
                "userhash = true\nserver-name = \"x\"\nuser = \"u:p\"\n[realms.a]\nlistening-ip = \"::1\"\noauth-key = \"north:MDEyMzQ1Njc4OWFiY2RlZg==\"\n",
                "relay.toml:1: userhash",
                "hint:",
            ),
            (
                "[realms.a]\nuser = \"u:p\"\norigin = \"https://A.example/\"\n[realms.b]\nuser = \"u:p\"\norigin = \"https://a.example\"\n",
                "relay.toml:4: realms.\"b\"",
                "\"a\" has clients",
            ),
            (
                "[realms.a]\nuser = \"u:p\"\nlistening-ip = \"::1\"\n[realms.b]\nuser = \"u:p\"\nlistening-ip = \"::1\"\n",
                "relay.toml:4",
                "\"a\" has clients",
            ),
            (
                "userhash = true\nuser = \"u:p\"\n[realms.a]\nstatic-auth-secret = \"s\"\nlistening-ip = \"::1\"\n",
                "relay.toml:1: userhash",
                "hint:",
            ),
        ] {
            let error = settings(toml).unwrap_err().to_string();
            assert!(error.starts_with(place) && error.contains(what), "{error}");
        }
    }
}
