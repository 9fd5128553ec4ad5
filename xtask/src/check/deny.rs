//! Licences, bans, sources and advisories of all dependencies, by cargo-deny and `deny.toml`.

use anyhow::Result;

use super::show;
use crate::command::{output, program, tail};
use crate::report::Report;
use crate::settings;
use crate::setup::deny;

const ADVISORIES: &str = "no dependency has a known advisory";

/// Reports two tests. Advisories need a database that is fetched over the network: without it, and without an earlier
/// copy, they are skipped by name; with an earlier copy, that is used.
pub(super) fn run(report: &mut Report) {
    // This one downloads crates that no build needs (optional ones): it looks at all of them.
    report.case("licences, bans and sources of dependencies", || check(&[], &["licenses", "bans", "sources"]));
    let fetched = output(cargo_deny().args(["fetch", "db"]));
    match (fetched, known()) {
        (Ok(_), _) | (Err(_), true) => report.case(ADVISORIES, || check(&["--offline"], &["advisories"])),
        (Err(error), false) => {
            let why = tail(&format!("{error:#}"), 1);
            report.skip(ADVISORIES, &format!("the advisory database cannot be fetched, and no copy is here: {why}"));
        }
    }
}

/// Whether a copy of the database is here.
fn known() -> bool {
    let copies = settings::cargo_home().map(|home| home.join("advisory-dbs"));
    copies
        .and_then(|dir| std::fs::read_dir(dir).ok())
        .is_some_and(|entries| entries.flatten().any(|entry| entry.path().join(".git").exists()))
}

fn cargo_deny() -> std::process::Command {
    let mut command = program(deny::path());
    command.current_dir(settings::repository()).args(["--log-level", "error", "--locked"]);
    command
}

fn check(global: &[&str], which: &[&str]) -> Result<()> {
    show(cargo_deny().args(global).args(["check", "--hide-inclusion-graph"]).args(which))
}
