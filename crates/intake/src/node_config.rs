//! CiliumNodeConfig (`cilium.io/v2`): settings of some nodes, translated into those of AxonemeConfig.

pub(crate) mod text;

use std::collections::{BTreeMap, BTreeSet};

use axoneme_crds::axoneme_config::{Successor, successor};
use axoneme_model::{
    Kind, ObjectRef, Selector,
    world::{PlainLabels, matches_plain},
};
use serde_json::{Value, json};

use crate::{
    config::{
        Settings,
        knob::{KNOBS, Knob, cluster_wide, knob},
        partial,
    },
    error::ObjectErrors,
    field::{Field, nearest},
    pod_ip_pool::plain_selector,
    read,
};

/// Seconds between Events of the same denial where `hubble-drop-events` says only that there are some: Cilium's default.
pub(crate) const DROP_EVENTS_SECONDS: u32 = 120;

/// Settings of some nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeConfig {
    pub object: ObjectRef,
    /// None selects no node; an empty one all.
    pub nodes: Option<Selector>,
    /// The paths in AxonemeConfig of the settings that it has.
    pub paths: BTreeSet<&'static str>,
    /// These settings; all others are defaults, which mean nothing.
    settings: Settings,
}

impl NodeConfig {
    /// Whether it is about a node with these labels.
    #[must_use]
    pub fn selects(&self, labels: &PlainLabels) -> bool {
        self.nodes.as_ref().is_some_and(|nodes| matches_plain(nodes, labels))
    }

    /// Lays its settings over others.
    pub fn apply(&self, settings: &mut Settings) {
        for knob in self.paths.iter().filter_map(|path| knob(path)) {
            (knob.copy)(settings, &self.settings);
        }
    }
}

/// Reads a CiliumNodeConfig. A setting that can't differ from node to node, or that there is not, is an error that says
/// why or what to write instead.
pub fn node_config(object: &Value) -> Result<NodeConfig, ObjectErrors> {
    read(object, Kind::CiliumNodeConfig, |root, meta| {
        root.only(&["apiVersion", "kind", "metadata", "spec", "status"]);
        let mut config = NodeConfig {
            object: meta.object.clone(),
            nodes: None,
            paths: BTreeSet::new(),
            settings: Settings::default(),
        };
        if let Some(spec) = root.require("spec") {
            spec.only(&["defaults", "nodeSelector"]);
            config.nodes = spec.get("nodeSelector").map(|s| plain_selector(&s));
            if let Some(defaults) = spec.require("defaults") {
                (config.paths, config.settings) = settings(&defaults);
            }
        }
        (config, None)
    })
}

fn settings(defaults: &Field<'_>) -> (BTreeSet<&'static str>, Settings) {
    let mut said: BTreeMap<&'static str, (Field<'_>, Value)> = BTreeMap::new();
    let mut drop_events = None;
    for (key, field) in defaults.entries() {
        let Some(text) = field.str().map(str::trim) else { continue };
        if key == "hubble-drop-events" {
            drop_events = text::flag(&field, text).map(|wanted| (field, wanted));
            continue;
        }
        let Some((knob, value)) = meaning(&field, key, text) else { continue };
        match said.get(knob.path) {
            Some((other, before)) if *before != value => {
                field.invalid(format!("{} is one setting, of which {} says {before}", knob.path, other.name()));
            }
            _ => drop(said.insert(knob.path, (field, value))),
        }
    }
    if let Some((field, wanted)) = drop_events {
        let seconds = if wanted { DROP_EVENTS_SECONDS } else { 0 };
        let said = said.entry("spec.flows.dropEventsSeconds").or_insert((field, json!(seconds)));
        if !wanted {
            said.1 = json!(0);
        }
    }
    let (settings, errors) = partial(said.iter().map(|(path, (_, value))| (*path, value)));
    for error in errors {
        // the longest path that the error is below
        let of = said.iter().rev().find(|(path, _)| error.path.starts_with(**path));
        match of {
            Some((_, (field, _))) => field.invalid(error.message),
            None => defaults.report(error.path, error.message),
        }
    }
    (said.into_keys().collect(), settings)
}

/// The setting that a key stands for, and its value.
fn meaning(field: &Field<'_>, key: &str, text: &str) -> Option<(&'static Knob, Value)> {
    let path = match key {
        "mtu" => "spec.mtu",
        own if own.starts_with("spec.") => own,
        "enable-ip-masq-agent" => {
            field.invalid("no such setting; use spec.masquerade.excludeCIDRs, with prefixes behind commas");
            return None;
        }
        _ => match successor(key).filter(|_| is_key(key)) {
            Some(Successor::Setting(path)) => path,
            Some(Successor::Gone(reason) | Successor::Missing(reason) | Successor::Removed(reason)) => {
                field.invalid(format!("no such setting; {reason}"));
                return None;
            }
            None => {
                field.invalid(
                    "no such setting; keys are those of Cilium's ConfigMap that mean something here, and paths of \
                     AxonemeConfig such as spec.mtu",
                );
                return None;
            }
        },
    };
    if let Some(knob) = knob(path) {
        return Some((knob, value(field, key, knob, text)?));
    }
    let why = cluster_wide(path).map(|why| format!("all nodes have the same {path}: {why}"));
    field.invalid(why.unwrap_or_else(|| {
        let near = nearest(path, KNOBS.iter().map(|k| k.path));
        format!("no such setting{}", near.map(|n| format!("; did you mean {n}?")).unwrap_or_default())
    }));
    None
}

/// Whether it is spelled as keys of Cilium's ConfigMap are, and not as values of its Helm chart.
fn is_key(key: &str) -> bool {
    key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// The value that a text stands for: by the key where Cilium spells it in its own way, else by the setting's shape.
pub(crate) fn value(field: &Field<'_>, key: &str, knob: &Knob, text: &str) -> Option<Value> {
    match key {
        "debug" => text::flag(field, text).map(|on| json!(if on { "Debug" } else { "Info" })),
        "cni-chaining-mode" => match text {
            "none" | "" => Some(json!([])),
            "portmap" => Some(json!([{"type": "portmap", "capabilities": {"portMappings": true}}])),
            _ => {
                field.invalid("must be none or portmap; other plugins are listed in spec.cni.chainedPlugins");
                None
            }
        },
        "datapath-mode" => match text {
            "veth" => Some(json!("Veth")),
            // there is one mode, and a node without netkit has veth in any case
            "netkit" | "netkit-l2" | "auto" => Some(json!("Netkit")),
            _ => {
                field.invalid("must be veth, netkit, netkit-l2 or auto");
                None
            }
        },
        // derived from the device
        "mtu" if text == "0" => Some(Value::Null),
        _ => text::value(field, knob.shape, text),
    }
}
