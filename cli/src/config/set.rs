//! `axoneme config set`: a change of single settings.
//!
//! A server-side apply says everything that a manager has set, so what this program has set before goes along: its fields
//! are read from the object's managed fields. Settings of others stay theirs; a field that another has set is a conflict
//! that names the manager.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    admitted, empty,
    fields::{self, Shape, at, below, in_force, own, owner, owners, put, settings, take},
    impact::{Change, change},
    resource, shown, stored, told,
};
use crate::{
    args::cluster::Set,
    cluster::{Cluster, Fault},
    failure::Failure,
    output::{Output, Tone},
    progress::Progress,
};

/// How often an object that is waited for is asked.
const POLL: Duration = Duration::from_millis(500);

/// What is asked for: a value, or the default.
#[derive(Debug, PartialEq)]
struct Wish {
    path: String,
    value: Option<Value>,
}

#[derive(Debug, Serialize)]
struct Report {
    dry_run: bool,
    generation: i64,
    changes: Vec<Changed>,
}

#[derive(Debug, Serialize)]
struct Changed {
    path: String,
    from: Value,
    to: Value,
    change: Change,
    note: &'static str,
}

pub(super) fn run(args: &Set, out: &mut Output) -> Result<(), Failure> {
    let wishes = wishes(&args.settings)?;
    let cluster = Cluster::new(&args.cluster)?;
    let before = stored(&cluster)?.unwrap_or_else(empty);
    let object = wanted(&before, &wishes)?;
    let progress = Progress::start("applying the AxonemeConfig");
    let after = cluster
        .apply(&resource(), &object, args.force_conflicts, args.dry_run)
        .map_err(|fault| refused(&cluster, &fault, &before, &wishes))?;
    drop(progress);
    let report = report(&before, &after, args.dry_run)?;
    out.document(args.output, &report, table)?;
    match args.wait {
        Some(seconds) if !args.dry_run => wait(&cluster, report.generation, Duration::from_secs(seconds)),
        _ => Ok(()),
    }
}

