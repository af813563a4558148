//! A headless Chromium that opens one page.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::Program;

/// It ends its helpers first.
const END_LIMIT: Duration = Duration::from_secs(30);

/// A browser with a profile of its own, which is removed with it.
#[derive(Debug)]
pub struct Chromium {
    program: Program,
    profile: PathBuf,
}

impl Chromium {
    /// Opens a page that is served on this IP address, the only one whose names it resolves. Arguments may be added.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn open(program: &Path, ip: &str, page: &str, arguments: &[&str]) -> io::Result<Chromium> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("thirl-chromium-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let profile = std::env::temp_dir().join(name);
        let mut command = Command::new(program);
        // As root, as which CI runs, there is no sandbox. It is to speak to loopback only.
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]);
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
        command.arg(format!("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {ip}"));
        command.arg(format!("--user-data-dir={}", profile.display())).args(arguments).arg(page);
        let program = Program::spawn(command).map_err(io::Error::other)?.named("chromium");
        Ok(Chromium { program, profile })
    }

    /// Ends it, and says what it wrote.
    pub fn end(&mut self) -> String {
        let _ = self.program.signal("TERM");
        let _ = self.program.wait_for_end(END_LIMIT);
        self.program.output()
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // Asked to, it ends its helpers and writes nothing more; else its end is that of `Program`.
        self.end();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}
