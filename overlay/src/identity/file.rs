//! A node's key in a file: one line of text, readable by its owner only, made whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::NodeKey;
use crate::encoding::ZBASE32;

/// What the line with the key starts with, so that people and secret scanners recognise it.
const PREFIX: &str = "thirl-secret1";

/// A key file is some 150 bytes; whatever is longer is another file.
const MAX_FILE: u64 = 4096;

impl NodeKey {
    /// Reads a key that [`NodeKey::save_new`] wrote. A file that others may read is refused.
    pub fn load(path: &Path) -> Result<NodeKey, KeyFileError> {
        let file = File::open(path).map_err(|error| KeyFileError::io("read", path, error))?;
        refuse_if_shared(&file, path)?;
        let mut text = Zeroizing::new(String::new());
        file.take(MAX_FILE)
            .read_to_string(&mut text)
            .map_err(|error| KeyFileError::io("read", path, error))?;
        parse(&text).ok_or_else(|| KeyFileError::NotAKey { path: path.to_owned() })
    }

    /// Writes the key to a new file with mode 0600. A file that exists is never replaced: it may be somebody's only
    /// copy of a key.
    pub fn save_new(&self, path: &Path) -> Result<(), KeyFileError> {
        let io = |error| KeyFileError::io("create", path, error);
        create_parent(path).map_err(io)?;
        let (temporary, mut file) = create_temporary(path).map_err(io)?;
        let text = Zeroizing::new(format!(
            "# Whoever has this file is the node {}. Keep it secret.\n{PREFIX}{}\n",
            self.id(),
            Zeroizing::new(ZBASE32.encode(&*self.seed())).as_str(),
        ));
        // A link fails if the name is taken, which a rename does not.
        let written = file
            .write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::hard_link(&temporary, path));
        let removed = fs::remove_file(&temporary);
        written.and(removed).map_err(io)
    }

    /// Reads the key, or makes the one that belongs to `fresh_seed` if there is no file. The flag says whether it was
    /// made now.
    pub fn load_or_create(path: &Path, fresh_seed: &[u8; 32]) -> Result<(NodeKey, bool), KeyFileError> {
        match NodeKey::load(path) {
            Err(KeyFileError::Io { error, .. }) if error.kind() == ErrorKind::NotFound => {}
            loaded => return loaded.map(|key| (key, false)),
        }
        let key = NodeKey::from_seed(fresh_seed);
        match key.save_new(path) {
            // Another process was quicker: its key is the node's.
            Err(KeyFileError::Io { error, .. }) if error.kind() == ErrorKind::AlreadyExists => {
                NodeKey::load(path).map(|key| (key, false))
            }
            saved => saved.map(|()| (key, true)),
        }
    }
}

/// Why a key could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The file system refused.
    #[error("cannot {verb} the node key {path}: {error}", path = path.display())]
    Io {
        /// `read` or `create`.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// Others than the owner may read or write the file.
    #[error("others may read the node key {path} (mode {mode:03o}): run `chmod 600 {path}`, or, if someone else may \
             have read it, delete it to get a new key", path = path.display())]
    Shared {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds something else.
    #[error("{path} is not a node key: it has no line that starts with `{PREFIX}`, or more than one, or the line is \
             damaged; restore it from a copy, or name another file", path = path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
}

impl KeyFileError {
    fn io(verb: &'static str, path: &Path, error: io::Error) -> KeyFileError {
        KeyFileError::Io { verb, path: path.to_owned(), error }
    }
}

/// One key line; comments and empty lines around it.
fn parse(text: &str) -> Option<NodeKey> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let line = lines.next()?;
    if lines.next().is_some() {
        return None;
    }
    let bytes = Zeroizing::new(ZBASE32.decode(line.strip_prefix(PREFIX)?.as_bytes()).ok()?);
    let seed: &[u8; 32] = bytes.as_slice().try_into().ok()?;
    Some(NodeKey::from_seed(seed))
}

fn create_parent(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(parent)
}

/// A new file beside `path`. The name is tried with a counter, so that one left by a crash is no obstacle.
fn create_temporary(path: &Path) -> io::Result<(PathBuf, File)> {
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_string_lossy().into_owned();
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    for attempt in 0..100 {
        let temporary = path.with_file_name(format!(".{name}.{}.{attempt}", std::process::id()));
        match options.open(&temporary) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            opened => return opened.map(|file| (temporary, file)),
        }
    }
    Err(ErrorKind::ResourceBusy.into())
}

#[cfg(unix)]
fn refuse_if_shared(file: &File, path: &Path) -> Result<(), KeyFileError> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = file.metadata().map_err(|error| KeyFileError::io("read", path, error))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Shared { path: path.to_owned(), mode });
    }
    Ok(())
}

#[cfg(not(unix))]
fn refuse_if_shared(_: &File, _: &Path) -> Result<(), KeyFileError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of the test's own, removed with everything in it at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("thirl-key-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Scratch(path)
        }

        fn key(&self) -> PathBuf {
            self.0.join("below").join("node.key")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_key_is_made_once_and_then_read() {
        let scratch = Scratch::new("once");
        let (made, fresh) = NodeKey::load_or_create(&scratch.key(), &[1; 32]).unwrap();
        assert!(fresh);
        let (read, fresh) = NodeKey::load_or_create(&scratch.key(), &[2; 32]).unwrap();
        assert!(!fresh);
        assert_eq!((made.id(), made.id()), (read.id(), NodeKey::from_seed(&[1; 32]).id()));
        let files = fs::read_dir(scratch.key().parent().unwrap()).unwrap().count();
        assert_eq!(files, 1, "the temporary file is gone");
    }

    #[test]
    fn an_existing_file_is_never_replaced() {
        let scratch = Scratch::new("replace");
        NodeKey::from_seed(&[1; 32]).save_new(&scratch.key()).unwrap();
        let error = NodeKey::from_seed(&[2; 32]).save_new(&scratch.key()).unwrap_err();
        assert!(matches!(&error, KeyFileError::Io { error, .. } if error.kind() == ErrorKind::AlreadyExists));
        assert_eq!(NodeKey::load(&scratch.key()).unwrap().id(), NodeKey::from_seed(&[1; 32]).id());
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_its_owners_only() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = Scratch::new("mode");
        NodeKey::from_seed(&[1; 32]).save_new(&scratch.key()).unwrap();
        assert_eq!(fs::metadata(scratch.key()).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(scratch.key(), fs::Permissions::from_mode(0o640)).unwrap();
        let error = NodeKey::load(&scratch.key()).unwrap_err();
        assert!(matches!(error, KeyFileError::Shared { mode: 0o640, .. }));
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn damaged_files_are_refused() {
        let whole = format!("{PREFIX}{}", ZBASE32.encode(&[7; 32]));
        assert!(parse(&whole).is_some());
        assert!(parse(&format!("# comment\n\n{whole}\n")).is_some());
        for damaged in
            ["", "# comment\n", &whole[..whole.len() - 1], &whole[1..], &format!("{whole}\n{whole}")]
        {
            assert!(parse(damaged).is_none(), "{damaged}");
        }
    }
}