/// The words of the command line. All that are wrong are told at once.
fn wishes(words: &[String]) -> Result<Vec<Wish>, Failure> {
    let all = settings();
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    for word in words {
        match wish(&all, word) {
            Ok(wish) => out.push(wish),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(out) } else { Err(Failure::Usage(errors.join("\n"))) }
}

fn wish(all: &BTreeMap<String, Shape>, word: &str) -> Result<Wish, String> {
    let (path, text) = match (word.split_once('='), word.strip_suffix('-')) {
        (Some((path, text)), _) => (path, Some(text)),
        (None, Some(path)) => (path, None),
        (None, None) => {
            return Err(format!("PATH=VALUE: {word:?}: must be spec.mtu=1400, or spec.mtu- for the default"));
        }
    };
    let Some(shape) = all.get(path) else {
        return Err(format!("PATH=VALUE: {path:?}: no such setting{}", near(all, path)));
    };
    let value = text.map(|text| fields::value(*shape, text)).transpose();
    Ok(Wish {
        path: path.to_owned(),
        value: value.map_err(|e| format!("{path}: {:?}: {e}", text.unwrap_or_default()))?,
    })
}

/// What to write instead of a path that is none.
pub(super) fn near(all: &BTreeMap<String, Shape>, path: &str) -> String {
    let inside: Vec<_> = all.keys().filter(|s| below(s, path)).map(String::as_str).collect();
    if !inside.is_empty() && !path.is_empty() {
        return format!("; it is a section with {}", inside.join(", "));
    }
    let distance = |s: &&String| strsim::osa_distance(&s.to_lowercase(), &path.to_lowercase());
    let end = |s: &&String| path.rsplit('.').next().is_some_and(|leaf| s.ends_with(&format!(".{leaf}")));
    let nearest = all.keys().find(end).or_else(|| all.keys().min_by_key(distance).filter(|s| distance(s) <= 4));
    nearest.map_or_else(|| "; axoneme config view lists all".to_owned(), |s| format!("; did you mean {s}?"))
}

/// What this program applies: what it has set before, with the wishes, if the whole object is admitted with them.
fn wanted(before: &Value, wishes: &[Wish]) -> Result<Value, Failure> {
    let mut ours = empty();
    for path in own(before).iter().filter(|path| *path != "spec") {
        put(&mut ours, path, at(before, path).clone());
    }
    let mut whole = before.clone();
    let owners = owners(before);
    for wish in wishes {
        if let Some(value) = &wish.value {
            put(&mut ours, &wish.path, value.clone());
            put(&mut whole, &wish.path, value.clone());
        } else {
            let others = owner(&owners, &wish.path).filter(|o| *o != crate::cluster::MANAGER);
            if let Some(other) = others {
                let what = "it is for that manager to take its value back; or set another one with --force-conflicts";
                return Err(Failure::Usage(format!("{}: set by {other}: {what}", wish.path)));
            }
            take(&mut ours, &wish.path);
            take(&mut whole, &wish.path);
        }
    }
    ours.as_object_mut().map(|o| o.entry("spec").or_insert_with(|| json!({})));
    admitted(&whole).map_err(|errors| Failure::Usage(told(&errors)))?;
    Ok(ours)
}

/// The API server's refusal, with the managers that a conflict is with.
fn refused(cluster: &Cluster, fault: &Fault, before: &Value, wishes: &[Wish]) -> Failure {
    if let Fault::Conflict(message) = fault {
        let owners = owners(before);
        let said = wishes.iter().filter_map(|w| Some(format!("{} is set by {}", w.path, owner(&owners, &w.path)?)));
        let said: Vec<_> = said.collect();
        let mend = "change it there, or take it over with --force-conflicts";
        return Failure::Answer(format!("AxonemeConfig default: {message}\n  {}\n  {mend}", said.join("\n  ")));
    }
    cluster.failed("AxonemeConfig default", fault)
}

fn report(before: &Value, after: &Value, dry_run: bool) -> Result<Report, Failure> {
    let unread = || Failure::Answer("AxonemeConfig default is not understood; see: axoneme version".to_owned());
    let (then, now) = (in_force(before).ok_or_else(unread)?, in_force(after).ok_or_else(unread)?);
    let generation = after.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default();
    Ok(Report { dry_run, generation, changes: differences(&then, &now) })
}

/// The settings in which two objects differ.
fn differences(then: &Value, now: &Value) -> Vec<Changed> {
    let paths = settings().into_keys().filter(|path| at(then, path) != at(now, path));
    let one = |path: String| {
        let (from, to) = (at(then, &path).clone(), at(now, &path).clone());
        let (change, note) = change(&path, &from, &to);
        Changed { path, from, to, change, note }
    };
    paths.map(one).collect()
}

fn table(out: &mut Output, report: &Report) -> Result<(), Failure> {
    let suffix = if report.dry_run { " (dry run: nothing was stored)" } else { "" };
    if report.changes.is_empty() {
        return out.line(&format!("unchanged{suffix}"));
    }
    for c in &report.changes {
        let path = out.tone(Tone::Strong, &c.path);
        let note = if c.note.is_empty() { String::new() } else { format!("; {}", c.note) };
        out.line(&format!("{path}: {} → {}  ({}{note})", shown(&c.from), shown(&c.to), c.change.as_str()))?;
    }
    out.line(&format!("generation {}{suffix}", report.generation))
}

/// Until all nodes have acknowledged the generation, or a newer one.
fn wait(cluster: &Cluster, generation: i64, patience: Duration) -> Result<(), Failure> {
    let progress = Progress::start("waiting for the nodes");
    let deadline = Instant::now() + patience;
    loop {
        let object = stored(cluster)?.unwrap_or_else(empty);
        let status = object.get("status").cloned().unwrap_or_default();
        let number = |path: &str| status.pointer(path).and_then(Value::as_i64).unwrap_or_default();
        let (applied, total) = (number("/nodes/applied"), number("/nodes/total"));
        if number("/observedGeneration") >= generation && applied >= total {
            return Ok(());
        }
        progress.say(format!("generation {generation} is in force on {applied} of {total} nodes"));
        if Instant::now() >= deadline {
            eprintln!(
                "axoneme: generation {generation} is in force on {applied} of {total} nodes after {} s; axoneme status on \
                 a node tells why",
                patience.as_secs()
            );
            return Err(Failure::Unwell);
        }
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn before() -> Value {
        json!({"apiVersion": "axoneme.io/v1alpha1", "kind": "AxonemeConfig", "metadata": {"name": "default",
            "managedFields": [
                {"manager": "flux", "operation": "Apply", "fieldsV1": {"f:spec": {"f:routing": {"f:mode": {}}}}},
                {"manager": "axoneme-cli", "operation": "Apply", "fieldsV1": {"f:spec": {"f:mtu": {},
                    "f:agent": {"f:devices": {"v:\"eth0\"": {}}}}}},
            ]},
            "spec": {"mtu": 1400, "routing": {"mode": "Native"}, "agent": {"devices": ["eth0"], "logLevel": "Info"}}})
    }

    fn message(failure: &Failure) -> String {
        failure.message().unwrap_or_default().to_owned()
    }

    #[test]
    fn what_was_set_before_goes_along_and_what_others_set_does_not() {
        let wishes = wishes(&["spec.policy.enforcement=Always".into(), "spec.mtu-".into()]).unwrap();
        let object = wanted(&before(), &wishes).unwrap();
        assert_eq!(object["spec"], json!({"agent": {"devices": ["eth0"]}, "policy": {"enforcement": "Always"}}));
    }

    #[test]
    fn everything_that_is_wrong_is_told_with_the_choice() {
        let error = message(&wishes(&["spec.mtuu=1".into(), "routing=x".into(), "mode".into()]).unwrap_err());
        assert!(error.contains("did you mean spec.mtu?"), "{error}");
        assert!(error.contains("\"routing\": no such setting"), "{error}");
        assert!(error.contains("\"mode\": must be"), "{error}");
        let all = settings();
        assert!(near(&all, "spec.routing.native").contains("section with spec.routing.native.autoDirectNodeRoutes"));
        assert!(near(&all, "spec.logLevel").contains("spec.agent.logLevel"));
        let wrong = wishes(&["spec.mtu=12".into(), "spec.routing.mode=Magic".into()]).unwrap();
        let error = message(&wanted(&before(), &wrong).unwrap_err());
        assert!(error.contains("spec.mtu: 12: ") && error.contains("spec.routing.mode: \"Magic\": "), "{error}");
    }

    #[test]
    fn the_default_of_what_another_has_set_is_that_ones_to_take_back() {
        let wishes = wishes(&["spec.routing.mode-".into()]).unwrap();
        let error = message(&wanted(&before(), &wishes).unwrap_err());
        assert!(error.starts_with("spec.routing.mode: set by flux"), "{error}");
    }
}
