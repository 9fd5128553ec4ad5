//! Which settings may differ from node to node, and why the others may not.
//!
//! A setting may differ if nothing but the node itself acts by it: its devices, its maps, its own kernel's routes and
//! source addresses, its agent. What both ends of a packet, the operator, or a policy's meaning depend on may not.

use serde_json::{Value, json};

use super::{Routing, Settings, datapath::Native};

/// How the value of a setting is written where all values are text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Flag,
    Number,
    /// Seconds, or a duration as Go writes them: `2h13m20s`.
    Seconds,
    Text,
    /// Items behind commas or blanks.
    List,
    /// JSON.
    Json,
}

/// A setting that may differ from node to node.
pub(crate) struct Knob {
    /// In AxonemeConfig.
    pub(crate) path: &'static str,
    pub(crate) shape: Shape,
    /// Takes the setting over.
    pub(crate) copy: fn(&mut Settings, &Settings),
    show: fn(&Settings) -> Value,
}

impl Knob {
    /// The value, as it is written where all values are text. None: it has no effect under these settings.
    fn text(&self, settings: &Settings) -> Option<String> {
        match (self.show)(settings) {
            Value::Null => None,
            Value::String(text) => Some(text),
            Value::Array(items) if self.shape == Shape::List => {
                Some(items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","))
            }
            other => Some(other.to_string()),
        }
    }
}

/// A setting in which a node differs from the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Path in AxonemeConfig.
    pub setting: &'static str,
    /// Values as text; empty: not set.
    pub value: String,
    pub cluster: String,
}

/// The difference that the setting of this path makes between a node's settings and the cluster's.
#[must_use]
pub fn difference(setting: &'static str, node: &Settings, cluster: &Settings) -> Option<Difference> {
    let knob = knob(setting)?;
    let (value, cluster) = (knob.text(node), knob.text(cluster));
    (value != cluster).then(|| Difference {
        setting,
        value: value.unwrap_or_default(),
        cluster: cluster.unwrap_or_default(),
    })
}

/// The setting of this path, if it may differ.
pub(crate) fn knob(path: &str) -> Option<&'static Knob> {
    KNOBS.iter().find(|k| k.path == path)
}

/// Why the setting of this path is that of the whole cluster.
pub(crate) fn cluster_wide(path: &str) -> Option<&'static str> {
    let below = |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    CLUSTER_WIDE.iter().find(|(prefix, _)| below(prefix)).map(|(_, why)| *why)
}

/// Settings that all nodes have alike, by the beginning of their paths.
pub(crate) const CLUSTER_WIDE: [(&str, &str); 9] = [
    ("spec.clusterName", "identities and certificates carry it"),
    ("spec.ipFamilies", "a pod must reach pods of all nodes, in the families that it has"),
    ("spec.routing.mode", "both ends of a packet between nodes must expect it in the same form"),
    ("spec.routing.overlay", "both ends of a tunnel must speak the same"),
    ("spec.routing.hybrid", "both ends of a packet between nodes must expect it in the same form"),
    ("spec.ipam", "the operator gives addresses to all nodes by one plan"),
    ("spec.policy", "what a policy means must not depend on the node that a pod lands on"),
    ("spec.hostFirewall", "the nodeSelector of a policy says which nodes it guards"),
    ("spec.nodeHealth", "nodes probe each other: one that took no part would count as lost"),
];

/// Settings of mode Native count in that mode only.
fn native(to: &mut Settings, from: &Settings, copy: impl FnOnce(&mut Native, &Native)) {
    if let (Routing::Native(to), Routing::Native(from)) = (&mut to.routing, &from.routing) {
        copy(to, from);
    }
}

fn natively(settings: &Settings, show: impl FnOnce(&Native) -> Value) -> Value {
    if let Routing::Native(native) = &settings.routing { show(native) } else { Value::Null }
}

macro_rules! knob {
    ($path:literal, Duration, $($field:ident).+) => {
        Knob {
            path: $path,
            shape: Shape::Seconds,
            copy: |to, from| to.$($field).+ = from.$($field).+,
            show: |s| json!(s.$($field).+.as_secs()),
        }
    };
    ($path:literal, $shape:ident, $($field:ident).+) => {
        Knob {
            path: $path,
            shape: Shape::$shape,
            copy: |to, from| to.$($field).+.clone_from(&from.$($field).+),
            show: |s| json!(s.$($field).+),
        }
    };
}

