//! An API server: objects with versions, the log that watches read, and a Lease.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard},
};

use axoneme_model::{Cidr, Kind, ObjectRef};
use axoneme_operator::{
    lease::election::View,
    source::{KINDS, SourceEvent},
    write::{Operation, Outcome, Write},
};
use serde_json::{Value, json};
use tokio::{sync::Notify, time::Instant};

/// One change.
#[derive(Clone, Debug)]
pub struct Entry {
    pub at: Instant,
    pub kind: Kind,
    pub event: SourceEvent,
}

/// What the server holds.
#[derive(Debug, Default)]
pub struct State {
    pub objects: BTreeMap<ObjectRef, Value>,
    pub log: Vec<Entry>,
    /// Places in the log, by kind.
    places: BTreeMap<Kind, Vec<usize>>,
    version: u64,
    pub lease: Option<View>,
    /// What was handed out twice, in words.
    pub twice: Vec<String>,
    /// Every meaning that an identity's number has had.
    numbers: BTreeMap<String, Value>,
}

/// The server. All calls are atomic; latency and loss are the caller's.
#[derive(Debug)]
pub struct Api {
    state: Mutex<State>,
    changed: BTreeMap<Kind, Notify>,
}

impl Default for Api {
    fn default() -> Self {
        let changed = KINDS.iter().map(|k| (*k, Notify::new())).collect();
        Self { state: Mutex::default(), changed }
    }
}

impl Api {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Comes back when there is something of the kind at or after this place of the log. Those who wait come back in the
    /// order in which they came: a `watch` wakes them by chance.
    pub async fn news(&self, kind: Kind, place: usize) {
        let waiting = self.changed[&kind].notified();
        let there = {
            let state = self.state();
            state.next_of(kind, place) < state.log.len()
        };
        if !there {
            waiting.await;
        }
    }

    fn changed(&self, kind: Kind) {
        self.changed[&kind].notify_waiters();
    }

    /// Creates or replaces an object.
    pub fn put(&self, kind: Kind, object: Value) -> Value {
        let put = self.state().put(kind, object);
        self.changed(kind);
        put
    }

    pub fn delete(&self, object: &ObjectRef) -> bool {
        let deleted = self.state().delete(object);
        self.changed(object.kind);
        deleted
    }

    #[must_use]
    pub fn get(&self, object: &ObjectRef) -> Option<Value> {
        self.state().objects.get(object).cloned()
    }

    /// Carries an operator's write out.
    pub fn write(&self, w: &Write) -> Outcome {
        let outcome = self.state().write(w);
        self.changed(w.key.object.kind);
        outcome
    }

    /// Takes or renews the Lease onto a version; false: it has another one by now.
    pub fn write_lease(&self, onto: Option<&str>, holder: &str, address: &str, transitions: i64) -> bool {
        let mut s = self.state();
        if s.lease.as_ref().map(|l| l.version.as_str()) != onto {
            return false;
        }
        s.version += 1;
        let version = s.version.to_string();
        s.lease = Some(View { version, holder: holder.to_owned(), address: Some(address.to_owned()), transitions });
        true
    }
}

impl State {
    /// The first place at or after `from` in the log that is about the kind; the log's end if there is none.
    #[must_use]
    pub fn next_of(&self, kind: Kind, from: usize) -> usize {
        let places = self.places.get(&kind).map(Vec::as_slice).unwrap_or_default();
        places.get(places.partition_point(|p| *p < from)).copied().unwrap_or(self.log.len())
    }

    /// Changes of a kind from a place on.
    pub fn since(&self, kind: Kind, from: usize) -> impl Iterator<Item = &SourceEvent> {
        let places = self.places.get(&kind).map(Vec::as_slice).unwrap_or_default();
        places[places.partition_point(|p| *p < from)..].iter().map(|p| &self.log[*p].event)
    }

    pub fn of(&self, kind: Kind) -> impl Iterator<Item = (&ObjectRef, &Value)> {
        self.objects.iter().filter(move |(o, _)| o.kind == kind)
    }

    fn log(&mut self, kind: Kind, event: SourceEvent) {
        self.places.entry(kind).or_default().push(self.log.len());
        self.log.push(Entry { at: Instant::now(), kind, event });
    }

