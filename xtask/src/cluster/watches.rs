//! How many file watchers (inotify instances) root may have: a kubelet, a containerd and each pod that reads a mounted
//! file take some, and at the kernel's usual 128 the nodes of a few clusters are without. Kubelet then says "too many open
//! files", starts again and again, and never registers.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::progress::say;
use crate::settings;

const LIMIT: &str = "/proc/sys/fs/inotify/max_user_instances";
/// As many as all clusters that fit beside each other on one machine need.
const ENOUGH: u32 = 8192;

fn former() -> PathBuf {
    settings::clusters().join(".max_user_instances")
}

fn read(path: &Path) -> Result<Option<u32>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().parse().with_context(|| format!("{}: {:?}", path.display(), text.trim()))?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Raises the limit, unless it is high enough, and remembers what it was. The caller holds the lock of all clusters.
pub(super) fn raise() -> Result<()> {
    let Some(now) = read(Path::new(LIMIT))?.filter(|now| *now < ENOUGH) else { return Ok(()) };
    // Intent before effect; what an earlier cluster found stays what it was.
    if read(&former())?.is_none() {
        fs::write(former(), format!("{now}\n")).with_context(|| format!("writing {}", former().display()))?;
    }
    if let Err(error) = fs::write(LIMIT, format!("{ENOUGH}\n")) {
        say(format_args!("{LIMIT} stays at {now} ({error}): kubelets of more than a few nodes may not start"));
    }
    Ok(())
}

/// Puts the limit back, unless somebody has set another one since. The caller knows that no cluster is left.
pub(super) fn restore() -> Result<()> {
    let Some(before) = read(&former())? else { return Ok(()) };
    if read(Path::new(LIMIT))? == Some(ENOUGH) {
        fs::write(LIMIT, format!("{before}\n")).with_context(|| format!("setting {LIMIT} back to {before}"))?;
    }
    fs::remove_file(former()).with_context(|| format!("removing {}", former().display()))
}
