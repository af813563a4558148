//! Which sockets have a receive in flight.

use crate::io::shard::SocketId;

/// By the socket's place, the id of the one that a receive is in flight for.
#[derive(Default)]
pub(super) struct Receiving {
    by_place: Vec<Option<SocketId>>,
    /// Receives whose last completion has not come, whatever became of their sockets.
    in_flight: usize,
}

/// Room for so many is kept.
const ROOM_KEPT: usize = 64;

impl Receiving {
    pub(super) fn begin(&mut self, id: SocketId) {
        let place = id.place();
        if self.by_place.len() <= place {
            self.by_place.resize(place + 1, None);
        }
        self.by_place[place] = Some(id);
        self.in_flight += 1;
    }

    /// Its last completion came.
    pub(super) fn end(&mut self, id: SocketId) {
        self.in_flight -= 1;
        let Some(place) = self.by_place.get_mut(id.place()).filter(|known| **known == Some(id)) else {
            return;
        };
        *place = None;
        while let Some(None) = self.by_place.last() {
            self.by_place.pop();
        }
        let wanted = 2 * self.by_place.len() + ROOM_KEPT;
        if self.by_place.capacity() > 2 * wanted {
            self.by_place.shrink_to(wanted);
        }
    }

    pub(super) fn contains(&self, id: SocketId) -> bool {
        self.by_place.get(id.place()) == Some(&Some(id))
    }

    /// Whether none is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.in_flight == 0
    }
}
