//! `axoneme install`, `upgrade` and `uninstall`: the product on a cluster, from the manifests of `deploy/`.
//!
//! ```text
//!   deploy/ (at build time) ─▶ manifests ─▶ steps in order ─▶ server-side apply ─▶ rollout
//! ```
//!
//! Nothing is remembered outside of the cluster: a run looks at what is there and does the rest, so one that was
//! interrupted is finished by the same command, and one too many changes nothing.

pub mod manifests;
mod remove;
mod rollout;

use std::{path::PathBuf, time::Duration};

use serde::Serialize;
use serde_json::{Value, json};

use self::manifests::{Stage, Step};
pub use self::remove::uninstall;
use crate::{
    args::cluster::{Install, Upgrade},
    cluster::{Cluster, Fault},
    config,
    failure::Failure,
    kinds::{Resource, metadata, title},
    output::{Output, Tone},
    progress::Progress,
};

/// Where everything is that lives in a namespace.
pub const NAMESPACE: &str = "axoneme-system";
/// Between tries of a request that the API server could not answer. Then it is given up.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(3)];
/// How long new kinds may take until they are served.
const SERVED: Duration = Duration::from_mins(1);

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Outcome {
    Created,
    Changed,
    Unchanged,
    /// It is there, and is not the product's.
    LeftAlone,
}

impl Outcome {
    fn word(self, dry_run: bool) -> &'static str {
        match (self, dry_run) {
            (Self::Created, false) => "created",
            (Self::Created, true) => "would be created",
            (Self::Changed, false) => "changed",
            (Self::Changed, true) => "would be changed",
            (Self::Unchanged, _) => "unchanged",
            (Self::LeftAlone, _) => "left alone (it is there already, and is not Axoneme's)",
        }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    cluster: String,
    dry_run: bool,
    objects: Vec<Done>,
    /// Whether what runs was waited for until it was ready.
    waited: bool,
}

#[derive(Debug, Serialize)]
struct Done {
    object: String,
    outcome: Outcome,
}

/// What to apply, and how.
struct Job<'a> {
    cluster: &'a Cluster,
    dry_run: bool,
    force: bool,
    /// Lines as they happen; not where one document is wanted.
    aloud: bool,
}

pub fn install(args: &Install, out: &mut Output) -> Result<(), Failure> {
    let steps = manifests::steps(&args.what, settings(args.what.file.as_ref())?)?;
    let cluster = Cluster::new(&args.what.cluster)?;
    go(&cluster, &args.what, steps, args.wait, out)
}

/// As an installation, on a cluster that has one. It ends when everything runs.
pub fn upgrade(args: &Upgrade, out: &mut Output) -> Result<(), Failure> {
    let steps = manifests::steps(&args.what, settings(args.what.file.as_ref())?)?;
    let cluster = Cluster::new(&args.what.cluster)?;
    let agents = Resource::named("apps/v1", "DaemonSet", "daemonsets", true);
    let there = cluster.get(&agents, NAMESPACE, manifests::AGENT).map_err(|f| cluster.failed("DaemonSet", &f))?;
    if there.is_none() {
        let what = "there is no DaemonSet axoneme-system/axoneme-agent to upgrade: axoneme install";
        return Err(Failure::Usage(format!("{}: {what}", cluster.place())));
    }
    go(&cluster, &args.what, steps, Some(args.timeout), out)
}

/// The AxonemeConfig of a file: judged before anything is touched.
fn settings(file: Option<&PathBuf>) -> Result<Option<Value>, Failure> {
    file.map(|path| config::of_file(path)).transpose()
}

fn go(
    cluster: &Cluster,
    what: &crate::args::cluster::What,
    steps: Vec<Step>,
    wait: Option<u64>,
    out: &mut Output,
) -> Result<(), Failure> {
    let aloud = what.output == crate::args::Format::Table;
    let job = Job { cluster, dry_run: what.dry_run, force: what.force_conflicts, aloud };
    if aloud {
        out.line(&format!("cluster: {}", cluster.place()))?;
    }
    let mut objects = Vec::new();
    let count = steps.len();
    let mut kinds_wait = true;
    for step in steps {
        if step.stage > Stage::Kinds && kinds_wait && !job.dry_run {
            served(cluster)?;
            kinds_wait = false;
        }
        let outcome = match job.apply(&step) {
            Ok(outcome) => outcome,
            Err(failure) => return Err(unfinished(failure, objects.len(), count)),
        };
        job.say(out, &step.object, outcome)?;
        objects.push(Done { object: title(&step.object), outcome });
    }
    let patience = wait.filter(|_| !what.dry_run).map(Duration::from_secs);
    if let Some(patience) = patience {
        rollout::wait(cluster, patience)?;
    }
    let report =
        Report { cluster: cluster.place().to_owned(), dry_run: what.dry_run, objects, waited: patience.is_some() };
    out.document(what.output, &report, summary)
}

fn unfinished(failure: Failure, done: usize, count: usize) -> Failure {
    let more = format!("{done} of {count} objects are applied; the same command goes on from there");
    match failure {
        Failure::Answer(m) => Failure::Answer(format!("{m}\n  {more}")),
        Failure::Unreachable(m) => Failure::Unreachable(format!("{m}\n  {more}")),
        other => other,
    }
}

