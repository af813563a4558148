//! Hard NATs in the kernel lab: each technique once, with `thirl ice` at both ends, which send a datagram every 20 ms all the
//! time. `sim_hard_nats` has how often each finds a path.

use std::time::Duration;

use thirl_tests::natlab::availability;
use thirl_tests::reach::{Expectation, Mode, Outcome, Pair, Path, kernel};
use thirl_tests::requires;

#[expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
fn run(pair: &str, mode: Mode, expectation: Expectation) -> Outcome {
    let outcome = kernel::run(Pair::named(pair).unwrap(), mode, expectation).unwrap();
    println!("{pair}: {outcome:?}");
    outcome
}

/// A direct path, without a datagram lost on the way from the relayed one.
#[track_caller]
fn assert_found(outcome: &Outcome) {
    assert_eq!(outcome.path, Some(Path::Direct), "{outcome:?}");
    assert!(outcome.first_data.is_some_and(|first| first < Duration::from_secs(3)), "{outcome:?}");
    assert_eq!(outcome.lost, 0, "{outcome:?}");
}

#[test]
fn random_ports_on_one_side() {
    requires!(availability());
    assert_found(&run("eim-apdf,apdm-apdf", Mode::Thirl, Expectation::Birthday));
}

#[test]
fn random_ports_on_both_sides_one_of_which_filters_by_address() {
    requires!(availability());
    assert_found(&run("apdm-adf,apdm-apdf", Mode::Thirl, Expectation::Birthday));
}

#[test]
fn sequential_ports_on_one_side() {
    requires!(availability());
    assert_found(&run("eim-apdf,sequential", Mode::Thirl, Expectation::Prediction));
}

#[test]
fn sequential_ports_on_both_sides() {
    requires!(availability());
    assert_found(&run("sequential,sequential", Mode::Thirl, Expectation::Prediction));
}

#[test]
fn without_it_the_path_stays_relayed() {
    requires!(availability());
    let outcome = run("eim-apdf,sequential", Mode::Standard, Expectation::Relayed);
    assert_eq!((outcome.path, outcome.lost), (Some(Path::Relayed), 0), "{outcome:?}");
}
