//! The BPF linker.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::command::{output, program};
use crate::progress::step;
use crate::settings;

/// LLVM's major version: rustc-web, llvm-dev and bpf-linker must agree on it, for they exchange bitcode.
const LLVM: &str = "22";
/// The linker's version, and its LLVM feature's prefix variable (`LLVM_SYS_<major><minor>_PREFIX`).
const LINKER: &str = "0.13.0";
const PREFIX_VARIABLE: &str = "LLVM_SYS_221_PREFIX";

fn linker_path() -> PathBuf {
    settings::cache().join("tools/bin/bpf-linker")
}

/// Installs bpf-linker into the cache, built against Debian's LLVM.
pub(crate) fn linker() -> Result<()> {
    let found = output(program(linker_path()).arg("--version")).unwrap_or_default();
    if found.trim() == format!("bpf-linker {LINKER}") {
        return Ok(());
    }
    let about = output(program("/usr/bin/rustc").arg("-vV"))
        .context("rustc-web's compiler is missing: apt-get install rustc-web")?;
    let version = about.lines().find_map(|line| line.strip_prefix("LLVM version: ")).unwrap_or("unknown");
    if version.split('.').next() != Some(LLVM) {
        bail!(
            "/usr/bin/rustc has LLVM {version}, but bpf-linker is built for LLVM {LLVM}: install rustc-web with LLVM {LLVM}"
        );
    }
    let prefix = format!("/usr/lib/llvm-{LLVM}");
    step(&format!("bpf-linker {LINKER} (about a minute)"), || {
        output(
            program(settings::cargo())
                .args(["install", "--quiet", "--locked", "--no-default-features", "bpf-linker"])
                .args(["--version", LINKER, "--features", &format!("llvm-{LLVM}"), "--root"])
                .arg(settings::cache().join("tools"))
                .env("LLVM_PREFIX", &prefix)
                .env(PREFIX_VARIABLE, &prefix)
                .env("CARGO_TARGET_DIR", settings::cache().join("tools/build")),
        )?;
        // The build directory is large and of no further use; its absence costs one rebuild at the next version.
        drop(std::fs::remove_dir_all(settings::cache().join("tools/build")));
        Ok(())
    })
    .with_context(|| format!("bpf-linker {LINKER} could not be built; by hand: cargo install bpf-linker --version {LINKER} --no-default-features --features llvm-{LLVM}"))
}
