//! `cargo xtask vm`: a command on another kernel. QEMU boots a Debian kernel in software emulation, from an initramfs
//! that holds only what the command needs; the guest's status becomes this program's. Speed is never measured there.

mod guest;
mod kernel;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

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
    /// Memory, as QEMU writes it.
    #[arg(long, default_value = "1G")]
    memory: String,
    /// Seconds until the guest is given up.
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// The command.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Boots, runs, returns the guest's verdict.
pub(crate) fn run(args: VmArgs) -> Result<()> {
    setup::run_quietly(Part::Vm)?;
    let guest = Guest {
        kernel: Kernel::fetch(&args.kernel)?,
        modules: args.modules,
        files: args.files,
        append: args.append,
        memory: args.memory,
        timeout_seconds: args.timeout,
    };
    guest.run(&args.command)
}
