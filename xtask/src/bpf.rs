//! `cargo xtask bpf`, `build` and `crds`: thin commands over cargo.

use anyhow::Result;

use crate::check::GENERATOR;
use crate::command::show;
use crate::setup::{self, Part};
use crate::workspace::cargo;

/// The package that compiles the BPF programs and embeds them.
const OBJECT: &str = "axoneme-bpf-object";

/// Compiles the BPF programs.
pub(crate) fn object() -> Result<()> {
    setup::run_quietly(Part::Build)?;
    show(cargo().args(["build", "--package", OBJECT]))
}

/// Builds the whole workspace.
pub(crate) fn build(release: bool) -> Result<()> {
    setup::run_quietly(Part::Build)?;
    show(cargo().args(["build", "--workspace"]).args(release.then_some("--release")))
}

/// Writes the CRDs' YAML, or with `check` says where it differs from the types.
pub(crate) fn crds(check: bool) -> Result<()> {
    let (package, bin) = GENERATOR;
    let mut command = cargo();
    command.args(["run", "--quiet", "--package", package, "--bin", bin]);
    show(if check { command.args(["--", "--check"]) } else { &mut command })
}
