//! `axoneme config`: the settings of the cluster, seen, compared and changed.
//!
//! Settings are those of the schema of AxonemeConfig; what a file or the API server holds is judged by the functions that
//! admission calls. A change is a server-side apply of the fields that this program has set, so that it fights nobody.

pub mod cilium;
pub mod fields;
pub mod impact;
mod plan;
mod set;
mod view;

use std::path::Path;

use axoneme_intake::{CONFIG_NAME, FieldError};
use serde_json::{Value, json};

use crate::{
    args::cluster::Config, cluster::Cluster, failure::Failure, kinds::Resource, manifests, output::Output,
    progress::Progress,
};

pub fn run(command: &Config, out: &mut Output) -> Result<(), Failure> {
    match command {
        Config::View(args) => view::run(args, out),
        Config::Set(args) => set::run(args, out),
        Config::Diff(args) => plan::diff(args, out),
        Config::Plan(args) => plan::plan(args, out),
        Config::FromCilium(args) => cilium::run(args, out),
    }
}

/// The kind of the settings.
fn resource() -> Resource {
    Resource::named("axoneme.io/v1alpha1", "AxonemeConfig", "axonemeconfigs", false)
}

/// An object without any setting.
fn empty() -> Value {
    json!({"apiVersion": "axoneme.io/v1alpha1", "kind": "AxonemeConfig", "metadata": {"name": CONFIG_NAME}, "spec": {}})
}

/// The AxonemeConfig of the cluster; none where there is none, or no such kind.
fn stored(cluster: &Cluster) -> Result<Option<Value>, Failure> {
    let _progress = Progress::start("asking the API server");
    let what = format!("AxonemeConfig {CONFIG_NAME}");
    cluster.get(&resource(), "", CONFIG_NAME).map_err(|fault| cluster.failed(&what, &fault))
}

/// The one AxonemeConfig of a file, admitted.
pub(crate) fn of_file(path: &Path) -> Result<Value, Failure> {
    let progress = Progress::start("reading the file");
    let documents = manifests::load(&[path.to_owned()], &progress)?;
    let mut found = Vec::new();
    for document in documents {
        let object = document.object.map_err(|e| Failure::File(format!("{}:{}: {e}", document.file, document.line)))?;
        if object.get("kind").and_then(Value::as_str) == Some("AxonemeConfig") {
            found.push(object);
        }
    }
    let count = found.len();
    let (Some(object), 1) = (found.pop(), count) else {
        let what = format!("--filename: {}: must hold one AxonemeConfig; there are {count}", path.display());
        return Err(Failure::Usage(what));
    };
    admitted(&object).map_err(|errors| Failure::File(format!("{}: {}", path.display(), told(&errors))))?;
    Ok(object)
}

/// What admission would say of an object.
fn admitted(object: &Value) -> Result<(), Vec<FieldError>> {
    axoneme_intake::config(object).map(drop).map_err(|errors| errors.errors)
}

/// Errors as lines under their object.
fn told(errors: &[FieldError]) -> String {
    let lines = errors.iter().map(|e| format!("\n  {e}"));
    format!("AxonemeConfig {CONFIG_NAME} is not valid:{}", lines.collect::<String>())
}

/// A value on one line.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            format!("[{}]", items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}
