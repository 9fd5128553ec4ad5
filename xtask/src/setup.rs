//! `cargo xtask setup`: everything that building, testing and the local cluster need, installed once per machine.
//!
//! Each part first looks whether its result is there, so a second run takes a moment, and writes its result in one
//! rename, so an interrupted run goes on where it stopped. What cannot be installed is one line with its fix.

pub(crate) mod apt;
pub(crate) mod bpf;
pub(crate) mod deny;
pub(crate) mod go;
pub(crate) mod hubble;
pub(crate) mod images;
pub(crate) mod rootfs;
mod rust;
pub(crate) mod softflowd;

use std::fs::File;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::progress::{say, seconds};
use crate::settings;

/// What to prepare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// What `cargo build` needs: the BPF compiler and linker.
    Build,
    /// What `cargo xtask check` needs beyond that: cargo-deny, rustup's formatter and lints.
    Check,
    /// What `cargo xtask cluster` needs: Kubernetes and container binaries, images.
    Cluster,
    /// What `cargo xtask vm` needs: QEMU and tools for the guest.
    Vm,
    /// All of it.
    All,
}

impl Part {
    fn includes(self, part: Part) -> bool {
        self == Part::All || self == part || (part == Part::Build && self == Part::Check)
    }
}

/// Prepares one part, or all, and says so.
pub(crate) fn run(part: Part) -> Result<()> {
    let started = Instant::now();
    run_quietly(part)?;
    say(format_args!("setup: ready ({})", seconds(started.elapsed())));
    Ok(())
}

/// As [`run`], and says nothing when nothing was missing: other commands begin with it.
pub(crate) fn run_quietly(part: Part) -> Result<()> {
    if settings::set_up_already() {
        return Ok(());
    }
    let _alone = lock()?;
    let mut packages: Vec<&str> = Vec::new();
    for (of, names) in [(Part::Build, apt::BUILD), (Part::Cluster, apt::CLUSTER), (Part::Vm, apt::VM)] {
        if part.includes(of) {
            packages.extend_from_slice(names);
        }
    }
    apt::install(&packages)?;
    if part.includes(Part::Build) {
        bpf::linker()?;
    }
    if part.includes(Part::Check) {
        rust::components()?;
        deny::install()?;
    }
    if part.includes(Part::Cluster) {
        go::build_missing(go::STANDARD)?;
        images::build_missing()?;
    }
    Ok(())
}

/// Builds kube-proxy, which only the testbed's own judges need.
pub(crate) fn kube_proxy() -> Result<()> {
    let _alone = lock()?;
    go::build_missing(&[go::KUBE_PROXY])
}

/// One setup at a time on a machine: they install into the same places. The kernel frees the lock when its holder dies.
fn lock() -> Result<Flock<File>> {
    std::fs::create_dir_all(settings::cache()).with_context(|| format!("making {}", settings::cache().display()))?;
    let path = settings::cache().join("setup.lock");
    let file =
        File::options().create(true).append(true).open(&path).with_context(|| format!("opening {}", path.display()))?;
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(held) => return Ok(held),
        Err((file, Errno::EWOULDBLOCK)) => file,
        Err((_, error)) => return Err(error).with_context(|| format!("locking {}", path.display())),
    };
    say("  .. waiting: another command sets this machine up");
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("locking {}", path.display()))
}