fn summary(out: &mut Output, report: &Report) -> Result<(), Failure> {
    let count = |outcome| report.objects.iter().filter(|d| d.outcome == outcome).count();
    let (created, changed, same) = (count(Outcome::Created), count(Outcome::Changed), count(Outcome::Unchanged));
    let would = if report.dry_run { " (dry run: nothing was stored)" } else { "" };
    out.line(&format!("{created} created, {changed} changed, {same} unchanged{would}"))?;
    if report.waited {
        let ready = out.tone(Tone::Good, "ready");
        return out.line(&format!("agents, operator and relay are {ready}"));
    }
    if report.dry_run {
        Ok(())
    } else {
        out.line("nodes become Ready as their agents serve: kubectl get nodes --watch")
    }
}

impl Job<'_> {
    fn say(&self, out: &mut Output, object: &Value, outcome: Outcome) -> Result<(), Failure> {
        if !self.aloud || outcome == Outcome::Unchanged {
            return Ok(());
        }
        out.line(&format!("{} {}", title(object), outcome.word(self.dry_run)))?;
        out.flush()
    }

    fn apply(&self, step: &Step) -> Result<Outcome, Failure> {
        let object = &step.object;
        let name = title(object);
        let progress = Progress::start(&name);
        let fail = |fault: Fault| self.failed(&name, &fault);
        let there = || self.cluster.get(&step.resource, metadata(object, "namespace"), metadata(object, "name"));
        let before = patiently(&progress, there).map_err(fail)?;
        let foreign = before.as_ref().is_some_and(|b| !is_ours(b));
        if foreign && step.stage == Stage::Kinds {
            return Ok(Outcome::LeftAlone);
        }
        let Some(before) = before else {
            if !self.dry_run {
                // somebody may be quicker: an apply does not mind
                let apply = || self.cluster.apply(&step.resource, object, self.force, false);
                patiently(&progress, apply).map_err(fail)?;
            }
            return Ok(Outcome::Created);
        };
        // the product's kinds are the product's, whoever of its programs wrote them last
        let force = self.force || step.stage == Stage::Kinds;
        let apply = || self.cluster.apply(&step.resource, object, force, self.dry_run);
        let after = patiently(&progress, apply).map_err(fail)?;
        Ok(if same(&before, &after) { Outcome::Unchanged } else { Outcome::Changed })
    }

    fn failed(&self, name: &str, fault: &Fault) -> Failure {
        if let Fault::Conflict(message) = fault {
            let mend = "another manager has set it: change it there, or take it over with --force-conflicts";
            return Failure::Answer(format!("{name}: {message}\n  {mend}"));
        }
        self.cluster.failed(name, fault)
    }
}

/// Tries again where another try can end otherwise.
fn patiently<T>(progress: &Progress, mut ask: impl FnMut() -> Result<T, Fault>) -> Result<T, Fault> {
    for pause in PAUSES {
        match ask() {
            Err(Fault::Away(why)) => progress.say(format!("the API server does not answer, trying again: {why}")),
            done => return done,
        }
        std::thread::sleep(pause);
    }
    ask()
}

/// Whether an object carries the product's label.
fn is_ours(object: &Value) -> bool {
    object.pointer("/metadata/labels/app.kubernetes.io~1part-of").and_then(Value::as_str) == Some("axoneme")
}

/// Whether two states of an object are one, but for the API server's bookkeeping.
fn same(before: &Value, after: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for key in ["managedFields", "resourceVersion", "generation", "uid", "creationTimestamp"] {
                metadata.remove(key);
            }
        }
        object.as_object_mut().map(|fields| fields.remove("status"));
        object
    };
    bare(before) == bare(after)
}

/// Waits until the product's kinds are served: an object of a kind that is not yet is refused.
fn served(cluster: &Cluster) -> Result<(), Failure> {
    let progress = Progress::start("waiting for the new kinds");
    let kinds =
        Resource::named("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", false);
    let deadline = std::time::Instant::now() + SERVED;
    loop {
        let there = cluster.list(&kinds, "", "").map_err(|f| cluster.failed("CustomResourceDefinitions", &f))?;
        let names = manifests::kinds();
        let established = |object: &Value| {
            let all = object.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
            let is =
                |c: &Value| c.get("type") == Some(&json!("Established")) && c.get("status") == Some(&json!("True"));
            all.into_iter().any(is)
        };
        let waiting: Vec<&String> = names
            .iter()
            .filter(|name| !there.iter().any(|o| metadata(o, "name") == name.as_str() && established(o)))
            .collect();
        let Some(first) = waiting.first() else { return Ok(()) };
        progress.say(format!("{} of {} kinds are not served yet, {first} is one", waiting.len(), names.len()));
        if std::time::Instant::now() >= deadline {
            let what = format!("CustomResourceDefinition {first}: not Established after {} s", SERVED.as_secs());
            return Err(Failure::Answer(format!("{what}; kubectl describe crd {first} tells why")));
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}
