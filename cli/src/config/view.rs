//! `axoneme config view`.

use serde::Serialize;
use serde_json::Value;

use super::{
    empty,
    fields::{self, at, below, in_force, owner, owners, settings},
    shown, stored,
};
use crate::{
    args::cluster::View,
    cluster::Cluster,
    failure::Failure,
    kinds::{Resource, metadata},
    output::{Output, Tone},
    progress::Progress,
};

#[derive(Debug, Serialize)]
struct Report {
    /// Whether there is an AxonemeConfig.
    stored: bool,
    generation: i64,
    /// What the operator says against it; empty: nothing. It goes on by the last good version then.
    #[serde(skip_serializing_if = "String::is_empty")]
    invalid: String,
    /// Nodes that run with it, of how many; none: the operator has not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    nodes: Option<Value>,
    settings: Vec<Setting>,
}

#[derive(Debug, Serialize)]
struct Setting {
    path: String,
    value: Value,
    /// `default`, or who has set it in the AxonemeConfig.
    from: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    overrides: Vec<Override>,
}

/// What a node has of its own.
#[derive(Clone, Debug, Serialize)]
struct Override {
    node: String,
    value: String,
    from: String,
}

pub(super) fn run(args: &View, out: &mut Output) -> Result<(), Failure> {
    let all = settings();
    if let Some(path) = args.path.as_deref().filter(|p| !all.keys().any(|s| below(s, p))) {
        return Err(Failure::Usage(format!("PATH: {path:?}: no such setting{}", super::set::near(&all, path))));
    }
    let cluster = Cluster::new(&args.cluster)?;
    let object = stored(&cluster)?;
    let overrides = overrides(&cluster)?;
    let report = report(object.as_ref(), &overrides, args)?;
    out.document(args.output, &report, table)
}

fn report(object: Option<&Value>, overrides: &[(String, Override)], args: &View) -> Result<Report, Failure> {
    let empty = empty();
    let (here, defaults) = (object.unwrap_or(&empty), in_force(&empty));
    let (Some(now), Some(defaults)) = (in_force(here), defaults) else {
        return Err(Failure::Answer("AxonemeConfig default is not understood; see: axoneme version".to_owned()));
    };
    let owners = owners(here);
    let mut listed = Vec::new();
    for path in settings().into_keys() {
        let value = at(&now, &path).clone();
        let of_nodes: Vec<_> =
            overrides.iter().filter(|(setting, _)| *setting == path).map(|(_, o)| o.clone()).collect();
        let is_default = value == *at(&defaults, &path);
        let wanted = args.path.as_deref().is_none_or(|p| below(&path, p));
        if !wanted || args.changed && is_default && of_nodes.is_empty() {
            continue;
        }
        let from = match owner(&owners, &path) {
            Some(manager) => format!("AxonemeConfig, set by {manager}"),
            None if is_default => "default".to_owned(),
            None => "AxonemeConfig".to_owned(),
        };
        listed.push(Setting { path, value, from, overrides: of_nodes });
    }
    Ok(Report {
        stored: object.is_some(),
        generation: here.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default(),
        invalid: invalid(here),
        nodes: here.pointer("/status/nodes").cloned(),
        settings: listed,
    })
}

/// The message of a condition `Valid` that is false.
fn invalid(object: &Value) -> String {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    let text = |c: &Value, key: &str| c.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut bad = conditions.filter(|c| text(c, "type") == "Valid" && text(c, "status") == "False");
    bad.next().map(|c| text(c, "message")).unwrap_or_default()
}

/// What nodes have of their own, by setting.
fn overrides(cluster: &Cluster) -> Result<Vec<(String, Override)>, Failure> {
    let _progress = Progress::start("asking for what nodes have of their own");
    Ok(of_nodes(&nodes(cluster)?))
}

/// All CiliumNodes; none where the kind is not there yet.
pub(super) fn nodes(cluster: &Cluster) -> Result<Vec<Value>, Failure> {
    let resource = Resource::named("cilium.io/v2", "CiliumNode", "ciliumnodes", false);
    match cluster.list(&resource, "", "") {
        Ok(all) => Ok(all),
        Err(crate::cluster::Fault::Absent(_)) => Ok(Vec::new()),
        Err(fault) => Err(cluster.failed("CiliumNodes", &fault)),
    }
}

fn of_nodes(nodes: &[Value]) -> Vec<(String, Override)> {
    let mut all = Vec::new();
    for node in nodes {
        let list = node.pointer("/status/overrides").and_then(Value::as_array);
        for said in list.into_iter().flatten() {
            let text = |key: &str| said.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let from = format!("CiliumNodeConfig {}", text("from"));
            let one = Override { node: metadata(node, "name").to_owned(), value: text("value"), from };
            all.push((text("setting"), one));
        }
    }
    all
}

/// The settings that a node has of its own.
pub(super) fn own_of(node: &Value) -> Vec<String> {
    of_nodes(std::slice::from_ref(node)).into_iter().map(|(setting, _)| setting).collect()
}

fn table(out: &mut Output, report: &Report) -> Result<(), Failure> {
    if !report.stored {
        out.line("there is no AxonemeConfig: every setting has its default")?;
    }
    if !report.invalid.is_empty() {
        let mark = out.tone(Tone::Bad, "✗");
        out.line(&format!("{mark} generation {} is not in force: {}", report.generation, report.invalid))?;
    }
    if let Some(nodes) = &report.nodes {
        let count = |key| fields::at(nodes, key).as_i64().unwrap_or_default();
        out.line(&format!("in force on {} of {} nodes", count("applied"), count("total")))?;
    }
    let mut rows = Vec::new();
    for setting in &report.settings {
        rows.push(vec![setting.path.clone(), shown(&setting.value), setting.from.clone()]);
        let of_nodes = setting.overrides.iter();
        rows.extend(of_nodes.map(|o| vec![format!("  on {}", o.node), o.value.clone(), o.from.clone()]));
    }
    out.table(&["SETTING", "VALUE", "FROM"], rows)
}
