//! Measures what a NAT does, with a protocol of its own, so that it can judge the lab and our STUN code alike.
//!
//! `lab-prober server IP0 IP1` answers on two addresses and two ports and prints `ready`. Over TCP it says who has connected.
//! `lab-prober client IP0 IP1` prints one JSON object: `mapping`, `filtering`, `hairpin`, `local` and `mapped` ports.
//! `lab-prober ask IP[:PORT] COUNT` sends COUNT requests from one socket, one after another, and prints one JSON object:
//! `seen` (the mapped addresses, in order, null where no answer came).
//! `lab-prober hold IP` asks from one socket once per line on standard input and prints the mapped address, or `none`.
//! `lab-prober tcp IP:PORT IP:PORT` connects to both, from one port, and prints one JSON object: `local`, and what became of
//! each (`outcomes`): the address that the server saw, `refused` or `silent`.
//! `lab-prober traffic IP` opens new mappings all the time, from a fresh socket each, and prints `ready`.
//!
//! A request is `TOKEN VIA,VIA,…`, the answer from each endpoint VIA is `TOKEN VIA SEEN`; VIA is two digits, the
//! number of the address and of the port, or `self`, the endpoint that was asked.

use std::collections::BTreeSet;
use std::io::{self, BufRead as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use thirl_tests::harness::Deadline;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpSocket;
use tokio::time::timeout;

const PORTS: [u16; 2] = [7000, 7001];
/// All endpoints, the one that a client asks first last: what is sent before it has come before it, or never comes.
const ALL: &str = "11,10,01,00";
const ANSWER: Duration = Duration::from_millis(400);
const TRIES: usize = 3;
/// A handshake takes moments here; a lost SYN would be sent again after a second.
const CONNECTION: Duration = Duration::from_millis(2500);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["server", first, second] => addresses(first, second).and_then(serve),
        ["client", first, second] => addresses(first, second).and_then(examine),
        ["ask", server, count] => ask(server, count),
        ["hold", server] => hold(server),
        ["tcp", first, second] => tcp([first, second]),
        ["traffic", server] => traffic(server),
        _ => Err(io::Error::other(
            "usage: lab-prober server|client IP0 IP1 | ask IP[:PORT] COUNT | hold|traffic IP | tcp IP:PORT IP:PORT",
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-prober: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(addresses: [IpAddr; 2]) -> io::Result<()> {
    let sockets: Vec<UdpSocket> =
        endpoints(addresses).into_iter().map(UdpSocket::bind).collect::<io::Result<_>>()?;
    let sockets = Arc::new(sockets);
    for endpoint in endpoints(addresses) {
        let listener = TcpListener::bind(endpoint)?;
        thread::spawn(move || greet(&listener));
    }
    println!("ready");
    let threads: Vec<_> = (0..sockets.len())
        .map(|own| {
            let sockets = Arc::clone(&sockets);
            thread::spawn(move || answer(own, &sockets))
        })
        .collect();
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

/// Who is gone again before it is told has no need of it.
fn greet(listener: &TcpListener) {
    while let Ok((mut stream, from)) = listener.accept() {
        let _ = stream.write_all(from.to_string().as_bytes());
    }
}

fn answer(own: usize, sockets: &[UdpSocket]) {
    let mut buffer = [0; 1500];
    loop {
        // An error is an ICMP message about an earlier answer.
        let Ok((length, from)) = sockets[own].recv_from(&mut buffer) else { continue };
        let request = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let Some((token, via)) = request.split_once(' ') else { continue };
        for via in via.split(',') {
            let index = if via == "self" { Some(own) } else { via_index(via) };
            let Some(socket) = index.and_then(|index| sockets.get(index)) else { continue };
            let _ = socket.send_to(format!("{token} {via} {from}").as_bytes(), from);
        }
    }
}

fn examine(addresses: [IpAddr; 2]) -> io::Result<()> {
    let server = endpoints(addresses);
    let mut client = Client::new(addresses[0])?;
    let local = client.socket.local_addr()?.port();
    let mapped: Vec<Option<SocketAddr>> = server.iter().map(|&to| client.seen(to)).collect();
    let stable = client.seen(server[0]) == mapped[0];
    let result = json!({
        "mapping": if stable { mapping(&mapped) } else { "unstable" },
        "filtering": filtering(&server)?,
        "hairpin": hairpin(server[0])?,
        "local": local,
        "mapped": mapped.iter().map(|seen| seen.map(|seen| seen.to_string())).collect::<Vec<_>>(),
    });
    println!("{result}");
    Ok(())
}

fn mapping(mapped: &[Option<SocketAddr>]) -> &'static str {
    let [Some(a), Some(b), Some(c), Some(d)] = *mapped else { return "blocked" };
    let different: BTreeSet<_> = [a, b, c, d].into();
    match different.len() {
        1 => "EIM",
        2 if a == b && c == d => "ADM",
        4 => "APDM",
        _ => "other",
    }
}

/// A fresh socket asks one endpoint only; whose answers come? Repeated, since another processor may send one later.
fn filtering(server: &[SocketAddr]) -> io::Result<&'static str> {
    let mut client = Client::new(server[0].ip())?;
    let mut heard = BTreeSet::new();
    client.seen(server[0]);
    for _ in 0..TRIES {
        client.request(server[0], ALL, |via, _| {
            heard.insert(via.to_owned());
            via == "00"
        });
    }
    let heard: Vec<&str> = heard.iter().map(String::as_str).collect();
    Ok(match heard.as_slice() {
        ["00", "01", "10", "11"] => "EIF",
        ["00", "01"] => "ADF",
        ["00"] => "APDF",
        [] => "blocked",
        _ => "other",
    })
}

/// Two sockets of one client send to each other's mapped address, both ways so that no filter is in the way.
fn hairpin(server: SocketAddr) -> io::Result<&'static str> {
    let (mut one, mut two) = (Client::new(server.ip())?, Client::new(server.ip())?);
    let (Some(to_one), Some(to_two)) = (one.seen(server), two.seen(server)) else { return Ok("blocked") };
    if to_one.is_ipv4() != server.is_ipv4() {
        // Behind a NAT64 there is no way to an IPv4 address as it stands.
        return Ok("none");
    }
    for _ in 0..TRIES {
        two.socket.send_to(b"hairpin", to_one)?;
        one.socket.send_to(b"hairpin", to_two)?;
        if let Some(from) = one.receive(b"hairpin") {
            return Ok(if from.ip() == to_two.ip() { "external" } else { "internal" });
        }
    }
    Ok("none")
}

fn ask(server: &str, count: &str) -> io::Result<()> {
    let to = match server.parse::<SocketAddr>() {
        Ok(endpoint) => endpoint,
        Err(_) => SocketAddr::new(parse(server)?, PORTS[0]),
    };
    let mut client = Client::new(to.ip())?;
    let seen = |_| client.once(to).map_or(Value::Null, |seen| seen.to_string().into());
    let seen: Vec<Value> = (0..parse::<usize>(count)?).map(seen).collect();
    println!("{}", json!({ "seen": seen }));
    Ok(())
}

fn hold(server: &str) -> io::Result<()> {
    let to = SocketAddr::new(parse(server)?, PORTS[0]);
    let mut client = Client::new(to.ip())?;
    println!("ready");
    for line in io::stdin().lock().lines() {
        line?;
        match client.seen(to) {
            Some(seen) => println!("{seen}"),
            None => println!("none"),
        }
    }
    Ok(())
}

fn tcp(servers: [&str; 2]) -> io::Result<()> {
    let servers = [parse::<SocketAddr>(servers[0])?, parse(servers[1])?];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut local, mut outcomes) = (SocketAddr::new(unspecified(servers[0].ip()), 0), Vec::new());
    for server in servers {
        let outcome = runtime.block_on(async {
            let socket = if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.set_reuseaddr(true)?;
            socket.bind(local)?;
            local.set_port(socket.local_addr()?.port());
            Ok::<_, io::Error>(connected(socket, server).await)
        });
        outcomes.push(outcome?);
    }
    println!("{}", json!({ "local": local.port(), "outcomes": outcomes }));
    Ok(())
}

