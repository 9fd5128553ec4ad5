//! What is known of a cluster on disk: written before anything is made, so that `down` can always undo it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::layout::{Layout, MAX_ID, node_name};
use crate::settings;

/// Who gives pods their network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cni {
    /// Nobody yet: nodes stay NotReady until the product has installed its plugin.
    #[default]
    None,
    /// The reference plugins `ptp`, `host-local` and `portmap`, with a route to each node's pods: a peer in benchmarks.
    Ref,
}

/// How far `up` came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// `up` is at work, or was interrupted.
    Creating,
    /// Everything was there once.
    Ready,
}

/// One cluster, as recorded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) name: String,
    pub(crate) layout: Layout,
    pub(crate) cni: Cni,
    pub(crate) kube_proxy: bool,
    pub(crate) nodes: u8,
    pub(crate) phase: Phase,
    /// Directory of the Kubernetes and container binaries.
    pub(crate) bin: PathBuf,
}

impl State {
    /// Names and numbers of the nodes.
    pub(crate) fn nodes(&self) -> Vec<(String, u8)> {
        (1..=self.nodes).map(|number| (node_name(number), number)).collect()
    }

    /// The control group of all its processes, relative to a hierarchy's root.
    pub(crate) fn group(&self) -> PathBuf {
        PathBuf::from(self.layout.prefix())
    }
}

/// A cluster's directory and what lies where in it.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) root: PathBuf,
}

impl Paths {
    pub(crate) fn of(name: &str) -> Self {
        Self { root: settings::clusters().join(name) }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("state.json")
    }

    pub(crate) fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    /// Recorded processes: control plane components and `<node>.init`.
    pub(crate) fn pid(&self, name: &str) -> PathBuf {
        self.root.join("pid").join(name)
    }

    pub(crate) fn log(&self, component: &str) -> PathBuf {
        self.root.join("log").join(format!("{component}.log"))
    }

    pub(crate) fn node(&self, node: &str) -> PathBuf {
        self.root.join("nodes").join(node)
    }

    /// This program's copy: a later build must not change what a running node executes.
    pub(crate) fn xtask(&self) -> PathBuf {
        self.root.join("bin/xtask")
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        super::pki::config_path(self, "admin")
    }

    /// The recorded state; `None` when there is no such cluster.
    pub(crate) fn load(&self) -> Result<Option<State>> {
        let path = self.state();
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map(Some).with_context(|| format!("reading {}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    pub(crate) fn save(&self, state: &State) -> Result<()> {
        let fresh = self.root.join("state.fresh");
        fs::write(&fresh, serde_json::to_string_pretty(state)?)?;
        fs::rename(&fresh, self.state()).with_context(|| format!("writing {}", self.state().display()))
    }
}

/// A cluster's name becomes a directory's: letters, digits and dashes.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let good = !name.is_empty()
        && name.len() <= 40
        && name.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-')
        && !name.starts_with('-');
    if good { Ok(()) } else { bail!("cluster name {name:?}: use 1 to 40 of a-z, 0-9 and '-', not starting with '-'") }
}

/// Names of the recorded clusters, in order.
pub(crate) fn names() -> Result<Vec<String>> {
    let dir = settings::clusters();
    let Ok(entries) = fs::read_dir(&dir) else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.path().join("state.json").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// A number that no recorded cluster has. The caller holds [`lock_all`].
pub(crate) fn free_id() -> Result<u8> {
    let mut taken = Vec::new();
    for name in names()? {
        if let Some(state) = Paths::of(&name).load()? {
            taken.push((state.layout.id, name));
        }
    }
    (1..=MAX_ID).find(|id| taken.iter().all(|(other, _)| other != id)).with_context(|| {
        let names: Vec<&str> = taken.iter().map(|(_, name)| name.as_str()).collect();
        format!(
            "{MAX_ID} clusters run already ({}): end one with `cargo xtask cluster down --name NAME`",
            names.join(", ")
        )
    })
}

/// A held lock; the kernel frees it when the holder dies.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    file: Flock<File>,
}

impl Lock {
    /// Frees the lock and removes its file: the cluster that it guarded is gone.
    pub(crate) fn discard(self) -> Result<()> {
        fs::remove_file(&self.path).with_context(|| format!("removing {}", self.path.display()))
    }

    /// Whether the path still leads to the locked file, and not to a successor.
    fn current(&self) -> bool {
        let there = fs::metadata(&self.path).ok();
        let held = self.file.metadata().ok();
        there.zip(held).is_some_and(|(there, held)| (there.dev(), there.ino()) == (held.dev(), held.ino()))
    }
}

fn try_lock(path: &Path) -> Result<Option<Lock>> {
    let file = File::options().create(true).append(true).open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => Ok(Some(Lock { path: path.to_path_buf(), file }).filter(Lock::current)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

fn lock(path: &Path, what: &str) -> Result<Lock> {
    fs::create_dir_all(path.parent().context("a lock file lies in a directory")?)?;
    let mut told = false;
    loop {
        if let Some(held) = try_lock(path)? {
            return Ok(held);
        }
        if !told {
            crate::progress::say(format_args!("  .. waiting: another command works on {what}"));
            told = true;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// Guards the choice of numbers.
pub(crate) fn lock_all() -> Result<Lock> {
    lock(&settings::clusters().join(".lock"), "the list of clusters")
}

/// Guards one cluster against two commands at once. Outside of its directory, which `down` removes.
pub(crate) fn lock_one(name: &str) -> Result<Lock> {
    lock(&settings::clusters().join(format!(".lock-{name}")), &format!("cluster {name}"))
}
