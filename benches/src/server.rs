//! A server under load: started on one core, watched, and ended by its id.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use thirl_common::wire::{Class, MessageWriter, Method, TransactionId};

use crate::{BenchError, Context, now};

/// The core that servers run on; the load has the other one.
const SERVER_CORE: &str = "0";

/// How long a server may take to answer its first request.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Our relay.
    Thirl,
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
            Kind::Thirl => "turn-relay",
            Kind::Coturn | Kind::CoturnStun => "coturn",
            Kind::StunServer => "stun-server",
            Kind::Stuntman => "stuntman",
        }
    }

    /// Whether its program is in `PATH`.
    pub(crate) fn is_installed(self) -> bool {
        let program = match self {
            Kind::Thirl | Kind::StunServer => return our_binary(self.name()).is_ok(),
            Kind::Coturn | Kind::CoturnStun => "turnserver",
            Kind::Stuntman => "stunserver",
        };
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .any(|directory| directory.join(program).is_file())
    }

    fn command(self, port: u16) -> Result<Command, BenchError> {
        let mut command = Command::new("taskset");
        command.args(["-c", SERVER_CORE]);
        match self {
            Kind::Thirl => command
                .arg(our_binary(self.name())?)
                .args(["--listening-ip", "127.0.0.1", "--listening-port", &port.to_string()])
                .args(["--user", "bench:bench", "--realm", "bench", "--relay-threads", "1"])
                .args(["--allowed-peer-ip", "127.0.0.1"]),
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
                .args(["--listening-ip", "127.0.0.1", "--relay-ip", "127.0.0.1"])
                .args(["--listening-port", &port.to_string(), "--relay-threads", "1"])
                .args(["-a", "-u", "bench:bench", "-r", "bench", "--allow-loopback-peers", "--no-rfc5780"])
                .args(["--pidfile", "/dev/null", "--userdb", "/dev/null"]),
            // The limiter is on, and so generous that it stops nothing.
            Kind::StunServer => command
                .arg(our_binary(self.name())?)
                .args(["--listening-ip", "127.0.0.1", "--listening-port", &port.to_string()])
                .args(["--rate-limit", "10000000"]),
            // As short as its responses get.
            Kind::CoturnStun => command
                .args(["turnserver", "-n", "--log-file", "stdout", "--simple-log", "--no-cli"])
                .args(["--no-tls", "--no-dtls", "--stun-only", "--relay-threads", "1"])
                .args(["--listening-ip", "127.0.0.1", "--listening-port", &port.to_string()])
                .args(["--no-software-attribute", "--no-rfc5780", "--no-stun-backward-compatibility"])
                .args(["--response-origin-only-with-rfc5780", "--pidfile", "/dev/null"])
                .args(["--userdb", "/dev/null"]),
            Kind::Stuntman => command
                .args(["stunserver", "--primaryinterface", "127.0.0.1"])
                .args(["--primaryport", &port.to_string()]),
        };
        Ok(command)
    }
}

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    kind: Kind,
    child: Child,
    pub(crate) addr: SocketAddr,
}

impl Server {
    /// Starts it and waits until it answers.
    pub(crate) fn start(kind: Kind) -> Result<Server, BenchError> {
        let port = free_port()?;
        let child = kind
            .command(port)?
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context(format!("starting {} by taskset", kind.name()))?;
        let mut server = Server { kind, child, addr: SocketAddr::from((Ipv4Addr::LOCALHOST, port)) };
        server.wait_until_it_answers()?;
        Ok(server)
    }

    pub(crate) fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// CPU time of all its threads so far, in nanoseconds.
    pub(crate) fn cpu_nanoseconds(&self) -> Result<u64, BenchError> {
        let tasks = PathBuf::from(format!("/proc/{}/task", self.child.id()));
        let mut total = 0;
        for task in fs::read_dir(&tasks).context("reading the server's threads")?.flatten() {
            // A thread may end in between.
            let schedstat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            total += schedstat.split(' ').next().and_then(|run| run.parse().ok()).unwrap_or(0_u64);
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
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("a probe's socket")?;
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

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn free_port() -> Result<u16, BenchError> {
    let probe = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
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
