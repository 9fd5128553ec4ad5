//! cargo-deny, which holds the dependencies to `deny.toml`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::command::{output, program};
use crate::progress::step;
use crate::settings;

const VERSION: &str = "0.20.2";

/// The program in the cache: `cargo deny` would find another version on the caller's path.
pub(crate) fn path() -> PathBuf {
    settings::cache().join("tools/bin/cargo-deny")
}

/// Builds it into the cache, where the pinned version is not there yet. It reads manifests for a second or two, so it
/// is built to be there soon, not to be fast.
pub(crate) fn install() -> Result<()> {
    let found = output(program(path()).arg("--version")).unwrap_or_default();
    if found.trim() == format!("cargo-deny {VERSION}") {
        return Ok(());
    }
    let build = settings::cache().join("tools/build-deny");
    step(&format!("cargo-deny {VERSION} (about 4 min on 2 idle cores)"), || {
        output(
            program(settings::cargo())
                .args(["install", "--quiet", "--locked", "--force", "cargo-deny", "--version", VERSION, "--root"])
                .arg(settings::cache().join("tools"))
                .env("CARGO_TARGET_DIR", &build)
                .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
                .env("CARGO_PROFILE_RELEASE_LTO", "off")
                .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
                .env("CARGO_PROFILE_RELEASE_DEBUG", "0"),
        )?;
        // Kept until here: an interrupted build goes on where it stopped.
        drop(std::fs::remove_dir_all(&build));
        Ok(())
    })
    .with_context(|| format!("by hand: cargo install cargo-deny --locked --version {VERSION}"))
}
