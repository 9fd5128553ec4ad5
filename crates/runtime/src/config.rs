//! Configuration files (YAML, of which JSON is a part), with errors that name the file.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("configuration {}: {source}: create the file or leave the flag out", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// `message` names line, column and field.
    #[error("configuration {}: {message}", path.display())]
    Parse { path: PathBuf, message: String },
}

/// Reads `T` from a file. Types should be `#[serde(deny_unknown_fields)]`, so that a misspelt setting is refused.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    serde_saphyr::from_str(&text).map_err(|e| ConfigError::Parse { path: path.to_owned(), message: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        node: String,
    }

    #[test]
    fn a_misspelt_setting_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.yaml");
        std::fs::write(&path, "node: n1\n").unwrap();
        assert_eq!(load::<Settings>(&path).unwrap().node, "n1");
        std::fs::write(&path, "node: n1\nnoode: n2\n").unwrap();
        let message = load::<Settings>(&path).unwrap_err().to_string();
        assert!(message.contains("noode") && message.contains("agent.yaml"), "{message}");
        let missing = load::<Settings>(&dir.path().join("none")).unwrap_err();
        assert!(matches!(missing, ConfigError::Read { .. }));
    }
}
