//! Softflowd, beside which the bench puts flows: Debian's, unpacked into the cache. Installed as a package it would be a
//! service that watches all links of the machine, other benches' with them.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use super::apt;
use crate::command::{output, program as command};
use crate::progress::step;
use crate::settings;

/// Its package, and what that needs which is a plain library.
const PACKAGE: &str = "softflowd";
const NEEDS: &[&str] = &["libpcap0.8"];

/// The program's path; `softflowctl` is beside it.
///
/// # Errors
/// The package cannot be had.
pub(crate) fn program() -> Result<PathBuf> {
    let root = settings::cache().join("tools/softflowd");
    let found = root.join("usr/sbin/softflowd");
    if found.exists() {
        return Ok(found);
    }
    apt::install(NEEDS)?;
    let unfinished = root.with_extension("part");
    let _ = std::fs::remove_dir_all(&unfinished);
    std::fs::create_dir_all(&unfinished).with_context(|| format!("making {}", unfinished.display()))?;
    step("softflowd of Debian, unpacked into the cache", || {
        apt::download(PACKAGE, &unfinished)?;
        let files = std::fs::read_dir(&unfinished)?.collect::<Result<Vec<_>, _>>()?;
        let package = files.iter().map(std::fs::DirEntry::path).find(|p| p.extension().is_some_and(|e| e == "deb"));
        let package = package.context("apt-get has downloaded no package")?;
        output(command("dpkg-deb").arg("--extract").arg(&package).arg(&unfinished))?;
        std::fs::remove_file(&package)?;
        std::fs::rename(&unfinished, &root).with_context(|| format!("placing {}", root.display()))
    })?;
    ensure!(found.exists(), "Debian's package {PACKAGE} has no usr/sbin/softflowd");
    Ok(found)
}
