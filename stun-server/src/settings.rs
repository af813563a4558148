//! The STUN server's settings, under the names that coturn gave them. What they say of Binding requests they say to the
//! relay too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thirl_common::config::{ConfigError, Key, Problem, Values, parse};
use thirl_common::io::Technique;
use thirl_common::net::ExternalIp;
use thirl_common::proxy_protocol::TrustedProxies;

use crate::binding::BindingConfig;
use crate::partner::PartnerSecrets;
use crate::server::Config;
use crate::shard::Listen;
use crate::{AddressPair, Discovery, Limit, operation, secure};

/// Every setting of the STUN server.
pub const KEYS: &[Key] = &[
    LISTENING_IP,
    LISTENING_PORT,
    EXTERNAL_IP,
    ALT_LISTENING_PORT,
    RFC5780,
    PARTNER,
    PARTNER_SECRET,
    RATE_LIMIT,
    PROXY_PROTOCOL_FROM,
    IO,
    secure::CERT,
    secure::PKEY,
    secure::TLS_LISTENING_PORT,
    secure::NO_TLS,
    secure::NO_DTLS,
    secure::HTTPS_BACKEND,
    secure::HTTPS_BACKEND_PROXY_PROTOCOL,
    operation::PROMETHEUS,
    operation::PROMETHEUS_PORT,
    operation::PROMETHEUS_ADDRESS,
    operation::LOG_FORMAT,
    operation::LOG_LEVEL,
    operation::RELOAD_ON_CHANGE,
    operation::PROC_USER,
    operation::PROC_GROUP,
];

/// `listening-ip`.
pub const LISTENING_IP: Key =
    Key::list("listening-ip", "IP", "Address to listen on; may be repeated. Default: all, IPv4 and IPv6")
        .fixed();

/// `listening-port`.
pub const LISTENING_PORT: Key = Key::single(
    "listening-port",
    "PORT",
    "UDP and TCP port to listen on; 0 lets the system choose. Default: 3478",
)
.fixed();

/// `external-ip`.
pub const EXTERNAL_IP: Key = Key::list(
    "external-ip",
    "PUBLIC[/PRIVATE]",
    "What this host is called outside, behind a 1:1 NAT, or what one of its addresses is; may be repeated",
)
.fixed()
.example("[\"203.0.113.10/10.0.0.10\"]");

/// `alt-listening-port`.
pub const ALT_LISTENING_PORT: Key = Key::single(
    "alt-listening-port",
    "PORT",
    "Second port of NAT behaviour discovery (RFC 5780); 0 is the default. Default: listening-port + 1",
)
.fixed()
.example("3479");

/// `rfc5780`.
pub const RFC5780: Key = Key::single(
    "rfc5780",
    "BOOL",
    "NAT behaviour discovery (RFC 5780); `false` is coturn's no-rfc5780. Default: true if two addresses of \
           one family are given as listening-ip, of which the first two are used",
)
.fixed();

/// `partner`.
pub const PARTNER: Key = Key::list(
    "partner",
    "IP",
    "Public address of a second server that has this one as its partner, and answers from the other address: \
           RFC 5780 across two machines; may be repeated, one address of each family",
)
.fixed()
.example("[\"198.51.100.20\"]");

/// `partner-secret`.
pub const PARTNER_SECRET: Key = Key::list(
    "partner-secret",
    "SECRET",
    "What the partners share, 16 characters or more; the first signs, all are taken; may be repeated",
)
.fixed()
.example("[\"what `openssl rand -hex 32` prints\"]");

/// `rate-limit`.
pub const RATE_LIMIT: Key = Key::single(
    "rate-limit",
    "COUNT",
    "Requests a second without credentials that one IPv4 address or IPv6 /64 may send for ever, and in two \
           seconds at once; 0: no limit. Default: 1000",
)
.example("1000");

/// `proxy-protocol-from`.
pub const PROXY_PROTOCOL_FROM: Key = Key::list(
    "proxy-protocol-from",
    "RANGE",
    "Proxies that say first which client they speak for: IP, CIDR or first-last. What comes from there by TCP and TLS \
     begins with a PROXY protocol header (version 1 or 2), and so does each datagram (version 2), or it is not taken; from \
     elsewhere a header is none. Whoever is named here can pretend to be any client; may be repeated",
)
.example("[\"10.0.0.0/24\"]").fixed();

