//! The process tree of a lab.
//!
//! `unshare` makes the namespaces and starts `cat` as process 1 of the pid namespace. `cat` ends when its standard
//! input does, so also when the test process is killed; when `unshare` is killed, it is killed as well. With process 1
//! the kernel kills every process of the namespace, and with the last one go its interfaces.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};

use super::LabError;
use super::spec::Node;

/// Where Debian keeps `ip`, `nft` and `conntrack`, which is not in everybody's `PATH`.
pub(super) const SYSTEM_DIRECTORIES: [&str; 2] = ["/usr/sbin", "/sbin"];

#[derive(Debug)]
pub(super) struct ProcessTree {
    unshare: Child,
    /// Standard input of process 1.
    life_line: Option<ChildStdin>,
    user_namespace: bool,
}

impl ProcessTree {
    pub(super) fn start(user_namespace: bool) -> Result<Self, LabError> {
        let user_namespace = user_namespace || !is_root();
        let mut command = Command::new("unshare");
        if user_namespace {
            command.args(["--user", "--map-root-user"]);
        }
        command.args([
            "--mount",
            "--net",
            "--pid",
            "--mount-proc",
            "--fork",
            "--kill-child=KILL",
            "--",
            "cat",
        ]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut unshare =
            command.spawn().map_err(|source| LabError::Program { program: "unshare", source })?;
        let life_line = unshare.stdin.take();
        let mut tree = Self { unshare, life_line, user_namespace };
        if tree.echoes() { Ok(tree) } else { Err(LabError::Namespaces(tree.messages())) }
    }

    /// Runs a script with `sh` in the lab, outside of its nodes.
    pub(super) fn run(&self, script: &str) -> Result<(), LabError> {
        let failed = |source| LabError::Program { program: "nsenter", source };
        let mut shell = self.enter();
        shell.args(["sh", "-e"]).env("PATH", path());
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut shell = shell.spawn().map_err(failed)?;
        let written = shell.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(script.as_bytes()));
        let output = shell.wait_with_output().map_err(failed)?;
        if !output.status.success() {
            let messages = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(LabError::Setup { status: output.status, messages });
        }
        written.map_err(failed)
    }

    /// The program's parent is the spawned `unshare`: it passes the exit status on, and with it the program dies.
    pub(super) fn command(&self, node: Node, program: &OsStr) -> Command {
        let mut command = self.enter();
        command.arg(format!("--net=/run/netns/{node}"));
        // Entering a mount namespace leads to its root directory.
        let mut directory = OsString::from("--chdir=");
        directory.push(env::current_dir().unwrap_or_else(|_| "/".into()));
        command.args([OsStr::new("env"), &directory, program]);
        command
    }

    /// `nsenter` into the lab, up to where the program's name or more of its options follow.
    fn enter(&self) -> Command {
        let namespace = |name: &str| format!("/proc/{}/ns/{name}", self.unshare.id());
        let mut command = Command::new("nsenter");
        if self.user_namespace {
            command.args(["--preserve-credentials", &format!("--user={}", namespace("user"))]);
        }
        // Without --no-fork the program would be a grandchild that outlives its killed parent.
        command.arg("--no-fork");
        command.arg(format!("--mount={}", namespace("mnt")));
        command.arg(format!("--net={}", namespace("net")));
        command.arg(format!("--pid={}", namespace("pid_for_children")));
        command.args(["--", "unshare", "--fork", "--kill-child=KILL", "--", "nsenter", "--no-fork"]);
        command
    }

    /// Whether process 1 runs: it repeats what it is told.
    fn echoes(&mut self) -> bool {
        let Some(life_line) = &mut self.life_line else { return false };
        // A failed `unshare` has closed its end; then no answer comes either.
        let _ = life_line.write_all(b"ready\n");
        let Some(stdout) = self.unshare.stdout.take() else { return false };
        let mut answer = String::new();
        BufReader::new(stdout).read_line(&mut answer).is_ok_and(|_| answer == "ready\n")
    }

    fn messages(&mut self) -> String {
        let mut messages = String::new();
        if let Some(mut stderr) = self.unshare.stderr.take() {
            let _ = stderr.read_to_string(&mut messages);
        }
        messages.trim().to_owned()
    }
}

impl Drop for ProcessTree {
    fn drop(&mut self) {
        // Not waiting for process 1: it stays until those whom the machine's init inherits are reaped, which can be
        // a second, or never in a container whose first process is no init.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

/// The search path with the system's directories.
pub(super) fn path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    for directory in SYSTEM_DIRECTORIES {
        path.push(":");
        path.push(directory);
    }
    path
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
