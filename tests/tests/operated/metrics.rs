//! `/metrics`, `/healthz` and `/readyz`.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;
use thirl_tests::harness::{self, Certificate, Program};
use thirl_tests::requires;

use super::{LIMIT, Relay, get, python, said};

pub(super) const METRICS: [&str; 4] = ["--prometheus", "true", "--prometheus-port", "0"];

/// Prometheus' own parser of OpenMetrics, which is strict. Prints each sample's name with its labels, and its value.
const PARSE: &str = r#"
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
text = sys.stdin.read().rstrip("\n") + "\n"
samples = [s for family in parse(text) for s in family.samples]
key = lambda s: s.name + "".join(":" + v for v in s.labels.values())
print(json.dumps({key(s): s.value for s in samples}))
"#;

/// Where the log says that metrics are served.
pub(super) fn address(program: &mut Program) -> SocketAddr {
    let line = said(program, "metrics are served");
    let addr = line.split_once("addr=").unwrap().1;
    addr.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn figures_are_live_and_prometheus_reads_them() {
    let interpreter = requires!(harness::python());
    let certificate = Certificate::new().unwrap();
    let certificate = certificate.flags();
    let mut flags = vec!["--user", "alice:secret", "--tls-listening-port", "0"];
    flags.extend(certificate.iter().map(String::as_str));
    flags.extend(METRICS);
    let mut relay = Relay::start(&flags);
    let addr = address(&mut relay.program);
    let samples = || {
        let (status, text) = get(addr, "/metrics");
        assert_eq!(status, 200, "{text}");
        assert!(!text.contains("alice") && !text.contains("127.0.0.1"), "no label per user or address");
        python(&interpreter, PARSE, &text).wait_for_json(LIMIT).unwrap()
    };
    let of = |samples: &Value, name: &str| {
        samples[name].as_f64().unwrap_or_else(|| panic!("no {name} in {samples}"))
    };

    let before = samples();
    assert_eq!(of(&before, "thirl_allocations"), 0.0);
    for name in [
        "thirl_certificate_not_after_seconds",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        concat!("thirl_build_info:", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(of(&before, name) > 0.0, "{name}");
    }

    let mut allocation = relay.allocate().unwrap();
    (0..10).for_each(|_| allocation.echo().unwrap());
    let wrong = harness::Login { username: "alice", password: "guessed" };
    assert_eq!(harness::Allocation::new(relay.addr, wrong).unwrap().err(), Some(401));
    let during = samples();
    for (name, value) in [
        ("thirl_allocations", 1.0),
        ("thirl_relay_sockets", 1.0),
        ("thirl_allocations_created_total", 1.0),
        ("thirl_relayed_packets_total:to_peer", 10.0),
        ("thirl_relayed_bytes_total:to_client", 40.0),
        ("thirl_challenges_total", 2.0),
        ("thirl_authentication_failures_total", 1.0),
        ("thirl_refusals_total:437", 0.0),
        ("thirl_dropped_total:no_channel", 0.0),
        ("thirl_connections:tls", 0.0),
    ] {
        assert_eq!(of(&during, name), value, "{name}");
    }

    allocation.refresh(0).unwrap().unwrap();
    assert_eq!(allocation.refresh(600).unwrap(), Err(437));
    let after = samples();
    for (name, value) in [
        ("thirl_allocations", 0.0),
        ("thirl_relay_sockets", 0.0),
        ("thirl_allocations_ended_total:deleted", 1.0),
        ("thirl_refusals_total:437", 1.0),
    ] {
        assert_eq!(of(&after, name), value, "{name}");
    }
}

#[test]
fn health_and_readiness_are_told() {
    let mut relay = Relay::start(&METRICS);
    let addr = address(&mut relay.program);
    assert_eq!(get(addr, "/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(get(addr, "/readyz"), (200, "ready\n".to_owned()));
    assert_eq!(get(addr, "/").0, 404);
}

#[test]
fn a_stun_server_has_metrics_too() {
    let mut command = Command::new(harness::stun_server());
    command.args(["--listening-ip", "127.0.0.1", "--listening-port", "0"]).args(METRICS);
    let mut server = Program::spawn(command).unwrap().named("stun-server");
    let addr = address(&mut server);
    let (status, text) = get(addr, "/metrics");
    assert_eq!(status, 200);
    assert!(text.contains("thirl_binding_responses_total{code=\"success\"} 0\n"), "{text}");
}
