//! Settings of users whom others know: authorization servers (RFC 7635), and a service of the operator's.

use std::sync::Arc;

use data_encoding::BASE64;
use thirl_common::auth::{AccessTokens, Chain, CredentialStore, Credentials, TokenKey};
use thirl_common::config::{ConfigError, Key, Problem, Values, parse};
use thirl_common::uri::{Host, host_and_port};
use thirl_common::wire::ThirdPartyAuthorization;

use crate::user_service::{UserService, UserServiceConfig};

pub(super) const SERVER_NAME: Key = Key::single(
    "server-name",
    "NAME",
    "Name of this server to those that make access tokens for it (RFC 7635); with oauth-key it stands in each 401. \
     Default: none",
)
.example("\"turn.example.org\"");

pub(super) const OAUTH_KEY: Key = Key::list(
    "oauth-key",
    "KID:BASE64",
    "An authorization server whose access tokens are taken (RFC 7635): the name that its clients send as username, and \
     the key that both servers share, 16 or 32 bytes; needs server-name; may be repeated",
)
.example("[\"north:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\"]");

pub(super) const AUTH_URL: Key = Key::single(
    "auth-url",
    "URL",
    "Service that is asked for users that stand in no setting, of all realms, by a POST with JSON (docs/users.md). \
     Default: none",
)
.example("\"https://users.example.org/turn\"");

pub(super) const AUTH_TOKEN: Key = Key::single(
    "auth-token",
    "TOKEN",
    "What that service is sent as `Authorization: Bearer`. Default: nothing",
)
.example("\"what `openssl rand -hex 32` prints\"");

pub(super) const AUTH_CACHE: Key = Key::single(
    "auth-cache",
    "SECONDS",
    "How long its answers are remembered: so long a user may be served on whom it no longer knows. Default: 60",
)
.example("300");

/// Those who know users besides the settings.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// What authorization servers call this server.
    pub name: Option<String>,
    /// Authorization servers whose clients are in the server's own realm.
    pub tokens: Option<AccessTokens>,
    /// A service.
    pub service: Option<UserServiceConfig>,
}

impl Sources {
    pub(super) fn read(values: &Values) -> Result<Sources, ConfigError> {
        let name = values.one(SERVER_NAME.name, server_name)?;
        Ok(Sources { tokens: tokens(values, name.clone())?, service: service(values)?, name })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_none() && self.service.is_none()
    }

    /// Those of a realm, which may have a name of its own there.
    pub(super) fn of_realm(&self, values: &Values) -> Result<Option<AccessTokens>, ConfigError> {
        let name = values.one(SERVER_NAME.name, server_name)?;
        tokens(values, name.or_else(|| self.name.clone()))
    }

    /// The stores that all realms share.
    pub(super) fn stores(&self) -> Stores {
        Stores { service: self.service.clone().map(UserService::new).map(Arc::new) }
    }
}

/// The stores of a server, which its realms share.
pub(super) struct Stores {
    service: Option<Arc<UserService>>,
}

impl Stores {
    /// A realm's users: its own, those with tokens for it, then those of the service.
    pub(super) fn realm(
        &self,
        credentials: &Credentials,
        tokens: Option<&AccessTokens>,
    ) -> Arc<dyn CredentialStore + Send + Sync> {
        let own = Arc::new(credentials.clone());
        if tokens.is_none() && self.service.is_none() {
            return own;
        }
        let mut chain = Chain::default();
        chain.push(own);
        if let Some(tokens) = tokens {
            chain.push(Arc::new(tokens.clone()));
        }
        if let Some(service) = self.service.clone() {
            chain.push(service);
        }
        Arc::new(chain)
    }
}

/// For THIRD-PARTY-AUTHORIZATION.
pub(super) fn name_for_tokens(tokens: Option<&AccessTokens>) -> Option<String> {
    tokens.map(|tokens| tokens.server_name().to_owned())
}

fn tokens(values: &Values, name: Option<String>) -> Result<Option<AccessTokens>, ConfigError> {
    let keys = values.all(OAUTH_KEY.name, oauth_key)?;
    if keys.is_empty() {
        return Ok(None);
    }
    let Some(name) = name else {
        let hint = "give server-name: what the authorization servers call this server";
        return Err(
            values.refuse(OAUTH_KEY.name, Problem::new("access tokens are made for a server's name", hint))
        );
    };
    let mut tokens = AccessTokens::new(name);
    for (kid, key) in keys {
        tokens.insert(kid, key);
    }
    Ok(Some(tokens))
}

fn server_name(text: &str) -> Result<String, Problem> {
    match text.len() {
        1..=ThirdPartyAuthorization::MAX_LEN => Ok(text.to_owned()),
        _ => {
            Err(Problem::new("the name is empty or too long", "give a short name, as it stands in every 401"))
        }
    }
}