/// `io`.
pub const IO: Key = Key::single(
    "io",
    "NAME",
    "How datagrams are asked of the kernel: `io_uring` (Linux 6.1, if not forbidden), `epoll`, or `auto`, which \
           takes io_uring where it can be used, and the log says if not. Default: auto",
).fixed().example("\"epoll\"");

/// The port of STUN over UDP and TCP (RFC 8489, section 18.6).
pub const DEFAULT_PORT: u16 = 3478;

/// The highest `rate-limit`.
const MAX_RATE: u64 = 1_000_000_000;

/// What the server starts with.
pub fn config(values: &Values) -> Result<Config, ConfigError> {
    let ips = values.all(LISTENING_IP.name, parse::ip)?;
    let port = values.one(LISTENING_PORT.name, parse::listening_port)?.unwrap_or(DEFAULT_PORT);
    let secure = secure::secure(values, &ips, port)?;
    let technique = technique(values)?;
    let listen = Listen { secure, technique, proxies: proxies(values)?, ..listen(&ips, port) };
    Ok(Config { listen, binding: binding(values, &ips, port)? })
}

/// What a server on these addresses and this port does about Binding requests.
pub fn binding(values: &Values, ips: &[IpAddr], port: u16) -> Result<BindingConfig, ConfigError> {
    let limit = match values.one(RATE_LIMIT.name, parse::number(0, MAX_RATE))? {
        None => Some(Limit::default()),
        Some(rate) => u32::try_from(rate)
            .ok()
            .filter(|rate| *rate > 0)
            .map(|per_second| Limit { per_second, burst: per_second.saturating_mul(2) }),
    };
    let external = values.all(EXTERNAL_IP.name, parse::external_ip)?;
    let (partners, partner_secrets) = partners(values)?;
    let discovery = discovery(values, ips, &external, port, &partners)?;
    Ok(BindingConfig { discovery, partner_secrets, limit })
}

fn discovery(
    values: &Values,
    ips: &[IpAddr],
    external: &[ExternalIp],
    port: u16,
    partners: &[IpAddr],
) -> Result<Discovery, ConfigError> {
    let wanted = values.one(RFC5780.name, parse::boolean)?;
    let alternate =
        values.one(ALT_LISTENING_PORT.name, parse::listening_port)?.filter(|alternate| *alternate != 0);
    let asked_for = match (partners, wanted, alternate) {
        ([], Some(false), _) => return Ok(Discovery::default()),
        (_, Some(false), _) => {
            let problem = Problem::new(
                "a partner is there for NAT behaviour discovery, which rfc5780 switches off",
                "leave rfc5780 out, or partner and partner-secret",
            );
            return Err(values.refuse(RFC5780.name, problem));
        }
        ([_, ..], ..) => Some(PARTNER.name),
        (_, Some(true), _) => Some(RFC5780.name),
        (_, None, Some(_)) => Some(ALT_LISTENING_PORT.name),
        (_, None, None) => None,
    };
    // A port that the system chooses is another for each address.
    if port == 0 {
        let problem = Problem::new(
            "NAT behaviour discovery needs a listening-port that is not 0",
            "give listening-port, or `rfc5780 = false` and no partner",
        );
        return asked_for.map_or(Ok(Discovery::default()), |key| Err(values.refuse(key, problem)));
    }
    let other = alternate.or(port.checked_add(1)).filter(|other| *other != port);
    // Any other port tells whether there are two addresses.
    let ports = [port, other.unwrap_or(port ^ 1)];
    let mut discovery = Discovery::between(ips, external, ports);
    for partner in partners {
        let pair = with_partner(ips, external, *partner, ports);
        let pair = pair.map_err(|problem| values.refuse(PARTNER.name, problem))?;
        *(if partner.is_ipv4() { &mut discovery.ipv4 } else { &mut discovery.ipv6 }) = Some(pair);
    }
    if let (Some(key), true) = (asked_for, discovery.is_empty()) {
        let problem = Problem::new(
            "NAT behaviour discovery needs two addresses of one family, and there are not two that clients know apart",
            "give listening-ip twice (behind a NAT with an external-ip `public/private` for each), or leave rfc5780 and \
             alt-listening-port out",
        );
        return Err(values.refuse(key, problem));
    }
    if other.is_none() && !discovery.is_empty() {
        let problem = Problem::new(
            "the second port of NAT behaviour discovery would be the same as listening-port, or above 65535",
            "give an alt-listening-port that differs from listening-port",
        );
        return Err(values.refuse(ALT_LISTENING_PORT.name, problem));
    }
    Ok(discovery)
}

