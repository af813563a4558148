//! Two connections of which each is sent what the other sends.

use std::io;

use super::poller::{Event, Interest, Poller};
use super::stream::ReadOutcome;
use super::tls::ClientConn;

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

/// Passes on the bytes of two connections, each way, and the end of each way by itself. Of TLS it passes on what was
/// decrypted.
///
/// A side is read only when all that it sent before is with the kernel, so what waits here is one read (16 KiB) each way,
/// and what the connections held before.
///
/// It watches both: [`watch`](Self::watch) is to be called first, and after whatever else was.
#[derive(Debug)]
pub struct Splice {
    ends: [End; 2],
    moved: [usize; 2],
}

#[derive(Debug)]
struct End {
    stream: ClientConn,
    /// It has sent its last byte.
    ended: bool,
    /// It was told that nothing follows.
    told: bool,
    /// It is not to be read for now.
    rests: bool,
    /// The system says so at every wait, whether or not there is something to read.
    closed: bool,
    watched: Option<Interest>,
}

/// What came of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spliced {
    /// So many bytes were read of each side, to be passed on, since this was last said.
    pub moved: [usize; 2],
    /// Both sides have sent their last byte, and have all of the other's.
    pub over: bool,
}

impl Splice {
    /// Of two that nobody watches. What was received of either and not taken goes to the other; what either was written and
    /// has not been sent, goes before it.
    pub fn new(first: ClientConn, second: ClientConn) -> io::Result<Splice> {
        let end = |stream: ClientConn| {
            let ended = stream.has_ended();
            End { stream, ended, told: false, rests: false, closed: false, watched: None }
        };
        let mut splice = Splice { ends: [end(first), end(second)], moved: [0; 2] };
        for side in Side::BOTH {
            splice.pass_on(side)?;
        }
        Ok(splice)
    }

    /// One of the two.
    pub fn stream(&self, side: Side) -> &ClientConn {
        &self.ends[side as usize].stream
    }

    /// From now on a side is not read, or is again: what it sends waits with the kernel.
    pub fn set_resting(&mut self, side: Side, rests: bool) {
        self.ends[side as usize].rests = rests;
    }

    /// Watches both, under these tokens, for what can be done now. An error means that the system has no room for it.
    pub fn watch(&mut self, poller: &Poller, tokens: [u64; 2]) -> io::Result<()> {
        for (side, token) in Side::BOTH.into_iter().zip(tokens) {
            let wanted = self.wanted(side);
            let End { stream, watched, .. } = &mut self.ends[side as usize];
            match (*watched, wanted) {
                (Some(now), Some(wanted)) if now == wanted => {}
                (Some(_), Some(wanted)) => poller.modify(stream, token, wanted)?,
                (Some(_), None) => poller.remove(stream)?,
                (None, Some(wanted)) => poller.add(stream, token, wanted)?,
                (None, None) => {}
            }
            *watched = wanted;
        }
        Ok(())
    }

    /// Does what an event of a side makes possible. An error means that the one or the other is lost, and with it both.
    pub fn handle(&mut self, side: Side, event: Event) -> io::Result<Spliced> {
        self.ends[side as usize].closed |= event.closed;
        if event.writable && self.ends[side as usize].stream.flush()? {
            self.tell(side)?;
        }
        if event.readable {
            for _ in 0..READS {
                if !self.is_read(side) {
                    break;
                }
                let End { stream, ended, .. } = &mut self.ends[side as usize];
                let outcome = stream.read(|| None, false)?;
                *ended = outcome == ReadOutcome::Closed || stream.has_ended();
                self.pass_on(side)?;
                if matches!(outcome, ReadOutcome::Idle | ReadOutcome::Full) {
                    break;
                }
            }
        }
        let over = Side::BOTH.iter().all(|side| self.is_done(*side));
        Ok(Spliced { moved: std::mem::take(&mut self.moved), over })
    }

    /// Ends both at once.
    pub fn close(self) {
        self.ends.into_iter().for_each(|end| end.stream.close());
    }

    /// `None`: it would be told of for nothing.
    fn wanted(&self, side: Side) -> Option<Interest> {
        let end = &self.ends[side as usize];
        let interest = Interest { readable: self.is_read(side), writable: end.stream.wants_write() };
        let in_vain = self.is_done(side) || (end.closed && interest == Interest::NONE);
        (!in_vain).then_some(interest)
    }

    /// Whether what a side sends can be taken.
    fn is_read(&self, side: Side) -> bool {
        let End { ended, rests, .. } = &self.ends[side as usize];
        !ended && !rests && !self.ends[side.other() as usize].stream.wants_write()
    }

    /// Whether nothing more can come of a side.
    fn is_done(&self, side: Side) -> bool {
        let End { ended, told, stream, .. } = &self.ends[side as usize];
        *ended && *told && !stream.wants_write()
    }

    /// What came from a side goes to the other.
    fn pass_on(&mut self, side: Side) -> io::Result<()> {
        let [first, second] = &mut self.ends;
        let (from, to) = if side == Side::First { (first, second) } else { (second, first) };
        self.moved[side as usize] += from.stream.pass_to(&mut to.stream)?;
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