/// The key is never quoted.
fn oauth_key(text: &str) -> Result<(String, TokenKey), Problem> {
    let hint = "write `KID:BASE64`, with a key that `openssl rand -base64 32` prints";
    let refused = |what: &str| Problem::new(format!("{what} (not shown)"), hint);
    let (kid, key) =
        text.split_once(':').filter(|(kid, _)| !kid.is_empty()).ok_or_else(|| refused("no name and key"))?;
    let bytes = BASE64.decode(key.as_bytes()).map_err(|_| refused("the key is not base64"))?;
    let key = TokenKey::new(&bytes).map_err(|error| refused(&error.to_string()))?;
    Ok((kid.to_owned(), key))
}

fn service(values: &Values) -> Result<Option<UserServiceConfig>, ConfigError> {
    let url = values.one(AUTH_URL.name, url)?;
    let token = values.one(AUTH_TOKEN.name, bearer)?;
    let lifetime = values.one(AUTH_CACHE.name, parse::number(1, 86_400))?;
    let without_url = [(AUTH_TOKEN.name, token.is_some()), (AUTH_CACHE.name, lifetime.is_some())];
    match (url, without_url.iter().find(|(_, given)| *given)) {
        (Some(url), _) => Ok(Some(UserServiceConfig { url, token, lifetime: lifetime.unwrap_or(60) })),
        (None, Some((key, _))) => {
            let problem = Problem::new("there is no service to ask", "give auth-url, or leave this out");
            Err(values.refuse(key, problem))
        }
        (None, None) => Ok(None),
    }
}

/// Passwords and keys come from there: in the clear only from this host.
fn url(text: &str) -> Result<String, Problem> {
    let (secure, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return Err(Problem::new("this is no URL of a service", "give one that begins with https://")),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match host_and_port(authority) {
        Ok((host, _)) => host,
        Err(error) => return Err(Problem::new(error.to_string(), "write https://host/path")),
    };
    let local = match &host {
        Host::Ip(ip) => ip.is_loopback(),
        Host::Name(name) => name == "localhost",
    };
    if secure || local {
        return Ok(text.to_owned());
    }
    let hint = "give an https URL; http is for a service on this host, as http://127.0.0.1:8080/turn";
    Err(Problem::new("users' keys would come in the clear", hint))
}

fn bearer(text: &str) -> Result<String, Problem> {
    // What may stand in a header (RFC 6750, section 2.1, has less).
    match !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(text.to_owned()),
        false => Err(Problem::new(
            "this is no token (not shown)",
            "give letters, digits and signs of ASCII, no spaces",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::settings;

    const KEY: &str = "north:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

    #[test]
    fn who_is_known_elsewhere_is_enough() {
        let mut tokens = settings(&[("server-name", "turn.example.org"), ("oauth-key", KEY)]).unwrap();
        assert_eq!(tokens.ensure_credentials([1; 16]), None);
        assert_eq!(tokens.config().engine.token_server.as_deref(), Some("turn.example.org"));
        let mut service =
            settings(&[("auth-url", "http://127.0.0.1:1/x"), ("auth-token", "hidden")]).unwrap();
        assert_eq!(service.ensure_credentials([1; 16]), None);
        assert!(!format!("{service:?}").contains("hidden"), "Debug is for logs");
        let mut neither = settings(&[("server-name", "turn.example.org")]).unwrap();
        assert!(neither.ensure_credentials([1; 16]).is_some(), "a name alone lets nobody in");
        assert_eq!(neither.config().engine.token_server, None);
        assert!(settings(&[("auth-url", "https://users.example.org/turn"), ("userhash", "true")]).is_ok());
    }

    #[test]
    fn what_cannot_be_is_refused_and_no_key_is_quoted() {
        for pairs in [
            &[("oauth-key", KEY)][..],
            &[("server-name", "x"), ("oauth-key", "MDEyMzQ1Njc4OWFiY2Rl")],
            &[("server-name", "x"), ("oauth-key", "north:MDEyMzQ1Njc4")],
            &[("server-name", "x"), ("oauth-key", "north:MDEy*")],
            &[("server-name", "x"), ("oauth-key", KEY), ("user", "a:b"), ("userhash", "true")],
            &[("auth-url", "users.example.org")],
            &[("auth-url", "ftp://users.example.org")],
            &[("auth-url", "http://users.example.org/turn")],
            &[("auth-url", "http://127.0.0.1.example.org/turn")],
            &[("auth-url", "https://"), ("auth-cache", "5")],
            &[("auth-url", "https://users.example.org"), ("auth-token", "MDEy MDEy")],
            &[("auth-token", "MDEyMDEy")],
            &[("auth-cache", "5")],
        ] {
            let error = settings(pairs).unwrap_err().to_string();
            assert!(error.contains("hint:") && !error.contains("MDEy"), "{error}");
        }
    }
}
