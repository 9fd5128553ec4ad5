//! An API server: objects that are made when they are asked for, those that were written, and watches.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{Options, world};

/// Lines that wait for a watch.
const WATCH: usize = 1 << 18;
/// Objects that are made at once.
const CHUNK: u32 = 256;

/// Resource, namespace, name.
pub(crate) type Path = (String, String, String);

/// See the module.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) options: Options,
    version: AtomicU64,
    pub(crate) watches: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Objects that were written.
    objects: BTreeMap<Path, Value>,
    watches: HashMap<String, Vec<mpsc::Sender<Bytes>>>,
    /// Requests that changed something, by verb and resource.
    writes: BTreeMap<String, u64>,
}

/// Why a request is refused: status code and reason.
pub(crate) type Refused = (u16, &'static str);

impl Api {
    pub(crate) fn new(options: &Options) -> Arc<Self> {
        let (options, watches) = (options.clone(), AtomicU64::new(0));
        Arc::new(Self { options, version: AtomicU64::new(1_000_000), watches, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stamp(&self, object: &mut Value) {
        let version = self.version.fetch_add(1, Ordering::Relaxed);
        object["metadata"]["resourceVersion"] = version.to_string().into();
    }

    /// What a watch says first, and the queue of what follows.
    pub(crate) fn watch(
        self: &Arc<Self>,
        plural: &str,
    ) -> (impl Iterator<Item = Bytes> + Send + use<>, mpsc::Receiver<Bytes>) {
        let (tx, rx) = mpsc::channel(WATCH);
        self.watches.fetch_add(1, Ordering::Relaxed);
        let written: Vec<Value> = {
            let mut state = self.state();
            state.watches.entry(plural.to_owned()).or_default().push(tx);
            state.objects.iter().filter(|(p, _)| p.0 == plural).map(|(_, v)| v.clone()).collect()
        };
        let api = self.clone();
        let plural = plural.to_owned();
        let options = self.options.clone();
        let end = json!({"type": "BOOKMARK", "object": {"kind": "Object", "apiVersion": "v1", "metadata": {
            "resourceVersion": self.version.load(Ordering::Relaxed).to_string(), "annotations": {"k8s.io/initial-events-end": "true"}}}});
        let all = world::count(&options, &plural);
        // one chunk of objects at a time: all of them would be as large as the cluster
        let made = (0..all.div_ceil(CHUNK)).map(move |chunk| {
            let objects = chunk * CHUNK..all.min((chunk + 1) * CHUNK);
            objects.map(|i| world::at(&options, &plural, i)).collect::<Vec<_>>()
        });
        let lines = made.chain(std::iter::once(written)).map(move |chunk| {
            let mut text = Vec::new();
            for mut object in chunk {
                if object["metadata"]["resourceVersion"].is_null() {
                    api.stamp(&mut object);
                }
                text.extend(line("ADDED", &object));
            }
            Bytes::from(text)
        });
        (lines.chain(std::iter::once(Bytes::from(format!("{end}\n")))), rx)
    }

    /// Tells watches.
    fn tell(state: &mut State, plural: &str, kind: &str, object: &Value) {
        if let Some(watches) = state.watches.get_mut(plural) {
            let text = Bytes::from(line(kind, object));
            watches.retain(|w| w.try_send(text.clone()).is_ok());
        }
    }

    /// The world changes by itself.
    pub(crate) fn happen(&self, plural: &str, kind: &str, mut object: Value) {
        self.stamp(&mut object);
        Self::tell(&mut self.state(), plural, kind, &object);
    }

    pub(crate) fn get(&self, path: &Path) -> Result<Value, Refused> {
        let written = self.state().objects.get(path).cloned();
        written.or_else(|| world::one(&self.options, &path.0, &path.2)).ok_or((404, "NotFound"))
    }

    pub(crate) fn list(&self, plural: &str) -> Value {
        let items: Vec<Value> =
            self.state().objects.iter().filter(|(p, _)| p.0 == plural).map(|(_, v)| v.clone()).collect();
        json!({"kind": "List", "apiVersion": "v1", "items": items,
            "metadata": {"resourceVersion": self.version.load(Ordering::Relaxed).to_string()}})
    }

    pub(crate) fn create(&self, mut path: Path, mut object: Value) -> Result<Value, Refused> {
        object["metadata"]["name"].as_str().unwrap_or_default().clone_into(&mut path.2);
        self.stamp(&mut object);
        object["metadata"]["uid"] = format!("uid-{}", object["metadata"]["resourceVersion"]).replace('"', "").into();
        object["metadata"]["generation"] = 1.into();
        let mut state = self.state();
        *state.writes.entry(format!("create {}", path.0)).or_default() += 1;
        if path.0 == "events" {
            return Ok(object);
        }
        if state.objects.contains_key(&path) {
            return Err((409, "AlreadyExists"));
        }
        Self::tell(&mut state, &path.0, "ADDED", &object);
        state.objects.insert(path, object.clone());
        Ok(object)
    }

    /// Another content, or a merge patch (RFC 7386) of it; lists are replaced, of whatever strategy.
    pub(crate) fn change(&self, path: &Path, body: &Value, patch: bool, part: &str) -> Result<Value, Refused> {
        let mut object = self.get(path)?;
        let wanted = body.pointer("/metadata/resourceVersion").filter(|v| !v.is_null());
        if wanted.is_some_and(|v| Some(v) != object.pointer("/metadata/resourceVersion")) {
            return Err((409, "Conflict"));
        }
        if patch {
            merge(&mut object, body);
        } else {
            object.clone_from(body);
        }
        self.stamp(&mut object);
        let mut state = self.state();
        let of = if part.is_empty() { path.0.clone() } else { format!("{}/{part}", path.0) };
        *state.writes.entry(format!("change {of}")).or_default() += 1;
        Self::tell(&mut state, &path.0, "MODIFIED", &object);
        state.objects.insert(path.clone(), object.clone());
        Ok(object)
    }

    pub(crate) fn delete(&self, path: &Path) -> Result<Value, Refused> {
        let mut state = self.state();
        *state.writes.entry(format!("delete {}", path.0)).or_default() += 1;
        let object = state.objects.remove(path).ok_or((404, "NotFound"))?;
        Self::tell(&mut state, &path.0, "DELETED", &object);
        Ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
    }

    /// Writes by verb and resource, those aside that follow time and replicas and not pods: renewals of the Lease.
    pub(crate) fn writes(&self) -> BTreeMap<String, u64> {
        let mut writes = self.state().writes.clone();
        writes.retain(|what, _| !what.ends_with(" leases"));
        writes
    }

    /// A policy as it is now, with another port.
    pub(crate) fn edit(&self, policy: u32, generation: u32, port: u32) {
        let mut object = world::policy(&self.options, policy, generation, port);
        let text = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        let path = ("ciliumnetworkpolicies".to_owned(), text("/metadata/namespace"), text("/metadata/name"));
        if let Ok(now) = self.get(&path) {
            object["status"] = now["status"].clone();
        }
        self.stamp(&mut object);
        let mut state = self.state();
        Self::tell(&mut state, &path.0, "MODIFIED", &object);
        state.objects.insert(path, object);
    }
}

fn line(kind: &str, object: &Value) -> Vec<u8> {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n").into_bytes()
}

fn merge(into: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else { return into.clone_from(patch) };
    if !into.is_object() {
        *into = json!({});
    }
    for (k, v) in patch {
        if v.is_null() {
            into.as_object_mut().map(|m| m.remove(k));
        } else {
            merge(&mut into[k], v);
        }
    }
}
