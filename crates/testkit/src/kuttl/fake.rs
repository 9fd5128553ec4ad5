//! An API in memory, with a time line.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::api::{Api, ApiError, Gvk, metadata};

/// Kinds that live in namespaces, and kinds that do not. It has no others.
const NAMESPACED: &[&str] = &["Pod", "ConfigMap", "Event"];
const CLUSTER: &[&str] = &["Namespace", "Node"];

type Key = (Gvk, String, String);

/// What a test says of the API before it is asked.
#[derive(Debug)]
pub(super) struct Fake {
    began: Instant,
    objects: RefCell<BTreeMap<Key, Value>>,
    /// What becomes of objects by themselves: when, and the merge patch. A patch of what is not there makes it.
    later: RefCell<Vec<(Duration, Value)>>,
    /// Until when a deleted object stays.
    ending: RefCell<BTreeMap<Key, Instant>>,
    /// How long deleted objects stay.
    linger: Duration,
    /// Writes that are answered by a conflict before one is done.
    pub(super) conflicts: RefCell<usize>,
    /// Names that admission refuses.
    pub(super) refused: Vec<String>,
    /// Everything that was asked to change, in its order: `create Pod:ns/a`.
    pub(super) writes: RefCell<Vec<String>>,
    version: RefCell<u64>,
}

impl Fake {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            objects: RefCell::default(),
            later: RefCell::default(),
            ending: RefCell::default(),
            linger: Duration::ZERO,
            conflicts: RefCell::default(),
            refused: Vec::new(),
            writes: RefCell::default(),
            version: RefCell::default(),
        }
    }

    /// Deleted objects stay so long.
    pub(super) fn lingering(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// An object that is there.
    pub(super) fn with(self, object: Value) -> Self {
        self.store(object);
        self
    }

    /// A change that happens by itself. The namespace `*` is that of the case.
    pub(super) fn after(self, seconds: u64, patch: Value) -> Self {
        self.later.borrow_mut().push((Duration::from_secs(seconds), patch));
        self
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.tick();
        self.objects.borrow().keys().map(|(kind, _, name)| format!("{}:{name}", kind.kind)).collect()
    }

    fn key(object: &Value) -> Key {
        (
            Gvk::of(object).expect("an object of a test has a kind"),
            metadata(object, "namespace").to_owned(),
            metadata(object, "name").to_owned(),
        )
    }

    fn store(&self, mut object: Value) {
        *self.version.borrow_mut() += 1;
        object["metadata"]["resourceVersion"] = self.version.borrow().to_string().into();
        self.objects.borrow_mut().insert(Self::key(&object), object);
    }

    /// What has happened until now.
    fn tick(&self) {
        let now = self.began.elapsed();
        let of_case = self.objects.borrow().keys().find(|k| k.0.kind == "Namespace").map(|k| k.2.clone());
        let due: Vec<Value> = {
            let mut later = self.later.borrow_mut();
            let (due, rest) = later
                .drain(..)
                .partition(|(at, patch)| *at <= now && (patch["metadata"]["namespace"] != "*" || of_case.is_some()));
            *later = rest;
            let due: Vec<(Duration, Value)> = due;
            due.into_iter().map(|(_, patch)| patch).collect()
        };
        for mut patch in due {
            if patch["metadata"]["namespace"] == "*" {
                patch["metadata"]["namespace"] = of_case.clone().into();
            }
            let old = self.objects.borrow().get(&Self::key(&patch)).cloned();
            self.store(old.map_or_else(|| patch.clone(), |old| merged(&old, &patch)));
        }
        let ending = self.ending.borrow().clone();
        for (key, _) in ending.iter().filter(|(_, until)| Instant::now() >= **until) {
            self.objects.borrow_mut().remove(key);
            self.ending.borrow_mut().remove(key);
            if key.0.kind == "Namespace" {
                self.objects.borrow_mut().retain(|(_, namespace, _), _| *namespace != key.2);
            }
        }
    }

    fn conflict(&self, what: &str) -> Result<(), ApiError> {
        let mut left = self.conflicts.borrow_mut();
        if *left == 0 || what.contains("Namespace") {
            return Ok(());
        }
        *left -= 1;
        Err(ApiError::Conflict("the object has been modified".to_owned()))
    }

    fn admitted(&self, object: &Value) -> Result<(), ApiError> {
        let name = metadata(object, "name");
        if self.refused.iter().any(|refused| refused == name) {
            return Err(ApiError::Other(format!("{name} is invalid")));
        }
        Ok(())
    }
}

