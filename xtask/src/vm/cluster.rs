//! A local cluster with the product inside the guest: a whole node of another kernel, with control groups of version 2
//! only, as Debian boots. In software emulation it takes minutes where the machine itself takes seconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Guest;
use crate::cluster::Family;
use crate::lab::{Installer, Lab, Routing, SYSTEM};
use crate::progress::{say, step};
use crate::setup::go;
use crate::{image, settings};

/// What a node's runtime and datapath load beside the usual ones.
const MODULES: &[&str] = &[
    "overlay",
    "bridge",
    "br_netfilter",
    "nf_tables",
    "nft_chain_nat",
    "nf_conntrack",
    "nft_ct",
    "nft_masq",
    "nft_nat",
];

/// How many times as long everything may take there.
const PATIENCE: u32 = 20;

/// Builds the images, and gives the guest what a cluster is made of.
///
/// # Errors
/// When something cannot be built or found.
pub(super) fn take_along(guest: &mut Guest) -> Result<()> {
    let archives = image::build()?;
    guest.modules.extend(MODULES.iter().map(|module| (*module).to_owned()));
    guest.files.push(std::env::current_exe()?);
    guest.files.extend(archives);
    let repository = settings::repository();
    for dir in [repository.join("deploy"), repository.join("tools"), repository.join("crds"), go::cache()?] {
        files(&dir, &mut guest.files)?;
    }
    for name in ["/etc/os-release", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf"] {
        guest.files.extend(Some(PathBuf::from(name)).filter(|path| path.is_file()));
    }
    Ok(())
}

/// The command that tries it in the guest. Layers of images cannot lie on the guest's root.
pub(super) fn command() -> Result<Vec<String>> {
    let (cache, target, program) = (settings::cache(), settings::target(), std::env::current_exe()?);
    let script = format!(
        "mount -t tmpfs clusters /mnt; export AXONEME_CLUSTERS=/mnt AXONEME_SETUP=none AXONEME_PATIENCE={PATIENCE} AXONEME_CACHE='{}' \
         CARGO_TARGET_DIR='{}'; exec '{}' __whole",
        cache.display(),
        target.display(),
        program.display()
    );
    Ok(["bash", "-c", &script].map(str::to_owned).to_vec())
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

const PODS: &str = "apiVersion: v1
kind: Namespace
metadata: {name: lab}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: lab, labels: {app: client}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: client
      image: ghcr.io/axoneme/workload:dev
      imagePullPolicy: IfNotPresent
      args: [serve, --name, client, --tcp, \"8080\"]
      resources: {limits: {memory: 64Mi, cpu: 500m}}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: lab, labels: {app: server}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: server
      image: ghcr.io/axoneme/workload:dev
      imagePullPolicy: IfNotPresent
      args: [serve, --name, server, --tcp, \"8080\"]
      resources: {limits: {memory: 64Mi, cpu: 500m}}
";
const MEMORY: &str = "67108864";

const DENY: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: shut, namespace: lab}
spec: {podSelector: {matchLabels: {app: server}}}
";

/// In the guest: a cluster of one node, the product, two pods with limits that reach each other until a policy says no,
/// and everything gone again.
///
/// # Errors
/// The first of these that is not so.
pub(crate) fn whole() -> Result<()> {
    let images = settings::target().join("images");
    let mut archives = Vec::new();
    files(&images, &mut archives)?;
    archives.retain(|path| path.extension().is_some_and(|kind| kind == "tar"));
    ensure!(!archives.is_empty(), "no image in {}: cargo xtask image", images.display());
    let lab = Lab::bare("whole", 1, Family::V4, &archives)?;
    let told = tried(&lab);
    let ended = lab.down();
    told.and(ended)
}

fn tried(lab: &Lab) -> Result<()> {
    lab.networked(Installer::Kubectl, Routing::Overlay, "{mode: Kubernetes}")?;
    lab.apply(PODS)?;
    let ready = ["-n", "lab", "wait", "--for=condition=Ready", "pods", "--all", "--timeout=15m"];
    step("pods with limits", || lab.cluster.kubectl(&ready).with_context(|| lab.diagnosis()))?;
    limited(lab)?;
    let (client, server) = (lab.pod("lab", "app=client")?, lab.pod("lab", "app=server")?);
    let target = server.target("tcp", 0, 8080)?;
    let soon = Duration::from_mins(5);
    let asked = || lab.passes(&client, &target, Duration::from_secs(5));
    let open = Lab::eventually("the client reaches the server", soon, asked, |passes| *passes)?;
    say(format_args!("  ok one pod reaches another ({open:?})"));
    lab.apply(DENY)?;
    let shut = Lab::eventually("the server is shut", soon, asked, |passes| !*passes)?;
    say(format_args!("  ok until a policy shuts it ({shut:?})"));
    let agent = lab.pod(SYSTEM, "app.kubernetes.io/name=axoneme-agent")?;
    let words = ["-n", SYSTEM, "exec", &agent.name, "--", "axoneme", "status"];
    say(lab.cluster.kubectl(&words)?.trim_end());
    Ok(())
}

/// With version 2 only, the pods' groups say so.
fn limited(lab: &Lab) -> Result<()> {
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        say("  .. groups of version 1 are there, too: limits are not looked at");
        return Ok(());
    }
    let (mut groups, mut limits) = (vec![PathBuf::from("/sys/fs/cgroup")], 0);
    while let Some(group) = groups.pop() {
        groups.extend(fs::read_dir(&group)?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()));
        let limit = fs::read_to_string(group.join("memory.max")).unwrap_or_default();
        let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        limits += usize::from(limit.trim() == MEMORY && !processes.trim().is_empty());
    }
    ensure!(limits >= 2, "{limits} groups with processes have the pods' limit\n{}", lab.diagnosis());
    say("  ok their groups of version 2 have their limits");
    Ok(())
}
