//! `cargo xtask vm`: a command on another kernel. QEMU boots a Debian kernel in software emulation, from an initramfs
//! that holds only what the command needs; the guest's status becomes this program's. Speed is never measured there.

mod cluster;
mod guest;
mod kernel;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

pub(crate) use self::cluster::whole;
pub(crate) use self::guest::Guest;
pub(crate) use self::kernel::Kernel;
use crate::setup::{self, Part};

#[derive(Args, Debug)]
pub(crate) struct VmArgs {
    /// Which kernel: 6.12, 6.1, 5.10, 7.3.
    #[arg(long, default_value = "6.12")]
    kernel: String,
    /// Kernel modules beside the usual ones for networking and encryption.
    #[arg(long = "module")]
    modules: Vec<String>,
    /// Files and programs to have in the guest, at the same path, programs with their libraries.
    #[arg(long = "file")]
    files: Vec<PathBuf>,
    /// Words for the kernel's command line.
    #[arg(long, default_value = "")]
    append: String,
    /// Memory, as QEMU writes it: 1G, or 7G with a cluster.
    #[arg(long)]
    memory: Option<String>,
    /// Seconds until the guest is given up: 300, or 3600 with a cluster.
    #[arg(long)]
    timeout: Option<u64>,
    /// Take along what a local cluster is made of. Without a command, one is made with the product on a node of that
    /// kernel, with control groups of version 2 only: some ten minutes of both processors.
    #[arg(long)]
    cluster: bool,
    /// The command.
    #[arg(last = true, required_unless_present = "cluster")]
    command: Vec<String>,
}

/// Boots, runs, returns the guest's verdict.
pub(crate) fn run(args: VmArgs) -> Result<()> {
    setup::run_quietly(Part::Vm)?;
    let (memory, timeout) = if args.cluster { ("7G", 3600) } else { ("1G", 300) };
    let mut guest = Guest {
        kernel: Kernel::fetch(&args.kernel)?,
        modules: args.modules,
        files: args.files,
        append: args.append,
        memory: args.memory.unwrap_or_else(|| memory.to_owned()),
        timeout_seconds: args.timeout.unwrap_or(timeout),
    };
    let mut command = args.command;
    if args.cluster {
        setup::run_quietly(Part::Cluster)?;
        cluster::take_along(&mut guest)?;
        if command.is_empty() {
            command = cluster::command()?;
        }
    }
    guest.run(&command)
}
