//! What the tests need of the machine: installed where that is possible, named where it is not.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::report::{Report, Row};
use crate::shell::{self, Ended, Watch};
use crate::workspace::Workspace;

/// A program of others, its Debian package and what it is wanted for.
const PROGRAMS: [(&str, &str, &str); 23] = [
    ("unshare", "util-linux", "makes the namespaces of the NAT lab"),
    ("ip", "iproute2", "makes the links and routes of the NAT lab"),
    ("nft", "nftables", "makes the NATs of the NAT lab"),
    ("conntrack", "conntrack", "makes a NAT of the lab forget its mappings"),
    ("ethtool", "ethtool", "makes a veth pair a device to benchmarks"),
    ("ping", "iputils-ping", "judges the NAT lab"),
    ("turnserver", "coturn", "is the TURN server that our ICE agent is tested against"),
    ("turnutils_uclient", "coturn", "is the TURN client that our relay is tested against"),
    ("stun", "stun-client", "is the STUN client that our STUN server is tested against"),
    ("caddy", "caddy", "is the web server, with TLS and QUIC, that the NAT diagnosis is tested with"),
    ("named", "bind9", "is the DNS server with DNS64 that the NAT diagnosis is tested with"),
    ("tayga", "tayga", "is the NAT64 of the NAT lab"),
    ("curl", "curl", "is the HTTPS client that shares a port with our relay's"),
    ("haproxy", "haproxy", "is the proxy that our servers are tested behind"),
    ("tinyproxy", "tinyproxy", "is the HTTP proxy that our TURN client is tested behind"),
    ("chromium", "chromium", "is the browser that our relay is tested with"),
    ("openssl", "openssl", "is the TLS and DTLS client that our servers are tested against"),
    ("miniupnpd", "miniupnpd-nftables", "is the gateway that our port mapping is tested against"),
    ("systemd-analyze", "systemd", "checks the unit file of our relay"),
    ("fail2ban-regex", "fail2ban", "reads the lines about failed authentication in our log"),
    ("cc", "gcc", "builds the programs in C that use our library and others"),
    ("pkg-config", "pkg-config", "says how programs in C are built with libraries of others"),
    ("python3", "python3", "runs aioice, the ICE agent that ours is tested against"),
];
/// A library of others by its name for pkg-config, its Debian package and what it is wanted for.
const LIBRARIES: [(&str, &str, &str); 1] =
    [("nice", "libnice-dev", "is an ICE agent that ours is tested against")];
const APT_LIMIT: Duration = Duration::from_secs(300);
const PIP_LIMIT: Duration = Duration::from_secs(120);
/// Asked by Debian's packages before they start a service: 101 forbids it.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Makes what is missing and adds a row for the system's packages and one for Python's.
pub(crate) fn prepare(workspace: &Workspace, report: &mut Report) {
    let watch = Watch::start();
    report.add(match system_packages() {
        Ok(()) => Row::passed("prepare: system packages", watch.time()),
        Err(reason) => Row::could_not("prepare: system packages", watch.time(), reason),
    });
    let watch = Watch::start();
    report.add(match python_packages(workspace) {
        Ok(()) => Row::passed("prepare: python packages", watch.time()),
        Err(reason) => Row::could_not("prepare: python packages", watch.time(), reason),
    });
}

fn system_packages() -> Result<(), String> {
    let packages = missing_packages();
    if packages.is_empty() {
        return Ok(());
    }
    if !shell::is_root() || !shell::has_program("apt-get") {
        return Err(explain_missing());
    }
    install(&packages).map_err(|error| format!("apt-get: {error}"))?;
    match missing_packages().is_empty() {
        true => Ok(()),
        false => Err(explain_missing()),
    }
}

fn missing_packages() -> Vec<&'static str> {
    let missing = PROGRAMS.iter().filter(|(program, ..)| !shell::has_program(program));
    let mut packages: Vec<_> = missing.map(|&(_, package, _)| package).collect();
    packages.extend(missing_libraries().map(|(_, package, _)| package));
    if python_with_venv().is_none() {
        packages.push("python3-venv");
    }
    packages.dedup();
    packages
}

