//! What the two ends tell each other: JSON lines on standard input and output.

use std::io::{self, BufRead as _, Read as _};
use std::thread;

use serde_json::{Value, json};
use thirl_ice_agent::driver::{Description, IceAgent};
use tokio::sync::{mpsc, oneshot};

use super::print_json;
use crate::error::Failure;

/// A line longer than this is no description.
const MAX_LINE: u64 = 1 << 20;

/// The lines of the other side.
pub(super) struct Signalling {
    lines: mpsc::Receiver<io::Result<String>>,
    trickle: bool,
}

impl Signalling {
    /// Reads standard input in a thread, which ends with the process: a read cannot be cancelled.
    pub(super) fn new(trickle: bool) -> Signalling {
        let (sender, lines) = mpsc::channel(16);
        thread::spawn(move || {
            let mut input = io::stdin().lock();
            loop {
                let mut line = String::new();
                let read = input.by_ref().take(MAX_LINE).read_line(&mut line);
                let over = !matches!(read, Ok(1..));
                if sender.blocking_send(read.map(|_| line)).is_err() || over {
                    return;
                }
            }
        });
        Signalling { lines, trickle }
    }

    /// Waits for the other side's description and tells it to the agent.
    pub(super) async fn read_description(&mut self, agent: &IceAgent) -> Result<(), Failure> {
        let line = self.lines.recv().await.unwrap_or_else(|| Ok(String::new()));
        let line = line.map_err(|error| Failure::of("reading standard input", error))?;
        let description: Description = serde_json::from_str(&line).map_err(|error| {
            Failure::Usage(format!("standard input is no description: {error}\n  hint: one line, {{\"ufrag\",\"pwd\",\"candidates\"}}"))
        })?;
        let told = match self.trickle {
            true => agent.set_remote_credentials(&description.ufrag, &description.pwd),
            false => agent.set_remote(&description),
        };
        told.map_err(|error| Failure::of("the other side's description", error))?;
        if self.trickle {
            description.candidates.iter().for_each(|line| add_candidate(agent, line));
        }
        Ok(())
    }

    /// From now on passes on candidates, if they are told one by one. The answer comes when standard input has ended.
    pub(super) fn run(self, agent: &IceAgent) -> oneshot::Receiver<()> {
        let (end, ended) = oneshot::channel();
        if self.trickle {
            tokio::spawn(tell(agent.clone()));
        }
        tokio::spawn(listen(agent.clone(), self.lines, end));
        ended
    }
}

/// Those that the description already had are told again: it is the agents' business to know.
async fn tell(agent: IceAgent) {
    let mut candidates = agent.local_candidates();
    let mut complete = false;
    loop {
        let candidate = candidates.next().await;
        let over = candidate.is_none() && std::mem::replace(&mut complete, true);
        if over || print_json(&json!({ "candidate": candidate })).is_err() {
            return;
        }
    }
}

async fn listen(agent: IceAgent, mut lines: mpsc::Receiver<io::Result<String>>, end: oneshot::Sender<()>) {
    while let Some(Ok(line)) = lines.recv().await {
        if line.is_empty() {
            break;
        }
        let told: Value = serde_json::from_str(&line).unwrap_or_default();
        match (told.get("candidate").and_then(Value::as_str), told.get("candidate")) {
            (Some(candidate), _) => add_candidate(&agent, candidate),
            // There will be no more.
            (None, Some(Value::Null)) => agent.set_remote_end_of_candidates(),
            _ => eprintln!("passed over a line of standard input: {}", line.trim_end()),
        }
    }
    // Whoever does not wait for the end has dropped the receiver.
    let _ = end.send(());
}

fn add_candidate(agent: &IceAgent, line: &str) {
    if let Err(error) = agent.add_remote_candidate(line) {
        eprintln!("passed over a candidate of the other side's: {error}");
    }
}
