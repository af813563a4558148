//! Through an HTTP proxy, by CONNECT (RFC 9110, section 9.3.6).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;

use data_encoding::BASE64;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use hyper::upgrade::Upgraded;
use hyper::{Request, StatusCode};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use thirl_common::uri::{Host, UriError, host_and_port};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;

use super::framed::Connection;
use super::server_name;
use crate::driver::Trust;
use crate::driver::through_nat64;

/// What the header of a proxy's answer may have, in bytes: `hyper` takes no less.
const MAX_HEADER: usize = 8 * 1024;

/// The ports of `http:` and `https:` (RFC 9110, sections 4.2.1 and 4.2.2).
const DEFAULT_PORTS: [u16; 2] = [80, 443];

/// What a proxy over TLS is spoken to in.
const HTTP: &[u8] = b"http/1.1";

/// An HTTP proxy, through which TURN servers are reached by TCP and TLS.
///
/// ```
/// use thirl_ice_agent::driver::HttpProxy;
///
/// let proxy: HttpProxy = "http://alice:se%20cret@proxy.example.org:3128".parse()?;
/// assert_eq!(proxy.to_string(), "http://proxy.example.org:3128");
/// # Ok::<(), thirl_ice_agent::driver::HttpProxyError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct HttpProxy {
    host: Host,
    port: u16,
    /// Whether the proxy itself is reached over TLS.
    secure: bool,
    /// User and password, for the Basic scheme (RFC 7617).
    credentials: Option<(String, String)>,
    /// Which hosts are reached without it, as `NO_PROXY` names them.
    except: String,
}

/// Whoever named the proxy has to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HttpProxyError {
    /// A proxy of another kind.
    #[error(
        "{0}: is no scheme of a proxy that can be used: write http://[USER:PASSWORD@]HOST[:PORT], or https://"
    )]
    Scheme(String),
    /// No host or no port.
    #[error(transparent)]
    Host(#[from] UriError),
    /// A user's name cannot have a colon, nor either of them control characters or bytes that are no UTF-8.
    #[error(
        "the user or the password of the proxy cannot be sent: write other characters than letters as %XX"
    )]
    Credentials,
}

/// There is no connection through the proxy.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("no connection to it: {0}")]
    Io(#[from] io::Error),
    #[error("it does not speak HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("it wants a user and a password: http://USER:PASSWORD@HOST:PORT")]
    Unauthorized,
    #[error("it refuses the user and the password")]
    CredentialsRefused,
    #[error("it refuses to connect: {0}")]
    Refused(StatusCode),
}

impl HttpProxy {
    /// Reaches these hosts without the proxy: names, which stand for all below them, addresses and networks, separated by
    /// commas, or `*` for all, as the variable `NO_PROXY` has them.
    #[must_use]
    pub fn except(mut self, hosts: &str) -> HttpProxy {
        hosts.clone_into(&mut self.except);
        self
    }

    /// Whether it is used for a host.
    pub fn serves(&self, host: &Host) -> bool {
        if self.except.split(',').any(|host| host.trim() == "*") {
            return false;
        }
        // Only whether any is used is asked; which that is stands here.
        let matcher = Matcher::builder().https("http://proxy").no(self.except.as_str()).build();
        let uri = format!("https://{host}").parse();
        uri.is_ok_and(|uri| matcher.intercept(&uri).is_some())
    }

    /// A connection to this host and port, and its local address.
    pub(super) async fn connect(
        &self,
        host: &Host,
        port: u16,
        trust: &Trust,
    ) -> Result<(SocketAddr, TokioIo<Upgraded>), ConnectError> {
        let stream = dial(&self.host, self.port).await?;
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        let stream: Box<dyn Connection> = if self.secure {
            let name = server_name(&self.host).map_err(io::Error::other)?;
            Box::new(TlsConnector::from(trust.client_config(&[HTTP]).await).connect(name, stream).await?)
        } else {
            Box::new(stream)
        };
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_HEADER);
        let (mut requests, connection) = builder.handshake(TokioIo::new(stream)).await?;
        // Ends with the requests, or with the upgrade.
        tokio::spawn(connection.with_upgrades());
        let response = requests.send_request(self.request(host, port)).await?;
        match response.status() {
            status if status.is_success() => Ok((local, TokioIo::new(hyper::upgrade::on(response).await?))),
            StatusCode::PROXY_AUTHENTICATION_REQUIRED if self.credentials.is_none() => {
                Err(ConnectError::Unauthorized)
            }
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => Err(ConnectError::CredentialsRefused),
            status => Err(ConnectError::Refused(status)),
        }
    }

    fn request(&self, host: &Host, port: u16) -> Request<Empty<Bytes>> {
        let authority = format!("{host}:{port}");
        let mut request = Request::new(Empty::new());
        *request.method_mut() = hyper::Method::CONNECT;
        // Hosts of server URIs have no other characters than authorities and headers may have.
        if let (Ok(uri), Ok(value)) = (authority.parse(), HeaderValue::try_from(&authority)) {
            *request.uri_mut() = uri;
            request.headers_mut().insert(HOST, value);
        }
        if let Some((user, password)) = &self.credentials {
            let basic = format!("Basic {}", BASE64.encode(format!("{user}:{password}").as_bytes()));
            if let Ok(mut value) = HeaderValue::try_from(basic) {
                value.set_sensitive(true);
                request.headers_mut().insert(PROXY_AUTHORIZATION, value);
            }
        }
        request
    }
}

