//! What the host must have, looked at before anything is changed, each with what to do about it.
//!
//! What is fatal holds the agent back until it is mended: see [`crate::gate`].

use std::path::{Path, PathBuf};

use nix::sys::statfs::statfs;

/// Oldest kernel that the programs are checked on.
const OLDEST: (u32, u32) = (5, 10);
/// `BPF_FS_MAGIC`, linux/magic.h.
const BPFFS: i64 = 0xcafe_4a11;
/// `CGROUP2_SUPER_MAGIC`, linux/magic.h.
const CGROUP2: i64 = 0x6367_7270;
/// Capabilities by bit (linux/capability.h) that no part of the agent can do without.
const CAPABILITIES: [(u32, &str, &str); 2] = [
    (12, "CAP_NET_ADMIN", "links, routes and programs on them"),
    (21, "CAP_SYS_ADMIN", "entering pods' network namespaces"),
];

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The agent cannot work.
    pub fatal: Vec<String>,
    /// The agent does without something.
    pub warnings: Vec<String>,
    /// cgroup v2 directory for socket hooks.
    pub cgroup: Option<PathBuf>,
}

/// Looks at everything. `cgroup`: given by the user; else the usual places below `host_root` and `/` are tried.
pub fn look(bpf_dir: &Path, cgroup: Option<&Path>, host_root: &Path) -> Findings {
    let mut findings = Findings::default();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    findings.fatal.extend(old_kernel(release.trim()));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    findings.fatal.extend(missing_capabilities(&status));
    match no_bpffs(bpf_dir) {
        Some(lack) => findings.fatal.push(lack),
        // on another file system a directory of that name says nothing
        None => findings.fatal.extend(newer_maps(bpf_dir)),
    }
    match find_cgroup(cgroup, host_root) {
        Ok(path) => findings.cgroup = Some(path),
        Err(why) => findings.warnings.push(why),
    }
    findings
}

fn old_kernel(release: &str) -> Option<String> {
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next()?, numbers.next()?);
    let (major, minor) = OLDEST;
    (version < OLDEST).then(|| format!("kernel {release} is too old: {major}.{minor} or newer is needed"))
}

fn missing_capabilities(status: &str) -> Option<String> {
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(effective.trim(), 16).ok()?;
    let missing: Vec<String> = CAPABILITIES
        .iter()
        .filter(|(bit, ..)| effective & (1 << bit) == 0)
        .map(|(_, name, why)| format!("{name} ({why})"))
        .collect();
    if missing.is_empty() {
        return None;
    }
    Some(format!("missing {}: run the agent privileged, as deploy/base does", missing.join(", ")))
}

fn is_a(path: &Path, magic: i64) -> bool {
    statfs(path).is_ok_and(|s| s.filesystem_type().0 == magic)
}

fn no_bpffs(dir: &Path) -> Option<String> {
    let nearest = dir.ancestors().find(|a| a.exists())?;
    if is_a(nearest, BPFFS) {
        return None;
    }
    Some(format!(
        "{} is not on a BPF filesystem: `mount -t bpf bpf /sys/fs/bpf` on the host, and mount it into the agent with \
         mountPropagation: Bidirectional",
        dir.display()
    ))
}

/// Found before anything is changed: a datapath that opens its maps later would have set the node up by then.
fn newer_maps(dir: &Path) -> Option<String> {
    axoneme_kernel::bpf::refuse_newer(dir).err().map(|e| e.to_string())
}

fn find_cgroup(given: Option<&Path>, host_root: &Path) -> Result<PathBuf, String> {
    if let Some(path) = given {
        return if is_a(path, CGROUP2) {
            Ok(path.to_owned())
        } else {
            Err(format!(
                "{} is not a cgroup v2 directory: sockets are not load balanced, services work by packet",
                path.display()
            ))
        };
    }
    let places = ["sys/fs/cgroup", "sys/fs/cgroup/unified"];
    let candidates = [host_root, Path::new("/")].into_iter().flat_map(|r| places.map(|p| r.join(p)));
    candidates.into_iter().find(|p| is_a(p, CGROUP2)).ok_or_else(|| {
        "no cgroup v2 hierarchy is mounted (cgroup v1 only): sockets are not load balanced, services work by packet; \
         boot the node with systemd.unified_cgroup_hierarchy=1 to change that"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_named() {
        for good in ["5.10.0-26-amd64", "6.1.0", "6.18.44-x"] {
            assert_eq!(old_kernel(good), None, "{good}");
        }
        assert_eq!(
            old_kernel("5.4.0-150-generic").unwrap(),
            "kernel 5.4.0-150-generic is too old: 5.10 or newer is needed"
        );
        assert!(old_kernel("4.19.0").is_some());
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(missing_capabilities("CapEff:\t000001ffffffffff\n"), None);
        let message = missing_capabilities("Name: x\nCapEff:\t0000000000200000\n").unwrap();
        assert!(message.contains("CAP_NET_ADMIN") && !message.contains("CAP_SYS_ADMIN"), "{message}");
    }

    #[test]
    fn wrong_filesystems_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let message = no_bpffs(&dir.path().join("axoneme")).unwrap();
        assert!(message.contains("mount -t bpf"), "{message}");
        assert!(find_cgroup(Some(dir.path()), Path::new("/none")).is_err());
    }
}
