//! The service manager: what it is told, its unit file, and rights that are dropped.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;

use thirl_tests::harness;
use thirl_tests::natlab::Unavailable;
use thirl_tests::requires;

use super::{LIMIT, Relay, arguments};

/// A socket that hears what a service manager would, gone when it is dropped.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new() -> Manager {
        let path = std::env::temp_dir().join(format!("thirl-notify-{}", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Manager { socket, path }
    }

    /// The next that it is told.
    fn told(&self) -> String {
        let mut buffer = [0; 512];
        let len = self.socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..len]).trim().to_owned()
    }

    /// The next but for that all is well.
    fn told_else(&self) -> String {
        std::iter::repeat_with(|| self.told()).find(|text| text != "WATCHDOG=1").unwrap()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[test]
fn the_service_manager_is_told() {
    let manager = Manager::new();
    let mut command = Command::new("sh");
    // The watchdog is for one process, which exec keeps.
    command.args(["-c", r#"WATCHDOG_PID=$$ exec "$0" "$@""#]).arg(harness::turn_relay());
    command.args(arguments(&["--user", "alice:secret"]));
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "200000");
    let mut relay = Relay::run(command);
    assert!(manager.told_else().starts_with("READY=1\n"));
    let allocation = relay.allocate().unwrap();
    // It is told that all is well at each tick.
    assert_eq!([manager.told(), manager.told()], ["WATCHDOG=1"; 2]);
    relay.program.signal("HUP").unwrap();
    let reloading = manager.told_else();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert!(manager.told_else().starts_with("READY=1\n"));
    relay.program.signal("TERM").unwrap();
    let stopping = manager.told_else();
    assert!(stopping.starts_with("STOPPING=1\nSTATUS=waiting"), "{stopping}");
    drop(allocation);
    relay.program.signal("TERM").unwrap();
    assert!(relay.program.wait_for_end(LIMIT).unwrap().success());
}

#[test]
fn the_unit_file_holds_and_gives_few_rights() {
    let analyze = requires!(harness::installed("systemd-analyze", "systemd", "checks our unit file"));
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../contrib/systemd/turn-relay.service");
    let directory = std::env::temp_dir().join(format!("thirl-units-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let copy = directory.join("turn-relay.service");
    let text = fs::read_to_string(unit).unwrap();
    let installed = harness::turn_relay().display().to_string();
    fs::write(&copy, text.replace("/usr/bin/turn-relay", &installed)).unwrap();
    for arguments in [&["verify", "--man=no"][..], &["security", "--offline=yes", "--threshold=20"]] {
        let output = Command::new(&analyze).args(arguments).arg(&copy).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        let ours = said.lines().filter(|line| line.contains("turn-relay")).collect::<Vec<_>>();
        assert!(ours.is_empty(), "{arguments:?}: {ours:?}");
    }
    fs::remove_dir_all(&directory).unwrap();
}

fn root() -> Result<(), Unavailable> {
    let id = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    let reason = "only root can become another user".to_owned();
    if id { Ok(()) } else { Err(Unavailable { reason }) }
}

#[test]
fn rights_are_dropped_for_ever_once_sockets_are_bound() {
    requires!(root());
    let mut relay =
        Relay::start(&["--user", "alice:secret", "--proc-user", "nobody", "--log-level", "debug"]);
    let mut allocation = relay.allocate().unwrap();
    allocation.echo().unwrap();
    let threads = fs::read_dir(format!("/proc/{}/task", relay.program.id())).unwrap();
    let mut seen = BTreeSet::new();
    for thread in threads {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let rights = ["Uid:", "CapEff:", "CapPrm:", "NoNewPrivs:"].map(of);
        assert!(!of("Groups:").split(' ').any(|group| group == "0"), "{status}");
        seen.insert(rights);
    }
    let nobody = Command::new("id").args(["-u", "nobody"]).output().unwrap();
    let nobody = String::from_utf8_lossy(&nobody.stdout).trim().to_owned();
    let none = "0000000000000000".to_owned();
    let uids = [nobody.as_str(); 4].join(" ");
    assert_eq!(seen, BTreeSet::from([[uids, none.clone(), none, "1".to_owned()]]));
    // It still takes what it can read, and makes allocations.
    relay.program.signal("HUP").unwrap();
    relay.program.wait_for_line("was read anew and is in use", LIMIT).unwrap();
    relay.allocate().unwrap().echo().unwrap();
}