    fn put(&mut self, kind: Kind, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{}", self.version).into();
        }
        let name = axoneme_intake::object_ref(kind, &object).unwrap();
        self.audit(&name, &object);
        self.objects.insert(name, object.clone());
        self.log(kind, SourceEvent::Apply { kind, object: object.clone() });
        object
    }

    fn delete(&mut self, object: &ObjectRef) -> bool {
        let there = self.objects.remove(object).is_some();
        if there {
            self.version += 1;
            self.log(object.kind, SourceEvent::Delete(object.clone()));
        }
        there
    }

    fn write(&mut self, w: &Write) -> Outcome {
        let object = &w.key.object;
        if matches!(w.operation, Operation::Event { .. }) {
            return Outcome::Done(None);
        }
        let now = self.objects.get(object).cloned();
        let version = |v: &Value| v.pointer("/metadata/resourceVersion").and_then(Value::as_str).map(str::to_owned);
        match (&w.operation, now) {
            (Operation::Create(_), Some(_)) => Outcome::Conflict,
            (Operation::Create(body), None) => Outcome::Done(Some(self.put(object.kind, body.clone()))),
            (Operation::Merge(body) | Operation::Strategic(body), Some(mut now)) => {
                let wanted = version(body);
                if wanted.is_some() && wanted != version(&now) {
                    return Outcome::Conflict;
                }
                let before = now.clone();
                merge(&mut now, body, matches!(w.operation, Operation::Strategic(_)));
                now["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
                // as the real one: what changes nothing is no new version
                let done = if now == before { now } else { self.put(object.kind, now) };
                Outcome::Done(Some(done))
            }
            (Operation::Delete { uid, resource_version }, Some(now)) => {
                let is = |field: &str, want: &Option<String>| {
                    want.is_none() || now["metadata"][field].as_str() == want.as_deref()
                };
                if !(is("uid", uid) && is("resourceVersion", resource_version)) {
                    return Outcome::Conflict;
                }
                self.delete(object);
                Outcome::Done(None)
            }
            (Operation::Delete { .. }, None) => Outcome::Done(None),
            _ => Outcome::Failed("not found".into()),
        }
    }

    /// Whether something is handed out twice by this.
    fn audit(&mut self, name: &ObjectRef, object: &Value) {
        if name.kind == Kind::CiliumNode {
            let own = blocks(object);
            for (other, value) in self.objects.iter().filter(|(o, _)| o.kind == Kind::CiliumNode && *o != name) {
                for (a, b) in own.iter().flat_map(|a| blocks(value).into_iter().map(move |b| (*a, b))) {
                    if a.contains(b.network()) || b.contains(a.network()) {
                        self.twice.push(format!("block {a} of node {} is {b} of node {}", name.name, other.name));
                    }
                }
            }
        }
        if name.kind == Kind::CiliumIdentity {
            let labels = &object["security-labels"];
            let there = self.objects.get(name).map(|o| o["security-labels"].clone());
            if there.is_some_and(|t| t != *labels) {
                self.twice.push(format!("identity {} has another meaning: {labels}", name.name));
            }
            self.numbers.insert(name.name.to_string(), labels.clone());
        }
    }
}

fn blocks(cilium_node: &Value) -> BTreeSet<Cidr> {
    let list = cilium_node.pointer("/spec/ipam/podCIDRs").and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|b| b.as_str()?.parse().ok()).collect()
}

/// JSON merge patch; `strategic`: lists of objects with a `type` are merged by it, as those of conditions are.
fn merge(into: &mut Value, patch: &Value, strategic: bool) {
    if let (true, Some(list), Some(old)) = (strategic, patch.as_array(), into.as_array_mut())
        && list.iter().all(|p| p["type"].is_string())
    {
        for p in list {
            match old.iter_mut().find(|o| o["type"] == p["type"]) {
                Some(o) => merge(o, p, strategic),
                None => old.push(p.clone()),
            }
        }
        return;
    }
    let Some(patch) = patch.as_object() else { return into.clone_from(patch) };
    if !into.is_object() {
        *into = json!({});
    }
    for (k, v) in patch {
        if v.is_null() {
            into.as_object_mut().unwrap().remove(k);
        } else {
            merge(&mut into[k], v, strategic);
        }
    }
}
