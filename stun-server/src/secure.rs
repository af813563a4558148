//! The settings of TLS and DTLS, which the STUN server and the relay have in common.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use thirl_common::config::{ConfigError, Key, Problem, Values, parse};
use thirl_common::tls::{CertificateError, Certificates, PemFiles};
use thirl_common::uri::DEFAULT_TLS_PORT;

use crate::settings::or_everywhere;
use crate::shard::{HttpsBackend, Secure};

/// The certificate.
pub const CERT: Key = Key::single(
    "cert",
    "FILE",
    "Certificate for TLS and DTLS, with its intermediate ones, in PEM; taken up anew when it is renewed. Default: neither",
).example("\"/etc/letsencrypt/live/turn.example.org/fullchain.pem\"");
/// Its key.
pub const PKEY: Key = Key::single("pkey", "FILE", "Private key of the certificate, in PEM")
    .example("\"/etc/letsencrypt/live/turn.example.org/privkey.pem\"");
/// Their port.
pub const TLS_LISTENING_PORT: Key = Key::single(
    "tls-listening-port",
    "PORT",
    "TCP port for TLS and UDP port for DTLS, besides listening-port, which takes them too. Default: 5349",
)
.fixed()
.example("443");
/// Without TLS.
pub const NO_TLS: Key =
    Key::single("no-tls", "BOOLEAN", "No TLS, though there is a certificate. Default: false").fixed();
/// Without DTLS.
pub const NO_DTLS: Key =
    Key::single("no-dtls", "BOOLEAN", "No DTLS, though there is a certificate. Default: false").fixed();

/// Where HTTPS goes.
pub const HTTPS_BACKEND: Key = Key::single(
    "https-backend",
    "IP:PORT",
    "HTTPS server that shares the ports of TLS: connections of clients that offer protocols (ALPN), but neither stun.turn \
     nor stun.nat-discovery, are passed on to it as they are. Default: they are refused",
)
.example("\"127.0.0.1:8443\"")
.fixed();
/// Whether it learns of clients.
pub const HTTPS_BACKEND_PROXY_PROTOCOL: Key = Key::single(
    "https-backend-proxy-protocol",
    "BOOLEAN",
    "Tell https-backend the client's address by the PROXY protocol, version 2. Default: false",
)
.fixed();

/// TLS and DTLS for a server that listens on these addresses, all if there are none, and this port; `None` if there is no
/// certificate, or neither is wanted. Files that cannot be used are refused.
pub fn secure(values: &Values, ips: &[IpAddr], port: u16) -> Result<Option<Secure>, ConfigError> {
    let wanted = |key| Ok(!values.one(key, parse::boolean)?.unwrap_or(false));
    let (tls, dtls) = (wanted(NO_TLS.name)?, wanted(NO_DTLS.name)?);
    let own_port = values.one(TLS_LISTENING_PORT.name, parse::listening_port)?;
    let Some(certificates) = certificates(values)? else { return Ok(None) };
    // Where the system chooses the one, it may choose the other.
    let own_port = own_port.unwrap_or(if port == 0 { 0 } else { DEFAULT_TLS_PORT });
    let addrs = match own_port == port && port != 0 {
        true => Vec::new(),
        false => or_everywhere(ips).iter().map(|ip| SocketAddr::new(*ip, own_port)).collect(),
    };
    let https_backend = https_backend(values, ips, [port, own_port])?.filter(|_| tls);
    Ok((tls || dtls).then(|| Secure { tls, dtls, addrs, https_backend, ..Secure::new(certificates) }))
}

fn https_backend(
    values: &Values,
    ips: &[IpAddr],
    ports: [u16; 2],
) -> Result<Option<HttpsBackend>, ConfigError> {
    let addr = |text: &str| match text.parse::<SocketAddr>() {
        Ok(addr) if addr.port() != 0 && !addr.ip().is_unspecified() => Ok(addr),
        _ => Err(Problem::new(
            format!("{text:?} is no address and port to connect to"),
            "give such as 127.0.0.1:8443 or [::1]:8443",
        )),
    };
    let proxy_protocol = values.one(HTTPS_BACKEND_PROXY_PROTOCOL.name, parse::boolean)?.unwrap_or(false);
    let Some(addr) = values.one(HTTPS_BACKEND.name, addr)? else { return Ok(None) };
    let mut listening = or_everywhere(ips).iter();
    let is_here = listening.any(|ip| *ip == addr.ip() || ip.is_unspecified() && addr.ip().is_loopback());
    if is_here && ports.contains(&addr.port()) {
        let problem = Problem::new(
            format!("{addr} is where this server listens itself"),
            "let the HTTPS server listen on another port, and give that",
        );
        return Err(values.refuse(HTTPS_BACKEND.name, problem));
    }
    Ok(Some(HttpsBackend { addr, proxy_protocol }))
}

