//! What values look like. Each refuses with what is wrong and a hint; a secret is never quoted.

use std::net::IpAddr;
use std::time::Duration;

use super::error::Problem;
use crate::net::{ExternalIp, IpRange, IpRangeError};

/// Any text that is not empty.
pub fn text(text: &str) -> Result<String, Problem> {
    match text {
        "" => Err(Problem::new("the value is empty", "give some text, or leave the key out")),
        text => Ok(text.to_owned()),
    }
}

/// A port, 1 to 65535.
pub fn port(text: &str) -> Result<u16, Problem> {
    match text.parse() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Problem::new(format!("{text:?} is no port"), "give a number from 1 to 65535")),
    }
}

/// A port to listen on: 0 lets the system choose.
pub fn listening_port(text: &str) -> Result<u16, Problem> {
    let hint = "give a number from 1 to 65535, or 0 to let the system choose";
    text.parse().map_err(|_| Problem::new(format!("{text:?} is no port"), hint))
}

/// A whole number from `min` to `max`.
pub fn number(min: u64, max: u64) -> impl Fn(&str) -> Result<u64, Problem> {
    move |text| match text.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(Problem::new(
            format!("{text:?} is out of range"),
            format!("give a whole number from {min} to {max}"),
        )),
    }
}

/// Whole seconds from `min` to `max`.
pub fn seconds(min: u64, max: u64) -> impl Fn(&str) -> Result<Duration, Problem> {
    move |text| number(min, max)(text).map(Duration::from_secs)
}

/// `true` or `false`.
pub fn boolean(text: &str) -> Result<bool, Problem> {
    text.parse()
        .map_err(|_| Problem::new(format!("{text:?} is neither true nor false"), "give `true` or `false`"))
}

/// A range of addresses.
pub fn ip_range(text: &str) -> Result<IpRange, Problem> {
    text.parse().map_err(|error: IpRangeError| {
        let hint = "give an address, a network such as 10.0.0.0/8, or a range such as 10.0.0.1-10.0.0.9";
        Problem::new(error.to_string(), hint)
    })
}

/// An IPv4 or IPv6 address.
pub fn ip(text: &str) -> Result<IpAddr, Problem> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| {
        let hint = "give an address such as 192.0.2.1 or 2001:db8::1, without a port";
        Problem::new(format!("{text:?} is no IP address"), hint)
    })
}

/// `public[/private]`, both of one family.
pub fn external_ip(text: &str) -> Result<ExternalIp, Problem> {
    let (external, local) = match text.split_once('/') {
        Some((public, private)) => (ip(public)?, Some(ip(private)?)),
        None => (ip(text)?, None),
    };
    match local {
        Some(local) if local.is_ipv4() != external.is_ipv4() => {
            let hint = "write `public/private`, both IPv4 or both IPv6";
            Err(Problem::new(format!("{text:?} mixes address families"), hint))
        }
        _ => Ok(ExternalIp { external, local }),
    }
}

/// `name:password`. The password may hold further colons.
pub fn user(text: &str) -> Result<(String, String), Problem> {
    match text.split_once(':') {
        Some((name, password)) if !name.is_empty() && !password.is_empty() => {
            Ok((name.to_owned(), password.to_owned()))
        }
        _ => Err(Problem::new("this is no user with a password (not shown)", "write `name:password`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_quoted() {
        assert_eq!(user("a:b:c").unwrap(), ("a".to_owned(), "b:c".to_owned()));
        let problem = user("hunter2").unwrap_err();
        assert!(!format!("{problem:?}").contains("hunter2"));
    }
}