/// Tries the addresses of a host one after another.
async fn dial(host: &Host, port: u16) -> io::Result<TcpStream> {
    let addresses = match host {
        Host::Ip(ip) => vec![SocketAddr::new(*ip, port)],
        Host::Name(name) => lookup_host((name.as_str(), port)).await?.collect(),
    };
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in addresses {
        match TcpStream::connect(through_nat64(address).await).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

impl FromStr for HttpProxy {
    type Err = HttpProxyError;

    /// `http://[USER:PASSWORD@]HOST[:PORT][/]`, or the same with `https`; `http://` may be left out.
    fn from_str(text: &str) -> Result<HttpProxy, HttpProxyError> {
        let (secure, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, _)) => return Err(HttpProxyError::Scheme(scheme.to_owned())),
            None => (false, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, authority) = match rest.rsplit_once('@') {
            Some((credentials, authority)) => (Some(read_credentials(credentials)?), authority),
            None => (None, rest),
        };
        let (host, port) = host_and_port(authority)?;
        let port = port.unwrap_or(DEFAULT_PORTS[usize::from(secure)]);
        Ok(HttpProxy { host, port, secure, credentials, except: String::new() })
    }
}

fn read_credentials(text: &str) -> Result<(String, String), HttpProxyError> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(String::from);
    let (Ok(user), Ok(password)) = (decoded(user), decoded(password)) else {
        return Err(HttpProxyError::Credentials);
    };
    if user.contains(':') || user.chars().chain(password.chars()).any(char::is_control) {
        return Err(HttpProxyError::Credentials);
    }
    Ok((user, password))
}

/// Without the credentials.
impl fmt::Display for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", if self.secure { "https" } else { "http" }, self.host, self.port)
    }
}

impl fmt::Debug for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpProxy({self}, credentials redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<HttpProxy, HttpProxyError> {
        text.parse()
    }

    #[test]
    fn proxies_as_people_write_them() {
        for (text, shown, credentials) in [
            ("http://proxy.example:3128", "http://proxy.example:3128", None),
            ("HTTP://proxy.example/", "http://proxy.example:80", None),
            ("proxy.example:8080", "http://proxy.example:8080", None),
            ("https://proxy.example", "https://proxy.example:443", None),
            ("https://proxy.example:3128/", "https://proxy.example:3128", None),
            ("http://[2001:db8::1]:3128", "http://[2001:db8::1]:3128", None),
            ("http://a:b@c:1", "http://c:1", Some(("a", "b"))),
            ("http://a%40b:p%3Aq%2F@c:1", "http://c:1", Some(("a@b", "p:q/"))),
            ("http://a@c:1", "http://c:1", Some(("a", ""))),
        ] {
            let proxy = read(text).unwrap();
            assert_eq!(proxy.to_string(), shown, "{text}");
            let credentials = credentials.map(|(user, password)| (user.to_owned(), password.to_owned()));
            assert_eq!(proxy.credentials, credentials, "{text}");
            assert!(!format!("{proxy:?}").contains("p:q"));
        }
        assert!(matches!(read("socks5://a:1"), Err(HttpProxyError::Scheme(_))));
        for text in ["", "http://", "http://a:0", "http://a b", "http://a/path"] {
            assert!(matches!(read(text), Err(HttpProxyError::Host(_))), "{text}");
        }
        for text in ["http://a%3Ab:c@d", "http://a%0d%0a:c@d", "http://%ff@d"] {
            assert_eq!(read(text), Err(HttpProxyError::Credentials), "{text}");
        }
    }

    #[test]
    fn some_hosts_are_reached_without_it() {
        let proxy = read("http://proxy:1").unwrap();
        let host = |text: &str| text.parse().map_or(Host::Name(text.to_owned()), Host::Ip);
        let hosts =
            ["turn.example", "a.turn.example", "other.example", "10.1.2.3", "192.0.2.1", "2001:db8::1"];
        let served = |proxy: &HttpProxy| hosts.map(|text| proxy.serves(&host(text)));
        assert_eq!(served(&proxy), [true; 6]);
        let some = proxy.clone().except("turn.example, 10.0.0.0/8,2001:db8::/32");
        assert_eq!(served(&some), [false, false, true, false, true, false]);
        assert_eq!(served(&proxy.except("*")), [false; 6]);
    }

    #[test]
    fn a_request_names_the_server_and_who_asks() {
        let request =
            read("http://alice:secret@proxy:1").unwrap().request(&"::1".parse().map(Host::Ip).unwrap(), 443);
        assert_eq!(
            (request.method().as_str(), request.uri().to_string()),
            ("CONNECT", "[::1]:443".to_owned())
        );
        assert_eq!(request.headers()["host"], "[::1]:443");
        assert_eq!(request.headers()["proxy-authorization"], "Basic YWxpY2U6c2VjcmV0");
        let request = read("http://proxy:1").unwrap().request(&Host::Name("turn.example".into()), 5349);
        assert_eq!(request.headers()["host"], "turn.example:5349");
        assert!(!request.headers().contains_key("proxy-authorization"));
    }
}
