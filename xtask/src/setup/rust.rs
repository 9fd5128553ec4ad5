//! Parts of rustup's toolchain that checks need; rustup's minimal profile leaves them out.

use anyhow::{Context as _, Result, bail};

use crate::command::{output, program};
use crate::progress::step;
use crate::settings;

/// (program that shows its presence, rustup's component)
const COMPONENTS: &[(&str, &str)] = &[("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")];

/// Adds what is missing of formatter and lints.
pub(crate) fn components() -> Result<()> {
    let works = |name: &str| output(program(name).arg("--version")).is_ok();
    let missing: Vec<&str> = COMPONENTS.iter().filter(|(name, _)| !works(name)).map(|(_, part)| *part).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if settings::find_program("rustup").is_none() {
        bail!("{} missing and rustup is not here: install them with your toolchain", missing.join(" and "));
    }
    step(&format!("rustup components: {}", missing.join(" ")), || {
        output(program("rustup").args(["component", "add"]).args(&missing)).map(drop)
    })
    .with_context(|| format!("by hand: rustup component add {}", missing.join(" ")))
}
