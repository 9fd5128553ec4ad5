//! Process 1 of a node: mounts what a node has at the usual paths, starts containerd and kubelet, collects orphans, and
//! starts either again when it ends.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitStatus, wait};

use super::cgroup::{self, Hierarchy, Kind};
use super::node::{self, KUBELET_GO};
use super::pki;
use super::state::{Paths, State};
use crate::settings;

const NOTHING: Option<&str> = None;

fn mount_new(kind: &str, at: &Path, options: Option<&str>) -> Result<()> {
    mount(Some(kind), at, Some(kind), MsFlags::empty(), options)
        .with_context(|| format!("mounting {kind} on {}", at.display()))
}

fn bind(from: &Path, at: &Path) -> Result<()> {
    mount(Some(from), at, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING)
        .with_context(|| format!("binding {} on {}", from.display(), at.display()))
}

/// Shows a directory of the node's own at a path, which may lack on the machine.
fn private(node: &Path, at: &str) -> Result<()> {
    let own = node.join("root").join(at.trim_start_matches('/'));
    fs::create_dir_all(&own)?;
    fs::create_dir_all(at).with_context(|| format!("making {at}"))?;
    bind(&own, Path::new(at))
}

/// `/var/lib` is the node's own, so whatever a DaemonSet keeps there by hostPath is; the clusters' directory stays visible.
fn private_var_lib(node: &Path) -> Result<()> {
    let clusters = settings::clusters();
    if clusters.starts_with("/var/lib") {
        let inner = node.join("root").join(clusters.strip_prefix("/").unwrap_or(&clusters));
        fs::create_dir_all(&inner)?;
        bind(&clusters, &inner)?;
    }
    for dir in ["kubelet", "containerd", "cni"] {
        fs::create_dir_all(node.join("root/var/lib").join(dir))?;
    }
    private(node, "/var/lib")
}

/// kubelet writes these; they belong to the whole machine. It finds its wanted values and changes nothing.
fn shield_sysctls(node: &Path) -> Result<()> {
    let dir = node.join("sysctls");
    fs::create_dir_all(&dir)?;
    for (name, value) in
        [("kernel/panic", "10"), ("kernel/panic_on_oops", "1"), ("vm/overcommit_memory", "1"), ("vm/panic_on_oom", "0")]
    {
        let file = dir.join(name.replace('/', "."));
        fs::write(&file, format!("{value}\n"))?;
        bind(&file, &Path::new("/proc/sys").join(name))?;
    }
    Ok(())
}

/// The machine's hierarchies again, whose root is now the node's own group.
fn mount_cgroups(hierarchies: &[Hierarchy]) -> Result<()> {
    let top = Path::new("/sys/fs/cgroup");
    if hierarchies.iter().all(|hierarchy| hierarchy.mount != top) {
        mount_new("tmpfs", top, Some("mode=755"))?;
    }
    for hierarchy in hierarchies.iter().filter(|hierarchy| hierarchy.mount.starts_with(top)) {
        fs::create_dir_all(&hierarchy.mount)?;
        match &hierarchy.kind {
            Kind::V2 => {
                mount_new("cgroup2", &hierarchy.mount, None)?;
                // A version 2 group with children that have controllers holds no processes itself: they go to a leaf.
                let leaf = hierarchy.mount.join("init");
                fs::create_dir_all(&leaf)?;
                fs::write(leaf.join("cgroup.procs"), "0").context("moving into the node's leaf group")?;
                cgroup::delegate(&hierarchy.mount);
            }
            Kind::V1(options) => mount_new("cgroup", &hierarchy.mount, Some(options))?,
        }
    }
    Ok(())
}

fn set_up(paths: &Paths, name: &str) -> Result<()> {
    let dir = paths.node(name);
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING).context("making mounts private")?;
    // Before /proc and /sys change.
    let hierarchies = cgroup::hierarchies()?;
    mount_new("proc", Path::new("/proc"), None)?;
    shield_sysctls(&dir)?;
    mount_new("sysfs", Path::new("/sys"), None)?;
    mount_cgroups(&hierarchies)?;
    mount_new("bpf", Path::new("/sys/fs/bpf"), Some("mode=0700"))?;
    for (kind, at) in
        [("tracefs", "/sys/kernel/tracing"), ("debugfs", "/sys/kernel/debug"), ("securityfs", "/sys/kernel/security")]
    {
        if let Err(error) = mount_new(kind, Path::new(at), None) {
            println!("without {kind}: {error:#}");
        }
    }
    mount_new("tmpfs", Path::new("/run"), Some("mode=755"))?;
    for path in ["/run/netns", "/run/lock"] {
        fs::create_dir_all(path)?;
    }
    private_var_lib(&dir)?;
    for path in ["/etc/cni/net.d", "/etc/kubernetes", "/opt/cni/bin", "/var/log"] {
        private(&dir, path)?;
    }
    // Where kubeadm puts it: products look there for the API server's address.
    fs::copy(pki::config_path(paths, name), "/etc/kubernetes/kubelet.conf").context("the kubelet's kubeconfig")?;
    for file in ["hosts", "resolv.conf"] {
        let at = Path::new("/etc").join(file);
        if at.exists() {
            bind(&dir.join("etc").join(file), &at)?;
        }
    }
    nix::unistd::sethostname(name).context("setting the host name")?;
    // Shared, so that pods with mountPropagation Bidirectional can mount into their node.
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_SHARED, NOTHING).context("making mounts shared")
}

/// A program that is kept running.
struct Service {
    name: &'static str,
    words: Vec<String>,
    log: PathBuf,
    bin: PathBuf,
}

impl Service {
    fn start(&self) -> Result<i32> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let (program, arguments) = self.words.split_first().context("a service has a program")?;
        let path = format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", self.bin.display());
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs([("PATH", path.as_str()), ("HOME", "/root"), ("LANG", "C.UTF-8")])
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log)
            .spawn()
            .with_context(|| format!("starting {}", self.name))?;
        let pid = i32::try_from(child.id())?;
        fs::write(format!("/run/{}.pid", self.name), pid.to_string())?;
        Ok(pid)
    }
}

fn wait_for(path: &Path) {
    // Without a limit: this is process 1, and `up`, which waits for its results, has one.
    while !path.exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sets the node up and then stays for ever.
pub(crate) fn run(paths: &Paths, state: &State, name: &str) -> Result<()> {
    set_up(paths, name)?;
    let dir = paths.node(name);
    let mut running: BTreeMap<i32, Service> = BTreeMap::new();
    for (service, words) in node::services(paths, state, name) {
        if service != "containerd" {
            wait_for(Path::new("/run/containerd/containerd.sock"));
            wait_for(&dir.join(KUBELET_GO));
        }
        let log = dir.join("log").join(format!("{service}.log"));
        let service = Service { name: service, words, log, bin: state.bin.clone() };
        running.insert(service.start()?, service);
    }
    loop {
        let ended = match wait() {
            Ok(WaitStatus::Exited(pid, code)) => (pid, format!("status {code}")),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, signal.to_string()),
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(error) => {
                // No child at all: a service could not be started again. Try once a second.
                println!("waiting: {error}");
                std::thread::sleep(Duration::from_secs(1));
                continue;
            }
        };
        let Some(service) = running.remove(&ended.0.as_raw()) else { continue };
        println!("{} ended with {}; starting it again", service.name, ended.1);
        std::thread::sleep(Duration::from_millis(500));
        let pid = service.start().inspect_err(|error| println!("{error:#}"))?;
        running.insert(pid, service);
    }
}
