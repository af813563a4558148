//! How a command ends when it does not end well.

use std::process::ExitCode;

use thirl_common::config::ConfigError;

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line or the configuration is wrong: exit code 2.
    Usage(String),
    /// It did not work: exit code 1.
    Failed(String),
    /// It did not work, and everything about it has been said already: exit code 1.
    Reported,
}

impl Failure {
    /// Something that did not work, and what was tried.
    pub(crate) fn of(what: &str, error: impl std::fmt::Display) -> Failure {
        Failure::Failed(format!("{what}: {error}"))
    }

    /// What to print.
    pub(crate) fn words(&self) -> Option<&str> {
        match self {
            Failure::Usage(words) | Failure::Failed(words) => Some(words),
            Failure::Reported => None,
        }
    }

    /// What to exit with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Usage(_) => ExitCode::from(2),
            Failure::Failed(_) | Failure::Reported => ExitCode::from(1),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::Usage(error.to_string())
    }
}
