//! Kernel settings below /proc/sys of the calling thread's network namespace.

use std::path::PathBuf;

use super::{NetworkError, Result};

/// `net/ipv4/conf/eth0.100/rp_filter` style keys: slashes, so that interface names may hold dots.
fn path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(key)
}

/// None: no such setting.
pub(super) fn read(key: &str) -> Result<Option<String>> {
    match std::fs::read_to_string(path(key)) {
        Ok(v) => Ok(Some(v.trim().to_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(NetworkError::Io { operation: format!("read sysctl {key}"), source }),
    }
}

pub(super) fn write(key: &str, value: &str) -> Result<()> {
    std::fs::write(path(key), value).map_err(|source| match source.kind() {
        std::io::ErrorKind::PermissionDenied => {
            NetworkError::Permission { operation: format!("set sysctl {key}={value}") }
        }
        std::io::ErrorKind::ReadOnlyFilesystem => NetworkError::Io {
            operation: format!(
                "set sysctl {key}={value}: /proc/sys is read-only: run the agent's container privileged"
            ),
            source,
        },
        _ => NetworkError::Io { operation: format!("set sysctl {key}={value}"), source },
    })
}
