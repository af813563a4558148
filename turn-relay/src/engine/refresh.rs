//! Refresh: an allocation's lifetime, or its end (RFC 8656, section 8).

use std::time::Duration;

use thirl_common::wire::{AttributeType, Lifetime, RequestedAddressFamily};

use super::authenticate::Authenticated;
use super::mobility;
use super::output::{EndReason, RelayId};
use super::refusal::Refusal;
use super::request::{Request, Success};
use super::{Engine, Timer};

/// Comprehension-required attributes of a Refresh's own.
const KNOWN: [AttributeType; 2] = [AttributeType::LIFETIME, AttributeType::REQUESTED_ADDRESS_FAMILY];

impl Engine {
    /// `None`: the response comes later.
    pub(super) fn handle_refresh(
        &mut self,
        request: &Request<'_>,
        user: &Authenticated,
    ) -> Result<Option<Success>, Refusal> {
        request.check_known(&KNOWN)?;
        if let Some(ticket) = mobility::shown(&request.message) {
            return self.handle_claim(request, user, ticket);
        }
        let requested = request.message.get::<Lifetime>()?.map(|Lifetime(seconds)| seconds);
        let family = request.message.get::<RequestedAddressFamily>()?;
        let lifetime = match requested {
            Some(0) => Duration::ZERO,
            _ => user.limit(self.config.lifetime(requested), request.unix_seconds),
        };

        let (id, allocation) = self.allocation_of(request, user)?;
        if let Some(RequestedAddressFamily(family)) = family
            && !family.is_some_and(|family| allocation.relays.is_bound(family))
        {
            return Err(Refusal::FamilyMismatch);
        }
        let only = family.and_then(|RequestedAddressFamily(family)| family);
        if lifetime.is_zero() {
            match only.filter(|_| allocation.relays.bound().count() > 1) {
                Some(family) => {
                    self.end_relay(RelayId { allocation: id, family });
                    self.issue_ticket(id);
                }
                None => self.end_allocation(id, EndReason::Deleted),
            }
        } else {
            allocation.expires = request.now + lifetime;
            self.deadlines.set(Timer::Allocation(id), request.now + lifetime);
        }
        Ok(Some(Success { lifetime: Some(lifetime), ..Success::default() }))
    }
}
