use axoneme_crds::{AxonemeConfigSpec, axoneme_config::LogLevel};
use serde_json::Value;

use crate::field::Field;

/// The CNI files on the nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Cni {
    /// Whether configurations of other plugins are put aside.
    pub exclusive: bool,
    /// Configurations of the plugins that run after ours; each is an object with a `type`.
    pub chained_plugins: Vec<Value>,
}

/// The agent on the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    pub log_level: LogLevel,
    /// Names of uplinks, `+` at the end for any characters; empty: found by route and address.
    pub devices: Vec<String>,
}

/// How nodes find out whether they reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeHealth {
    pub enabled: bool,
    /// Seconds between probes of the same node, before they grow with the number of nodes.
    pub interval_seconds: u32,
    /// Whether health endpoints are made and probed.
    pub endpoints: bool,
}

pub(super) fn node_health(spec: &Field<'_>) -> NodeHealth {
    let default = AxonemeConfigSpec::default().node_health;
    let field = spec.get("nodeHealth").filter(Field::object);
    let field = field.as_ref();
    NodeHealth {
        enabled: field.and_then(|f| f.get("enabled")?.bool()).unwrap_or(default.enabled),
        interval_seconds: field
            .and_then(|f| f.get("intervalSeconds")?.int(1..=3600))
            .unwrap_or(default.interval_seconds),
        endpoints: field.and_then(|f| f.get("endpoints")?.bool()).unwrap_or(default.endpoints),
    }
}

pub(super) fn cni(spec: &Field<'_>) -> Cni {
    let default = AxonemeConfigSpec::default().cni;
    let field = spec.get("cni");
    if let Some(field) = &field {
        field.object();
    }
    let field = field.as_ref();
    let plugins = field.and_then(|f| f.get("chainedPlugins"));
    Cni {
        exclusive: field.and_then(|f| f.get("exclusive")?.bool()).unwrap_or(default.exclusive),
        chained_plugins: plugins.iter().flat_map(Field::items).filter_map(|item| plugin(&item)).collect(),
    }
}

fn plugin(field: &Field<'_>) -> Option<Value> {
    if !field.object() {
        return None;
    }
    let kind = field.require("type")?;
    if kind.str()?.is_empty() {
        kind.invalid("must be the name of a CNI plugin, such as portmap");
    }
    Some(field.raw().clone())
}

pub(super) fn agent(spec: &Field<'_>) -> Agent {
    let default = AxonemeConfigSpec::default().agent;
    let field = spec.get("agent");
    if let Some(field) = &field {
        field.object();
    }
    let level = field.as_ref().and_then(|f| {
        f.get("logLevel")?.choice(&[
            ("Error", LogLevel::Error),
            ("Warn", LogLevel::Warn),
            ("Info", LogLevel::Info),
            ("Debug", LogLevel::Debug),
            ("Trace", LogLevel::Trace),
        ])
    });
    let devices = field.as_ref().and_then(|f| f.get("devices"));
    Agent {
        log_level: level.unwrap_or(default.log_level),
        devices: devices.iter().flat_map(Field::items).filter_map(|item| device(&item)).collect(),
    }
}

/// Names of Linux interfaces: 1 to 15 bytes, no slash, no blank (`dev_valid_name` of the kernel).
fn device(field: &Field<'_>) -> Option<String> {
    let text = field.str()?;
    let name = text.strip_suffix('+').unwrap_or(text);
    let good = (1..=15).contains(&name.len())
        && !name.contains(['/', ':'])
        && !name.contains(char::is_whitespace)
        && name != "."
        && name != "..";
    if !good {
        field.invalid("must be the name of a network interface of at most 15 characters, or its beginning and a +");
    }
    good.then(|| text.to_owned())
}
