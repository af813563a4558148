//! What every server program does for those who operate it, besides serving.
//!
//! [`settings`](fn@settings) is what they say of it; [`Monitor`] answers Prometheus and service managers over HTTP with
//! [`Figures`]; [`Log`] is their log;
//! [`run`](fn@run) waits for [`Signals`], and reloads the [`Configuration`], drains and ends the server as they say.

mod figures;
mod log;
mod manager;
mod monitor;
mod privileges;
mod reload;
mod run;
mod signals;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use thirl_common::config::{ConfigError, Key, Problem, Values, parse};

pub use figures::Figures;
pub use log::{LOG_FORMAT, LOG_LEVEL, Log, LogSettings};
pub use monitor::{Monitor, Observed};
pub use privileges::{PROC_GROUP, PROC_USER, ProcessUser, forgo_new_privileges};
pub use reload::Configuration;
pub use run::{Operated, run};
pub use signals::{Signal, Signals};

/// The keys of [`settings`](fn@settings).
pub const KEYS: [Key; 8] = [
    PROMETHEUS,
    PROMETHEUS_PORT,
    PROMETHEUS_ADDRESS,
    LOG_FORMAT,
    LOG_LEVEL,
    RELOAD_ON_CHANGE,
    PROC_USER,
    PROC_GROUP,
];

/// Metrics.
pub const PROMETHEUS: Key = Key::single(
    "prometheus",
    "BOOL",
    "Serve metrics for Prometheus over HTTP at /metrics, and /healthz and /readyz. Default: false",
)
.fixed();
/// Their port.
pub const PROMETHEUS_PORT: Key =
    Key::single("prometheus-port", "PORT", "TCP port of /metrics; 0 lets the system choose. Default: 9641")
        .fixed()
        .example("9641");
/// Their address.
pub const PROMETHEUS_ADDRESS: Key = Key::single(
    "prometheus-address",
    "IP",
    "Address of /metrics, which has no access control of its own. Default: 127.0.0.1",
)
.fixed();

/// Reload by itself.
pub const RELOAD_ON_CHANGE: Key = Key::single(
    "reload-on-change",
    "BOOL",
    "Read the configuration anew when its file has changed, and not on SIGHUP alone. Default: false",
);
/// The end of a relay.
pub const DRAIN_TIMEOUT: Key = Key::single(
    "drain-timeout",
    "SECONDS",
    "How long allocations may go on after SIGTERM, while no new ones are made. Default: 30",
)
.example("300");

/// How a server is operated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Where `/metrics` is served, if it is.
    pub monitor: Option<SocketAddr>,
    /// What is logged, and in which form.
    pub log: LogSettings,
    /// Whether the configuration is read anew when its file has changed.
    pub reload_on_change: bool,
    /// How long allocations may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// Whom the process becomes once its sockets are bound.
    pub user: Option<ProcessUser>,
}

/// What the values say of operating a server.
pub fn settings(values: &Values) -> Result<Operation, ConfigError> {
    let wanted = values.one(PROMETHEUS.name, parse::boolean)?;
    let port = values.one(PROMETHEUS_PORT.name, parse::listening_port)?;
    let address = values.one(PROMETHEUS_ADDRESS.name, parse::ip)?;
    if let (None, Some(key)) = (wanted, port.map(|_| PROMETHEUS_PORT).or(address.map(|_| PROMETHEUS_ADDRESS)))
    {
        let problem = Problem::new("metrics are not served", "give `prometheus = true` too");
        return Err(values.refuse(key.name, problem));
    }
    let addr =
        SocketAddr::new(address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), port.unwrap_or(DEFAULT_PORT));
    Ok(Operation {
        monitor: wanted.unwrap_or(false).then_some(addr),
        log: log::settings(values)?,
        reload_on_change: values.one(RELOAD_ON_CHANGE.name, parse::boolean)?.unwrap_or(false),
        drain_timeout: values
            .one(DRAIN_TIMEOUT.name, parse::seconds(0, 86_400))?
            .unwrap_or(Duration::from_secs(30)),
        user: privileges::settings(values)?,
    })
}

/// That of coturn's metrics.
const DEFAULT_PORT: u16 = 9641;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(text: &str) -> Result<Operation, String> {
        let values = Values::from_file(&KEYS, Path::new("stun.toml"), text);
        values.and_then(|values| settings(&values)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_user_is_one_that_there_is() {
        assert!(read("proc-user = \"root\"\nproc-group = \"root\"").unwrap().user.is_some());
        for (text, what) in [
            ("\nproc-user = \"nobody-by-this-name\"", ":2: proc-user: there is no user"),
            ("proc-user = \"root\"\nproc-group = \"no-such-group\"", ":2: proc-group: there is no group"),
            ("proc-group = \"root\"", ":1: proc-group: it goes with a proc-user"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(what) && error.contains("hint: "), "{error}");
        }
    }

    #[test]
    fn the_log_is_chosen_or_refused_with_its_line() {
        let log = read("log-format = \"json\"\nlog-level = \"info,thirl_turn_relay=debug\"").unwrap().log;
        assert_eq!((log.json, log.level.as_deref()), (true, Some("info,thirl_turn_relay=debug")));
        assert_eq!(read("").unwrap().log, LogSettings::default());
        for (text, place) in
            [("log-format = \"xml\"", ":1: log-format:"), ("\nlog-level = \"=\"", ":2: log-level:")]
        {
            let error = read(text).unwrap_err();
            assert!(error.contains(place) && error.contains("hint: "), "{error}");
        }
    }

    #[test]
    fn metrics_are_served_on_loopback_if_at_all() {
        let monitor = |text: &str| read(text).unwrap().monitor.map(|addr| addr.to_string());
        assert_eq!(monitor(""), None);
        assert_eq!(monitor("prometheus = true").as_deref(), Some("127.0.0.1:9641"));
        let elsewhere = "prometheus = true\nprometheus-address = \"::\"\nprometheus-port = 80";
        assert_eq!(monitor(elsewhere).as_deref(), Some("[::]:80"));
        assert_eq!(monitor("prometheus = false\nprometheus-port = 80"), None);
        let error = read("\nprometheus-port = 9641").unwrap_err();
        assert!(
            error.starts_with("stun.toml:2: prometheus-port:") && error.contains("`prometheus = true`"),
            "{error}"
        );
    }
}
