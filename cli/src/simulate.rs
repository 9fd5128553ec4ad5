//! `axoneme simulate`: what a change of policies would change, from manifests alone.
//!
//! The answer is [`axoneme_preview`]'s: tables by the operator's compiler, before and after.

use axoneme_model::{Kind, ObjectRef};
use axoneme_preview::{Changes, Limits, Line, Preview, preview};
use serde_json::Value;

use crate::{
    args,
    failure::Failure,
    lint,
    manifests::{self, Document},
    output::{Output, Tone},
    progress::Progress,
    world,
};

/// Names of a line that the table shows; the documents have more.
const NAMED: usize = 3;

pub fn run(args: &args::Simulate, out: &mut Output) -> Result<(), Failure> {
    let answer = {
        let progress = Progress::start("reading manifests");
        let now = manifests::load(&args.manifests, &progress)?;
        let change = manifests::load(&args.files, &progress)?;
        progress.say("compiling before and after".to_owned());
        judge(now, change, args.delete)?
    };
    out.document(args.output, &answer, table)
}

fn judge(mut now: Vec<Document>, change: Vec<Document>, delete: bool) -> Result<Preview, Failure> {
    let (policies, others): (Vec<Document>, Vec<Document>) = change.into_iter().partition(is_policy);
    let mut caveats = Vec::new();
    let mut taken = others.iter().filter_map(|d| name(d.object.as_ref().ok()?)).collect::<Vec<_>>();
    if !taken.is_empty() {
        taken.sort();
        caveats.push(format!("no policy, and taken as there before and after: {}", taken.join(", ")));
    }
    now.extend(others);
    let described = world::build(&now);
    let changed = world::build_under(lint::options(&now), &policies);
    caveats.extend(described.caveats);
    caveats.extend(changed.caveats);
    let changes: Changes = if delete {
        changed.world.policies.into_keys().map(|object| (object, None)).collect()
    } else {
        changed.world.policies.into_iter().map(|(object, policy)| (object, Some(policy))).collect()
    };
    if changes.is_empty() {
        let what = "no policy there that can be read; axoneme lint says what is wrong with it";
        return Err(Failure::Usage(format!("--filename: {what}{}", said(&caveats))));
    }
    if let Some(gone) = changes.keys().find(|o| delete && !described.world.policies.contains_key(o)) {
        caveats.push(format!("{gone} is not among the manifests: there is nothing to delete"));
    }
    let mut answer = preview(&described.world, &changes, &Limits::default());
    caveats.append(&mut answer.caveats);
    Ok(Preview { caveats, ..answer })
}

fn said(caveats: &[String]) -> String {
    caveats.iter().fold(String::new(), |all, caveat| all + "; " + caveat)
}

/// Whether the document is to be a change. What is not YAML is one that can't be read.
fn is_policy(document: &Document) -> bool {
    let Ok(object) = &document.object else { return true };
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    let kinds = [
        Kind::NetworkPolicy,
        Kind::ClusterNetworkPolicy,
        Kind::CiliumNetworkPolicy,
        Kind::CiliumClusterwideNetworkPolicy,
    ];
    kinds.iter().any(|k| k.as_str() == kind)
}

/// `Kind namespace/name` of any object.
fn name(object: &Value) -> Option<String> {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str);
    let (kind, name) = (text("/kind")?, text("/metadata/name")?);
    Some(match (Kind::from_name(kind), text("/metadata/namespace")) {
        (Some(known), namespace) => ObjectRef::new(known, namespace.unwrap_or_default(), name).to_string(),
        (None, Some(namespace)) => format!("{kind} {namespace}/{name}"),
        (None, None) => format!("{kind} {name}"),
    })
}

fn table(out: &mut Output, answer: &Preview) -> Result<(), Failure> {
    for policy in &answer.policies {
        out.line(&format!("{}: {}", out.tone(Tone::Strong, &policy.policy), policy.change))?;
    }
    let Preview { selected, affected, entries, .. } = answer;
    let sizes = format!("table entries {} -> {}", entries.before, entries.after);
    out.line(&format!("{affected} of {selected} selected pods would change; {sizes}"))?;
    if !answer.lines.is_empty() {
        let cell = |list: &[String]| if list.is_empty() { "-".to_owned() } else { list.join(", ") };
        let rows = answer.lines.iter().map(|l| {
            let Line { pods, pod_count, direction, peers, peer_count, gains, loses, rules } = l;
            vec![
                few(pods, *pod_count),
                direction.clone(),
                few(peers, *peer_count),
                cell(gains),
                cell(loses),
                if rules.is_empty() { "no policy".to_owned() } else { rules.join("; ") },
            ]
        });
        out.table(&["POD", "DIRECTION", "PEER", "GAINS", "LOSES", "BY"], rows)?;
    }
    if answer.more > 0 {
        out.line(&format!("and {} more lines", answer.more))?;
    }
    for caveat in &answer.caveats {
        out.line(&format!("{} {caveat}", out.tone(Tone::Attention, "!")))?;
    }
    Ok(())
}

fn few(names: &[String], count: usize) -> String {
    let shown: Vec<&str> = names.iter().take(NAMED).map(String::as_str).collect();
    let more = count.saturating_sub(shown.len());
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}
