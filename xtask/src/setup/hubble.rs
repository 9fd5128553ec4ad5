//! The stock Hubble client, which tests ask as users would. `tools/hubble/go.mod` pins it; it is no part of the product.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::command::{output, program};
use crate::progress::step;
use crate::settings;

const MODULE: &str = "github.com/cilium/cilium";

/// The client's path, built into the cache where it is not there yet.
///
/// # Errors
/// Go is missing, or its modules cannot be had.
pub(crate) fn client() -> Result<PathBuf> {
    if let Some(named) = settings::hubble_client() {
        return Ok(named);
    }
    let directory = settings::repository().join("tools/hubble");
    let pins = std::fs::read_to_string(directory.join("go.mod")).context("reading tools/hubble/go.mod")?;
    let pinned = pins.lines().find_map(|line| line.trim_start_matches("require ").strip_prefix(MODULE));
    let version =
        pinned.and_then(|rest| rest.trim().strip_prefix('v')).context("tools/hubble/go.mod pins no client")?;
    let binary = settings::cache().join(format!("tools/hubble-{version}"));
    if binary.exists() {
        return Ok(binary);
    }
    let unfinished = binary.with_extension("part");
    step(&format!("Hubble client {version} (about 2 min)"), || {
        let flags = format!("-s -w -X {MODULE}/hubble/pkg.Version={version}");
        output(
            program("go")
                .args(["build", "-trimpath", "-ldflags", &flags, "-o"])
                .arg(&unfinished)
                .arg(format!("{MODULE}/hubble"))
                .env("CGO_ENABLED", "0")
                .current_dir(&directory),
        )?;
        std::fs::rename(&unfinished, &binary).with_context(|| format!("placing {}", binary.display()))
    })?;
    Ok(binary)
}
