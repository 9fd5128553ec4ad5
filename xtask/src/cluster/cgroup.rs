//! Control groups: each cluster has a directory in every mounted hierarchy, version 1 or 2, and each node one below it,
//! which the node's cgroup namespace then shows as the root. The directory is also the surest list of what belongs to a
//! cluster: a process cannot leave it by forking.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::progress::wait;

/// Which kind of hierarchy a mount shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Version 1, with the mount options that name its controllers.
    V1(String),
    /// The one version 2 hierarchy.
    V2,
}

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) mount: PathBuf,
    pub(crate) kind: Kind,
}

/// Options that every cgroup mount may have and that name no controller.
const GENERAL: &[&str] = &["rw", "ro", "relatime", "noatime", "nosuid", "nodev", "noexec", "xattr", "clone_children"];

fn parse(mounts: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let mut words = line.split_whitespace().skip(1);
        let (Some(mount), Some(kind), Some(options)) = (words.next(), words.next(), words.next()) else { continue };
        let kind = match kind {
            "cgroup2" => Kind::V2,
            "cgroup" => {
                let named: Vec<&str> = options
                    .split(',')
                    .filter(|option| !GENERAL.contains(option) && !option.starts_with("release_agent"))
                    .collect();
                let none = if named.iter().any(|option| option.starts_with("name=")) { "none," } else { "" };
                Kind::V1(format!("{none}{}", named.join(",")))
            }
            _ => continue,
        };
        if !found.iter().any(|other| other.kind == kind) {
            found.push(Hierarchy { mount: PathBuf::from(mount), kind });
        }
    }
    found
}

/// Every hierarchy of this machine.
pub(crate) fn hierarchies() -> Result<Vec<Hierarchy>> {
    let found = parse(&fs::read_to_string("/proc/mounts")?);
    anyhow::ensure!(!found.is_empty(), "no cgroup hierarchy is mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup");
    Ok(found)
}

impl Hierarchy {
    /// The group that a line of `/proc/PID/cgroup` names, if it is about this hierarchy.
    fn group<'a>(&self, line: &'a str) -> Option<&'a str> {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let same = match &self.kind {
            Kind::V2 => controllers.is_empty(),
            Kind::V1(options) => {
                let mut own: Vec<&str> = options.split(',').filter(|option| *option != "none").collect();
                let mut named: Vec<&str> = controllers.split(',').collect();
                own.sort_unstable();
                named.sort_unstable();
                own == named
            }
        };
        same.then(|| path.trim_start_matches('/'))
    }

    fn create(&self, group: &Path) -> Result<()> {
        let mut dir = self.mount.clone();
        for part in group {
            if self.kind == Kind::V2 {
                delegate(&dir);
            }
            let parent = dir.clone();
            dir.push(part);
            match fs::create_dir(&dir) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(error).with_context(|| format!("making control group {}", dir.display()));
                }
                _ => {}
            }
            // A new version 1 cpuset is empty, and no process may enter it.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if self.kind != Kind::V2 && parent.join(file).is_file() {
                    fs::write(dir.join(file), fs::read(parent.join(file))?)?;
                }
            }
        }
        Ok(())
    }
}

/// Gives a version 2 group's children all controllers that it has itself.
pub(crate) fn delegate(dir: &Path) {
    let own = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    for controller in own.split_whitespace() {
        // One by one: a controller that cannot be delegated here must not keep the others away.
        drop(fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")));
    }
}

/// Makes a group in every hierarchy.
pub(crate) fn create(group: &Path) -> Result<()> {
    hierarchies()?.iter().try_for_each(|hierarchy| hierarchy.create(group))
}

/// Moves the calling process into a group of every hierarchy; under version 2 into its leaf `init` where that exists,
/// since a group that has children with controllers may hold no processes itself.
pub(crate) fn join(group: &Path) -> Result<()> {
    for hierarchy in hierarchies()? {
        let dir = hierarchy.mount.join(group);
        let leaf = dir.join("init");
        let dir = if hierarchy.kind == Kind::V2 && leaf.is_dir() { leaf } else { dir };
        fs::write(dir.join("cgroup.procs"), "0").with_context(|| format!("joining control group {}", dir.display()))?;
    }
    Ok(())
}

/// Moves the calling process into the groups of another one.
pub(crate) fn join_as(pid: i32) -> Result<()> {
    let told = fs::read_to_string(format!("/proc/{pid}/cgroup")).with_context(|| format!("groups of process {pid}"))?;
    for hierarchy in hierarchies()? {
        let Some(group) = told.lines().find_map(|line| hierarchy.group(line)) else { continue };
        let dir = hierarchy.mount.join(group);
        fs::write(dir.join("cgroup.procs"), "0").with_context(|| format!("joining control group {}", dir.display()))?;
    }
    Ok(())
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut all: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .flat_map(|path| below(&path))
        .collect();
    all.push(dir.to_path_buf());
    all
}

fn processes(group: &Path) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for hierarchy in hierarchies()? {
        for dir in below(&hierarchy.mount.join(group)) {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Ends every process of a group, whoever started it, and removes the group.
pub(crate) fn remove(group: &Path) -> Result<()> {
    let limit = Duration::from_secs(30);
    wait(
        &format!("end of the processes of control group {}", group.display()),
        limit,
        Duration::from_millis(20),
        || {
            let left = processes(group)?;
            for pid in &left {
                // It may have ended since it was listed; a pid cannot be reused before its group entry is gone.
                let _gone_is_fine = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            Ok(left.is_empty().then_some(()))
        },
    )?;
    wait(&format!("removal of control group {}", group.display()), limit, Duration::from_millis(50), || {
        let mut left = false;
        for hierarchy in hierarchies()? {
            for dir in below(&hierarchy.mount.join(group)) {
                left |= fs::remove_dir(&dir).is_err() && dir.exists();
            }
        }
        Ok((!left).then_some(()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_mounts_are_told_apart() {
        let text = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,nodev,noexec,relatime,cpu,cpuacct 0 0\n\
            cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,xattr,release_agent=/lib/x,name=systemd 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n\
            cgroup2 /run/again cgroup2 rw,relatime 0 0\n";
        let kinds: Vec<Kind> = parse(text).into_iter().map(|hierarchy| hierarchy.kind).collect();
        assert_eq!(kinds, [Kind::V1("cpu,cpuacct".into()), Kind::V1("none,name=systemd".into()), Kind::V2]);
    }

    #[test]
    fn a_processs_groups_are_found_by_their_controllers() {
        let told = ["3:cpuacct,cpu:/pods/a", "2:name=systemd:/b", "1:cpu:/alone", "0::/pods/c:d"];
        let of = |kind: Kind| {
            let hierarchy = Hierarchy { mount: PathBuf::new(), kind };
            told.iter().filter_map(|line| hierarchy.group(line)).collect::<Vec<_>>()
        };
        assert_eq!(of(Kind::V1("cpu,cpuacct".into())), ["pods/a"]);
        assert_eq!(of(Kind::V1("none,name=systemd".into())), ["b"]);
        assert_eq!(of(Kind::V2), ["pods/c:d"]);
    }
}
