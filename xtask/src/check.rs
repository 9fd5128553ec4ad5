//! `cargo xtask check`: what a reviewer should not have to look for.

mod deny;
mod dependencies;
mod sources;

use anyhow::{Result, bail};

use crate::bench;
use crate::bundle;
use crate::command::{output, show};
use crate::report::Report;
use crate::workspace::{self, Package, cargo};

/// Runs every check and reports each as one test.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    let packages = workspace::packages()?;
    report.case("format", format);
    report.case("dependency direction", || all(&dependencies::violations(&packages)));
    report.case("unsafe code stays in its crates", || all(&sources::unsafe_outside(&packages)?));
    report.case("file lengths", || all(&sources::long_files()?));
    report.case("README's table is that of the recorded figures", bench::table_is_current);
    report.case("every fault names a test", || all(&sources::faults_without_test()?));
    report.case("workspace lints in every package", || all(&sources::without_lints(&packages)?));
    generated(report, &packages);
    report.case("the OLM bundle is that of deploy/ and crds/, and keeps the rules of catalogs", bundle::current);
    report.case("clippy", || {
        show(cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"]))
    });
    deny::run(report);
    Ok(())
}

fn format() -> Result<()> {
    // Names of files on standard output; a long difference would bury the other checks.
    let done = cargo().args(["fmt", "--all", "--", "--check", "--files-with-diff"]).output()?;
    let text = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    if done.status.success() { Ok(()) } else { bail!("run `cargo fmt --all`; it would change:\n{}", text.trim_end()) }
}

fn all(problems: &[String]) -> Result<()> {
    if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("\n     ")) }
}

/// The program that writes the CRDs' YAML, in the package of the API types.
pub(crate) const GENERATOR: (&str, &str) = ("axoneme-crds", "crdgen");

fn generated(report: &mut Report, packages: &[Package]) {
    let (package, bin) = GENERATOR;
    let there = packages.iter().any(|of| of.name == package && of.targets("bin").any(|name| name == bin));
    if !there {
        report.skip("generated files", &format!("package {package} has no program {bin} yet"));
        return;
    }
    report.case("generated files are those of the types", || {
        output(cargo().args(["run", "--quiet", "--package", package, "--bin", bin, "--", "--check"])).map(drop)
    });
}
