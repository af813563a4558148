//! Where things are, as cargo says.

use std::collections::BTreeMap;
use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The checkout and where it is built.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
    /// Directory of each package → its name.
    pub(crate) packages: BTreeMap<PathBuf, String>,
}

impl Workspace {
    pub(crate) fn find() -> io::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
        let mut cargo = cargo_in(root);
        cargo.args(["metadata", "--format-version=1", "--no-deps"]).stderr(std::process::Stdio::inherit());
        let output = cargo.output()?;
        let metadata: Value = serde_json::from_slice(&output.stdout)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let package = |package: &Value| {
            let manifest = PathBuf::from(text(&package["manifest_path"]));
            Some((manifest.parent()?.to_owned(), text(&package["name"])))
        };
        Ok(Self {
            root: PathBuf::from(text(&metadata["workspace_root"])),
            target: PathBuf::from(text(&metadata["target_directory"])),
            packages: metadata["packages"].as_array().into_iter().flatten().filter_map(package).collect(),
        })
    }

    /// Cargo at the root of the workspace.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut cargo = cargo_in(&self.root);
        cargo.args(arguments);
        cargo
    }

    /// The Python with `tests/requirements.txt`.
    pub(crate) fn venv(&self) -> PathBuf {
        self.target.join("venv")
    }

    /// The name of the package in which `manifest` is.
    pub(crate) fn package(&self, manifest: &Path) -> String {
        let name = manifest.parent().and_then(|directory| self.packages.get(directory));
        name.cloned().unwrap_or_else(|| manifest.display().to_string())
    }
}

fn cargo_in(directory: &Path) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(directory);
    cargo
}
