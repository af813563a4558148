//! Our codec against those of others: `stun` (webrtc-rs), `stun-types` with `turn-types` (ystreet), and aioice's in
//! Python. What one writes the others read as the same, and where a message has one spelling they write the same bytes.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod aioice;
mod ours;
mod spec;
mod stun;
mod stun_types;

use std::cell::RefCell;

use aioice::Aioice;
use proptest::prelude::*;
use spec::{Integrity, Spec, specs};
use thirl_tests::{harness, requires};

proptest! {
    #[test]
    fn stun_of_webrtc_rs(spec in specs()) {
        let spec = stun::within(spec);
        let (ours, theirs) = (ours::write(&spec), stun::write(&spec));
        prop_assert_eq!(&ours, &theirs);
        stun::check(&spec, &ours);
        ours::check(&spec, &theirs);
    }

    #[test]
    fn stun_types_of_ystreet(spec in specs()) {
        let (ours, theirs) = (ours::write(&spec), stun_types::write(&spec));
        prop_assert_eq!(&ours, &theirs);
        stun_types::check(&spec, &ours);
        ours::check(&spec, &theirs);
    }

    #[test]
    fn a_changed_byte_is_noticed_by_all(spec in specs(), at: prop::sample::Index, bit in 0..8_u32) {
        let spec = Spec { integrity: Integrity::Sha1, ..spec };
        let mut bytes = ours::write(&spec);
        let signed = bytes.len() - 24 - if spec.fingerprint { 8 } else { 0 };
        // The length is not signed as it stands, and stun-types takes a shorter one than the message has.
        let at = at.index(signed - 2);
        bytes[if at < 2 { at } else { at + 2 }] ^= 1_u8 << bit;
        prop_assert!(!ours::is_signed(&bytes));
        prop_assert!(!stun::is_signed(&bytes));
        prop_assert!(!stun_types::is_signed(&bytes));
    }
}

#[test]
fn stun_of_aioice() {
    let python = requires!(harness::python());
    let aioice = RefCell::new(Aioice::start(&python));
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let run = runner.run(&specs().prop_map(aioice::within), |spec| {
        let mut aioice = aioice.borrow_mut();
        let (ours, theirs) = (ours::write(&spec), aioice.write(&spec));
        prop_assert_eq!(&ours, &theirs);
        aioice.check(&spec, &ours);
        ours::check(&spec, &theirs);
        Ok(())
    });
    run.unwrap();
}

/// Every codec has signed with it.
fn password() -> &'static str {
    "VOkJxbRl1RmTxUk/WvJxBt"
}

/// The parts of a message that are no attributes.
fn head(spec: &Spec) -> String {
    format!("{:?} {:?} {:02x?}", spec.class, spec.method, spec.id)
}
