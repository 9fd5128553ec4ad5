//! The files that the container runtime reads: the plugin's binary and the network configuration.
//!
//! Written once the agent can serve ADD, so that a node is not Ready before. Each is replaced in one step: the runtime
//! sees the old or the new file.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use axoneme_cni::{NEWEST, PLUGIN};
use serde_json::{Value, json};

use crate::store::{self, StoreError};

/// The plugin of `hostPort`.
const PORTMAP: &str = "portmap";
/// Sorts before what other products write.
pub const CONFIG: &str = "05-axoneme.conflist";
/// Suffix of configurations of others that were taken out of use.
pub const BACKUP: &str = "axoneme_bak";

/// Where the runtime looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    pub config_dir: PathBuf,
    pub bin_dir: PathBuf,
    /// The plugin's binary to install; none: it is there already.
    pub plugin: Option<PathBuf>,
    /// Path of the agent's socket as the plugin sees it (on the host).
    pub socket: PathBuf,
    /// Other configurations are renamed, so that no other plugin can be chosen.
    pub exclusive: bool,
    /// Plugins that run behind ours, as the user has written them: objects with a `type`.
    pub chained: Vec<Value>,
}

#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("{operation} {}: {source}: is the directory of the host mounted into the agent?", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Write(#[from] StoreError),
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    move |source| InstallError::Io { operation, path: path.to_owned(), source }
}

/// The network configuration list.
fn config(paths: &Paths) -> Vec<u8> {
    let mut plugins = vec![json!({"type": PLUGIN, "socket": paths.socket})];
    // hostPort: chained behind, as the reference configuration does; skipped by runtimes without the request
    if paths.bin_dir.join(PORTMAP).exists() && !paths.chained.iter().any(|p| kind(p) == PORTMAP) {
        plugins.push(json!({"type": PORTMAP, "capabilities": {"portMappings": true}}));
    }
    plugins.extend(paths.chained.iter().cloned());
    let list = json!({"cniVersion": NEWEST, "name": "axoneme", "plugins": plugins});
    let mut text = format!("{list:#}").into_bytes();
    text.push(b'\n');
    text
}

fn kind(plugin: &Value) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// Chained plugins whose program is not there.
pub fn missing(paths: &Paths) -> Vec<&str> {
    paths.chained.iter().map(kind).filter(|k| k.contains('/') || !paths.bin_dir.join(k).is_file()).collect()
}

/// Installs what differs. Returns whether something was written.
pub fn install(paths: &Paths) -> Result<bool, InstallError> {
    fs::create_dir_all(&paths.config_dir).map_err(failed("create", &paths.config_dir))?;
    let mut wrote = install_plugin(paths)?;
    if paths.exclusive {
        wrote |= set_others_aside(&paths.config_dir)?;
    } else {
        wrote |= give_back(&paths.config_dir)?;
    }
    let (path, content) = (paths.config_dir.join(CONFIG), config(paths));
    if fs::read(&path).ok().as_deref() != Some(&content) {
        store::replace_file(&path, &content, 0o600)?;
        wrote = true;
    }
    Ok(wrote)
}

fn install_plugin(paths: &Paths) -> Result<bool, InstallError> {
    let Some(source) = &paths.plugin else { return Ok(false) };
    fs::create_dir_all(&paths.bin_dir).map_err(failed("create", &paths.bin_dir))?;
    let binary = fs::read(source).map_err(failed("read", source))?;
    let target = paths.bin_dir.join(PLUGIN);
    if fs::read(&target).ok().as_deref() == Some(&binary) {
        return Ok(false);
    }
    store::replace_file(&target, &binary, 0o755)?;
    Ok(true)
}

fn is_config(name: &str) -> bool {
    [".conf", ".conflist", ".json"].iter().any(|e| name.ends_with(e))
}

fn entries(dir: &Path) -> Result<Vec<String>, InstallError> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .map_err(failed("list", dir))?
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

fn set_others_aside(dir: &Path) -> Result<bool, InstallError> {
    let mut wrote = false;
    for name in entries(dir)?.into_iter().filter(|n| n != CONFIG && is_config(n)) {
        let path = dir.join(&name);
        fs::rename(&path, dir.join(format!("{name}.{BACKUP}"))).map_err(failed("rename", &path))?;
        wrote = true;
    }
    Ok(wrote)
}

fn give_back(dir: &Path) -> Result<bool, InstallError> {
    let mut wrote = false;
    for name in entries(dir)? {
        if let Some(former) = name.strip_suffix(&format!(".{BACKUP}")) {
            let path = dir.join(&name);
            fs::rename(&path, dir.join(former)).map_err(failed("rename", &path))?;
            wrote = true;
        }
    }
    Ok(wrote)
}

/// Removes what was installed and gives others their configurations back.
pub fn uninstall(paths: &Paths) -> Result<(), InstallError> {
    for path in [paths.config_dir.join(CONFIG), paths.bin_dir.join(PLUGIN)] {
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed("remove", &path)(e)),
        }
    }
    if paths.config_dir.exists() {
        give_back(&paths.config_dir)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn install_is_repeatable_and_uninstall_gives_back() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths {
            config_dir: dir.path().join("net.d"),
            bin_dir: dir.path().join("bin"),
            plugin: Some(dir.path().join("plugin")),
            socket: "/run/axoneme/cni.sock".into(),
            exclusive: true,
            chained: Vec::new(),
        };
        fs::write(dir.path().join("plugin"), b"#!binary").unwrap();
        fs::create_dir(&paths.config_dir).unwrap();
        fs::write(paths.config_dir.join("10-other.conflist"), b"{}").unwrap();
        fs::write(paths.config_dir.join("notes.txt"), b"").unwrap();
        assert!(install(&paths).unwrap());
        assert!(!install(&paths).unwrap(), "nothing differs");
        assert_eq!(
            entries(&paths.config_dir).unwrap(),
            ["05-axoneme.conflist", "10-other.conflist.axoneme_bak", "notes.txt"]
        );
        let list: serde_json::Value =
            serde_json::from_slice(&fs::read(paths.config_dir.join(CONFIG)).unwrap()).unwrap();
        assert_eq!(list["plugins"][0]["type"], PLUGIN);
        assert_eq!(list["plugins"].as_array().unwrap().len(), 1, "portmap is not there");
        let mode = fs::metadata(paths.bin_dir.join(PLUGIN)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        uninstall(&paths).unwrap();
        uninstall(&paths).unwrap();
        assert_eq!(entries(&paths.config_dir).unwrap(), ["10-other.conflist", "notes.txt"]);
        assert!(!paths.bin_dir.join(PLUGIN).exists());
    }
}
