//! A server under load: started on one core, watched, and ended by its id.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use thirl_common::io::Technique;
use thirl_common::wire::{Class, MessageWriter, Method, TransactionId};

use crate::load::Hosts;
use crate::network::{Network, run_time};
use crate::{BenchError, Context, now};

/// The core that servers run on, and the one for the load.
pub(crate) const SERVER_CORE: &str = "0";
pub(crate) const LOAD_CORE: &str = "1";

/// Relays have the ports from here on, since the usual 16,384 do not suffice for 20,000 allocations.
const MIN_PORT: &str = "10000";

/// How long a server may take to answer its first request.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Our relay, by this technique.
    Thirl(Technique),
    /// A forwarder without a protocol, by this technique, for so many clients.
    Bare(Technique, Hosts, usize),
    /// coturn as a relay.
    Coturn,
    /// Our STUN server.
    StunServer,
    /// coturn as a STUN server.
    CoturnStun,
    /// stuntman, where it is installed.
    Stuntman,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Thirl(Technique::IoUring) => "turn-relay/io_uring",
            Kind::Thirl(Technique::Epoll) => "turn-relay/epoll",
            Kind::Bare(Technique::IoUring, ..) => "bare/io_uring",
            Kind::Bare(Technique::Epoll, ..) => "bare/epoll",
            Kind::Coturn | Kind::CoturnStun => "coturn",
            Kind::StunServer => "stun-server",
            Kind::Stuntman => "stuntman",
        }
    }

    /// Its program.
    fn program(self) -> &'static str {
        match self {
            Kind::Thirl(_) => "turn-relay",
            Kind::Bare(..) => "thirl-bench",
            Kind::Coturn | Kind::CoturnStun => "turnserver",
            Kind::StunServer => "stun-server",
            Kind::Stuntman => "stunserver",
        }
    }

    /// Whether its program is in `PATH`.
    pub(crate) fn is_installed(self) -> bool {
        let program = self.program();
        if matches!(self, Kind::Thirl(_) | Kind::Bare(..) | Kind::StunServer) {
            return our_binary(program).is_ok();
        }
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .any(|directory| directory.join(program).is_file())
    }

    fn command(self, network: &Network, port: u16) -> Result<Command, BenchError> {
        let mut command = network.command("taskset");
        command.args(["-c", SERVER_CORE]);
        let (ip, port) = (network.server_ip.to_string(), port.to_string());
        let (ip, port) = (ip.as_str(), port.as_str());
        match self {
            Kind::Thirl(technique) => command
                .arg(our_binary(self.program())?)
                .args(["--listening-ip", ip, "--listening-port", port, "--io", &technique.to_string()])
                .args(["--user", "bench:bench", "--realm", "bench", "--relay-threads", "1"])
                .args(["--allowed-peer-ip", network.range, "--min-port", MIN_PORT]),
            Kind::Bare(technique, hosts, count) => command
                .arg(our_binary(self.program())?)
                .args(["forward", "--listen", &format!("{ip}:{port}"), "--io", &technique.to_string()])
                .args(["--n", &count.to_string(), "--clients", &hosts.clients.to_string()])
                .args(["--peers", &hosts.peer(0).to_string()]),
            Kind::Coturn => command
                .args([
                    "turnserver",
                    "-n",
                    "--log-file",
                    "stdout",
                    "--simple-log",
                    "--no-cli",
                    "--no-tls",
                    "--no-dtls",
                ])
                .args(["--listening-ip", ip, "--relay-ip", ip])
                .args(["--listening-port", port, "--relay-threads", "1", "--min-port", MIN_PORT])
                .args(["-a", "-u", "bench:bench", "-r", "bench", "--allow-loopback-peers", "--no-rfc5780"])
                .args(["--pidfile", "/dev/null", "--userdb", "/dev/null"]),
            // The limiter is on, and so generous that it stops nothing.
            Kind::StunServer => command
                .arg(our_binary(self.program())?)
                .args(["--listening-ip", ip, "--listening-port", port])
                .args(["--rate-limit", "10000000"]),
            // As short as its responses get.
            Kind::CoturnStun => command
                .args(["turnserver", "-n", "--log-file", "stdout", "--simple-log", "--no-cli"])
                .args(["--no-tls", "--no-dtls", "--stun-only", "--relay-threads", "1"])
                .args(["--listening-ip", ip, "--listening-port", port])
                .args(["--no-software-attribute", "--no-rfc5780", "--no-stun-backward-compatibility"])
                .args(["--response-origin-only-with-rfc5780", "--pidfile", "/dev/null"])
                .args(["--userdb", "/dev/null"]),
            Kind::Stuntman => {
                command.args(["stunserver", "--primaryinterface", ip]).args(["--primaryport", port])
            }
        };
        Ok(command)
    }
}

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Server<'n> {
    kind: Kind,
    child: Child,
    network: &'n Network,
    pub(crate) addr: SocketAddr,
}

