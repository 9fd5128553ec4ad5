//! Removing a cluster: from its recorded state and the names that follow from its number, whatever `up` had made of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::layout::{Family, Layout, MAX_ID};
use super::process::Recorded;
use super::state::{Paths, lock_all, lock_one, names};
use super::{cgroup, network, watches};
use crate::progress::{say, seconds};
use crate::settings;

/// Mount points that the nodes need on the machine and that it may not have had.
const MOUNT_POINTS: &[&str] = &["/etc/cni/net.d", "/etc/cni", "/etc/kubernetes", "/opt/cni/bin", "/opt/cni"];

/// Removes one cluster by name; without one, only says so.
pub(crate) fn run(name: &str) -> Result<()> {
    let lock = lock_one(name)?;
    if Paths::of(name).load()?.is_none() {
        say(format_args!("cluster {name}: there is none"));
    }
    remove(name)?;
    let all = lock_all()?;
    if names()?.is_empty() {
        watches::restore()?;
        for point in MOUNT_POINTS {
            // Only where nobody has put anything into it.
            drop(fs::remove_dir(point));
        }
    }
    drop(all);
    lock.discard()
}

/// Removes one cluster. The caller holds its lock.
pub(crate) fn remove(name: &str) -> Result<()> {
    let paths = Paths::of(name);
    let Some(state) = paths.load()? else { return Ok(()) };
    let started = Instant::now();
    // Process 1 of a node first: the kernel ends all that is in its pid namespace with it.
    for record in records(&paths.root.join("pid")) {
        if let Some(process) = Recorded::load(&record) {
            process.end()?;
        }
    }
    // Then whatever was on its way when `up` was interrupted, and the groups themselves.
    cgroup::remove(&state.group())?;
    network::remove(state.layout)?;
    let mounts = mounts_below(&paths.root)?;
    anyhow::ensure!(mounts.is_empty(), "cluster {name}: still mounted: {mounts:?}; umount them, then repeat");
    // The state goes last, so that an interrupted removal can be repeated.
    for entry in fs::read_dir(&paths.root)?.flatten().filter(|entry| entry.path() != paths.state()) {
        let path = entry.path();
        let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone.with_context(|| format!("removing {}", path.display()))?;
    }
    fs::remove_dir_all(&paths.root).with_context(|| format!("removing {}", paths.root.display()))?;
    say(format_args!("cluster {name}: removed in {}", seconds(started.elapsed())));
    Ok(())
}

fn records(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    // Nodes before the control plane: a dying kubelet has nothing to report any more.
    all.sort_by_key(|path| path.extension().is_none_or(|kind| kind != "init"));
    all
}

/// Mount points of this machine below a directory: a node's own mounts are not among them.
fn mounts_below(dir: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let points = text.lines().filter_map(|line| line.split_whitespace().nth(4));
    Ok(points.filter(|point| Path::new(point).starts_with(dir)).map(str::to_owned).collect())
}

/// Removes what carries a cluster's names although no state is recorded for its number.
pub(crate) fn remove_orphans() -> Result<()> {
    let mut taken = Vec::new();
    for name in names()? {
        taken.extend(Paths::of(&name).load()?.map(|state| state.layout.id));
    }
    for id in (1..=MAX_ID).filter(|id| !taken.contains(id)) {
        let layout = Layout { id, family: Family::V4 };
        if !leavings(layout)?.is_empty() {
            say(format_args!("removing what is left of a cluster without state: {}", layout.prefix()));
            cgroup::remove(Path::new(&layout.prefix()))?;
            network::remove(layout)?;
        }
    }
    Ok(())
}

/// Everything of this machine that has the names of a cluster of this number, for people and tests.
pub(crate) fn leavings(layout: Layout) -> Result<Vec<String>> {
    let prefix = layout.prefix();
    let mut found: Vec<String> = network::named()?
        .into_iter()
        .filter(|netns| netns.starts_with(&format!("{prefix}-")))
        .map(|netns| format!("network namespace {netns}"))
        .collect();
    if Path::new("/sys/class/net").join(&prefix).exists() {
        found.push(format!("link {prefix}"));
    }
    for hierarchy in cgroup::hierarchies()? {
        let group = hierarchy.mount.join(&prefix);
        if group.exists() {
            found.push(format!("control group {}", group.display()));
        }
    }
    Ok(found)
}

/// As [`leavings`], with what a named cluster leaves elsewhere.
pub(crate) fn leavings_of(name: &str, layout: Layout) -> Result<Vec<String>> {
    let mut found = leavings(layout)?;
    let root = settings::clusters().join(name);
    if root.exists() {
        found.push(format!("directory {}", root.display()));
    }
    found.extend(mounts_below(&root)?.into_iter().map(|point| format!("mount {point}")));
    let own = root.display().to_string();
    for entry in fs::read_dir("/proc")?.flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(&format!("{own}/")) {
            found.push(format!("process {}", entry.file_name().to_string_lossy()));
        }
    }
    Ok(found)
}
