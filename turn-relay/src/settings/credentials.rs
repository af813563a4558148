//! Settings of whom the relay serves.

use thirl_common::auth::{Credentials, KeyAlgorithm, RestSecrets, SecurityFeatures, UserSecret};
use thirl_common::config::{ConfigError, Key, Problem, Values, parse};

use super::{RealmSettings, Sources};

pub(super) const REALM: Key = Key::single(
    "realm",
    "NAME",
    "Realm of the credentials; a short one keeps responses small. Default: thirl",
)
.example("\"example.org\"");

pub(super) const USER: Key = Key::list(
    "user",
    "NAME:PASSWORD",
    "A user; 0x and the key of `turnadmin -k` will do as password; may be repeated",
)
.example("[\"alice:a password\", \"bob:0x0123456789abcdef0123456789abcdef\"]");

pub(super) const STATIC_AUTH_SECRET: Key = Key::list(
    "static-auth-secret",
    "SECRET",
    "Secret of REST credentials; the first signs, all are taken. Default: a new one",
)
.example("[\"what `openssl rand -hex 32` prints\"]");

pub(super) const SHA256: Key = Key::single(
    "sha256",
    "BOOLEAN",
    "Offer clients keys by SHA-256 (RFC 8489), which makes each 401 28 bytes longer. Default: false",
);

pub(super) const USERHASH: Key = Key::single(
    "userhash",
    "BOOLEAN",
    "Ask clients to hide usernames (RFC 8489), which makes each 401 16 bytes longer. Default: false",
);

/// The server's own realm.
pub(super) fn realm(values: &Values) -> Result<String, ConfigError> {
    Ok(values.one(REALM.name, parse_realm)?.unwrap_or_else(|| "thirl".to_owned()))
}

pub(super) fn parse_realm(text: &str) -> Result<String, Problem> {
    // "fewer than 128 characters" (RFC 8489, section 14.9).
    match text.chars().count() {
        1..=127 if !text.contains(char::is_control) => Ok(text.to_owned()),
        1..=127 => {
            Err(Problem::new("the realm has a control character in it", "give letters, digits and signs"))
        }
        _ => Err(Problem::new(
            "the realm is empty or too long",
            "give 1 to 127 characters, the fewer the better",
        )),
    }
}

/// What clients are offered.
pub(super) fn features(values: &Values) -> Result<SecurityFeatures, ConfigError> {
    Ok(SecurityFeatures {
        password_algorithms: values.one(SHA256.name, parse::boolean)?.unwrap_or(false),
        username_anonymity: values.one(USERHASH.name, parse::boolean)?.unwrap_or(false),
    })
}

/// Users and secrets, as far as clients who take what `features` offer can be served with them.
pub(super) fn credentials(
    values: &Values,
    realm: &str,
    features: SecurityFeatures,
) -> Result<Credentials, ConfigError> {
    let mut credentials = Credentials::default();
    // Clients take the strongest that is offered.
    let wanted = if features.password_algorithms { KeyAlgorithm::Sha256 } else { KeyAlgorithm::Md5 };
    for (name, password) in values.all(USER.name, parse::user)? {
        let secret = UserSecret::from_setting(&password);
        if matches!(&secret, UserSecret::Key(key) if key.algorithm() != wanted) {
            let problem = Problem::new(
                format!("{name:?} has a key that no client will use: sha256 decides which they do"),
                "give 64 digits with sha256 = true and 32 without, or the password, which serves for both",
            );
            return Err(values.refuse(USER.name, problem));
        }
        credentials.users.insert_secret(name, secret);
    }
    credentials.users.index_userhashes(realm);
    credentials.rest = RestSecrets::new(values.all(STATIC_AUTH_SECRET.name, parse::text)?);
    Ok(credentials)
}

/// Usernames can be hidden where there are users, no access tokens, and in no realm secrets: nobody can tell from a hash
/// when REST credentials expire.
pub(super) fn check_anonymity(
    values: &Values,
    own: &Credentials,
    realms: &[RealmSettings],
    sources: &Sources,
) -> Result<(), ConfigError> {
    let all = || [own].into_iter().chain(realms.iter().map(|realm| &realm.credentials));
    // With an access token comes the name of who made it (RFC 7635, section 4.1), not its hash.
    let tokens = sources.tokens.is_some() || realms.iter().any(|realm| realm.tokens.is_some());
    let secrets = tokens || all().any(|credentials| !credentials.rest.is_empty());
    let users = sources.service.is_some() || all().any(|credentials| !credentials.users.is_empty());
    if users && !secrets {
        return Ok(());
    }
    let problem = Problem::new(
        "usernames cannot be hidden that tell when credentials expire, or who made a token",
        "leave userhash out, or give users and neither static-auth-secret nor oauth-key",
    );
    Err(values.refuse(USERHASH.name, problem))
}

#[cfg(test)]
mod tests {
    use super::super::tests::settings;

    #[test]
    fn users_have_passwords_or_the_key_that_clients_use() {
        let (md5, sha256) = (format!("bob:0x{}", "ab".repeat(16)), format!("bob:0x{}", "ab".repeat(32)));
        for (user, offered, taken) in [
            ("bob:0xab", "true", true),
            ("bob:0xab", "false", true),
            (&md5, "false", true),
            (&md5, "true", false),
            (&sha256, "true", true),
            (&sha256, "false", false),
        ] {
            let settings = settings(&[("user", user), ("sha256", offered)]);
            assert_eq!(settings.is_ok(), taken, "{user} {offered}");
            if let Err(error) = settings {
                assert!(!error.to_string().contains("abab"), "{error}");
            }
        }
    }
}
