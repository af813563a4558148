//! Replays the corpora of the fuzz targets: what was once found, and what fuzzing starts from.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use proptest::prelude::*;
use thirl_tests::fuzz::{Body, TARGETS};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus");

/// Beyond these a corpus is to be minimised (`cargo xtask fuzz --minimise`): files a target, and bytes of all.
const MAX_FILES: usize = 200;
const MAX_BYTES: u64 = 500_000;

#[test]
fn every_target_holds_on_its_corpus() {
    for &(name, body) in TARGETS {
        replay(name, body);
    }
}

fn replay(name: &str, body: Body) {
    let directory = Path::new(CORPUS).join(name);
    let files = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "the target {name} has no corpus");
    assert!(files.len() <= MAX_FILES, "{name}: {} files", files.len());
    for file in files {
        let data = fs::read(&file).unwrap();
        let held = catch_unwind(AssertUnwindSafe(|| body(&data)));
        assert!(held.is_ok(), "{} fails: cargo xtask fuzz {name} {0}", file.display());
    }
}

#[test]
fn every_corpus_and_every_program_has_a_target() {
    let targets: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let names = |directory: &str| {
        let directory = Path::new(CORPUS).parent().unwrap().join(directory);
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("corpus"), targets);
    assert_eq!(names("fuzz_targets"), targets);
}

#[test]
fn the_corpora_stay_small() {
    let sizes = TARGETS.iter().flat_map(|(name, _)| fs::read_dir(Path::new(CORPUS).join(name)).unwrap());
    let bytes: u64 = sizes.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes <= MAX_BYTES, "{bytes} bytes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Nothing here is malformed, so that bytes at random go as deep as any.
    #[test]
    fn allocations_are_as_in_the_model(data in proptest::collection::vec(any::<u8>(), 0..600)) {
        thirl_tests::fuzz::allocations(&data);
    }

    #[test]
    fn connections_are_bounded_and_end(data in proptest::collection::vec(any::<u8>(), 0..900)) {
        thirl_tests::fuzz::connections(&data);
    }

    #[test]
    fn a_shared_port_is_as_in_the_model(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        thirl_tests::fuzz::mux(&data);
    }
}
