//! The cases of `kuttl-tests/`, one scenario each: what the API promises of the product's kinds.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Scenario, ipam};
use crate::command::{output, program, tail};
use crate::lab::Lab;
use crate::{settings, workspace};

/// In the names of these scenarios.
pub(super) const PREFIX: &str = "kuttl::";
const RUNNER: &str = "axoneme-kuttl";

fn suite() -> PathBuf {
    settings::repository().join("kuttl-tests")
}

/// A scenario for each folder of cases.
pub(super) fn scenarios() -> Vec<Scenario> {
    // a folder that can't be read fails as a scenario: nothing is left out in silence
    let names = cases().unwrap_or_else(|_| vec!["the_suite_can_be_read".to_owned()]);
    names
        .into_iter()
        .map(|case| (format!("{PREFIX}{case}"), Box::new(move |lab: &Lab, _: &_| run(lab, &case)) as _))
        .collect()
}

fn cases() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(suite().join("e2e"))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    ensure!(!names.is_empty(), "no case");
    names.sort();
    Ok(names)
}

/// Builds the runner, with the features that all of the workspace asks for: dependencies are compiled once.
pub(super) fn build() -> Result<()> {
    output(workspace::cargo().args(["build", "--quiet", "--workspace", "--bin", RUNNER])).map(drop)
}

fn run(lab: &Lab, case: &str) -> Result<()> {
    // the cases about pools need the mode that has pools; in the whole suite it is there already
    let config = lab.get(&["axonemeconfig", "default"])?;
    if config.pointer("/spec/ipam/mode").and_then(Value::as_str) != Some("MultiPool") {
        ipam::to_pools(lab)?;
    }
    let kubectl = lab.cluster.kubectl_command();
    let kubectl = PathBuf::from(kubectl.get_program());
    let tools = kubectl.parent().context("kubectl lies in a folder")?;
    let mut runner = program(settings::target().join("debug").join(RUNNER));
    runner.current_dir(suite()).env("PATH", format!("{}:{}", tools.display(), settings::search_path()));
    runner.args(["--config=kuttl-test.yaml", "--test", case, "--kubeconfig"]).arg(lab.cluster.kubeconfig());
    let done = runner.output().with_context(|| format!("starting {RUNNER}"))?;
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    ensure!(done.status.success(), "{}", tail(&said, 60));
    ensure!(said.contains(&format!("--- PASS: {case} ")), "no case was run: {said}");
    Ok(())
}
