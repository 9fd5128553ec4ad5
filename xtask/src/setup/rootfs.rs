//! Parts of images that come from this machine: programs with the libraries that they load.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::command::{output, program};
use crate::oci::Rootfs;
use crate::settings;

/// Adds a program of this machine as `/bin/<name>`, with its shared libraries at their own paths.
pub(crate) fn add_program(root: &mut Rootfs, name: &str) -> Result<()> {
    let path =
        settings::find_program(name).with_context(|| format!("`{name}` is missing: cargo xtask setup cluster"))?;
    root.file(&format!("/bin/{name}"), &path, 0o755);
    for library in libraries(&path) {
        if !root.has(&library) {
            root.file(&library, &library, 0o755);
        }
    }
    Ok(())
}

/// Adds a file or program of this machine at its own path, with its shared libraries.
pub(crate) fn add_same_path(root: &mut Rootfs, path: &Path) -> Result<()> {
    let mode = std::fs::metadata(path).with_context(|| format!("reading {}", path.display()))?.permissions().mode();
    root.file(&path.display().to_string(), path, mode & 0o777);
    for library in libraries(path) {
        if !root.has(&library) {
            root.file(&library, &library, 0o755);
        }
    }
    Ok(())
}

/// The libraries that the loader would map; none for a static program.
fn libraries(path: &Path) -> Vec<String> {
    let listed = output(program("ldd").arg(path)).unwrap_or_default();
    listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(|word| word.trim_end_matches(':').to_owned())
        .collect()
}

/// Adds busybox and a link for each of its applets that is not there yet.
pub(crate) fn add_busybox(root: &mut Rootfs) -> Result<()> {
    let path = settings::find_program("busybox").context("busybox is missing: cargo xtask setup cluster")?;
    root.file("/bin/busybox", &path, 0o755);
    for applet in output(program(&path).arg("--list"))?.lines() {
        let place = format!("/bin/{applet}");
        if !root.has(&place) {
            root.link(&place, "busybox");
        }
    }
    Ok(())
}
