//! Rules about source files that no lint knows.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::command::{output, program};
use crate::settings;
use crate::workspace::Package;

/// Lines of a file without its tests.
const LONGEST: usize = 600;
/// Where unsafe code may be: what talks to the kernel, and what runs in it.
const UNSAFE: &[&str] = &["crates/kernel/", "bpf/"];

/// Rust files that git knows or would add.
fn rust_files() -> Result<Vec<PathBuf>> {
    let listed = output(program("git").current_dir(settings::repository()).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "--",
        "*.rs",
    ]))?;
    let mut files: Vec<PathBuf> = listed.lines().map(PathBuf::from).collect();
    files.retain(|file| settings::repository().join(file).is_file());
    Ok(files)
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(settings::repository().join(file)).with_context(|| format!("reading {}", file.display()))
}

fn is_test(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str() == "tests") || file.ends_with("tests.rs")
}

fn code_lines(text: &str) -> usize {
    text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count()
}

/// Files that are too long to be one thing.
pub(crate) fn long_files() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for file in rust_files()?.iter().filter(|file| !is_test(file)) {
        let lines = code_lines(&read(file)?);
        if lines > LONGEST {
            found.push(format!("{}: {lines} lines, the limit is {LONGEST}: split it by meaning", file.display()));
        }
    }
    Ok(found)
}

/// Files that permit themselves unsafe code and lie elsewhere.
pub(crate) fn unsafe_outside(packages: &[Package]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for file in rust_files()? {
        let name = file.display().to_string();
        if UNSAFE.iter().any(|place| name.starts_with(place)) || is_test(&file) {
            continue;
        }
        let permits = |line: &&str| {
            let line = line.trim_start();
            (line.starts_with("#[") || line.starts_with("#!["))
                && line.contains("unsafe_code")
                && !line.contains("forbid")
        };
        if read(&file)?.lines().any(|line| permits(&line)) {
            found.push(format!("{name}: permits unsafe code, which only {} may", UNSAFE.join(" and ")));
        }
    }
    for package in packages {
        let text = fs::read_to_string(&package.manifest_path)?;
        if text.contains("unsafe_code") && !UNSAFE.iter().any(|place| relative(package).starts_with(place)) {
            found.push(format!("{}: its manifest changes unsafe_code", package.name));
        }
    }
    Ok(found)
}

fn relative(package: &Package) -> String {
    let path = package.manifest_path.strip_prefix(settings::repository()).unwrap_or(&package.manifest_path);
    path.display().to_string()
}

/// Packages that do not take the workspace's lints: nothing else would notice. Those below `bpf/` are also built by the
/// BPF workspace, which has no such table.
pub(crate) fn without_lints(packages: &[Package]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for package in packages.iter().filter(|package| !relative(package).starts_with("bpf/")) {
        let text = fs::read_to_string(&package.manifest_path)?;
        let section = text.split("[lints]").nth(1).unwrap_or_default();
        if !section.trim_start().starts_with("workspace = true") {
            found.push(format!("{}: add `[lints] workspace = true` to {}", package.name, relative(package)));
        }
    }
    Ok(found)
}

/// Where faults are listed with the tests that make them.
const RELIABILITY: &str = "docs/reliability.md";

/// Names in the last column of the tables of faults that no test has.
pub(crate) fn faults_without_test() -> Result<Vec<String>> {
    let mut code = String::new();
    for file in rust_files()? {
        code.push_str(&read(&file)?);
    }
    let unknown = named_tests(&read(Path::new(RELIABILITY))?).into_iter().filter(|name| !is_test_name(&code, name));
    Ok(unknown.map(|name| format!("{RELIABILITY}: no test is called {name}")).collect())
}

/// The names in backquotes in each row's last cell.
fn named_tests(text: &str) -> Vec<String> {
    let rows = text.lines().filter(|line| line.starts_with('|'));
    let cells = rows.filter_map(|line| line.trim_end().trim_end_matches('|').rsplit('|').next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

/// A function of that name, or a case or scenario that is listed with it.
fn is_test_name(code: &str, name: &str) -> bool {
    let short = name.rsplit("::").next().unwrap_or(name);
    [format!("fn {short}("), format!("fn {short}<"), format!("\"{short}\""), format!("\"{name}\"")]
        .iter()
        .any(|found| code.contains(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tests_in_tables_are_held_against_the_code() {
        let text = "prose `x`\n| fault | what | held by |\n|---|---|---|\n| `a` | b | `one`, `suite::two` |\n";
        assert_eq!(named_tests(text), ["one", "suite::two"]);
        let code = "fn one() {}\n(\"two\", run)";
        assert!(is_test_name(code, "one") && is_test_name(code, "suite::two"));
        assert!(!is_test_name(code, "on") && !is_test_name(code, "suite::one_more"));
    }

    #[test]
    fn tests_at_the_end_of_a_file_do_not_count() {
        assert_eq!(code_lines("a\nb\n#[cfg(test)]\nmod tests {}\n"), 2);
        assert_eq!(code_lines("a\n    #[cfg(test)]\nb\n"), 3);
    }
}