fn certificates(values: &Values) -> Result<Option<Certificates>, ConfigError> {
    let path = |key| Ok(values.one(key, parse::text)?.map(PathBuf::from));
    let (certificate, private_key) = match (path(CERT.name)?, path(PKEY.name)?) {
        (Some(certificate), Some(private_key)) => (certificate, private_key),
        (None, None) => return Ok(None),
        (certificate, _) => {
            let (given, missing) = if certificate.is_some() { (CERT, PKEY) } else { (PKEY, CERT) };
            let problem = Problem::new(
                format!("there is no {} to go with it", missing.name),
                format!("give {}, which may be the same file, or neither", missing.name),
            );
            return Err(values.refuse(given.name, problem));
        }
    };
    let read = Certificates::read(PemFiles { certificate, private_key });
    read.map(Some).map_err(|error| match error {
        CertificateError::PrivateKey(problem) => values.refuse(PKEY.name, problem),
        CertificateError::Certificate(problem) => values.refuse(CERT.name, problem),
        error => values.refuse(CERT.name, Problem::new(error.to_string(), "see cert and pkey")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    const KEYS: &[Key] =
        &[CERT, PKEY, TLS_LISTENING_PORT, NO_TLS, NO_DTLS, HTTPS_BACKEND, HTTPS_BACKEND_PROXY_PROTOCOL];

    /// A directory with a certificate, its key and another key.
    struct Files(PathBuf);

    impl Files {
        fn new(name: &str) -> Files {
            let directory = std::env::temp_dir().join(format!("thirl-{name}-{}", std::process::id()));
            fs::create_dir_all(&directory).unwrap();
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
            fs::write(directory.join("cert.pem"), certificate.pem()).unwrap();
            fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
            let other = rcgen::KeyPair::generate().unwrap();
            fs::write(directory.join("other.pem"), other.serialize_pem()).unwrap();
            Files(directory)
        }

        fn secure(&self, port: u16, text: &str) -> Result<Option<Secure>, String> {
            let text = text.replace("DIR", &self.0.display().to_string());
            let values = Values::from_file(KEYS, Path::new("stun.toml"), &text);
            values.and_then(|values| secure(&values, &[], port)).map_err(|error| error.to_string())
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const BOTH: &str = "cert = \"DIR/cert.pem\"\npkey = \"DIR/key.pem\"\n";

    #[test]
    fn a_certificate_switches_both_on() {
        let files = Files::new("secure");
        assert_eq!(files.secure(3478, "tls-listening-port = 443").unwrap(), None);
        let ports = |port, text: &str| {
            let secure = files.secure(port, &format!("{BOTH}{text}")).unwrap().unwrap();
            let ports: Vec<_> = secure.addrs.iter().map(SocketAddr::port).collect();
            (secure.tls, secure.dtls, ports)
        };
        assert_eq!(ports(3478, ""), (true, true, vec![5349, 5349]));
        assert_eq!(ports(3478, "no-tls = true\ntls-listening-port = 443"), (false, true, vec![443, 443]));
        assert_eq!(ports(3478, "tls-listening-port = 3478"), (true, true, vec![]), "one port for all");
        assert_eq!(ports(0, "no-dtls = true"), (true, false, vec![0, 0]));
        assert_eq!(files.secure(3478, &format!("{BOTH}no-tls = true\nno-dtls = true")).unwrap(), None);
    }

    #[test]
    fn https_goes_elsewhere() {
        let files = Files::new("https");
        let backend =
            |text: &str| files.secure(3478, &format!("{BOTH}{text}")).map(|it| it.unwrap().https_backend);
        let addr = "127.0.0.1:8443".parse().unwrap();
        let expected = |proxy_protocol| Ok(Some(HttpsBackend { addr, proxy_protocol }));
        assert_eq!(backend("https-backend = \"127.0.0.1:8443\""), expected(false));
        let told = "https-backend = \"127.0.0.1:8443\"\nhttps-backend-proxy-protocol = true";
        assert_eq!(backend(told), expected(true));
        assert_eq!(backend(&format!("{told}\nno-tls = true")), Ok(None));
        for (wrong, what) in [
            ("127.0.0.1:5349", "listens itself"),
            ("[::1]:3478", "listens itself"),
            ("0.0.0.0:8443", "to connect to"),
            ("example.org:443", "to connect to"),
            ("127.0.0.1:0", "to connect to"),
        ] {
            let error = backend(&format!("https-backend = {wrong:?}")).unwrap_err();
            assert!(error.starts_with("stun.toml:3: https-backend:") && error.contains(what), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_line() {
        let files = Files::new("insecure");
        for (text, place, what) in [
            ("cert = \"DIR/cert.pem\"", "stun.toml:1: cert:", "no pkey"),
            ("\npkey = \"DIR/key.pem\"", "stun.toml:2: pkey:", "no cert"),
            (
                "cert = \"DIR/none.pem\"\npkey = \"DIR/key.pem\"",
                "stun.toml:1: cert:",
                "none.pem: No such file",
            ),
            (
                "cert = \"DIR/cert.pem\"\npkey = \"DIR/other.pem\"",
                "stun.toml:2: pkey:",
                "not the certificate's",
            ),
            ("cert = \"DIR/key.pem\"\npkey = \"DIR/key.pem\"", "stun.toml:1: cert:", "no certificate"),
            ("no-tls = 1", "stun.toml:1: no-tls:", "neither true nor false"),
        ] {
            let error = files.secure(3478, text).unwrap_err();
            assert!(error.starts_with(place) && error.contains(what) && error.contains("hint: "), "{error}");
        }
    }
}
