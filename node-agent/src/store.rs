//! Small JSON documents that outlive the process: intents, slots, inventory.

use std::{
    fmt::Debug,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

/// Why a document could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{} is full: free space or inodes there; nothing was changed", path.display())]
    Full { path: PathBuf },
    #[error("{operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    /// The document is set aside as `NAME.broken`, so that one bad file stops nothing else.
    #[error("{}: not readable ({message}); it was set aside", path.display())]
    Broken { path: PathBuf, message: String },
}

/// Where documents are kept.
///
/// *Guarantees*: after [`Store::save`] returns, a reader finds the new document, and until then the old one, even if the
/// process dies or the machine stops on any line.
pub trait Store: Send + Sync + Debug {
    fn save(&self, name: &str, document: &[u8]) -> Result<(), StoreError>;
    /// Succeeds if it is gone already.
    fn remove(&self, name: &str) -> Result<(), StoreError>;
    fn load(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError>;
    /// Names that start with `prefix`.
    fn names(&self, prefix: &str) -> Result<Vec<String>, StoreError>;
    /// Takes an unreadable document out of the way.
    fn set_aside(&self, name: &str) -> Result<(), StoreError>;
}

/// Serializes and saves.
pub fn save(store: &dyn Store, name: &str, document: &impl Serialize) -> Result<(), StoreError> {
    let bytes =
        serde_json::to_vec(document).map_err(|e| StoreError::Broken { path: name.into(), message: e.to_string() })?;
    store.save(name, &bytes)
}

/// Reads a document; one that cannot be read is set aside and reported.
pub fn load<T: DeserializeOwned>(store: &dyn Store, name: &str) -> Result<Option<T>, StoreError> {
    let Some(bytes) = store.load(name)? else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(document) => Ok(Some(document)),
        Err(e) => {
            store.set_aside(name)?;
            Err(StoreError::Broken { path: name.into(), message: e.to_string() })
        }
    }
}

/// Files `NAME.json` (or `NAME`, where it has an extension) in a directory of mode 0700. On tmpfs (`/run`), where the state belongs: it must not outlive a
/// reboot, and fsync costs nothing there.
#[derive(Clone, Debug)]
pub struct Files {
    directory: PathBuf,
}

impl Files {
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|source| StoreError::Io {
            operation: "create",
            path: directory.to_owned(),
            source,
        })?;
        Ok(Self { directory: directory.to_owned() })
    }

    fn path(&self, name: &str) -> PathBuf {
        // a name with an extension is no JSON document
        if name.contains('.') { self.directory.join(name) } else { self.directory.join(format!("{name}.json")) }
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| match source.raw_os_error() {
        Some(e) if e == nix::Error::ENOSPC as i32 || e == nix::Error::EDQUOT as i32 => {
            StoreError::Full { path: path.parent().unwrap_or(path).to_owned() }
        }
        _ => StoreError::Io { operation, path: path.to_owned(), source },
    }
}

/// Replaces a file in one step: readers see the old or the new content, also after a power failure.
pub fn replace_file(path: &Path, content: &[u8], mode: u32) -> Result<(), StoreError> {
    use std::os::unix::fs::OpenOptionsExt;
    let temporary = path.with_extension("tmp");
    let written = (|| {
        let mut file = File::options().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()
    })();
    if let Err(e) = written {
        let _ = fs::remove_file(&temporary);
        return Err(failed("write", path)(e));
    }
    fs::rename(&temporary, path).map_err(failed("replace", path))?;
    sync_directory(path)
}

fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    File::open(parent).and_then(|d| d.sync_all()).map_err(failed("sync", parent))
}

impl Store for Files {
    fn save(&self, name: &str, document: &[u8]) -> Result<(), StoreError> {
        replace_file(&self.path(name), document, 0o600)
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Ok(()) => sync_directory(&path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(failed("remove", &path)(e)),
        }
    }

    fn load(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(name);
        match fs::read(&path) {
            Ok(b) => Ok(Some(b)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed("read", &path)(e)),
        }
    }

    fn names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let entries = fs::read_dir(&self.directory).map_err(failed("list", &self.directory))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed("list", &self.directory))?;
            let name = entry.file_name();
            if let Some(name) = name.to_str().and_then(|n| n.strip_suffix(".json"))
                && name.starts_with(prefix)
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn set_aside(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path(name);
        fs::rename(&path, path.with_extension("broken")).map_err(failed("set aside", &path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_survive_and_broken_ones_are_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let store = Files::open(&dir.path().join("state")).unwrap();
        save(&store, "endpoint-a", &vec![1, 2]).unwrap();
        save(&store, "endpoint-a", &vec![3]).unwrap();
        store.save("endpoint-b", b"{ half").unwrap();
        store.save("slots", b"{}").unwrap();
        assert_eq!(store.names("endpoint-").unwrap(), ["endpoint-a", "endpoint-b"]);
        assert_eq!(load::<Vec<u8>>(&store, "endpoint-a").unwrap(), Some(vec![3]));
        assert!(matches!(load::<Vec<u8>>(&store, "endpoint-b"), Err(StoreError::Broken { .. })));
        assert_eq!(store.names("endpoint-").unwrap(), ["endpoint-a"]);
        store.remove("endpoint-a").unwrap();
        store.remove("endpoint-a").unwrap();
        assert_eq!(load::<Vec<u8>>(&store, "endpoint-a").unwrap(), None);
    }

    #[test]
    fn a_full_disk_keeps_the_old_document_and_is_named() {
        // /dev/full answers every write with ENOSPC
        let error = failed("write", Path::new("/run/axoneme/state/x.json"))(io::Error::from_raw_os_error(28));
        assert!(matches!(&error, StoreError::Full { path } if path == Path::new("/run/axoneme/state")), "{error}");
    }
}
