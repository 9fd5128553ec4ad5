//! `cargo xtask bundle`: the OLM bundle and the catalog in `olm-bundle/`, made of what `deploy/` and `crds/` have.
//!
//! ```text
//!  deploy/base/*.yaml ──▶ install strategy, objects ─┐
//!  crds/generated/*.yaml ──▶ owned kinds, descriptors ├─▶ ClusterServiceVersion, manifests/, metadata/, catalog/ ─▶ rules
//!  deploy/olm: words, icon, examples ────────────────┘
//! ```
//!
//! There is one source of truth: what a manifest has for `kubectl apply -k` the bundle has for OLM, and a kind of which
//! nobody has said what becomes of it here is an error. What OLM cannot carry is listed in [`source::LEFT_OUT`].

mod catalog;
mod csv;
mod descriptors;
mod rules;
mod schema;
mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use self::source::Source;
use crate::progress::say;
use crate::settings;

/// Files by their paths below `olm-bundle/`.
type Files = BTreeMap<String, String>;

const HEADER: &str = "# Generated from deploy/, crds/ and Cargo.toml by `cargo xtask bundle`; do not edit.\n";

fn folder() -> PathBuf {
    settings::repository().join("olm-bundle")
}

/// Writes `olm-bundle/`, or with `check` says where it differs.
pub(crate) fn run(check: bool) -> Result<()> {
    if check {
        return current();
    }
    let files = rendered()?;
    let changed = write(&folder(), &files)?;
    for path in &changed {
        println!("{path}");
    }
    say(format_args!("  ok {} of {} files of the bundle changed", changed.len(), files.len()));
    Ok(())
}

/// That the files in the repository are those that would be written now.
pub(crate) fn current() -> Result<()> {
    let drifts = drifts(&folder(), &rendered()?)?;
    if drifts.is_empty() { Ok(()) } else { bail!("run `cargo xtask bundle`:\n     {}", drifts.join("\n     ")) }
}

/// All files of this checkout's bundle.
///
/// # Errors
/// What a source lacks; every rule that the bundle breaks.
fn rendered() -> Result<Files> {
    let source = Source::read(&settings::repository(), env!("CARGO_PKG_VERSION"))?;
    let files = render(&source)?;
    let broken = rules::broken(&files)?;
    if broken.is_empty() { Ok(files) } else { bail!("the bundle breaks rules:\n     {}", broken.join("\n     ")) }
}

fn render(source: &Source) -> Result<Files> {
    let mut files = Files::new();
    let csv = csv::of(source)?;
    files.insert(format!("manifests/{}.clusterserviceversion.yaml", source.words.package), yaml(&csv)?);
    for (name, text) in &source.kinds {
        files.insert(format!("manifests/{name}"), text.clone());
    }
    for object in &source.objects {
        let (kind, name) = (text(object, "/kind").to_lowercase(), text(object, "/metadata/name"));
        files.insert(format!("manifests/{name}_{kind}.yaml"), yaml(object)?);
    }
    catalog::files(source, &csv, &mut files)?;
    Ok(files)
}

/// An object as a file.
fn yaml(object: &Value) -> Result<String> {
    Ok(format!("{HEADER}{}", serde_saphyr::to_string(object)?))
}

/// A text in an object; empty where there is none.
fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// A list in an object; empty where there is none.
fn list<'a>(object: &'a Value, path: &str) -> &'a [Value] {
    object.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Writes what differs, and removes what the bundle does not have.
fn write(folder: &Path, files: &Files) -> Result<Vec<String>> {
    let mut changed = Vec::new();
    for (name, wanted) in files {
        let path = folder.join(name);
        if fs::read_to_string(&path).is_ok_and(|text| text == *wanted) {
            continue;
        }
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::write(&path, wanted).with_context(|| format!("writing {}", path.display()))?;
        changed.push(name.clone());
    }
    for name in there(folder)?.into_iter().filter(|name| !files.contains_key(name)) {
        fs::remove_file(folder.join(&name))?;
        changed.push(name);
    }
    Ok(changed)
}

fn drifts(folder: &Path, files: &Files) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (name, wanted) in files {
        match fs::read_to_string(folder.join(name)) {
            Ok(text) if text == *wanted => {}
            Ok(text) => {
                let line = text.lines().zip(wanted.lines()).take_while(|(left, right)| left == right).count() + 1;
                found.push(format!("{name}:{line}: differs"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => found.push(format!("{name}: missing")),
            Err(error) => return Err(error).with_context(|| name.clone()),
        }
    }
    found.extend(
        there(folder)?.into_iter().filter(|name| !files.contains_key(name)).map(|n| format!("{n}: no part of it")),
    );
    Ok(found)
}

/// Files below a folder, by their paths from it. A README is for people.
fn there(folder: &Path) -> Result<Vec<String>> {
    let (mut open, mut found) = (vec![folder.to_path_buf()], Vec::new());
    while let Some(next) = open.pop() {
        let entries = match fs::read_dir(&next) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if let Ok(name) = path.strip_prefix(folder) {
                found.push(name.display().to_string());
            }
        }
    }
    found.retain(|name| name != "README.md");
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests;
