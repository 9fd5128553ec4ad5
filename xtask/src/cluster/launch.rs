//! The hidden subcommands: this program as the first thing that runs inside a namespace. A process moves itself (no
//! code runs between fork and exec) and then becomes the program that it was asked for.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::setsid;

use super::network;
use super::process::Recorded;
use super::state::{Paths, State};
use super::{cgroup, node_init};
use crate::settings;

fn known(cluster: &str) -> Result<(Paths, State)> {
    let paths = Paths::of(cluster);
    let state = paths.load()?.with_context(|| format!("no cluster {cluster:?}"))?;
    Ok((paths, state))
}

fn log_file(path: &Path) -> Result<File> {
    File::options().create(true).append(true).open(path).with_context(|| format!("opening {}", path.display()))
}

/// Becomes a control plane component. Recorded first: once the program runs, `down` knows of it.
pub(crate) fn component(cluster: &str, name: &str, words: &[String]) -> Result<()> {
    let (paths, state) = known(cluster)?;
    let (binary, arguments) = words.split_first().context("a component needs its program")?;
    cgroup::join(&state.group().join(network::CONTROL_PLANE))?;
    network::enter(&state.layout.netns(network::CONTROL_PLANE))?;
    setsid().context("leaving the caller's session")?;
    Recorded::of(i32::try_from(std::process::id())?)?.save(&paths.pid(name))?;
    let log = log_file(&paths.log(name))?;
    let mut command = Command::new(binary);
    command.args(arguments).stdin(Stdio::null()).stderr(log.try_clone()?).stdout(log);
    Err(command.exec()).with_context(|| format!("starting {binary}"))
}

/// Makes a node's namespaces and starts its first process in them.
pub(crate) fn node(cluster: &str, node: &str) -> Result<()> {
    let (paths, state) = known(cluster)?;
    cgroup::join(&state.group().join(node))?;
    network::enter(&state.layout.netns(node))?;
    setsid().context("leaving the caller's session")?;
    // Not the mount namespace: the first process makes that itself, so that its new /proc does not hide it from here.
    unshare(
        CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWCGROUP,
    )
    .context("making the node's namespaces (this needs root)")?;
    let log = log_file(&paths.node(node).join("log/init.log"))?;
    let child = Command::new(paths.xtask())
        .args(["__node-init", cluster, node])
        .current_dir("/")
        .stdin(Stdio::null())
        .stderr(log.try_clone()?)
        .stdout(log)
        .spawn()
        .context("starting the node's first process")?;
    Recorded::of(i32::try_from(child.id())?)?.save(&paths.pid(&format!("{node}.init")))
}

/// Runs as process 1 of a node.
pub(crate) fn init(cluster: &str, node: &str) -> Result<()> {
    let (paths, state) = known(cluster)?;
    unshare(CloneFlags::CLONE_NEWNS).context("making the node's mount namespace")?;
    node_init::run(&paths, &state, node)
}

/// Runs a command in a node, or in the network namespace of `router`, `outside` or `cp`; ends with its status.
pub(crate) fn exec(cluster: &str, place: &str, words: &[String]) -> Result<()> {
    let (paths, state) = known(cluster)?;
    let (program, arguments) = words.split_first().context("which command? exec NODE -- COMMAND")?;
    let path = format!("{}:{}", state.bin.display(), settings::search_path());
    let role = match place {
        "router" => Some(network::ROUTER),
        "outside" => Some(network::OUTSIDE),
        "cp" => Some(network::CONTROL_PLANE),
        _ => None,
    };
    if let Some(role) = role {
        network::enter(&state.layout.netns(role))?;
        let mut command = Command::new(program);
        return Err(command.args(arguments).env("PATH", path).exec()).with_context(|| format!("starting {program}"));
    }
    let nodes: Vec<String> = state.nodes().into_iter().map(|(name, _)| name).collect();
    let init = Recorded::load(&paths.pid(&format!("{place}.init"))).filter(|init| init.alive()).with_context(|| {
        format!("no running node {place:?}: choose one of {}, router, outside, cp", nodes.join(", "))
    })?;
    cgroup::join(&state.group().join(place))?;
    enter_all(init.pid())?;
    // Only a child is in the new pid namespace; it must not outlive this process when a caller kills it.
    let status = Command::new(paths.xtask())
        .arg("__become")
        .args(words)
        .env("PATH", path)
        .status()
        .with_context(|| format!("starting {program} in {place}"))?;
    std::process::exit(status.code().unwrap_or(128));
}

/// Becomes a command in the namespaces and control groups of a container's process; it ends with its parent. Its process
/// number stays one of this machine.
pub(crate) fn inside(pid: i32, words: &[String]) -> Result<()> {
    let (program, arguments) = words.split_first().context("which command?")?;
    set_pdeathsig(Signal::SIGKILL).context("tying the command to its caller")?;
    cgroup::join_as(pid)?;
    enter(pid, &CONTAINER)?;
    let mut command = Command::new(program);
    Err(command.args(arguments).env("PATH", crate::oci::SEARCH_PATH).exec())
        .with_context(|| format!("starting {program} beside process {pid}"))
}

const CONTAINER: [(&str, CloneFlags); 5] = [
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

fn enter_all(pid: i32) -> Result<()> {
    let [.., mounts] = CONTAINER;
    let [cgroup, ipc, uts, net, _] = CONTAINER;
    enter(pid, &[cgroup, ipc, uts, net, ("pid", CloneFlags::CLONE_NEWPID), mounts])
}

/// Enters namespaces of a process, that of its mounts last.
fn enter(pid: i32, namespaces: &[(&str, CloneFlags)]) -> Result<()> {
    let open = |name: &str| File::open(format!("/proc/{pid}/ns/{name}")).with_context(|| format!("namespace {name}"));
    // All handles first: after the mount namespace changes, /proc shows the node's processes.
    let handles = namespaces.iter().map(|(name, kind)| Ok((open(name)?, *kind))).collect::<Result<Vec<_>>>()?;
    for (handle, kind) in handles {
        setns(handle, kind).with_context(|| format!("entering {kind:?} of process {pid}"))?;
    }
    Ok(())
}

/// Becomes a command that ends with its parent.
pub(crate) fn become_command(words: &[String]) -> Result<()> {
    let (program, arguments) = words.split_first().context("a command is needed")?;
    set_pdeathsig(Signal::SIGKILL).context("tying the command to its caller")?;
    Err(Command::new(program).args(arguments).exec()).with_context(|| format!("starting {program}"))
}
