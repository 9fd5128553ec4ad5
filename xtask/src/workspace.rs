//! The workspace as cargo describes it: packages, their targets and what they depend on.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::command::{output, program, show};
use crate::settings;

/// How a dependency is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// By tests and examples only.
    Dev,
    /// By the build script.
    Build,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `None`: by the code itself.
    pub(crate) kind: Option<Kind>,
    #[serde(default)]
    pub(crate) optional: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) kind: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) manifest_path: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) targets: Vec<Target>,
}

impl Package {
    /// Names of the targets of one kind: `bin`, `test`, `lib`.
    pub(crate) fn targets<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a str> {
        self.targets
            .iter()
            .filter(move |target| target.kind.iter().any(|of| of == kind))
            .map(|target| target.name.as_str())
    }
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// The workspace's own packages.
pub(crate) fn packages() -> Result<Vec<Package>> {
    let text = output(program(settings::cargo()).current_dir(settings::repository()).args([
        "metadata",
        "--no-deps",
        "--format-version=1",
    ]))?;
    let metadata: Metadata = serde_json::from_str(&text).context("reading cargo metadata")?;
    Ok(metadata.packages)
}

/// Words that choose integration tests by the names of their files. Dependencies have the features that all of the
/// workspace asks for, whichever tests are chosen: they are compiled once.
pub(crate) fn tests(files: &[&str]) -> Vec<String> {
    let files = files.iter().flat_map(|file| ["--test".to_owned(), (*file).to_owned()]);
    std::iter::once("--workspace".to_owned()).chain(files).collect()
}

/// Programs of the product and of its tests.
const PROGRAMS: &[&str] = &["axoneme-agent", "axoneme-cni", "axoneme-operator", "axoneme", "axoneme-workload"];

/// Builds the programs, for the same reason together, but not the one that is running. They are in `target/debug`.
pub(crate) fn build_binaries() -> Result<()> {
    let programs = PROGRAMS.iter().flat_map(|program| ["--bin", program]);
    show(cargo().args(["build", "--quiet", "--workspace"]).args(programs))
}

/// cargo in the repository.
pub(crate) fn cargo() -> std::process::Command {
    let mut command = program(settings::cargo());
    command.current_dir(settings::repository());
    command
}
