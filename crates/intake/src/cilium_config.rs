//! Settings of Cilium, as its ConfigMap or the values of its Helm chart have them → an AxonemeConfig.
//!
//! Nothing is passed over in silence: a setting maps, or means nothing here for a reason that is told, or is refused by
//! name. What is refused is not in the result; whoever goes on without it has read what it was.

mod cluster;

use std::collections::{BTreeMap, BTreeSet};

use axoneme_crds::axoneme_config::{Successor, cilium_setting};
use serde_json::{Map, Value, json};

use crate::{
    config::{CONFIG_NAME, config, knob::knob},
    field::{Errors, Field},
    node_config::{DROP_EVENTS_SECONDS, text, value},
};

/// A setting that has a successor here.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapped {
    /// As it stands in the source: a key, or a path of values.
    pub key: String,
    pub text: String,
    /// Path in AxonemeConfig.
    pub path: &'static str,
    /// What `path` becomes, by this setting and those that share it.
    pub value: Value,
    /// What to know about it; empty: nothing.
    pub note: &'static str,
}

/// A setting that has none, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    pub key: String,
    pub text: String,
    pub reason: String,
}

/// What becomes of Cilium's settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Migration {
    pub mapped: Vec<Mapped>,
    /// Mean nothing here; nothing is lost by it.
    pub meaningless: Vec<Left>,
    /// Unknown, taken away by Cilium itself, with a value that cannot be, or switching on what is not there yet.
    pub refused: Vec<Left>,
}

impl Migration {
    /// The AxonemeConfig that says the same, with nothing in it that is a default only.
    #[must_use]
    pub fn config(&self) -> Value {
        let mut object = json!({
            "apiVersion": "axoneme.io/v1alpha1",
            "kind": "AxonemeConfig",
            "metadata": {"name": CONFIG_NAME},
            "spec": {},
        });
        for mapped in self.mapped.iter().filter(|m| !m.value.is_null()) {
            put(&mut object, mapped.path, &mapped.value);
        }
        object
    }
}

/// Lays a value at a path of an object.
fn put(object: &mut Value, path: &str, value: &Value) {
    let mut at = object;
    for key in path.split('.') {
        let Value::Object(fields) = at else { return };
        at = fields.entry(key).or_insert_with(|| json!({}));
    }
    at.clone_from(value);
}

/// Settings as they stand in a ConfigMap `cilium-config` (the object or its `data`) or in Helm values, by their names.
/// Helm's `extraConfig` comes as the keys of the ConfigMap that it becomes. None if it is neither.
#[must_use]
pub fn cilium_settings(source: &Value) -> Option<BTreeMap<String, Value>> {
    let fields = source.as_object()?;
    let mut all = BTreeMap::new();
    if fields.get("kind").and_then(Value::as_str) == Some("ConfigMap") {
        let data = fields.get("data").and_then(Value::as_object)?;
        all.extend(data.iter().map(|(key, value)| (key.clone(), value.clone())));
    } else {
        flatten("", fields, &mut all);
    }
    Some(all)
}

fn flatten(path: &str, fields: &Map<String, Value>, out: &mut BTreeMap<String, Value>) {
    for (key, value) in fields {
        let path = match path {
            "" | "extraConfig" => key.clone(),
            _ => format!("{path}.{key}"),
        };
        match value {
            Value::Object(fields) if !fields.is_empty() => flatten(&path, fields, out),
            Value::Object(_) if path == "extraConfig" => {}
            _ => drop(out.insert(path, value.clone())),
        }
    }
}

/// What becomes of settings, by their names.
#[must_use]
pub fn from_cilium(settings: &BTreeMap<String, Value>) -> Migration {
    let mut reading = Reading::default();
    for (key, value) in settings {
        reading.setting(key, &as_text(value));
    }
    reading.families();
    reading.drop_events();
    reading.conntrack();
    reading.judged()
}

/// A value as a ConfigMap would have it.
fn as_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.trim().to_owned(),
        Value::Array(items) if items.iter().all(|i| !i.is_object()) => {
            items.iter().map(as_text).collect::<Vec<_>>().join(",")
        }
        Value::Object(fields) if fields.is_empty() => String::new(),
        other => other.to_string(),
    }
}

/// Whether a switch is off. Parameters that have no value switch nothing on either.
fn is_off(text: &str) -> bool {
    matches!(
        text.to_ascii_lowercase().as_str(),
        "" | "false" | "f" | "0" | "0s" | "none" | "off" | "disabled" | "[]" | "{}"
    )
}

/// A setting, as a group reads it that shares one path.
#[derive(Clone, Debug)]
struct Said {
    key: String,
    text: String,
}

