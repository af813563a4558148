//! Captive portals: a page whose answer is known is asked for in the clear, as operating systems do. Another answer is that
//! of a portal, which wants somebody to sign in.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use thirl_common::uri::{Host, UriError, host_and_port};

/// The path that answers 204 and nothing else at hosts that are there for this.
const DEFAULT_PATH: &str = "/generate_204";

/// A longer URL is shown by none.
const MAX_URL: usize = 2000;

/// "No Content" (RFC 9110, section 15.3.5).
const NO_CONTENT: u16 = 204;
/// "Network Authentication Required" (RFC 6585, section 6).
const AUTHENTICATION_REQUIRED: u16 = 511;

/// A page whose answer is known.
///
/// ```
/// use thirl_ice_agent::nat::WebProbe;
///
/// let probe: WebProbe = "example.org".parse()?;
/// assert_eq!(probe.to_string(), "http://example.org:80/generate_204");
/// let other: WebProbe = "http://192.0.2.1:8080/online".parse()?;
/// assert_eq!(other.path, "/online");
/// # Ok::<(), thirl_ice_agent::nat::NotAWebProbe>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebProbe {
    /// Where the page is. TLS and QUIC are tried at its port 443.
    pub host: Host,
    /// The port for HTTP.
    pub port: u16,
    /// Path and query.
    pub path: String,
    /// What the page says but for white space around it; `None` if it has no content, and says so (204).
    pub body: Option<String>,
}

/// Whoever wrote the URL has to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotAWebProbe {
    /// No portal can answer in the place of a server with TLS.
    #[error("a portal can only answer in the clear: write http:// or the host alone")]
    Secure,
    /// What does not belong into a request.
    #[error("{0:?} is no path: it has visible ASCII characters only, and no #")]
    Path(String),
    /// Not a host, or not its port.
    #[error(transparent)]
    Host(#[from] UriError),
}

/// Whether somebody has to sign in first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CaptivePortalReport {
    /// Whether there is one; `None` if that is not known.
    pub present: Option<bool>,
    /// Where to sign in.
    pub url: Option<String>,
    /// What that rests on.
    pub reason: String,
}

impl CaptivePortalReport {
    /// Nothing can be said, and why.
    pub fn unknown(reason: impl Into<String>) -> CaptivePortalReport {
        CaptivePortalReport { present: None, url: None, reason: reason.into() }
    }
}

impl WebProbe {
    /// `host`, and the port if it is not that of HTTP: as the request names it.
    pub(super) fn authority(&self) -> String {
        match self.port {
            80 => self.host.to_string(),
            port => format!("{}:{port}", self.host),
        }
    }

    /// What an answer says: its status, its Location header, and its content, or the beginning of it.
    pub fn judge(&self, status: u16, location: Option<&str>, body: &[u8]) -> CaptivePortalReport {
        let portal = |url: Option<String>, reason: String| {
            let url = url.unwrap_or_else(|| format!("http://{}{}", self.authority(), self.path));
            CaptivePortalReport { present: Some(true), url: Some(url), reason }
        };
        match status {
            _ if self.expects(status, body) => {
                let reason = format!("{self} answered as it should");
                CaptivePortalReport { present: Some(false), url: None, reason }
            }
            300..=399 => match location.and_then(|location| self.resolve(location)) {
                Some(url) if self.is_own_https(&url) => CaptivePortalReport::unknown(format!(
                    "{self} leads to its own HTTPS: name a page that answers in the clear"
                )),
                url => portal(url, format!("{self} is redirected (status {status})")),
            },
            AUTHENTICATION_REQUIRED => portal(None, format!("{self} wants somebody to sign in (status 511)")),
            200..=299 => portal(None, format!("{self} has another content than it should (status {status})")),
            _ => CaptivePortalReport::unknown(format!("{self} answered with status {status}")),
        }
    }

    fn expects(&self, status: u16, body: &[u8]) -> bool {
        match &self.body {
            // Some proxies make a 200 without content of it.
            None => status == NO_CONTENT || (status == 200 && body.is_empty()),
            Some(known) => status == 200 && body.trim_ascii() == known.trim().as_bytes(),
        }
    }