pub(crate) const KNOBS: &[Knob] = &[
    knob!("spec.mtu", Number, mtu),
    knob!("spec.podDevice", Text, pod_device),
    Knob {
        path: "spec.routing.native.ipv4CIDR",
        shape: Shape::Text,
        copy: |to, from| native(to, from, |to, from| to.ipv4_cidr = from.ipv4_cidr),
        show: |s| natively(s, |n| json!(n.ipv4_cidr.map(|c| c.to_string()).unwrap_or_default())),
    },
    Knob {
        path: "spec.routing.native.ipv6CIDR",
        shape: Shape::Text,
        copy: |to, from| native(to, from, |to, from| to.ipv6_cidr = from.ipv6_cidr),
        show: |s| natively(s, |n| json!(n.ipv6_cidr.map(|c| c.to_string()).unwrap_or_default())),
    },
    Knob {
        path: "spec.routing.native.autoDirectNodeRoutes",
        shape: Shape::Flag,
        copy: |to, from| native(to, from, |to, from| to.auto_direct_node_routes = from.auto_direct_node_routes),
        show: |s| natively(s, |n| json!(n.auto_direct_node_routes)),
    },
    knob!("spec.masquerade.ipv4", Flag, masquerade.ipv4),
    knob!("spec.masquerade.ipv6", Flag, masquerade.ipv6),
    Knob {
        path: "spec.masquerade.excludeCIDRs",
        shape: Shape::List,
        copy: |to, from| to.masquerade.exclude.clone_from(&from.masquerade.exclude),
        show: |s| s.masquerade.exclude.iter().map(ToString::to_string).collect(),
    },
    knob!("spec.services.enabled", Flag, services.enabled),
    knob!("spec.services.socketLB.enabled", Flag, services.socket_lb),
    knob!("spec.services.socketLB.hostNamespaceOnly", Flag, services.socket_lb_host_only),
    knob!("spec.conntrack.maxEntries", Number, conntrack.max_entries),
    knob!("spec.conntrack.tcpOpeningSeconds", Duration, conntrack.tcp_opening),
    knob!("spec.conntrack.tcpEstablishedSeconds", Duration, conntrack.tcp_established),
    knob!("spec.conntrack.tcpClosingSeconds", Duration, conntrack.tcp_closing),
    knob!("spec.conntrack.udpSeconds", Duration, conntrack.udp),
    knob!("spec.conntrack.otherSeconds", Duration, conntrack.other),
    knob!("spec.cni.exclusive", Flag, cni.exclusive),
    knob!("spec.cni.chainedPlugins", Json, cni.chained_plugins),
    knob!("spec.flows.bufferEvents", Number, flow_buffer_events),
    knob!("spec.flows.dropEventsSeconds", Seconds, drop_events_seconds),
    Knob {
        path: "spec.agent.logLevel",
        shape: Shape::Text,
        copy: |to, from| to.agent.log_level = from.agent.log_level,
        show: |s| json!(s.agent.log_level),
    },
    knob!("spec.agent.devices", List, agent.devices),
];

#[cfg(test)]
mod tests {
    use axoneme_crds::definition::schema_of;

    use super::*;

    fn settings(path: &str, schema: &Value, out: &mut Vec<String>) {
        let fields = schema["properties"].as_object().filter(|f| !f.is_empty());
        match fields {
            Some(fields) => fields.iter().for_each(|(name, s)| settings(&format!("{path}.{name}"), s, out)),
            None => out.push(path.to_owned()),
        }
    }

    /// Whoever adds a setting has to say whether nodes may differ in it, and why not.
    #[test]
    fn every_setting_may_differ_or_there_is_a_reason() {
        let schema = schema_of("axoneme.io/v1alpha1", "AxonemeConfig").unwrap();
        let mut all = Vec::new();
        settings("spec", &serde_json::to_value(schema).unwrap()["properties"]["spec"], &mut all);
        assert!(all.len() > 30, "{all:?}");
        for path in &all {
            assert!(knob(path).is_some() != cluster_wide(path).is_some(), "{path}");
        }
        for knob in KNOBS {
            assert!(all.iter().any(|path| path == knob.path), "{} is no setting", knob.path);
        }
        for (path, _) in CLUSTER_WIDE {
            assert!(all.iter().any(|setting| setting.starts_with(path)), "{path} is no setting");
        }
    }
}
