//! Two connections of which each is sent what the other sends.

use std::io;

use super::poller::{Event, Interest};
use super::stream::{ReadOutcome, StreamConn, WriteOutcome};

/// So often a side is read at one event, so that a busy one does not keep others waiting: 64 KiB.
const READS: usize = 4;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first.
    First,
    /// The second.
    Second,
}

impl Side {
    /// Both.
    pub const BOTH: [Side; 2] = [Side::First, Side::Second];

    /// The other.
    pub fn other(self) -> Side {
        match self {
            Side::First => Side::Second,
            Side::Second => Side::First,
        }
    }
}

/// Passes on the bytes of two connections, each way, and the end of each way by itself.
///
/// A side is read only when all that it sent before is with the kernel, so what waits here is one read (16 KiB) each way,
/// and what the connections held before.
///
/// Both are watched for what [`interest`](Self::interest) says, which has to be asked again after each
/// [`handle`](Self::handle), for both.
#[derive(Debug)]
pub struct Splice {
    ends: [End; 2],
}

#[derive(Debug)]
struct End {
    stream: StreamConn,
    /// It has sent its last byte.
    ended: bool,
    /// It was told that nothing follows.
    told: bool,
}

/// What came of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spliced {
    /// So many bytes were read, to be passed on.
    Moved(usize),
    /// Both sides have sent their last byte, and have all of the other's.
    Over,
}

impl Splice {
    /// What was received of either and not taken goes to the other; what either was written and has not been sent, goes
    /// before it.
    pub fn new(first: StreamConn, second: StreamConn) -> io::Result<Splice> {
        let end = |stream| End { stream, ended: false, told: false };
        let mut splice = Splice { ends: [end(first), end(second)] };
        for side in Side::BOTH {
            splice.pass_on(side)?;
        }
        Ok(splice)
    }

    /// One of the two.
    pub fn stream(&self, side: Side) -> &StreamConn {
        &self.ends[side as usize].stream
    }

    /// What a side is to be watched for.
    pub fn interest(&self, side: Side) -> Interest {
        let (end, other) = (&self.ends[side as usize], &self.ends[side.other() as usize]);
        Interest { readable: !end.ended && !other.stream.wants_write(), writable: end.stream.wants_write() }
    }

    /// Whether nothing more can come of a side: it is not to be watched, or its closing would be told again and again.
    pub fn is_done(&self, side: Side) -> bool {
        let end = &self.ends[side as usize];
        end.ended && end.told
    }

    /// Does what an event of a side makes possible. An error means that the one or the other is lost, and with it both.
    pub fn handle(&mut self, side: Side, event: Event) -> io::Result<Spliced> {
        let mut moved = 0;
        if event.writable && self.ends[side as usize].stream.flush()? {
            self.tell(side)?;
        }
        let behind = self.ends[side.other() as usize].stream.wants_write();
        if event.closed && behind && !self.ends[side as usize].ended {
            // It would be told at every wait until it is read, which it cannot be yet.
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if event.readable {
            for _ in 0..READS {
                if self.ends[side as usize].ended || self.ends[side.other() as usize].stream.wants_write() {
                    break;
                }
                match self.ends[side as usize].stream.read()? {
                    ReadOutcome::Data(count) => moved += count,
                    ReadOutcome::Idle | ReadOutcome::Full => break,
                    ReadOutcome::Closed => self.ends[side as usize].ended = true,
                }
                self.pass_on(side)?;
            }
        }
        let over = Side::BOTH.iter().all(|side| self.is_done(*side));
        Ok(if over { Spliced::Over } else { Spliced::Moved(moved) })
    }

    /// What came from a side goes to the other.
    fn pass_on(&mut self, side: Side) -> io::Result<()> {
        let [first, second] = &mut self.ends;
        let (from, to) = if side == Side::First { (first, second) } else { (second, first) };
        let buffered = from.stream.input.buffered();
        let len = buffered.len();
        if len > 0 && to.stream.write(&[buffered])? == WriteOutcome::Full {
            return Err(io::ErrorKind::WriteZero.into());
        }
        from.stream.input.take(len, len);
        from.stream.input.settle();
        self.tell(side.other())
    }

    /// Tells a side, once it has all, that the other has sent its last byte.
    fn tell(&mut self, side: Side) -> io::Result<()> {
        let ended = self.ends[side.other() as usize].ended;
        let end = &mut self.ends[side as usize];
        if ended && !end.told && !end.stream.wants_write() {
            end.told = true;
            end.stream.shut_down()?;
        }
        Ok(())
    }
}