/// The address that the server saw, or why there is none.
async fn connected(socket: TcpSocket, server: SocketAddr) -> String {
    let mut seen = String::new();
    let asked = async { socket.connect(server).await?.read_to_string(&mut seen).await };
    match timeout(CONNECTION, asked).await {
        Ok(Ok(_)) => seen,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => "refused".into(),
        Ok(Err(error)) if error.raw_os_error().is_some() => "silent".into(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "silent".into(),
    }
}

/// A few hundred mappings a second: some between any two of another host that asks one question after another.
fn traffic(server: &str) -> io::Result<()> {
    let to = SocketAddr::new(parse(server)?, PORTS[0]);
    println!("ready");
    loop {
        let socket = Client::new(to.ip())?.socket;
        socket.send_to(b"traffic", to)?;
        // Nothing answers that: it sets the pace.
        socket.set_read_timeout(Some(Duration::from_millis(3)))?;
        _ = socket.recv(&mut [0; 1]);
    }
}

struct Client {
    socket: UdpSocket,
    token: u32,
}

impl Client {
    fn new(towards: IpAddr) -> io::Result<Self> {
        Ok(Self { socket: UdpSocket::bind((unspecified(towards), 0))?, token: 0 })
    }

    /// The address from which `to` sees this socket, tried a few times.
    fn seen(&mut self, to: SocketAddr) -> Option<SocketAddr> {
        (0..TRIES).find_map(|_| self.once(to))
    }

    fn once(&mut self, to: SocketAddr) -> Option<SocketAddr> {
        let mut address = None;
        self.request(to, "self", |_, seen| {
            address = seen.parse().ok();
            true
        });
        address
    }

    /// Sends one request and shows the answers to `each` until it has enough or none comes any more.
    fn request(&mut self, to: SocketAddr, via: &str, mut each: impl FnMut(&str, &str) -> bool) {
        self.token += 1;
        let token = self.token.to_string();
        if self.socket.send_to(format!("{token} {via}").as_bytes(), to).is_err() {
            return;
        }
        let deadline = Deadline::after(ANSWER);
        let mut buffer = [0; 1500];
        while let Some((length, _)) = self.receive_before(&deadline, &mut buffer) {
            let answer = String::from_utf8_lossy(&buffer[..length]);
            let mut words = answer.split(' ');
            if words.next() != Some(&token) {
                continue;
            }
            if each(words.next().unwrap_or_default(), words.next().unwrap_or_default()) {
                return;
            }
        }
    }

    /// Who sent the datagram `expected`.
    fn receive(&self, expected: &[u8]) -> Option<SocketAddr> {
        let deadline = Deadline::after(ANSWER);
        let mut buffer = [0; 1500];
        while let Some((length, from)) = self.receive_before(&deadline, &mut buffer) {
            if &buffer[..length] == expected {
                return Some(from);
            }
        }
        None
    }

    fn receive_before(&self, deadline: &Deadline, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        while !deadline.has_passed() {
            let limit = deadline.remaining().max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(limit)).ok()?;
            if let Ok(received) = self.socket.recv_from(buffer) {
                return Some(received);
            }
        }
        None
    }
}

fn unspecified(family_of: IpAddr) -> IpAddr {
    if family_of.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// In the order 00, 01, 10, 11.
fn endpoints(addresses: [IpAddr; 2]) -> Vec<SocketAddr> {
    addresses.iter().flat_map(|&ip| PORTS.map(|port| SocketAddr::new(ip, port))).collect()
}

fn via_index(via: &str) -> Option<usize> {
    ["00", "01", "10", "11"].iter().position(|&name| name == via)
}

fn addresses(first: &str, second: &str) -> io::Result<[IpAddr; 2]> {
    Ok([parse(first)?, parse(second)?])
}

fn parse<T: std::str::FromStr>(text: &str) -> io::Result<T> {
    text.parse().map_err(|_| io::Error::other(format!("cannot read {text:?}")))
}
