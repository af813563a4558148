//! The kernel lab as instrument: real programs in real networks, one lab for each run.
//!
//! 1. [`place`](Place): the networks of a pair.
//! 2. `server`: `thirl serve` in public.
//! 3. `peer`: `thirl ice` at both ends, or aioice, which send a datagram every 20 ms; `end`: what they say.
//! 4. [`run`]: brings them together by their standard streams, so that signalling needs no network, and watches.

mod end;
mod peer;
mod place;
mod server;

use std::io;
use std::time::Duration;

pub use place::{Host, Place, is_here};

use super::{Expectation, Mode, Outcome, Pair, Path};
use crate::harness::{Deadline, ProgramError};
use crate::natlab::{Lab, LabError, Node, Unavailable};
use end::End;
use server::Server;

/// How long an end is listened to at a time.
const TURN: Duration = Duration::from_millis(2);

/// A direct path has to last so long, and is watched meanwhile.
const SETTLE: Duration = Duration::from_secs(1);

/// Each end sends fifty datagrams a second, and a relay receives and sends each: so many if it carries those of one end alone,
/// less what a busy machine delays. What is left of gathering has come to fifty.
const RELAYED_PACKETS: u64 = 80;

/// An end that was told to stop does so within half a second.
const STOP: Duration = Duration::from_secs(10);

/// There is no outcome: the instrument failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The networks could not be built.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The peers are not installed.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// A program did not do what it always does.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The server could not be started, or the lab not be watched.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Runs a pair once.
///
/// # Errors
/// If the lab, the server or the peers could not be started. A pair that does not connect is an outcome.
pub fn run(pair: Pair, mode: Mode, expectation: Expectation) -> Result<Outcome, RunError> {
    let place = Place::build(pair)?;
    let server = Server::start(&place.lab)?;
    let [a, b] = &place.hosts;
    let spawn = |host: &Host, role, side: Mode| {
        let command = peer::command(&place.lab, &server, host, role, side)?;
        Ok::<_, RunError>(End::spawn(command, &format!("{} on {}, {role}", side.name(), host.node))?)
    };
    let [first, second] = mode.sides();
    let mut ends = [spawn(a, "controlling", first)?, spawn(b, "controlled", second)?];
    let descriptions = [ends[0].description()?, ends[1].description()?];
    ends[0].tell(&descriptions[1]);
    ends[1].tell(&descriptions[0]);
    let carried = converse(&place.lab, &mut ends, expectation.patience())?;
    stop(&mut ends);
    Ok(outcome(&ends, carried, expectation))
}

/// Passes on what the ends tell each other until both have a direct path that lasts, one has failed, or the time is over.
/// Returns what the server's line carried in the last second of a direct path.
fn converse(lab: &Lab, ends: &mut [End; 2], patience: Duration) -> io::Result<Option<u64>> {
    let deadline = Deadline::after(patience);
    let mut settling: Option<(Deadline, u64)> = None;
    loop {
        for n in [0, 1] {
            for line in ends[n].read(TURN) {
                ends[1 - n].tell(&line);
            }
        }
        let both_direct = ends.iter().all(|end| end.direct_since().is_some() && end.first_data.is_some());
        match &settling {
            Some((settled, before)) if both_direct && settled.has_passed() => {
                return Ok(Some(server_packets(lab)? - before));
            }
            Some(_) if both_direct => continue,
            None if both_direct => settling = Some((Deadline::after(SETTLE), server_packets(lab)?)),
            _ => settling = None,
        }
        if deadline.has_passed() && !both_direct || ends.iter().any(|end| end.failed) {
            return Ok(None);
        }
    }
}

fn stop(ends: &mut [End; 2]) {
    let deadline = Deadline::after(STOP);
    ends.iter_mut().for_each(End::stop);
    for end in ends {
        while end.counted.is_none() && !end.failed && !deadline.has_passed() {
            // Its peer has stopped too: nobody is told any more.
            end.read(TURN);
        }
    }
}

/// What has gone over the server's line so far, both ways.
fn server_packets(lab: &Lab) -> io::Result<u64> {
    let output = lab.command(Node::Inet, "cat").arg("/proc/net/dev").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.trim().strip_prefix("to-srv:").map(str::to_owned));
    let numbers: Vec<u64> =
        line.iter().flat_map(|line| line.split_whitespace()).filter_map(|word| word.parse().ok()).collect();
    // Received bytes and packets, six more, sent bytes and packets.
    match (numbers.get(1), numbers.get(9)) {
        (Some(received), Some(sent)) => Ok(received + sent),
        _ => Err(io::Error::other(format!("the router does not tell of its lines: {text}"))),
    }
}

fn outcome(ends: &[End; 2], carried: Option<u64>, expectation: Expectation) -> Outcome {
    let [a, b] = ends;
    let both = |of: fn(&End) -> Option<Duration>| Some(of(a)?.max(of(b)?));
    let first_data = both(|end| end.first_data);
    let said = a.path().zip(b.path()).map(|(a, b)| a.max(b)).filter(|_| first_data.is_some());
    // The server's line knows better than they do.
    let relayed = carried.is_some_and(|packets| packets >= RELAYED_PACKETS);
    let path = if relayed { said.map(|_| Path::Relayed) } else { said };
    let counted =
        |of: fn(&end::Counted) -> u64| ends.iter().filter_map(|end| end.counted.as_ref()).map(of).sum();
    let mut outcome = Outcome {
        path,
        first_data,
        direct: both(End::direct_since).filter(|_| !relayed),
        lost: counted(|it| it.lost),
        sent: counted(|it| it.sent),
        notes: Vec::new(),
    };
    let less = !outcome.connected() || outcome.is_direct() != expectation.is_direct();
    if relayed {
        outcome
            .notes
            .push(format!("said to be direct, but the server carried {carried:?} packets in a second"));
    }
    if less {
        outcome.notes.extend(ends.iter().flat_map(|end| end.words.iter().cloned()));
    }
    outcome
}
