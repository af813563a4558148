//! One peer of a run, and what it has said so far.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use thirl_common::net::Transport;
use thirl_ice_agent::agent::PathKind;

use crate::harness::{Line, Program, ProgramError};
use crate::reach::Path;

/// A program starts within moments; the rest is for a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

pub(super) struct End {
    program: Program,
    pub(super) first_data: Option<Duration>,
    /// The paths that it selected, and when: times count from when it was told its peer's description.
    selected: Vec<(Duration, Path)>,
    /// What it said at its end.
    pub(super) counted: Option<Counted>,
    /// It ended before it was told to.
    pub(super) failed: bool,
    /// Why its path changed, and what it complained of.
    pub(super) words: Vec<String>,
}

/// Of all datagrams.
#[derive(Clone, Copy)]
pub(super) struct Counted {
    pub(super) sent: u64,
    pub(super) lost: u64,
}

impl End {
    pub(super) fn spawn(command: Command, name: &str) -> Result<End, ProgramError> {
        let program = Program::spawn(command)?.named(name);
        Ok(End {
            program,
            first_data: None,
            selected: Vec::new(),
            counted: None,
            failed: false,
            words: Vec::new(),
        })
    }

    pub(super) fn description(&mut self) -> Result<String, ProgramError> {
        self.program.wait_for_json(LIMIT).map(|description| description.to_string())
    }

    /// Its peer is gone if this cannot be written, which its own last lines tell.
    pub(super) fn tell(&mut self, line: &str) {
        let _ = self.program.write_line(line);
    }

    /// Tells it to stop.
    pub(super) fn stop(&mut self) {
        self.program.close_stdin();
    }

    /// Reads what it says, for so long at most. Returns what is for the other end.
    pub(super) fn read(&mut self, limit: Duration) -> Vec<String> {
        let mut told = Vec::new();
        let mut limit = limit;
        while let Some(line) = self.next_line(limit) {
            limit = Duration::ZERO;
            match line {
                Line::Out(text) => match serde_json::from_str::<Value>(&text) {
                    Ok(said) if said.get("candidate").is_some() => told.push(text),
                    Ok(said) => self.note(&said),
                    Err(_) => self.words.push(text),
                },
                Line::Err(text) => self.words.push(text),
            }
        }
        told
    }

    fn next_line(&mut self, limit: Duration) -> Option<Line> {
        // What it complained of stands in its words already.
        self.program.next_line(limit).unwrap_or_else(|_| {
            self.failed = true;
            None
        })
    }

    fn note(&mut self, said: &Value) {
        let time = |name: &str| said[name].as_f64().map(|ms| Duration::from_secs_f64(ms / 1e3));
        if let Some(at) = time("first_data_ms") {
            self.first_data = Some(at);
        } else if let (Some(path), Some(at)) = (path(said), time("ms")) {
            self.selected.push((at, path));
        } else if let Some(why) = said["changed"].as_str() {
            self.words.push(why.to_owned());
        } else if let (Some(sent), Some(lost)) = (said["sent"].as_u64(), said["lost"].as_u64()) {
            self.counted = Some(Counted { sent, lost });
            self.words.extend(said["report"].as_str().map(str::to_owned));
        }
    }

    /// The path that it has now.
    pub(super) fn path(&self) -> Option<Path> {
        self.selected.last().map(|(_, path)| *path)
    }

    /// Since when that is direct, if it is.
    pub(super) fn direct_since(&self) -> Option<Duration> {
        let direct = self.selected.iter().rev().take_while(|(_, path)| path.is_direct());
        direct.last().map(|(at, _)| *at)
    }
}

/// `{"selected": KIND, "local": "candidate:FOUNDATION COMPONENT TRANSPORT …"}`
fn path(said: &Value) -> Option<Path> {
    let kind = match said["selected"].as_str()? {
        "direct" => PathKind::Direct,
        _ => PathKind::Relayed,
    };
    let transport = said["local"].as_str()?.split(' ').nth(2)?;
    let transport = if transport.eq_ignore_ascii_case("udp") { Transport::Udp } else { Transport::Tcp };
    Some(Path::of(kind, transport))
}
