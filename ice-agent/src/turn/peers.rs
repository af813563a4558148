//! Permissions and channels of an allocation (RFC 8656, sections 9 to 12).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, SocketAddr};

use thirl_common::wire::ChannelNumber;

/// Where a permission stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PermissionState {
    /// Asked for.
    Pending,
    /// Installed, and to be refreshed.
    Installed,
    /// Refused; not asked for again.
    Refused,
}

/// Channels are numbered upwards from 0x4000 and never reused within an allocation, because a number may not be bound
/// to another peer until five minutes after it expired (RFC 8656, section 12).
#[derive(Debug, Default)]
pub(super) struct Peers {
    permissions: BTreeMap<IpAddr, PermissionState>,
    channels: BTreeMap<SocketAddr, Channel>,
    by_number: BTreeMap<ChannelNumber, SocketAddr>,
}

/// A channel and whether the server has confirmed it.
#[derive(Clone, Copy, Debug)]
struct Channel {
    number: ChannelNumber,
    bound: bool,
}

impl Peers {
    /// Notes that a permission was asked for. `false` if it stands or is under way already.
    pub(super) fn want_permission(&mut self, peer: IpAddr) -> bool {
        match self.permissions.entry(peer) {
            Entry::Vacant(entry) => {
                entry.insert(PermissionState::Pending);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    pub(super) fn set_permission(&mut self, peer: IpAddr, state: PermissionState) {
        self.permissions.insert(peer, state);
    }

    pub(super) fn permission(&self, peer: IpAddr) -> Option<PermissionState> {
        self.permissions.get(&peer).copied()
    }

    /// The number for a new channel, or `None` if the peer has one or all are taken.
    pub(super) fn want_channel(&mut self, peer: SocketAddr) -> Option<ChannelNumber> {
        if self.channels.contains_key(&peer) {
            return None;
        }
        let taken = u16::try_from(self.by_number.len()).ok()?;
        let number = ChannelNumber::new(ChannelNumber::MIN.get().checked_add(taken)?)?;
        self.channels.insert(peer, Channel { number, bound: false });
        self.by_number.insert(number, peer);
        Some(number)
    }

    pub(super) fn set_bound(&mut self, peer: SocketAddr, bound: bool) {
        if let Some(channel) = self.channels.get_mut(&peer) {
            channel.bound = bound;
        }
    }

    /// The peer's channel, whether or not it is confirmed.
    pub(super) fn channel(&self, peer: SocketAddr) -> Option<ChannelNumber> {
        self.channels.get(&peer).map(|channel| channel.number)
    }

    /// The channel to send over: only one that the server has confirmed.
    pub(super) fn bound_channel(&self, peer: SocketAddr) -> Option<ChannelNumber> {
        self.channels.get(&peer).filter(|channel| channel.bound).map(|channel| channel.number)
    }

    /// Whose channel this is. Data may come before the confirmation does.
    pub(super) fn peer_of(&self, number: ChannelNumber) -> Option<SocketAddr> {
        self.by_number.get(&number).copied()
    }
}
