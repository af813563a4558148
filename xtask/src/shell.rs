//! Runs commands: shown, timed, bounded.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How often a silent command is asked whether it has ended.
const POLL: Duration = Duration::from_secs(1);

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    Success,
    /// The status, in words.
    Failure(String),
    /// It was killed after this time.
    TooLate(Duration),
}

/// Measures a step.
pub(crate) struct Watch(Instant);

impl Watch {
    #[expect(clippy::disallowed_methods, reason = "a task tells how long its steps took")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn time(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Runs a command without input, prints its output as it comes, both streams in one, and shows each line to `each`.
pub(crate) fn run(command: &mut Command, limit: Duration, mut each: impl FnMut(&str)) -> io::Result<Ended> {
    println!("\n$ {}", shown(command));
    let (reader, writer) = io::pipe()?;
    let watch = Watch::start();
    let mut child = command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).spawn()?;
    // The command holds the writing ends too: without this the output would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    loop {
        let remaining = limit.saturating_sub(watch.time());
        match lines.recv_timeout(remaining.min(POLL)) {
            Ok(line) => {
                println!("{line}");
                each(&line);
            }
            Err(RecvTimeoutError::Disconnected) => return ended(&mut child),
            // What it left behind may hold the output open for ever.
            Err(RecvTimeoutError::Timeout) if child.try_wait()?.is_some() => return ended(&mut child),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if limit <= watch.time() {
            child.kill()?;
            child.wait()?;
            return Ok(Ended::TooLate(limit));
        }
    }
}

/// Whether a command succeeds, in silence.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success())
}

/// Whether a program is in the search path or where the system keeps its own.
pub(crate) fn has_program(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut directories = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    directories.any(|directory| directory.join(program).is_file())
}

/// Whether this is root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn ended(child: &mut Child) -> io::Result<Ended> {
    let status = child.wait()?;
    Ok(if status.success() { Ended::Success } else { Ended::Failure(status.to_string()) })
}

fn shown(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
