//! The configuration read anew while allocations live.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use thirl_tests::harness::{self, Allocation, Certificate, Login, Program};
use thirl_tests::requires;

use super::{ALICE, LIMIT, Relay, said};

/// A file of settings, which is gone when it is dropped.
pub(super) struct Conf(PathBuf);

impl Conf {
    pub(super) fn new(toml: &str) -> Conf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let conf =
            Conf(std::env::temp_dir().join(format!("thirl-operated-{}-{number}.toml", std::process::id())));
        conf.write(toml);
        conf
    }

    pub(super) fn write(&self, toml: &str) {
        fs::write(&self.0, toml).unwrap();
    }

    pub(super) fn flags(&self) -> [&str; 2] {
        ["--config", self.0.to_str().unwrap()]
    }
}

impl Drop for Conf {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Relay {
    /// SIGHUP, and the next line of the log with `part`.
    fn reload(&mut self, part: &str) -> String {
        self.program.signal("HUP").unwrap();
        self.program.wait_for_line(part, LIMIT).unwrap()
    }
}

pub(super) const TAKEN_UP: &str = "was read anew and is in use";

#[test]
fn what_is_changed_holds_and_what_was_begun_goes_on() {
    let conf = Conf::new("user = \"alice:secret\"\nmin-port = 50000\nmax-port = 50999\n");
    let mut relay = Relay::start(&conf.flags());
    let mut allocation = relay.allocate().unwrap();
    allocation.echo().unwrap();

    conf.write("user = \"bob:hidden\"\nmin-port = 51000\nmax-port = 51999\nuser-quota = 1\n");
    relay.reload(TAKEN_UP);
    allocation.echo().unwrap();
    allocation.refresh(600).unwrap().unwrap();
    assert_eq!(relay.allocate().err(), Some(401), "alice is no user any more");
    let bob = Login { username: "bob", password: "hidden" };
    let mut second = Allocation::new(relay.addr, bob).unwrap().unwrap();
    assert!((51_000..52_000).contains(&second.relayed().port()), "{}", second.relayed());
    assert_eq!(Allocation::new(relay.addr, bob).unwrap().err(), Some(486), "user-quota is new");
    second.echo().unwrap();

    // A rule against the peer: what is permitted runs out, and is not permitted again.
    conf.write("user = \"bob:hidden\"\ndenied-peer-ip = \"192.0.2.0/24\"\nmax-bps = 10\n");
    relay.reload(TAKEN_UP);
    assert_eq!(second.permit("192.0.2.1:9".parse().unwrap()).unwrap(), Err(403));
    // A bucket holds one second: the first datagrams pass, and then none does.
    let passed = (0..10).take_while(|_| second.try_echo()).count();
    assert!((1..=3).contains(&passed), "{passed} of 4 bytes each at 10 bytes a second");
    conf.write("user = \"bob:hidden\"\n");
    relay.reload(TAKEN_UP);
    (0..10).for_each(|_| second.echo().unwrap());
    allocation.echo().unwrap();
}

#[test]
fn what_is_refused_changes_nothing_and_what_is_fixed_is_named() {
    let conf = Conf::new("user = \"alice:secret\"\nlistening-ip = \"127.0.0.1\"\n");
    let mut relay = Relay::start(&conf.flags());
    let mut allocation = relay.allocate().unwrap();
    for (toml, part) in [
        ("user = \"alice:secret\"\nmin-port = 0\n", ":2: min-port: \"0\" is no port hint: give a number"),
        ("user = \"bob:x\"\nuser-quata = 1\n", ":2: user-quata: there is no such key hint: did you mean"),
        ("user = [\n", "hint: the file is TOML"),
        ("cert = \"/nonexistent\"\npkey = \"/nonexistent\"\n", ":1: cert: "),
    ] {
        conf.write(toml);
        let line = relay.reload("is refused");
        assert!(line.contains("ERROR") && line.contains(part), "{line}");
        allocation.echo().unwrap();
        let mut another = relay.allocate().unwrap();
        another.refresh(0).unwrap().unwrap();
    }
    conf.write(
        "user = \"alice:secret\"\nlistening-ip = \"127.0.0.2\"\nio = \"epoll\"\nlog-level = \"debug\"\n",
    );
    relay.program.signal("HUP").unwrap();
    for name in ["setting=\"io\"", TAKEN_UP] {
        relay.program.wait_for_line(name, LIMIT).unwrap();
    }
    assert!(!relay.program.output().contains("setting=\"listening-ip\""), "the flag goes before it");
    // The level is another.
    assert_eq!(allocation.permit("10.0.0.1:9".parse().unwrap()).unwrap(), Err(403));
    relay.program.wait_for_line("DEBUG thirl_turn_relay::log: refused", LIMIT).unwrap();
}

#[test]
fn a_file_that_changes_is_read_by_itself_if_that_is_wanted() {
    let conf = Conf::new("user = \"alice:secret\"\nreload-on-change = true\n");
    let mut relay = Relay::start(&conf.flags());
    let mut allocation = relay.allocate().unwrap();
    conf.write("user = \"alice:another\"\nreload-on-change = true\n");
    relay.program.wait_for_line(TAKEN_UP, LIMIT).unwrap();
    assert_eq!(relay.allocate().err(), Some(401));
    let login = Login { password: "another", ..ALICE };
    Allocation::new(relay.addr, login).unwrap().unwrap();
    allocation.echo().unwrap();
}

#[test]
fn another_certificate_is_taken_up() {
    let (first, second) = (Certificate::new().unwrap(), Certificate::new().unwrap());
    let toml = |certificate: &Certificate| {
        let (cert, key) = (certificate.path(), certificate.key_path());
        format!("user = \"alice:secret\"\ncert = {cert:?}\npkey = {key:?}\ntls-listening-port = 0\n")
    };
    let conf = Conf::new(&toml(&first));
    let openssl = requires!(harness::installed("openssl", "openssl", "is the TLS client of others"));
    let mut relay = Relay::start(&conf.flags());
    let line = said(&mut relay.program, "turns:");
    let (host, _) = line.split_once("?transport=tcp").unwrap();
    let addr = host.rsplit_once("turns:").unwrap().1.to_owned();
    let shown = || {
        let mut client = Command::new(&openssl);
        client.args(["s_client", "-connect", &addr, "-showcerts"]);
        let mut client = Program::spawn(client).unwrap();
        client.close_stdin();
        client.wait_for_end(LIMIT).unwrap();
        // Without what it says on standard error in between.
        let output = client.output();
        output.lines().filter_map(|line| line.strip_prefix("  out| ")).collect::<Vec<_>>().join("\n")
    };
    let pem =
        |certificate: &Certificate| fs::read_to_string(certificate.path()).unwrap().replace("\r\n", "\n");
    assert!(shown().contains(pem(&first).trim()));
    conf.write(&toml(&second));
    relay.reload(TAKEN_UP);
    assert!(shown().contains(pem(&second).trim()));
}

#[test]
fn turnutils_loses_nothing_over_reloads() {
    let purpose = "is the TURN client of others";
    let uclient = requires!(harness::installed("turnutils_uclient", "coturn", purpose));
    let conf = Conf::new("user = \"alice:secret\"\n");
    let mut relay = Relay::start(&conf.flags());
    let mut command = Command::new(uclient);
    command.args(["-y", "-c", "-m", "4", "-n", "200", "-u", "alice", "-w", "secret"]);
    command.args(["-p", &relay.addr.port().to_string(), "127.0.0.1"]);
    let mut client = Program::spawn(command).unwrap().named("turnutils_uclient");
    (0..4).for_each(|_| drop(said(&mut relay.program, "allocation created")));
    let mut reloads = 0;
    for quota in 10.. {
        conf.write(&format!("user = [\"alice:secret\"]\nuser-quota = {quota}\nmax-bps = {quota}000000\n"));
        relay.reload(TAKEN_UP);
        reloads += 1;
        if client.output().contains("Total lost") || client.wait_for_line("Total lost", TICK).is_ok() {
            break;
        }
    }
    assert!(client.wait_for_end(LIMIT).unwrap().success());
    assert!(client.output().contains("Total lost packets 0 (0.000000%)"), "{}", client.output());
    assert!(reloads >= 2, "{reloads}");
}

const TICK: std::time::Duration = std::time::Duration::from_millis(200);
