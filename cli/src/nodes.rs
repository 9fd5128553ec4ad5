//! `axoneme nodes` and `axoneme drift`: each node's datapath as the operator sees it, and what this node's kernel holds
//! that it should not.

use serde::Serialize;
use serde_json::Value;

use crate::{
    agent::Agent,
    args::{self, cluster},
    cluster::{Cluster, Fault},
    failure::Failure,
    kinds::{Resource, metadata},
    output::{Output, Tone},
    progress::Progress,
};

/// Paths of the agent's admin socket (`node-agent/src/admin.rs`).
const DRIFT: &str = "/drift";
const REPAIR: &str = "/repair";

/// Ends with 1 where a node is not ready.
pub fn nodes(args: &cluster::Nodes, out: &mut Output) -> Result<(), Failure> {
    let cluster = Cluster::new(&args.cluster)?;
    let resource = Resource::named("views.axoneme.io/v1alpha1", "Node", "nodes", false);
    let progress = Progress::start("asking the API server");
    let mut all = cluster.list(&resource, "", &args.selector).map_err(|fault| match fault {
        // who serves it is registered by the operator that leads
        Fault::Absent(_) => Failure::Answer(format!(
            "API server of {}: views.axoneme.io is not served: no operator leads, or the Service axoneme-views is gone; \
             kubectl get ciliumnodes lists the nodes without their state",
            cluster.place()
        )),
        fault => cluster.failed("nodes.views.axoneme.io", &fault),
    })?;
    drop(progress);
    all.retain(|node| args.names.is_empty() || args.names.iter().any(|name| name == metadata(node, "name")));
    let missing: Vec<&str> =
        args.names.iter().map(String::as_str).filter(|n| !all.iter().any(|o| metadata(o, "name") == *n)).collect();
    if !missing.is_empty() {
        return Err(Failure::Usage(format!("NODE: {}: no such node; axoneme nodes lists all", missing.join(", "))));
    }
    out.document(args.output, &all, |out, all| table(out, all))?;
    let well = all.iter().all(|node| text(node, "/status/state") == "Ready");
    if well { Ok(()) } else { Err(Failure::Unwell) }
}

fn text<'v>(node: &'v Value, path: &str) -> &'v str {
    node.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn list<'v>(node: &'v Value, path: &str) -> Vec<&'v str> {
    node.pointer(path).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

fn table(out: &mut Output, nodes: &[Value]) -> Result<(), Failure> {
    let number = |node: &Value, path: &str| {
        node.pointer(path).and_then(Value::as_u64).map_or_else(|| "-".to_owned(), |n| n.to_string())
    };
    let row = |node: &Value| {
        vec![
            metadata(node, "name").to_owned(),
            text(node, "/status/state").to_owned(),
            number(node, "/status/endpoints"),
            number(node, "/status/revision"),
            list(node, "/status/drift").len().to_string(),
            list(node, "/status/addresses").join(","),
            list(node, "/status/podCidrs").join(","),
        ]
    };
    out.table(&["NODE", "STATE", "PODS", "REVISION", "DRIFT", "ADDRESSES", "POD CIDRS"], nodes.iter().map(row))?;
    for node in nodes {
        let why = list(node, "/status/reasons").into_iter().chain(list(node, "/status/drift"));
        for line in why.chain(node.pointer("/status/unreachable").and_then(Value::as_str)) {
            let mark = out.tone(Tone::Bad, "✗");
            out.line(&format!("  {mark} {}: {line}", metadata(node, "name")))?;
        }
    }
    Ok(())
}

/// What the kernel holds that is not what is wanted.
#[derive(Debug, Serialize)]
struct Drifted {
    drift: Vec<String>,
    /// How many things were mended; none: it was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    repaired: Option<u64>,
}

/// Ends with 1 where there is drift, and it was not mended.
pub fn drift(agent: &Agent, args: &args::Drift, out: &mut Output) -> Result<(), Failure> {
    let progress = Progress::start("comparing the kernel with the rows");
    let drift: Vec<String> = agent.get(DRIFT)?;
    let repaired = if args.repair && !drift.is_empty() { Some(agent.post(REPAIR)?) } else { None };
    drop(progress);
    let report = Drifted { drift, repaired };
    out.document(args.output, &report, |out, report| {
        if report.drift.is_empty() {
            return out.line("no drift: the kernel holds what the rows say");
        }
        let mark = out.tone(Tone::Bad, "✗");
        report.drift.iter().try_for_each(|line| out.line(&format!("{mark} {line}")))?;
        match report.repaired {
            Some(count) => out.line(&format!("mended: {count}")),
            None => out.line("mend it: axoneme drift --repair"),
        }
    })?;
    if report.drift.is_empty() || report.repaired.is_some() { Ok(()) } else { Err(Failure::Unwell) }
}
