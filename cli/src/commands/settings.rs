//! `thirl settings`, for those who work on Thirl: prints `docs/settings.md`.

use thirl_common::config::{Program, reference};
use thirl_stun_server::settings as stun;
use thirl_turn_relay::settings as relay;

use super::serve;
use crate::error::Failure;

const INTRODUCTION: &str = "# Settings

Every setting of `turn-relay`, `stun-server` and `thirl serve`. This page is made from the code: do not edit it, but the
tables of keys (`settings.rs`), and write it anew with `cargo run -p thirl -- settings > docs/settings.md`.

A setting has one name everywhere: in the TOML file that `--config FILE` (or `THIRL_CONFIG`) names, as a flag, and in the
environment. Flags go before the environment, and that before the file. What cannot be used is refused with its place and a
hint before any socket opens, exit code 2. Where coturn has a setting, its name is taken.
";

/// Prints the page.
pub(crate) fn run() -> Result<(), Failure> {
    super::print_line(page().trim_end())
}

fn page() -> String {
    format!("{INTRODUCTION}\n{}", reference(&programs()))
}

fn programs() -> [Program; 3] {
    [
        Program { name: "turn-relay", keys: relay::KEYS.to_vec() },
        Program { name: "stun-server", keys: stun::KEYS.to_vec() },
        Program { name: "thirl serve", keys: serve::keys() },
    ]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use thirl_common::config::Values;

    use super::*;

    #[test]
    fn the_page_is_up_to_date() {
        let written = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/settings.md");
        let written = std::fs::read_to_string(written).unwrap();
        assert!(
            written == page(),
            "the settings have changed: cargo run -p thirl -- settings > docs/settings.md"
        );
    }

    #[test]
    fn the_page_shows_only_what_can_be_written() {
        for Program { name, keys } in programs() {
            for key in &keys {
                let toml = key.toml();
                assert!(!toml.contains("..."), "{name}: give {} an .example(\"TOML\")", key.name);
                let read = Values::from_file(&keys, Path::new("example"), &toml);
                assert!(read.is_ok(), "{name}: {:?}", read.err());
            }
        }
    }
}