/// RFC 7386.
fn merged(old: &Value, patch: &Value) -> Value {
    let Some(patch) = patch.as_object() else { return patch.clone() };
    let mut new = old.as_object().cloned().unwrap_or_else(Map::new);
    for (key, value) in patch {
        if value.is_null() {
            new.remove(key);
        } else {
            let before = new.get(key).cloned().unwrap_or(Value::Null);
            new.insert(key.clone(), merged(&before, value));
        }
    }
    Value::Object(new)
}

#[async_trait(?Send)]
impl Api for Fake {
    async fn namespaced(&self, kind: &Gvk) -> Result<bool, ApiError> {
        match kind.kind.as_str() {
            known if NAMESPACED.contains(&known) => Ok(true),
            known if CLUSTER.contains(&known) => Ok(false),
            _ => Err(ApiError::Other(format!("retrieving API resource for {kind} failed: not found"))),
        }
    }

    async fn get(&self, kind: &Gvk, namespace: &str, name: &str) -> Result<Option<Value>, ApiError> {
        self.tick();
        Ok(self.objects.borrow().get(&(kind.clone(), namespace.to_owned(), name.to_owned())).cloned())
    }

    async fn list(
        &self,
        kind: &Gvk,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Vec<Value>, ApiError> {
        self.tick();
        let objects = self.objects.borrow();
        let of = objects.iter().filter(|(key, object)| {
            key.0 == *kind
                && (namespace.is_empty() || key.1 == namespace)
                && labels.iter().all(|(label, value)| object["metadata"]["labels"][label] == **value)
        });
        Ok(of.map(|(_, object)| object.clone()).collect())
    }

    async fn create(&self, object: &Value) -> Result<(), ApiError> {
        self.tick();
        let id = super::api::id(object);
        self.conflict(&id)?;
        self.admitted(object)?;
        if self.objects.borrow().contains_key(&Self::key(object)) {
            return Err(ApiError::Conflict(format!("{id} already exists")));
        }
        self.writes.borrow_mut().push(format!("create {id}"));
        self.store(object.clone());
        Ok(())
    }

    async fn merge_patch(&self, object: &Value) -> Result<(), ApiError> {
        self.tick();
        let id = super::api::id(object);
        self.conflict(&id)?;
        self.admitted(object)?;
        let old = self.objects.borrow().get(&Self::key(object)).cloned();
        let old = old.ok_or_else(|| ApiError::Other("not found".to_owned()))?;
        if metadata(&old, "resourceVersion") != metadata(object, "resourceVersion") {
            return Err(ApiError::Conflict("another version".to_owned()));
        }
        self.writes.borrow_mut().push(format!("patch {id}"));
        self.store(merged(&old, object));
        Ok(())
    }

    async fn delete(&self, kind: &Gvk, namespace: &str, name: &str) -> Result<bool, ApiError> {
        self.tick();
        let key = (kind.clone(), namespace.to_owned(), name.to_owned());
        if !self.objects.borrow().contains_key(&key) {
            return Ok(false);
        }
        self.writes.borrow_mut().push(format!("delete {}:{namespace}/{name}", kind.kind));
        self.ending.borrow_mut().insert(key, Instant::now() + self.linger);
        self.tick();
        Ok(true)
    }
}
