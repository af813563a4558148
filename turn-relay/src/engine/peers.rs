//! CreatePermission and ChannelBind: which peers may be reached (RFC 8656, sections 10 and 12.2).

use thirl_common::net::PeerAddr;
use thirl_common::wire::{AddressFamily, AttributeError, AttributeType, ChannelNumber, XorPeerAddress};

use super::Engine;
use super::authenticate::Authenticated;
use super::output::{Action, RelayId};
use super::permission::PERMISSION_LIFETIME;
use super::refusal::Refusal;
use super::request::{Request, Success};

/// Comprehension-required attributes of a CreatePermission's own.
const KNOWN_IN_PERMISSION: [AttributeType; 1] = [AttributeType::XOR_PEER_ADDRESS];

/// Comprehension-required attributes of a ChannelBind's own.
const KNOWN_IN_BINDING: [AttributeType; 2] = [AttributeType::XOR_PEER_ADDRESS, AttributeType::CHANNEL_NUMBER];

impl Engine {
    /// Installs a permission for each XOR-PEER-ADDRESS, or none. Ports are not looked at (RFC 8656, section 10.2): an
    /// address of which any port may be reached is permitted, and the permission remembers which those are.
    pub(super) fn handle_create_permission(
        &mut self,
        request: &Request<'_>,
        user: &Authenticated,
    ) -> Result<Success, Refusal> {
        request.check_known(&KNOWN_IN_PERMISSION)?;
        let config = self.config.clone();
        let hashing = self.hashing.clone();
        let (_, allocation) = self.allocation_of(request, user)?;
        let own = allocation.own_addresses();
        let mut wanted = Vec::new();
        for peer in request.message.get_all::<XorPeerAddress>() {
            let peer = PeerAddr(peer?.0);
            if !allocation.relays.is_bound(AddressFamily::of(peer.ip())) {
                return Err(Refusal::FamilyMismatch);
            }
            let reach = config.peers.reach(peer.ip(), &own).ok_or(Refusal::PeerDenied(peer))?;
            wanted.push((peer.ip(), reach));
            if wanted.len() > config.max_permissions {
                return Err(Refusal::AllocationFull);
            }
        }
        if wanted.is_empty() {
            return Err(AttributeError { attribute: AttributeType::XOR_PEER_ADDRESS }.into());
        }
        allocation
            .permissions
            .install(&wanted, request.now, config.max_permissions, &hashing)
            .map_err(|_| Refusal::AllocationFull)?;
        Ok(Success::default())
    }

    /// Binds a channel, or binds it again, and installs the permission for its peer.
    pub(super) fn handle_channel_bind(
        &mut self,
        request: &Request<'_>,
        user: &Authenticated,
    ) -> Result<Success, Refusal> {
        request.check_known(&KNOWN_IN_BINDING)?;
        let config = self.config.clone();
        let hashing = self.hashing.clone();
        let now = request.now;
        let (id, allocation) = self.allocation_of(request, user)?;
        if allocation.tcp.is_some() {
            return Err(Refusal::OtherTransport);
        }
        let number = request.message.require::<ChannelNumber>()?;
        let peer = PeerAddr(request.message.require::<XorPeerAddress>()?.0);
        let family = AddressFamily::of(peer.ip());
        if !allocation.relays.is_bound(family) {
            return Err(Refusal::FamilyMismatch);
        }
        let own = allocation.own_addresses();
        let reach = config.peers.reach_at(peer, &own).ok_or(Refusal::PeerDenied(peer))?;
        allocation.channels.check(number, peer, now)?;
        allocation
            .permissions
            .install(&[(peer.ip(), reach)], now, config.max_permissions, &hashing)
            .map_err(|_| Refusal::AllocationFull)?;
        allocation.channels.bind(number, peer, now, config.max_channels, &hashing)?;
        if config.fast_path {
            self.actions.push_back(Action::InstallFastPath {
                relay: RelayId { allocation: id, family },
                five_tuple: request.five_tuple,
                channel: number,
                peer,
                // The permission's end, which comes before the channel's. A refresh of either is met by the engine.
                until: now + PERMISSION_LIFETIME,
            });
        }
        Ok(Success::default())
    }
}
