//! What a relay shows of itself in figures.

use thirl_stun_server::operation::Figures;

use crate::engine::EndReason;
use crate::server::Report;

/// Allocations, requests and data.
pub(crate) fn of_relay(report: &Report, figures: &mut Figures) {
    let engine = &report.engine;
    figures.gauge("allocations", "Allocations that there are", report.allocations as u64);
    figures.gauge("relay_sockets", "Sockets bound to relayed transport addresses", report.relays as u64);
    figures.counter("allocations_created", "Allocations made", engine.allocations_created);
    let ended = engine.allocations_ended.iter().map(|(reason, count)| (label(reason), count));
    figures.counters("allocations_ended", "Allocations that ended, by reason", "reason", ended);

    figures.counter(
        "allocations_moved",
        "Moves of allocations to other addresses of their clients",
        engine.allocations_moved,
    );
    figures.counter(
        "connections_bound",
        "Connections of peers that clients took over (RFC 6062)",
        engine.connections_bound,
    );

    figures.counter("requests", "Well-formed TURN requests", engine.requests);
    figures.counter("successes", "Success responses", engine.succeeded);
    figures.counter(
        "challenges",
        "Answers that tell realm and nonce, which are no refusals",
        engine.challenges,
    );
    figures.counter(
        "authentication_failures",
        "Requests with credentials that do not hold (401)",
        engine.unauthenticated,
    );
    figures.counter(
        "redirected",
        "Requests answered with the address of another server (300)",
        engine.redirected,
    );
    figures.counters("refusals", "Other error responses, by error code", "code", engine.refused.iter());

    let relayed = &engine.relayed;
    let packets = [("to_peer", relayed.to_peer_packets), ("to_client", relayed.to_client_packets)];
    figures.counters("relayed_packets", "Packets of application data relayed", "direction", packets);
    let bytes = [("to_peer", relayed.to_peer_bytes), ("to_client", relayed.to_client_bytes)];
    figures.counters("relayed_bytes", "Application data relayed, without headers", "direction", bytes);
    figures.counter("icmp_relayed", "ICMP errors of peers that clients were told of", engine.icmp_relayed);
    let dropped = engine.dropped.by_reason();
    figures.counters("dropped", "What was neither relayed nor answered, by reason", "reason", dropped);
}

fn label(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Expired => "expired",
        EndReason::Deleted => "deleted",
        EndReason::ClientGone => "client_gone",
        EndReason::RelayLost => "relay_lost",
    }
}
