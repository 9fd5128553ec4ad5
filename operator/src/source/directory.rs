//! A directory of manifests as a source.
//!
//! Files ending in `.yaml`, `.yml` or `.json`, in sub-directories too, each with any number of documents; `List`s are
//! opened. A file that breaks keeps its last-good objects; an object that two files have is that of the first by path.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use axoneme_intake::{kind_of, object_ref};
use axoneme_model::ObjectRef;
use notify::Watcher as _;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{KINDS, SourceEvent};

/// After a change, how long further changes are waited for: editors and git write in several steps.
const SETTLE: Duration = Duration::from_millis(50);
/// A look without a notification, for file systems that send none.
const LOOK: Duration = Duration::from_secs(10);

/// What the files say now, compared with what was said.
#[derive(Debug, Default)]
pub struct Directory {
    files: BTreeMap<PathBuf, File>,
    said: BTreeMap<ObjectRef, Value>,
    synced: bool,
}

#[derive(Debug, Default)]
struct File {
    text: String,
    objects: BTreeMap<ObjectRef, Value>,
    problem: Option<String>,
}

/// Follows the directory until cancelled.
///
/// Errors: the directory is not there, or can't be watched.
pub async fn watch(dir: PathBuf, events: mpsc::Sender<SourceEvent>, cancel: CancellationToken) -> io::Result<()> {
    let (tx, mut changed) = mpsc::channel(1);
    let notify = move |e: notify::Result<notify::Event>| {
        if e.map_or(true, |e| !e.kind.is_access()) {
            // full: a look is due anyway
            let _ = tx.try_send(());
        }
    };
    let mut watcher = notify::recommended_watcher(notify).map_err(io::Error::other)?;
    watcher.watch(&dir, notify::RecursiveMode::Recursive).map_err(|e| {
        io::Error::other(format!("{}: {e}: name a directory of manifests that can be read", dir.display()))
    })?;
    let mut directory = Directory::default();
    loop {
        for event in directory.look(read(&dir)) {
            if events.send(event).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            _ = changed.recv() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(LOOK) => {}
            () = cancel.cancelled() => return Ok(()),
        }
        while changed.try_recv().is_ok() {}
    }
}

/// The manifest files under a directory with their text, or why there is none.
pub type Files = BTreeMap<PathBuf, Result<String, String>>;

/// Reads all manifest files.
#[must_use]
pub fn read(dir: &Path) -> Files {
    let mut files = Files::new();
    read_into(dir, &mut files);
    files
}

fn read_into(dir: &Path, files: &mut Files) {
    let entries = match std::fs::read_dir(dir) {
        Ok(e) => e,
        Err(e) => {
            files.insert(dir.to_owned(), Err(e.to_string()));
            return;
        }
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if hidden {
            continue;
        }
        // follows links: a mounted ConfigMap is made of them
        if path.is_dir() {
            read_into(&path, files);
        } else if path.extension().is_some_and(|e| ["yaml", "yml", "json"].iter().any(|x| e == *x)) {
            files.insert(path.clone(), std::fs::read_to_string(&path).map_err(|e| e.to_string()));
        }
    }
}

impl Directory {
    /// Compares the files with what was said before; the first time ends with `Synced` of all kinds.
    pub fn look(&mut self, files: Files) -> Vec<SourceEvent> {
        let mut events = Vec::new();
        self.files.retain(|path, f| {
            let there = files.contains_key(path);
            if !there && f.problem.is_some() {
                events.push(SourceEvent::Broken { what: path.display().to_string(), problem: None });
            }
            there
        });
        for (path, text) in files {
            let file = self.files.entry(path.clone()).or_default();
            if file.update(text) {
                let (what, problem) = (path.display().to_string(), file.problem.clone());
                if let Some(p) = &problem {
                    warn!(file = %what, problem = %p, "manifest file can't be used; what it said before stays");
                }
                events.push(SourceEvent::Broken { what, problem });
            }
        }
        self.compare(&mut events);
        if !std::mem::replace(&mut self.synced, true) {
            events.extend(KINDS.map(SourceEvent::Synced));
        }
        events
    }

    fn compare(&mut self, events: &mut Vec<SourceEvent>) {
        let mut now: BTreeMap<ObjectRef, Value> = BTreeMap::new();
        for (object, value) in self.files.values().flat_map(|f| &f.objects) {
            now.entry(object.clone()).or_insert_with(|| value.clone());
        }
        let gone: Vec<_> = self.said.keys().filter(|o| !now.contains_key(o)).cloned().collect();
        events.extend(gone.into_iter().map(SourceEvent::Delete));
        for (object, value) in &now {
            if self.said.get(object) != Some(value) {
                events.push(SourceEvent::Apply { kind: object.kind, object: value.clone() });
            }
        }
        self.said = now;
    }
}

impl File {
    /// Takes a new text in; says whether the file broke, broke otherwise, or is well again.
    fn update(&mut self, text: Result<String, String>) -> bool {
        let before = self.problem.clone();
        match text {
            Ok(t) if t == self.text && before.is_none() => return false,
            Ok(t) => {
                match objects(&t) {
                    Ok(objects) => (self.objects, self.problem) = (objects, None),
                    Err(e) => self.problem = Some(e),
                }
                self.text = t;
            }
            Err(e) => self.problem = Some(e),
        }
        self.problem != before
    }
}

/// kubectl reads YAML 1.1 (sigs.k8s.io/yaml): `yes` and `on` are true, `0777` is octal.
fn yaml_of_kubectl() -> serde_saphyr::Options {
    serde_saphyr::options! { strict_booleans: false, legacy_octal_numbers: true }
}

/// The objects of a file that concern the network. All or nothing: half a file is another configuration.
fn objects(text: &str) -> Result<BTreeMap<ObjectRef, Value>, String> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple_with_options(text, yaml_of_kubectl()).map_err(|e| e.to_string())?;
    let mut objects = BTreeMap::new();
    for (i, document) in documents.into_iter().enumerate() {
        let items = match document.get("items").and_then(Value::as_array) {
            Some(items) if document.get("kind").and_then(Value::as_str).is_some_and(|k| k.ends_with("List")) => {
                items.clone()
            }
            _ => vec![document],
        };
        for item in items.into_iter().filter(|v| !v.is_null()) {
            let Some(kind) = kind_of(&item).map_err(|e| format!("document {}: {e}", i + 1))? else { continue };
            let object = object_ref(kind, &item).map_err(|e| format!("document {}: {e}", i + 1))?;
            let item = with_defaults(item, &object);
            if objects.insert(object.clone(), item).is_some() {
                return Err(format!("document {}: {object} is there twice", i + 1));
            }
        }
    }
    Ok(objects)
}

/// What an API server would have filled in: a generation, so that conditions and acknowledgements can name one, and a
/// uid, by which endpoints are known.
fn with_defaults(mut object: Value, name: &ObjectRef) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.entry("generation").or_insert_with(|| 1.into());
        metadata.entry("uid").or_insert_with(|| format!("{}/{}", name.namespace, name.name).into());
    }
    object
}

#[cfg(test)]
mod tests;
