//! Files of a case: docs/testing/steps.md of upstream, and its internal/file/name.go.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use anyhow::{Context as _, Result, bail, ensure};
use regex::Regex;
use serde_json::Value;

/// What a file's objects are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// To be applied.
    Apply,
    /// To be found.
    Assert,
    /// Not to be found.
    Errors,
}

/// What a file's name tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) role: Role,
    pub(super) index: Option<u32>,
    /// The step's name, where this is its first file to apply.
    pub(super) step: String,
}

#[expect(clippy::expect_used, reason = "a literal; every test here compiles it")]
static PATTERN: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(\d+-)?([^-.]+)(-[^.]+)?((?:\.gotmpl)?\.yaml)?$").expect("the pattern is a regular expression")
});

impl Name {
    /// Reads a file's or a folder's name.
    ///
    /// # Errors
    /// It does not follow the pattern, or is a template.
    pub(super) fn parse(name: &str) -> Result<Self> {
        let parts = PATTERN.captures(name).with_context(|| {
            format!("{name}: the name does not follow the pattern (<number>-)<name>(-<name>)(.yaml)")
        })?;
        let part = |i: usize| parts.get(i).map_or("", |m| m.as_str());
        ensure!(!part(4).starts_with(".gotmpl"), "{name}: templates are not for this runner");
        let index = match part(1).trim_end_matches('-') {
            "" => None,
            digits => Some(digits.parse().with_context(|| format!("{name}: its index"))?),
        };
        let role = match part(2).to_lowercase().as_str() {
            "assert" => Role::Assert,
            "errors" => Role::Errors,
            _ => Role::Apply,
        };
        let step = if role == Role::Apply { format!("{}{}", part(2), part(3)) } else { String::new() };
        Ok(Self { role, index, step })
    }
}

/// What a case's folder holds.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The files of each step, in the order of their names. A folder with an index is a step, too: its files need none.
    pub(super) steps: BTreeMap<u32, Vec<PathBuf>>,
    /// What is no step by its name: files that steps refer to.
    pub(super) others: Vec<PathBuf>,
}

/// Lists a case's folder.
pub(super) fn listing(case: &Path) -> Result<Listing> {
    let mut listing = Listing::default();
    for path in entries(case)? {
        let name = file_name(&path);
        // what upstream ignores unless it is told otherwise
        if name.starts_with("README") {
            continue;
        }
        let of = Name::parse(&name);
        if name.contains(".gotmpl") {
            of?;
            continue;
        }
        let Some(index) = of.ok().and_then(|name| name.index) else {
            listing.others.push(path);
            continue;
        };
        let files = if path.is_dir() { entries(&path)? } else { vec![path] };
        listing.steps.entry(index).or_default().extend(files);
    }
    Ok(listing)
}

/// What a folder holds, sorted.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect()
    };
    let mut found = read().with_context(|| format!("reading {}", folder.display()))?;
    found.sort();
    Ok(found)
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The objects of a file, or of the `.yaml` files of a folder.
pub(super) fn objects(path: &Path) -> Result<Vec<Value>> {
    if !path.is_dir() {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        return documents(&text).with_context(|| path.display().to_string());
    }
    let files: Vec<PathBuf> =
        entries(path)?.into_iter().filter(|f| f.is_file() && f.extension().is_some_and(|e| e == "yaml")).collect();
    ensure!(!files.is_empty(), "{}: no .yaml file there", path.display());
    let all: Vec<Vec<Value>> = files.iter().map(|file| objects(file)).collect::<Result<_>>()?;
    Ok(all.concat())
}

/// The objects of a text; empty documents are none.
fn documents(text: &str) -> Result<Vec<Value>> {
    // as sigs.k8s.io/yaml, with which upstream reads: `yes` and `on` are true, `0777` is octal
    let options = serde_saphyr::options! { strict_booleans: false, legacy_octal_numbers: true };
    let mut documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)?;
    documents.retain(|document| !document.is_null());
    for document in &documents {
        // upstream passes over it with a message
        if super::Gvk::of(document).is_none() {
            bail!("an object without apiVersion or kind: {document}");
        }
    }
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(role: Role, index: Option<u32>, step: &str) -> Name {
        Name { role, index, step: step.to_owned() }
    }

    #[test]
    fn names_tell_index_role_and_step() {
        for (text, wanted) in [
            ("00-install.yaml", name(Role::Apply, Some(0), "install")),
            ("01-edit-the-pool.yaml", name(Role::Apply, Some(1), "edit-the-pool")),
            ("7-assert.yaml", name(Role::Assert, Some(7), "")),
            ("10-errors.yaml", name(Role::Errors, Some(10), "")),
            ("02-Assert-more.yaml", name(Role::Assert, Some(2), "")),
            ("03-folder", name(Role::Apply, Some(3), "folder")),
            ("pod.yaml", name(Role::Apply, None, "pod")),
            ("assert.yaml", name(Role::Assert, None, "")),
        ] {
            assert_eq!(Name::parse(text).unwrap(), wanted, "{text}");
        }
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for (text, why) in [
            ("00-a.b.yaml", "does not follow"),
            ("00-a.yml", "does not follow"),
            (".hidden", "does not follow"),
            ("99999999999-a.yaml", "index"),
            ("00-a.gotmpl.yaml", "templates"),
        ] {
            let told = format!("{:#}", Name::parse(text).unwrap_err());
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn empty_documents_are_none_and_nameless_ones_an_error() {
        assert_eq!(documents("---\n---\n# words\n---\napiVersion: v1\nkind: Pod\n---\n").unwrap().len(), 1);
        assert!(documents("a: 1\n").unwrap_err().to_string().contains("without apiVersion or kind"));
        assert_eq!(documents("apiVersion: v1\nkind: A\nspec: yes\n").unwrap()[0]["spec"], true);
    }
}
