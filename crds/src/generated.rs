//! The YAML files under `crds/generated`, one a kind, which users apply.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Number, Value};

const HEADER: &str =
    "# Generated from the types in crds/src by `cargo run -p axoneme-crds --bin crdgen`; do not edit.\n";

/// Why the files could not be written or compared.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A definition does not go into YAML.
    #[error("{name}: cannot be written as YAML: {message}")]
    Render {
        /// The definition's name.
        name: String,
        /// Why not.
        message: String,
    },
    /// A file or the folder cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A file that is not what the types give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drift {
    /// The file is not there.
    Missing(PathBuf),
    /// The file differs, first in this line (from 1).
    Differs(PathBuf, usize),
    /// No type gives this file.
    Stale(PathBuf),
}

impl std::fmt::Display for Drift {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(path) => write!(f, "{}: missing", path.display()),
            Self::Differs(path, line) => write!(f, "{}:{line}: differs from the types", path.display()),
            Self::Stale(path) => write!(f, "{}: no kind has this file", path.display()),
        }
    }
}

/// The files, by name: `cilium.io_ciliumnodes.yaml`.
///
/// # Errors
/// [`GenerateError::Render`].
pub fn files() -> Result<BTreeMap<String, String>, GenerateError> {
    crate::all_crds()
        .iter()
        .map(|crd| Ok((format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural), render(crd)?)))
        .collect()
}

/// One definition as YAML.
///
/// # Errors
/// [`GenerateError::Render`].
pub fn render(definition: &CustomResourceDefinition) -> Result<String, GenerateError> {
    let error =
        |message: String| GenerateError::Render { name: definition.metadata.name.clone().unwrap_or_default(), message };
    let mut value = serde_json::to_value(definition).map_err(|cause| error(cause.to_string()))?;
    tidy(&mut value);
    let yaml = serde_saphyr::to_string(&value).map_err(|cause| error(cause.to_string()))?;
    Ok(format!("{HEADER}{yaml}"))
}

/// Writes all files and removes the `.yaml` files that no kind has. Files that are right already are not touched.
/// Returns the paths that changed.
///
/// # Errors
/// [`GenerateError`].
pub fn write(folder: &Path) -> Result<Vec<PathBuf>, GenerateError> {
    fs::create_dir_all(folder).map_err(|source| GenerateError::Io { path: folder.into(), source })?;
    let files = files()?;
    let mut changed = Vec::new();
    for drift in compare(folder, &files)? {
        let (Drift::Missing(path) | Drift::Differs(path, _) | Drift::Stale(path)) = drift;
        let wanted = path.file_name().and_then(|name| files.get(name.to_str()?));
        let done = match wanted {
            Some(text) => fs::write(&path, text),
            None => fs::remove_file(&path),
        };
        done.map_err(|source| GenerateError::Io { path: path.clone(), source })?;
        changed.push(path);
    }
    Ok(changed)
}

/// What differs between the files and the types.
///
/// # Errors
/// [`GenerateError`].
pub fn check(folder: &Path) -> Result<Vec<Drift>, GenerateError> {
    compare(folder, &files()?)
}

fn compare(folder: &Path, files: &BTreeMap<String, String>) -> Result<Vec<Drift>, GenerateError> {
    let io_error = |path: &Path| {
        let path = path.to_owned();
        move |source| GenerateError::Io { path, source }
    };
    let mut drifts = Vec::new();
    for (name, wanted) in files {
        let path = folder.join(name);
        match fs::read_to_string(&path) {
            Ok(text) if text == *wanted => {}
            Ok(text) => drifts.push(Drift::Differs(path, first_difference(&text, wanted))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => drifts.push(Drift::Missing(path)),
            Err(error) => return Err(io_error(&path)(error)),
        }
    }
    for entry in fs::read_dir(folder).map_err(io_error(folder))? {
        let path = entry.map_err(io_error(folder))?.path();
        let is_yaml = path.extension().is_some_and(|extension| extension == "yaml");
        let known = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| files.contains_key(name));
        if is_yaml && !known {
            drifts.push(Drift::Stale(path));
        }
    }
    Ok(drifts)
}

/// The first line (from 1) in which two texts differ.
fn first_difference(left: &str, right: &str) -> usize {
    left.lines().zip(right.lines()).take_while(|(left, right)| left == right).count() + 1
}

/// Bounds are floating point in the definition's type; people expect `65535`, not `65535.0`.
fn tidy(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let whole = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 9e15);
            if let (true, Some(whole)) = (number.is_f64(), whole) {
                *number = Number::from(whole as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Object(fields) => fields.values_mut().for_each(tidy),
        _ => {}
    }
}