/// The address here that a partner's is the other of.
fn with_partner(
    ips: &[IpAddr],
    external: &[ExternalIp],
    partner: IpAddr,
    ports: [u16; 2],
) -> Result<AddressPair, Problem> {
    let mut own = ips.iter().filter(|ip| ip.is_ipv4() == partner.is_ipv4() && !ip.is_unspecified());
    match (own.next(), own.next()) {
        (Some(own), None) => AddressPair::with_partner(*own, external, partner, ports).ok_or_else(|| {
            Problem::new(
                format!("{partner} is this server's own address"),
                "give the public address of the other server",
            )
        }),
        (None, _) => Err(Problem::new(
            format!("it is not said which address here is the other one of {partner}"),
            "give the listening-ip that clients reach, behind a 1:1 NAT with its external-ip",
        )),
        (Some(_), Some(_)) => Err(Problem::new(
            format!("this server has two addresses of the family of {partner}, and needs no partner for it"),
            "give one listening-ip of that family, or leave partner out",
        )),
    }
}

/// One of each family at the most, and what is shared with them.
fn partners(values: &Values) -> Result<(Vec<IpAddr>, PartnerSecrets), ConfigError> {
    let partners = values.all(PARTNER.name, partner)?;
    let secrets = values.all(PARTNER_SECRET.name, partner_secret)?;
    if partners.is_empty() != secrets.is_empty() {
        let (key, what) = if secrets.is_empty() {
            (PARTNER.name, "a partner needs a partner-secret")
        } else {
            (PARTNER_SECRET.name, "there is no partner that shares it")
        };
        let hint = "give both servers each other's address as partner, and the same partner-secret, such as \
                    `openssl rand -hex 32` prints";
        return Err(values.refuse(key, Problem::new(what, hint)));
    }
    if let [a, b, rest @ ..] = &partners[..]
        && (a.is_ipv4() == b.is_ipv4() || !rest.is_empty())
    {
        let hint = "give one IPv4 address, one IPv6 address, or one of each";
        let problem = Problem::new("there are two partners of one family", hint);
        return Err(values.refuse(PARTNER.name, problem));
    }
    Ok((partners, PartnerSecrets(secrets)))
}

fn partner(text: &str) -> Result<IpAddr, Problem> {
    let ip = parse::ip(text)?;
    let is_host = !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST);
    is_host.then_some(ip).ok_or_else(|| {
        Problem::new(format!("{ip} is no host's address"), "give the public address of the other server")
    })
}

/// Short secrets can be guessed by whoever records a heartbeat.
fn partner_secret(text: &str) -> Result<String, Problem> {
    const MIN_LEN: usize = 16;
    match text.len() {
        MIN_LEN.. => Ok(text.to_owned()),
        len => Err(Problem::new(
            format!("the secret (not shown) has {len} characters, so that it could be guessed"),
            format!(
                "give {MIN_LEN} or more, such as `openssl rand -hex 32` prints, the same on both servers"
            ),
        )),
    }
}

/// What [`PROXY_PROTOCOL_FROM`] says.
pub fn proxies(values: &Values) -> Result<TrustedProxies, ConfigError> {
    let trusted = |text: &str| match parse::ip_range(text)? {
        range if range.width() == u128::MAX || range.width() == u128::from(u32::MAX) => Err(Problem::new(
            format!("{text:?} trusts everybody to say who they are"),
            "give the addresses of the proxies, and nothing wider",
        )),
        range => Ok(range),
    };
    values.all(PROXY_PROTOCOL_FROM.name, trusted).map(TrustedProxies)
}

