//! What is waited for, on standard error: a bar if that is a terminal, lines if not.

use std::future::Future;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use thirl_ice_agent::nat::Event;
use tokio::time::interval;

/// The bar moves so often.
const TICK: Duration = Duration::from_millis(100);

/// Only what an ASCII terminal has.
const SPINNER: &str = "-\\|/ ";
const WITHOUT_END: &str = "{spinner} {msg} ({elapsed})";
const WITH_END: &str = "{spinner} {msg} [{bar:20}] {pos} of {len} s at the most";

/// Tells people what they wait for.
pub(super) struct Progress {
    /// None if standard error is no terminal.
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Begins to wait for `what`.
    pub(super) fn new(what: &str) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner().with_style(style(WITHOUT_END));
            bar.set_message(what.to_owned());
            bar
        });
        Progress { bar }
    }

    /// Tells something that stays.
    pub(super) fn note(&self, words: &str) {
        let tell = || eprintln!("thirl: {words}");
        match &self.bar {
            Some(bar) => bar.suspend(tell),
            None => tell(),
        }
    }

    /// Takes what a diagnosis tells.
    pub(super) fn tell(&self, event: Event) {
        if let Event::Waiting { what, at_most, .. } = event {
            self.wait(&format!("finding out {}", what.name()), at_most);
        }
    }

    /// What is waited for now, without a known end.
    pub(super) fn say(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_style(style(WITHOUT_END));
            bar.unset_length();
            bar.set_message(what.to_owned());
        }
    }

    /// The same, with an end.
    fn wait(&self, what: &str, at_most: Duration) {
        match &self.bar {
            Some(bar) => {
                bar.set_style(style(WITH_END));
                bar.reset_elapsed();
                bar.set_length(at_most.as_secs());
                bar.set_message(what.to_owned());
            }
            None => self.note(&format!("{what}, {} s at the most", at_most.as_secs())),
        }
    }

    /// Runs `work`, and moves the bar meanwhile. It is gone when the work is done or dropped.
    pub(super) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let _gone = Gone(self.bar.as_ref());
        let mut ticks = interval(TICK);
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = ticks.tick() => if let Some(bar) = &self.bar {
                    bar.set_position(bar.elapsed().as_secs());
                    bar.tick();
                },
            }
        }
    }
}

struct Gone<'a>(Option<&'a ProgressBar>);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        if let Some(bar) = self.0 {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
    style.tick_chars(SPINNER).progress_chars("=> ")
}
