//! `axoneme config diff` and `plan`: what a file's settings would change, where and how.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::{
    empty,
    fields::{at, in_force, settings},
    impact::{Change, change},
    of_file, shown, stored, view,
};
use crate::{
    args::cluster,
    cluster::Cluster,
    failure::Failure,
    kinds::metadata,
    output::{Output, Tone},
    progress::Progress,
};

/// A setting that would be another one.
#[derive(Debug, Serialize)]
struct Difference {
    path: String,
    now: Value,
    then: Value,
}

/// What a change would do.
#[derive(Debug, Serialize)]
struct Step {
    path: String,
    now: Value,
    then: Value,
    change: Change,
    #[serde(skip_serializing_if = "str::is_empty")]
    note: &'static str,
    /// Nodes that it would reach.
    nodes: Vec<String>,
    /// Nodes that have the setting of their own, and so keep it.
    unaffected: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Plan {
    steps: Vec<Step>,
    /// How many nodes there are.
    nodes: usize,
}

/// Ends with 1 where there are differences, as other programs of this name do.
pub(super) fn diff(args: &cluster::Diff, out: &mut Output) -> Result<(), Failure> {
    let file = of_file(&args.file)?;
    let cluster = Cluster::new(&args.cluster)?;
    let differences = differences(&stored(&cluster)?.unwrap_or_else(empty), &file)?;
    out.document(args.output, &differences, |out, differences| {
        if differences.is_empty() {
            return out.line("no difference");
        }
        let rows = differences.iter().map(|d| vec![d.path.clone(), shown(&d.now), shown(&d.then)]);
        out.table(&["SETTING", "CLUSTER", "FILE"], rows)
    })?;
    if differences.is_empty() { Ok(()) } else { Err(Failure::Unwell) }
}

/// Ends with 1 where a change would be refused.
pub(super) fn plan(args: &cluster::Diff, out: &mut Output) -> Result<(), Failure> {
    let file = of_file(&args.file)?;
    let cluster = Cluster::new(&args.cluster)?;
    let differences = differences(&stored(&cluster)?.unwrap_or_else(empty), &file)?;
    let progress = Progress::start("asking for the nodes");
    let nodes = view::nodes(&cluster)?;
    drop(progress);
    let plan = planned(differences, &nodes);
    out.document(args.output, &plan, table)?;
    let refused = plan.steps.iter().any(|s| s.change == Change::Refused);
    if refused { Err(Failure::Unwell) } else { Ok(()) }
}

/// As if the object were the file's: what it leaves out has its default.
fn differences(now: &Value, file: &Value) -> Result<Vec<Difference>, Failure> {
    let unread = || Failure::Answer("AxonemeConfig default is not understood; see: axoneme version".to_owned());
    let (now, then) = (in_force(now).ok_or_else(unread)?, in_force(file).ok_or_else(unread)?);
    let paths = settings().into_keys().filter(|path| at(&now, path) != at(&then, path));
    Ok(paths.map(|path| Difference { now: at(&now, &path).clone(), then: at(&then, &path).clone(), path }).collect())
}

fn planned(differences: Vec<Difference>, nodes: &[Value]) -> Plan {
    let own: BTreeMap<String, Vec<String>> =
        nodes.iter().map(|n| (metadata(n, "name").to_owned(), view::own_of(n))).collect();
    let step = |d: Difference| {
        let (change, note) = change(&d.path, &d.now, &d.then);
        let (unaffected, reached): (Vec<_>, Vec<_>) = own.iter().partition(|(_, settings)| settings.contains(&d.path));
        let names = |of: Vec<(&String, &Vec<String>)>| of.into_iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let nodes = if change == Change::Refused { Vec::new() } else { names(reached) };
        Step { path: d.path, now: d.now, then: d.then, change, note, nodes, unaffected: names(unaffected) }
    };
    Plan { steps: differences.into_iter().map(step).collect(), nodes: own.len() }
}

fn table(out: &mut Output, plan: &Plan) -> Result<(), Failure> {
    if plan.steps.is_empty() {
        return out.line("nothing would change");
    }
    for step in &plan.steps {
        let tone = match step.change {
            Change::Live | Change::NewPods => Tone::Good,
            Change::Rolling => Tone::Attention,
            Change::Refused => Tone::Bad,
        };
        let (path, how) = (out.tone(Tone::Strong, &step.path), out.tone(tone, step.change.as_str()));
        out.line(&format!("{path}: {} → {}", shown(&step.now), shown(&step.then)))?;
        out.line(&format!("  change: {how}{}", said(step.note)))?;
        out.line(&format!("  nodes:  {}", reached(step, plan.nodes)))?;
        if !step.unaffected.is_empty() {
            out.line(&format!("  not on: {} (a CiliumNodeConfig says it there)", some(&step.unaffected)))?;
        }
    }
    Ok(())
}

fn said(note: &str) -> String {
    if note.is_empty() { String::new() } else { format!("; {note}") }
}

fn reached(step: &Step, all: usize) -> String {
    match step.nodes.len() {
        0 => "none".to_owned(),
        n if n == all => format!("all {n}"),
        n => format!("{n} of {all}: {}", some(&step.nodes)),
    }
}

/// The first few by name.
fn some(names: &[String]) -> String {
    const NAMED: usize = 5;
    let more = names.len().saturating_sub(NAMED);
    let named = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}