/// What [`IO`] says.
pub fn technique(values: &Values) -> Result<Option<Technique>, ConfigError> {
    let named = |text: &str| match text {
        "auto" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            Problem::new(format!("{text:?} is no way to do I/O"), "give `auto`, `io_uring` or `epoll`")
        }),
    };
    values.one(IO.name, named).map(Option::flatten)
}

/// Both transports on each address, or on all addresses of both families if none is given.
pub fn listen(ips: &[IpAddr], port: u16) -> Listen {
    let addrs: Vec<_> = or_everywhere(ips).iter().map(|ip| SocketAddr::new(*ip, port)).collect();
    Listen { udp: addrs.clone(), tcp: addrs, ..Listen::default() }
}

/// The addresses to listen on: all of both families if none is given.
pub(crate) fn or_everywhere(ips: &[IpAddr]) -> &[IpAddr] {
    const EVERYWHERE: &[IpAddr] = &[IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    if ips.is_empty() { EVERYWHERE } else { ips }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(text: &str) -> Result<Config, String> {
        let values = Values::from_file(KEYS, Path::new("stun.toml"), text);
        values.and_then(|values| config(&values)).map_err(|error| error.to_string())
    }

    #[test]
    fn two_addresses_make_a_server_of_rfc_5780() {
        let two = "listening-ip = [\"192.0.2.1\", \"192.0.2.2\"]\n";
        let ports = |text: &str| {
            let config = read(&format!("{two}{text}")).unwrap();
            config.binding.discovery.addrs().map(|addr| addr.port()).collect::<Vec<_>>()
        };
        assert_eq!(ports(""), [3478, 3479, 3478, 3479]);
        assert_eq!(ports("listening-port = 5000\nalt-listening-port = 6000"), [5000, 6000, 5000, 6000]);
        assert_eq!(ports("alt-listening-port = 0\nrfc5780 = true"), [3478, 3479, 3478, 3479]);
        assert_eq!(ports("rfc5780 = false"), [0; 0]);
        assert_eq!(ports("listening-port = 0"), [0; 0]);
        assert!(read("").unwrap().binding.discovery.is_empty());
    }

    #[test]
    fn what_cannot_discover_is_refused_with_its_line() {
        let two = "listening-ip = [\"192.0.2.1\", \"192.0.2.2\"]\n";
        for (text, place, hint) in [
            ("rfc5780 = true".to_owned(), "stun.toml:1: rfc5780", "listening-ip twice"),
            (
                "\nalt-listening-port = 3480".to_owned(),
                "stun.toml:2: alt-listening-port",
                "listening-ip twice",
            ),
            (format!("{two}alt-listening-port = 3478"), "stun.toml:2: alt-listening-port", "differs"),
            (format!("{two}listening-port = 65535"), "alt-listening-port", "differs"),
            (format!("{two}listening-port = 0\nrfc5780 = true"), "stun.toml:3: rfc5780", "listening-port"),
            (
                format!("{two}external-ip = \"203.0.113.1\"\nrfc5780 = true"),
                "stun.toml:3: rfc5780",
                "`public/private` for each",
            ),
            ("rfc5780 = \"yes\"".to_owned(), "stun.toml:1: rfc5780", "`true`"),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(place) && error.contains(hint), "{text}\n{error}");
        }
    }

    #[test]
    fn a_partner_has_the_second_address() {
        let secret = "partner-secret = \"0123456789abcdef\"\n";
        let one = format!("{secret}listening-ip = [\"10.0.0.1\", \"2001:db8::1\"]\n");
        let read =
            |text: &str| read(&format!("{one}external-ip = \"203.0.113.1/10.0.0.1\"\n{text}")).unwrap();
        let BindingConfig { discovery, partner_secrets, .. } = read("partner = \"203.0.113.2\"").binding;
        assert!(!format!("{partner_secrets:?}").contains("0123"), "Debug is for logs");
        let link = discovery.ipv4.unwrap().link().unwrap();
        let ends = [link.local, link.public, link.partner].map(|addr| addr.to_string());
        assert_eq!(ends, ["10.0.0.1:3478", "203.0.113.1:3478", "203.0.113.2:3478"]);
        assert_eq!((link.second_port, discovery.ipv6), (3479, None));
        let here: Vec<_> = discovery.addrs().map(|addr| addr.to_string()).collect();
        assert_eq!(here, ["10.0.0.1:3478", "10.0.0.1:3479"]);
        let both = read("partner = [\"2001:db8::2\", \"203.0.113.2\"]\nrfc5780 = true").binding.discovery;
        assert_eq!(both.links().count(), 2);
    }

    #[test]
    fn half_a_partner_is_refused_with_its_line() {
        let secret = "partner-secret = \"0123456789abcdef\"\n";
        let one = "listening-ip = \"192.0.2.1\"\n";
        let whole = format!("partner = \"192.0.2.2\"\n{secret}");
        let to = |partner: &str| format!("partner = {partner}\n{secret}{one}");
        for (text, place, hint) in [
            (format!("{one}partner = \"192.0.2.2\""), "stun.toml:2: partner:", "partner-secret"),
            (format!("{one}{secret}"), "stun.toml:2: partner-secret:", "no partner"),
            (format!("{one}partner-secret = \"short\""), "stun.toml:2: partner-secret:", "5 characters"),
            (to("\"192.0.2.1\""), "stun.toml:1: partner:", "own address"),
            (to("\"192.0.2.9\"") + "external-ip = \"192.0.2.9\"", "stun.toml:1: partner:", "own address"),
            (to("\"224.0.0.1\""), "stun.toml:1: partner:", "no host's address"),
            (to("\"2001:db8::2\""), "stun.toml:1: partner:", "give the listening-ip"),
            (to("[\"192.0.2.2\", \"192.0.2.3\"]"), "stun.toml:1: partner:", "one of each"),
            (whole.clone(), "stun.toml:1: partner:", "give the listening-ip"),
            (
                format!("{whole}listening-ip = [\"192.0.2.1\", \"192.0.2.3\"]"),
                "stun.toml:1: partner:",
                "needs no partner",
            ),
            (format!("{whole}{one}listening-port = 0"), "stun.toml:1: partner:", "not 0"),
            (format!("{whole}{one}listening-port = 65535"), "alt-listening-port", "differs"),
            (format!("{whole}{one}rfc5780 = false"), "stun.toml:4: rfc5780:", "leave rfc5780 out"),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(place) && error.contains(hint), "{text}\n{error}");
            assert!(!error.contains("0123") && !error.contains("short"), "{error}");
        }
    }

    #[test]
    fn the_limit_is_on_unless_it_is_zero() {
        assert_eq!(read("").unwrap().binding.limit, Some(Limit::default()));
        assert_eq!(read("rate-limit = 5").unwrap().binding.limit, Some(Limit { per_second: 5, burst: 10 }));
        assert_eq!(read("rate-limit = 0").unwrap().binding.limit, None);
        assert!(read("rate-limit = -1").is_err());
    }

    #[test]
    fn only_proxies_are_trusted() {
        let proxies =
            read("proxy-protocol-from = [\"10.0.0.0/24\", \"2001:db8::1\"]").unwrap().listen.proxies;
        assert!(
            proxies.contains("10.0.0.9".parse().unwrap()) && !proxies.contains("10.0.1.9".parse().unwrap())
        );
        for text in ["0.0.0.0/0", "::/0", "lb.example.org"] {
            let error = read(&format!("\nproxy-protocol-from = {text:?}")).unwrap_err();
            assert!(error.contains("stun.toml:2: proxy-protocol-from"), "{error}");
        }
    }

    #[test]
    fn the_data_path_is_chosen_by_name() {
        for (text, technique) in [
            ("", None),
            ("io = \"auto\"", None),
            ("io = \"epoll\"", Some(Technique::Epoll)),
            ("io = \"io_uring\"", Some(Technique::IoUring)),
        ] {
            assert_eq!(read(text).unwrap().listen.technique, technique, "{text}");
        }
        let error = read("\nio = \"uring\"").unwrap_err();
        assert!(error.contains("stun.toml:2: io") && error.contains("`io_uring`"), "{error}");
    }
}