    /// The URL that a Location header means (RFC 9110, section 10.2.2), if it can be shown.
    fn resolve(&self, location: &str) -> Option<String> {
        let visible = location.len() <= MAX_URL && location.bytes().all(|byte| byte.is_ascii_graphic());
        if !visible || location.is_empty() {
            return None;
        }
        let lower = location.to_ascii_lowercase();
        Some(if lower.starts_with("http://") || lower.starts_with("https://") {
            location.to_owned()
        } else if location.starts_with("//") {
            format!("http:{location}")
        } else if location.starts_with('/') {
            format!("http://{}{location}", self.authority())
        } else {
            let directory = self.path.rsplit_once('/').map_or("", |(directory, _)| directory);
            format!("http://{}{directory}/{location}", self.authority())
        })
    }

    fn is_own_https(&self, url: &str) -> bool {
        let rest = url.get(..8).filter(|scheme| scheme.eq_ignore_ascii_case("https://")).map(|_| &url[8..]);
        let host = rest.and_then(|rest| rest.split(['/', '?', '#']).next()).map(host_and_port);
        matches!(host, Some(Ok((host, _))) if host == self.host)
    }
}

impl fmt::Display for WebProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}{}", self.host, self.port, self.path)
    }
}

impl FromStr for WebProbe {
    type Err = NotAWebProbe;

    fn from_str(text: &str) -> Result<WebProbe, NotAWebProbe> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => return Err(NotAWebProbe::Secure),
            _ => text,
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, DEFAULT_PATH),
        };
        if path.contains('#') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(NotAWebProbe::Path(path.to_owned()));
        }
        let (host, port) = host_and_port(authority)?;
        Ok(WebProbe { host, port: port.unwrap_or(80), path: path.to_owned(), body: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(text: &str) -> WebProbe {
        text.parse().unwrap()
    }

    fn judged(status: u16, location: Option<&str>, body: &str) -> (Option<bool>, Option<String>) {
        let report = probe("example.org").judge(status, location, body.as_bytes());
        (report.present, report.url)
    }

    #[test]
    fn the_expected_answer_is_no_portal() {
        assert_eq!(judged(204, None, ""), (Some(false), None));
        assert_eq!(judged(200, None, ""), (Some(false), None));
        let success = WebProbe { body: Some("success".to_owned()), ..probe("example.org/ok") };
        let judged = |status, body: &[u8]| success.judge(status, None, body).present;
        assert_eq!(
            [judged(200, b"success\n"), judged(200, b""), judged(204, b"")],
            [Some(false), Some(true), Some(true)]
        );
    }

    #[test]
    fn a_redirect_names_the_portal() {
        for (location, url) in [
            ("https://portal.example/login?a=b", "https://portal.example/login?a=b"),
            ("//10.0.0.1/", "http://10.0.0.1/"),
            ("/login", "http://example.org/login"),
            ("login", "http://example.org/login"),
            ("HTTPS://example.org.portal.example", "HTTPS://example.org.portal.example"),
        ] {
            assert_eq!(judged(302, Some(location), ""), (Some(true), Some(url.to_owned())), "{location}");
        }
        let unprintable = judged(302, Some("http://a/\u{1b}[2J"), "");
        assert_eq!(unprintable, (Some(true), Some("http://example.org/generate_204".to_owned())));
    }

    #[test]
    fn another_page_is_that_of_a_portal() {
        let own = Some("http://example.org/generate_204".to_owned());
        assert_eq!(judged(200, None, "<html>Welcome"), (Some(true), own.clone()));
        assert_eq!(judged(511, None, "<html>Sign in"), (Some(true), own));
    }

    #[test]
    fn what_tells_nothing() {
        for (status, location) in
            [(404, None), (503, None), (407, None), (301, Some("https://example.org/x"))]
        {
            assert_eq!(judged(status, location, "no"), (None, None), "{status}");
        }
    }

    #[test]
    fn what_is_no_probe() {
        assert_eq!("https://example.org".parse::<WebProbe>(), Err(NotAWebProbe::Secure));
        for text in ["http://a b/", "example.org/a b", "example.org/#x", "", "http://:80/", "ftp://a/"] {
            assert!(text.parse::<WebProbe>().is_err(), "{text}");
        }
        let probe = probe("HTTP://[2001:db8::1]:8080/x?y");
        assert_eq!((probe.authority().as_str(), probe.path.as_str()), ("[2001:db8::1]:8080", "/x?y"));
    }
}