impl Server<'_> {
    /// Starts it and waits until it answers.
    pub(crate) fn start(kind: Kind, network: &Network) -> Result<Server<'_>, BenchError> {
        let port = free_port(network.load_ip)?;
        let child = kind
            .command(network, port)?
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context(format!("starting {} by taskset", kind.name()))?;
        let mut server = Server { kind, child, network, addr: SocketAddr::new(network.server_ip, port) };
        server.wait_until_it_answers()?;
        Ok(server)
    }

    pub(crate) fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// CPU time of all its threads, and of those that receive packets for it, so far, in nanoseconds.
    pub(crate) fn cpu_nanoseconds(&self) -> Result<u64, BenchError> {
        let tasks = PathBuf::from(format!("/proc/{}/task", self.child.id()));
        let mut total = self.network.packet_nanoseconds();
        for task in fs::read_dir(&tasks).context("reading the server's threads")?.flatten() {
            total += run_time(&task.path().join("schedstat"));
        }
        Ok(total)
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> Result<u64, BenchError> {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.child.id())).context("reading its memory")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: u64 = line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).unwrap_or(0);
        Ok(kib * 1024)
    }

    fn wait_until_it_answers(&mut self) -> Result<(), BenchError> {
        let socket = UdpSocket::bind((self.network.load_ip, 0)).context("a probe's socket")?;
        socket.set_read_timeout(Some(Duration::from_millis(50))).context("a probe's timeout")?;
        let mut buffer = [0; 20];
        let Ok(writer) =
            MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, TransactionId([9; 12]))
        else {
            return Err(self.error("a Binding request does not fit 20 bytes"));
        };
        let request = writer.finish();
        let deadline = now() + START_LIMIT;
        while now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.error(&format!("it ended at once, {status}")));
            }
            socket.send_to(request, self.addr).ok();
            if socket.recv(&mut [0; 256]).is_ok() {
                return Ok(());
            }
        }
        Err(self.error("it does not answer a Binding request"))
    }

    pub(crate) fn error(&self, what: &str) -> BenchError {
        BenchError::Server { server: self.name().to_owned(), what: what.to_owned() }
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn free_port(ip: IpAddr) -> Result<u16, BenchError> {
    let probe = UdpSocket::bind((ip, 0)).context("looking for a free port")?;
    Ok(probe.local_addr().context("looking for a free port")?.port())
}

/// A program of the same build as this one.
fn our_binary(name: &str) -> Result<PathBuf, BenchError> {
    let this = std::env::current_exe().context("finding this program")?;
    let path = this.parent().unwrap_or(Path::new(".")).join(name);
    match path.exists() {
        true => Ok(path),
        false => Err(BenchError::Server {
            server: name.to_owned(),
            what: format!("{} is missing: cargo build --release -p thirl-{name}", path.display()),
        }),
    }
}