fn missing_libraries() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let is_there = |library: &str| shell::succeeds(Command::new("pkg-config").args(["--exists", library]));
    LIBRARIES.into_iter().filter(move |(library, ..)| !is_there(library))
}

fn explain_missing() -> String {
    let missing = PROGRAMS.iter().filter(|(program, ..)| !shell::has_program(program));
    let mut reasons: Vec<_> = missing
        .map(|(program, package, purpose)| format!("{program} (package {package}) {purpose}"))
        .collect();
    let libraries = missing_libraries();
    reasons.extend(
        libraries.map(|(library, package, purpose)| format!("{library} (package {package}) {purpose}")),
    );
    if python_with_venv().is_none() {
        reasons.push("the module venv (package python3-venv) keeps aioice apart from the system".into());
    }
    format!("missing: {}", reasons.join(", "))
}

/// These packages start a server and would at each boot; the tests start their own.
const SERVICES: [(&str, &str); 6] = [
    ("coturn", "coturn"),
    ("caddy", "caddy"),
    ("bind9", "named"),
    ("haproxy", "haproxy"),
    ("tinyproxy", "tinyproxy"),
    ("fail2ban", "fail2ban"),
];

fn install(packages: &[&str]) -> io::Result<()> {
    let _policy = ServicePolicy::forbid()?;
    let mut update = Command::new("apt-get");
    expect_success(shell::run(update.args(["update", "--quiet"]), APT_LIMIT, |_| {})?)?;
    let mut install = Command::new("apt-get");
    install.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(packages);
    expect_success(shell::run(install.env("DEBIAN_FRONTEND", "noninteractive"), APT_LIMIT, |_| {})?)?;
    if Path::new("/run/systemd/system").exists() {
        for (_, service) in SERVICES.iter().filter(|(package, _)| packages.contains(package)) {
            shell::run(Command::new("systemctl").args(["disable", service]), APT_LIMIT, |_| {})?;
        }
    }
    Ok(())
}

/// Forbids packages to start services, as long as it lives, unless the machine has a policy of its own.
struct ServicePolicy {
    made: bool,
}

impl ServicePolicy {
    fn forbid() -> io::Result<Self> {
        let made = !Path::new(POLICY).exists();
        if made {
            fs::write(POLICY, "#!/bin/sh\nexit 101\n")?;
            fs::set_permissions(POLICY, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        }
        Ok(Self { made })
    }
}

impl Drop for ServicePolicy {
    fn drop(&mut self) {
        if self.made {
            let _ = fs::remove_file(POLICY);
        }
    }
}

/// A virtual environment with `tests/requirements.txt`, made anew when that changes.
fn python_packages(workspace: &Workspace) -> Result<(), String> {
    let requirements = workspace.root.join("tests/requirements.txt");
    let wanted = fs::read(&requirements).map_err(|error| format!("{}: {error}", requirements.display()))?;
    let venv = workspace.venv();
    let stamp = venv.join("requirements.txt");
    if fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    let Some(python) = python_with_venv() else {
        return Err(
            "no Python with venv to install aioice for, the ICE agent that ours is tested against".into()
        );
    };
    make_venv(python, &venv, &requirements).map_err(|error| {
        format!("cannot install aioice, the ICE agent that ours is tested against: {error}")
    })?;
    fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))
}

fn make_venv(python: &str, venv: &Path, requirements: &Path) -> io::Result<()> {
    expect_success(shell::run(
        Command::new(python).args(["-m", "venv", "--clear"]).arg(venv),
        PIP_LIMIT,
        |_| {},
    )?)?;
    let mut pip = Command::new(venv.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(requirements);
    expect_success(shell::run(&mut pip, PIP_LIMIT, |_| {})?)
}

fn python_with_venv() -> Option<&'static str> {
    let has_venv =
        |python: &&str| shell::succeeds(Command::new(python).args(["-c", "import venv, ensurepip"]));
    ["python3", "/usr/bin/python3"].into_iter().find(has_venv)
}

fn expect_success(ended: Ended) -> io::Result<()> {
    match ended {
        Ended::Success => Ok(()),
        Ended::Failure(status) => Err(io::Error::other(status)),
        Ended::TooLate(limit) => Err(io::Error::other(format!("not finished after {limit:?}"))),
    }
}
