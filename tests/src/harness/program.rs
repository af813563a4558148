//! A running program: its lines are read as they come, every wait has a condition and a deadline, and it is killed
//! by its id when dropped.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use super::Deadline;

/// How often a program whose output has ended is asked whether it has ended too.
const POLL: Duration = Duration::from_millis(5);

/// A line that a program wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// On standard output.
    Out(String),
    /// On standard error.
    Err(String),
}

impl Line {
    /// What it says, without the line's end.
    pub fn text(&self) -> &str {
        match self {
            Self::Out(text) | Self::Err(text) => text,
        }
    }
}

/// A spawned program. Dropping it kills it.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Line>,
    /// Everything that was read so far, for the error messages.
    seen: Vec<Line>,
    /// How many of `seen` a wait has passed over.
    waited: usize,
}

/// Why a program did not do what a test waits for; the text holds all its output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// It could not be started or written to.
    #[error("{name}: {source}")]
    Io {
        /// Which program.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The deadline passed first.
    #[error("{name}: {awaited} did not come within {limit:?}; it wrote:\n{output}")]
    TooLate {
        /// Which program.
        name: String,
        /// What the test waited for.
        awaited: String,
        /// How long.
        limit: Duration,
        /// All that it wrote.
        output: String,
    },
    /// It closed its output first.
    #[error("{name}: ended before {awaited} came; it wrote:\n{output}")]
    Ended {
        /// Which program.
        name: String,
        /// What the test waited for.
        awaited: String,
        /// All that it wrote.
        output: String,
    },
}

impl Program {
    /// Starts `command` with all three standard streams connected to the test.
    ///
    /// # Errors
    /// [`ProgramError::Io`] if it cannot be started.
    pub fn spawn(mut command: Command) -> Result<Self, ProgramError> {
        let name = format!("{:?}", command.get_program()).trim_matches('"').to_owned();
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.map_err(|source| ProgramError::Io { name: name.clone(), source })?;
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            read_lines(stdout, sender.clone(), Line::Out);
        }
        if let Some(stderr) = child.stderr.take() {
            read_lines(stderr, sender, Line::Err);
        }
        let stdin = child.stdin.take();
        Ok(Self { name, child, stdin, lines, seen: Vec::new(), waited: 0 })
    }

    /// The name in error messages; that of the command unless set.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the next line, of either stream, for which `choose` has an answer. Lines that an earlier wait
    /// passed over are not seen again.
    ///
    /// # Errors
    /// If the deadline passes or the program ends first.
    pub fn wait_for<T>(
        &mut self,
        awaited: &str,
        limit: Duration,
        mut choose: impl FnMut(&Line) -> Option<T>,
    ) -> Result<T, ProgramError> {
        let deadline = Deadline::after(limit);
        loop {
            while let Some(line) = self.seen.get(self.waited) {
                self.waited += 1;
                if let Some(answer) = choose(line) {
                    return Ok(answer);
                }
            }
            let awaited = awaited.to_owned();
            match self.lines.recv_timeout(deadline.remaining()) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(ProgramError::TooLate {
                        name: self.name.clone(),
                        awaited,
                        limit,
                        output: self.output(),
                    });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(ProgramError::Ended {
                        name: self.name.clone(),
                        awaited,
                        output: self.output(),
                    });
                }
            }
        }
    }

    /// The next line that no wait has passed over, of either stream; `None` if none comes within this time.
    ///
    /// # Errors
    /// [`ProgramError::Ended`] when its output has ended.
    pub fn next_line(&mut self, limit: Duration) -> Result<Option<Line>, ProgramError> {
        if self.waited == self.seen.len() {
            match self.lines.recv_timeout(limit) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => {
                    let (name, output) = (self.name.clone(), self.output());
                    return Err(ProgramError::Ended { name, awaited: "a line".to_owned(), output });
                }
            }
        }
        self.waited += 1;
        Ok(self.seen.get(self.waited - 1).cloned())
    }

    /// Waits for a line, of either stream, that contains `part`, and returns it.
    ///
    /// # Errors
    /// As [`Program::wait_for`].
    pub fn wait_for_line(&mut self, part: &str, limit: Duration) -> Result<String, ProgramError> {
        let choose = |line: &Line| line.text().contains(part).then(|| line.text().to_owned());
        self.wait_for(&format!("a line with {part:?}"), limit, choose)
    }

    /// Waits for a line of standard output that is JSON.
    ///
    /// # Errors
    /// As [`Program::wait_for`].
    pub fn wait_for_json(&mut self, limit: Duration) -> Result<serde_json::Value, ProgramError> {
        self.wait_for("a line of JSON", limit, |line| match line {
            Line::Out(text) => serde_json::from_str(text).ok(),
            Line::Err(_) => None,
        })
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// [`ProgramError::Io`] if it does not read any more.
    pub fn write_line(&mut self, line: &str) -> Result<(), ProgramError> {
        let written = match &mut self.stdin {
            Some(stdin) => stdin.write_all(format!("{line}\n").as_bytes()).and_then(|()| stdin.flush()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        written.map_err(|source| ProgramError::Io { name: self.name.clone(), source })
    }

    /// Ends its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sends a signal by its name ("TERM", "INT"). Inside the NAT lab the id is that of a helper, which ignores it.
    ///
    /// # Errors
    /// [`ProgramError::Io`] if `kill` cannot be run.
    pub fn signal(&mut self, name: &str) -> Result<(), ProgramError> {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        sent.map(|_| ()).map_err(|source| ProgramError::Io { name: self.name.clone(), source })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If the deadline passes first.
    pub fn wait_for_end(&mut self, limit: Duration) -> Result<ExitStatus, ProgramError> {
        let deadline = Deadline::after(limit);
        loop {
            let ended = self.child.try_wait();
            let ended = ended.map_err(|source| ProgramError::Io { name: self.name.clone(), source })?;
            if let Some(status) = ended {
                self.seen.extend(self.lines.iter());
                return Ok(status);
            }
            match self.lines.recv_timeout(deadline.remaining().min(POLL)) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => thread::park_timeout(POLL),
            }
            if deadline.has_passed() {
                let awaited = "its end".to_owned();
                return Err(ProgramError::TooLate {
                    name: self.name.clone(),
                    awaited,
                    limit,
                    output: self.output(),
                });
            }
        }
    }

    /// Everything that it wrote until the last wait, each line with its stream.
    pub fn output(&self) -> String {
        self.seen.iter().fold(String::new(), |mut all, line| {
            let stream = if matches!(line, Line::Out(_)) { "out" } else { "err" };
            let _ = writeln!(all, "  {stream}| {}", line.text());
            all
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(stream: impl Read + Send + 'static, lines: Sender<Line>, kind: fn(String) -> Line) {
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { return };
            let text = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if lines.send(kind(text)).is_err() {
                return;
            }
        }
    });
}