#[derive(Debug, Default)]
struct Reading {
    out: Migration,
    /// Settings that make one path together.
    ipv4: Option<Said>,
    ipv6: Option<Said>,
    drop_events: Vec<Said>,
    conntrack: Vec<Said>,
}

impl Reading {
    fn setting(&mut self, key: &str, text: &str) {
        let left = |reason: &str| Left { key: key.to_owned(), text: text.to_owned(), reason: reason.to_owned() };
        let path = match cilium_setting(key) {
            None => {
                let reason = "no setting of Cilium 1.20 that this version knows";
                return self.out.refused.push(left(reason));
            }
            Some(Successor::Removed(reason)) => return self.out.refused.push(left(reason)),
            Some(Successor::Missing(reason)) if !is_off(text) => return self.out.refused.push(left(reason)),
            Some(Successor::Missing(_)) => return self.out.meaningless.push(left("off, as it is here")),
            Some(Successor::Gone(reason)) => return self.out.meaningless.push(left(reason)),
            Some(Successor::Setting(path)) => path,
        };
        if text.is_empty() {
            return self.out.meaningless.push(left("not set"));
        }
        let said = Said { key: key.to_owned(), text: text.to_owned() };
        let last = key.rsplit('.').next().unwrap_or(key).to_ascii_lowercase();
        match path {
            "spec.ipFamilies" if key.contains('6') => self.ipv6 = Some(said),
            "spec.ipFamilies" => self.ipv4 = Some(said),
            "spec.flows.dropEventsSeconds" => self.drop_events.push(said),
            "spec.conntrack.maxEntries" => self.conntrack.push(said),
            // the switch of what the chart has the list of elsewhere
            "spec.masquerade.excludeCIDRs" if last == "enabled" || last == "enable-ip-masq-agent" => {
                let there = "its prefixes are in the ConfigMap ip-masq-agent (nonMasqueradeCIDRs): write them to \
                             spec.masquerade.excludeCIDRs";
                if is_off(text) {
                    self.out.meaningless.push(left("off, as it is here"));
                } else {
                    self.out.refused.push(left(there));
                }
            }
            _ => self.one(said, path),
        }
    }

    /// A setting that makes its path alone.
    fn one(&mut self, said: Said, path: &'static str) {
        match translated(&said, path) {
            Ok(values) => {
                for (path, value, note) in values {
                    self.map(&said, path, value, note);
                }
            }
            Err(reason) => self.refuse(said, reason),
        }
    }

    fn map(&mut self, said: &Said, path: &'static str, value: Value, note: &'static str) {
        let before = self.out.mapped.iter().find(|m| m.path == path && m.value != value);
        if let Some(before) = before {
            let reason = format!("{path} is one setting, which {} makes {}", before.key, before.value);
            return self.refuse(said.clone(), reason);
        }
        self.out.mapped.push(Mapped { key: said.key.clone(), text: said.text.clone(), path, value, note });
    }

    fn refuse(&mut self, said: Said, reason: impl Into<String>) {
        self.out.refused.push(Left { key: said.key, text: said.text, reason: reason.into() });
    }

    /// Both families are switches there, and a list here.
    fn families(&mut self) {
        // the defaults of the chart
        let (mut list, mut sayers) = (Vec::new(), Vec::new());
        for (name, said, default) in [("IPv4", self.ipv4.take(), true), ("IPv6", self.ipv6.take(), false)] {
            let wanted = match &said {
                Some(said) => flag(said),
                None => Ok(default),
            };
            match (wanted, said) {
                (Err(reason), Some(said)) => self.refuse(said, reason),
                (Ok(wanted), said) => {
                    list.extend(wanted.then_some(name));
                    sayers.extend(said);
                }
                (Err(_), None) => {}
            }
        }
        for said in sayers {
            if list.is_empty() {
                self.refuse(said, "there must be a family of addresses: IPv4, IPv6 or both");
            } else {
                self.map(&said, "spec.ipFamilies", json!(list), "");
            }
        }
    }

