//! A part of the reach matrix in the kernel lab, with real programs: `cargo xtask reach` runs all of it.

use thirl_tests::reach::{Instrument, Mode, Pair, Plan, kernel, measure, text};
use thirl_tests::requires;

/// Every situation, every way to a path, and what has no direct one.
const PAIRS: [&str; 30] = [
    "public,public",
    "public,apdm-apdf",
    "public,nat64",
    "eim-eif,adm-adf",
    "eim-adf,apdm-adf",
    "eim-apdf,eim-apdf",
    "adm-eif,apdm-eif",
    "cgnat,cgnat",
    "cgnat,nat64",
    "nat64,ipv6",
    "ipv6,ipv6",
    "eim-apdf,gateway",
    "adm-apdf,gateway",
    "sequential,gateway",
    "gateway,gateway",
    "eim-apdf,sequential",
    "sequential,sequential",
    "eim-apdf,apdm-apdf",
    "adm-apdf,cgnat",
    "public,no-udp",
    "no-udp,no-udp",
    "no-udp,nat64",
    "no-udp,gateway",
    "same-lan",
    "same-cgnat-hairpin",
    "same-cgnat",
    "apdm-apdf,apdm-apdf",
    "no-udp,ipv6",
    "tcp-443,http-proxy",
    "http-proxy,nat64",
];

#[test]
fn a_part_of_the_matrix_meets_the_requirement() {
    let pairs: Vec<_> = PAIRS.iter().map(|name| Pair::named(name).unwrap()).collect();
    for pair in &pairs {
        requires!(kernel::is_here(*pair));
    }
    let plan = Plan { pairs, modes: vec![Mode::Thirl], runs: [(Instrument::Lab, 1)].into(), jobs: 6 };
    let matrix = measure(&plan, |job, outcome, _| println!("{}: {outcome:?}", job.pair));
    assert!(matrix.missed().is_empty(), "{}", text(&matrix));
}
