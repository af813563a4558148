//! Sequences of operations on the TURN engine, against a model that is too simple to be wrong.
//!
//! Three bytes are a [`Step`]. After each, the engine's answer must be the model's, and so must be the fate of every packet
//! that could come next, the sockets and ports that are held, the quotas in use, and the time of the next deadline.

mod model;
mod relay;
mod step;

use model::Model;
use relay::Relay;
use step::{CHANNELS, CLIENTS, PEERS, Step};

/// So many steps are taken at most.
const STEPS: usize = 400;

/// Allocations, permissions, channels, connections of TCP and moves, in any order and from anybody.
pub fn allocations(data: &[u8]) {
    let (mut relay, mut model) = (Relay::new(), Model::default());
    for step in data.chunks_exact(3).take(STEPS).map(Step::read) {
        assert_eq!(relay.carry_out(&step), model.carry_out(&step), "{step:?}");
        compare(&mut relay, &model);
    }
}

fn compare(relay: &mut Relay, model: &Model) {
    // A client that may move would: it speaks when a step has it do so.
    for client in (0..CLIENTS).filter(|client| !model.expects(*client)) {
        for peer in 0..PEERS {
            assert_eq!(relay.heard_from(client, peer), model.heard_from(client, peer), "{peer} to {client}");
        }
        for channel in 0..CHANNELS {
            assert_eq!(
                relay.heard_by(client, channel),
                model.heard_by(client, channel),
                "{client} by {channel}"
            );
        }
    }
    assert_eq!(relay.held(), model.held());
    assert_eq!(relay.next_deadline(), model.next_deadline());
}
