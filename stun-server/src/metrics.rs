//! What a STUN server shows of itself in figures, for the server itself and for the relay, which is one too.

use thirl_common::tls::Certificates;

use crate::Counters;
use crate::operation::Figures;
use crate::shard::ShardFigures;

/// Binding requests.
pub fn of_binding(counters: &Counters, figures: &mut Figures) {
    let answers = [
        ("success", counters.answered),
        ("420", counters.unknown_attributes),
        ("400", counters.bad_requests),
    ];
    figures.counters("binding_responses", "Answers to Binding requests, by error code", "code", answers);
    figures.counter(
        "binding_redirected",
        "Success responses that left from another address or went to another port (RFC 5780)",
        counters.redirected,
    );
    let dropped = [("malformed", counters.dropped), ("limited", counters.limited)];
    figures.counters(
        "binding_dropped",
        "Datagrams that were no Binding request, and such above rate-limit",
        "reason",
        dropped,
    );
}

/// Clients' connections, and datagrams of all sockets.
pub fn of_shards(shards: &ShardFigures, figures: &mut Figures) {
    let open = [("tcp", shards.tcp as u64), ("tls", shards.tls as u64), ("dtls", shards.dtls as u64)];
    figures.gauges("connections", "Clients' streams and DTLS sessions", "transport", open);
    figures.gauge("connections_passed_on", "Connections passed on to https-backend", shards.passed_on as u64);
    figures.gauge(
        "dtls_handshakes",
        "DTLS sessions whose handshake is under way",
        shards.dtls_handshakes as u64,
    );
    let io = &shards.datagrams;
    figures.counter("datagrams_received", "Datagrams received by all sockets", io.received);
    figures.counter("datagrams_sent", "Datagrams sent by all sockets", io.sent);
    let failed = [
        ("no_buffer", io.no_buffer),
        ("too_long", io.too_long),
        ("forbidden", io.forbidden),
        ("unreachable", io.unreachable),
        ("other", io.refused + io.misdirected),
    ];
    figures.counters("datagrams_failed", "Datagrams that the system did not send", "reason", failed);
    let lost = [("oversized", io.oversized), ("error", io.receive_errors)];
    figures.counters("datagrams_not_received", "Datagrams that were lost at the socket", "reason", lost);
}

/// When the certificate ends.
pub fn of_certificates(certificates: Option<&Certificates>, figures: &mut Figures) {
    if let Some(certificates) = certificates {
        figures.gauge(
            "certificate_not_after_seconds",
            "Until when the certificate is good, in seconds since 1970",
            certificates.current().not_after(),
        );
    }
}