    /// Whether there are Events, and how often: one number here.
    fn drop_events(&mut self) {
        let all = std::mem::take(&mut self.drop_events);
        let (intervals, switches): (Vec<_>, Vec<_>) = all.into_iter().partition(|said| said.key.ends_with("interval"));
        let mut on = None;
        for said in &switches {
            match flag(said) {
                Ok(wanted) => on = Some(wanted),
                Err(reason) => self.refuse(said.clone(), reason),
            }
        }
        let path = "spec.flows.dropEventsSeconds";
        let mut seconds = json!(DROP_EVENTS_SECONDS);
        let mut sayers: Vec<Said> = switches;
        for said in intervals {
            match translated(&said, path) {
                Ok(values) => {
                    if let Some((_, value, _)) = values.into_iter().next() {
                        seconds = value;
                    }
                    sayers.push(said);
                }
                Err(reason) => self.refuse(said, reason),
            }
        }
        match on {
            Some(on) => {
                let seconds = if on { seconds } else { json!(0) };
                for said in sayers {
                    self.map(&said, path, seconds.clone(), "");
                }
            }
            // an interval of what is off by default
            None => self.out.meaningless.extend(sayers.into_iter().map(|said| Left {
                key: said.key,
                text: said.text,
                reason: "no Events of denials are switched on (hubble-drop-events)".to_owned(),
            })),
        }
    }

    /// Two tables there, one here: it has to hold what both held.
    fn conntrack(&mut self) {
        let all = std::mem::take(&mut self.conntrack);
        let mut sum = 0_i64;
        let mut sayers = Vec::new();
        for said in all {
            match said.text.parse::<i64>() {
                // 0: by the node's memory
                Ok(0) => self.out.meaningless.push(Left {
                    key: said.key,
                    text: said.text,
                    reason: "not set: the table has its default size".to_owned(),
                }),
                Ok(entries) => {
                    sum = sum.saturating_add(entries);
                    sayers.push(said);
                }
                Err(_) => self.refuse(said, "must be a whole number"),
            }
        }
        let note = if sayers.len() > 1 { "one table for all protocols: the sum of both" } else { "" };
        for said in sayers {
            self.map(&said, "spec.conntrack.maxEntries", json!(sum), note);
        }
    }

    /// Takes out what AxonemeConfig does not admit, by the functions that admission calls.
    fn judged(mut self) -> Migration {
        while let Err(errors) = config(&self.out.config()) {
            let mut wrong: BTreeMap<&'static str, String> = BTreeMap::new();
            for error in &errors.errors {
                let longest =
                    self.out.mapped.iter().filter(|m| below(&error.path, m.path)).max_by_key(|m| m.path.len());
                // what depends on several settings is told of the section
                let of = longest
                    .map(|m| m.path)
                    .or_else(|| self.out.mapped.iter().find(|m| below(m.path, &error.path)).map(|m| m.path));
                wrong.extend(of.map(|path| (path, error.message.clone())));
            }
            let paths: BTreeSet<_> = wrong.keys().copied().collect();
            let before = self.out.mapped.len();
            let (bad, good) = self.out.mapped.into_iter().partition(|m: &Mapped| paths.contains(m.path));
            self.out.mapped = good;
            self.out.refused.extend(bad.into_iter().map(|m: Mapped| {
                let reason = format!("{} {}: {}", m.path, m.value, wrong.get(m.path).map_or("", String::as_str));
                Left { key: m.key, text: m.text, reason }
            }));
            if self.out.mapped.len() == before {
                // nothing of this is to blame: who reads the settings hears of it
                break;
            }
        }
        self.out.refused.sort_by(|a, b| a.key.cmp(&b.key));
        self.out.meaningless.sort_by(|a, b| a.key.cmp(&b.key));
        self.out.mapped.sort_by(|a, b| (a.path, &a.key).cmp(&(b.path, &b.key)));
        self.out
    }
}

/// Whether a path is another one or in it.
fn below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// A path, its value, and what to know about it.
type Translated = (&'static str, Value, &'static str);

fn flag(said: &Said) -> Result<bool, String> {
    reading(said, |field| text::flag(field, &said.text))
}

/// What a setting makes of a path, and sometimes of its neighbours.
fn translated(said: &Said, path: &'static str) -> Result<Vec<Translated>, String> {
    if let Some(values) = cluster::setting(path, &said.key, &said.text) {
        return values;
    }
    let knob = knob(path).ok_or_else(|| format!("{path} cannot be read from here"))?;
    let value = reading(said, |field| value(field, cluster::key(path), knob, &said.text))?;
    let lacks = path == "spec.services.enabled" && value == json!(true);
    let note = if lacks { "NodePort, LoadBalancer and external addresses of services are not served yet" } else { "" };
    Ok(vec![(path, value, note)])
}

/// What the readers of text say, with their errors as sentences.
fn reading<T>(said: &Said, read: impl FnOnce(&Field<'_>) -> Option<T>) -> Result<T, String> {
    let object = Value::String(said.text.clone());
    let errors = Errors::default();
    let found = read(&Field::root(&object, &errors));
    let errors: Vec<String> = errors.into_vec().into_iter().map(|e| e.message).collect();
    found.ok_or_else(|| errors.join("; "))
}
