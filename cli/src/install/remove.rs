//! `axoneme uninstall`.
//!
//! In the order in which nothing waits for what is gone: who is asked about objects, the programs, what they made on the
//! nodes (by the agents' own uninstall, which knows it), and at last what they needed. Kinds and their objects are the
//! users' and stay, unless they are purged.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use super::{
    NAMESPACE, is_ours,
    manifests::{self, AGENT, OPERATOR},
    patiently, rollout,
};
use crate::{
    args::cluster::{Uninstall, What},
    cluster::{Cluster, Fault},
    failure::Failure,
    kinds::{Resource, metadata, title},
    output::Output,
    progress::Progress,
};

const POLL: Duration = Duration::from_millis(500);
const UNINSTALLER: &str = "axoneme-uninstall";

#[derive(Debug, Default, Serialize)]
struct Report {
    cluster: String,
    dry_run: bool,
    removed: Vec<String>,
    /// What stays, and why or how it goes.
    left: Vec<String>,
}

struct Work<'a> {
    cluster: &'a Cluster,
    args: &'a Uninstall,
    out: &'a mut Output,
    report: Report,
    deadline: Instant,
}

pub fn uninstall(args: &Uninstall, out: &mut Output) -> Result<(), Failure> {
    let cluster = Cluster::new(&args.cluster)?;
    let report = Report { cluster: cluster.place().to_owned(), dry_run: args.dry_run, ..Report::default() };
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    let mut work = Work { cluster: &cluster, args, out, report, deadline };
    work.all()?;
    let Work { report, out, .. } = work;
    out.document(args.output, &report, |out, report| {
        let word = if report.dry_run { "would be removed" } else { "removed" };
        out.line(&format!("{}: {} objects {word}", report.cluster, report.removed.len()))?;
        report.left.iter().try_for_each(|line| out.line(&format!("left: {line}")))
    })
}

impl Work<'_> {
    fn all(&mut self) -> Result<(), Failure> {
        let there = self.find(&resource("v1", "Namespace", "namespaces", false), "", NAMESPACE)?.is_some();
        let webhooks = resource(
            "admissionregistration.k8s.io/v1",
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
            false,
        );
        self.remove(&webhooks, "", "axoneme")?;
        if there {
            self.programs()?;
        }
        // the operator takes it off as it ends; a dead one did not, and namespaces cannot be deleted by it
        let services = resource("apiregistration.k8s.io/v1", "APIService", "apiservices", false);
        self.remove(&services, "", "v1alpha1.views.axoneme.io")?;
        if there {
            self.nodes()?;
        }
        self.surroundings()?;
        self.kinds()
    }

    /// Agents, operator and relay, until their pods are gone.
    fn programs(&mut self) -> Result<(), Failure> {
        let agents = resource("apps/v1", "DaemonSet", "daemonsets", true);
        let deployments = resource("apps/v1", "Deployment", "deployments", true);
        self.note_image(&agents)?;
        self.remove(&deployments, NAMESPACE, OPERATOR)?;
        self.remove(&deployments, NAMESPACE, "hubble-relay")?;
        self.remove(&agents, NAMESPACE, AGENT)
    }

    /// The image that runs on the nodes stands in the uninstaller before the agents go, so that a run that is interrupted
    /// knows it.
    fn note_image(&mut self, agents: &Resource) -> Result<(), Failure> {
        let image = |object: &Value| {
            object.pointer("/spec/template/spec/containers/0/image").and_then(Value::as_str).map(str::to_owned)
        };
        let of_agents = self.find(agents, NAMESPACE, AGENT)?.as_ref().and_then(image);
        let noted = self.find(agents, NAMESPACE, UNINSTALLER)?.as_ref().and_then(image);
        let object = manifests::uninstaller(self.args.image.as_deref().or(of_agents.as_deref()).or(noted.as_deref()))?;
        if self.args.dry_run {
            return Ok(());
        }
        let progress = Progress::start("applying the uninstaller");
        let apply = || self.cluster.apply(agents, &object, true, false);
        patiently(&progress, apply).map(drop).map_err(|f| self.cluster.failed(&title(&object), &f))
    }

    /// The agents' own uninstall on every node.
    fn nodes(&mut self) -> Result<(), Failure> {
        if self.args.dry_run {
            self.report.removed.push("on every node: programs, pins, links, routes, CNI files, state".to_owned());
            return Ok(());
        }
        self.say("waiting for the nodes to be clean")?;
        let patience = self.deadline.saturating_duration_since(Instant::now());
        rollout::wait_for(self.cluster, &[("DaemonSet", "daemonsets", UNINSTALLER)], patience).inspect_err(|_| {
            eprintln!(
                "axoneme: nodes that are not clean stay as they are, and so does all that is still there; the same command \
                 goes on. On a node without an API server: axoneme-agent uninstall"
            );
        })?;
        self.report.removed.push("on every node: programs, pins, links, routes, CNI files, state".to_owned());
        self.remove(&resource("apps/v1", "DaemonSet", "daemonsets", true), NAMESPACE, UNINSTALLER)
    }

    /// What the programs needed, and at last the namespace, with what the operator kept in it.
    fn surroundings(&mut self) -> Result<(), Failure> {
        let mut steps = manifests::steps(&What::default(), None)?;
        steps.reverse();
        let kinds = manifests::Stage::Kinds;
        for step in steps.into_iter().filter(|s| s.stage != kinds) {
            let (namespace, name) = (metadata(&step.object, "namespace"), metadata(&step.object, "name"));
            self.remove(&step.resource, namespace, name)?;
        }
        Ok(())
    }

    fn kinds(&mut self) -> Result<(), Failure> {
        let definitions =
            resource("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", false);
        for name in manifests::kinds() {
            let Some(definition) = self.find(&definitions, "", &name)? else { continue };
            if !is_ours(&definition) {
                self.report.left.push(format!("kind {name}: it was there before, and is not Axoneme's"));
            } else if self.args.purge {
                self.remove(&definitions, "", &name)?;
            } else {
                let count = self.count(&definition);
                self.report.left.push(format!("kind {name} with {count} objects; --purge removes both"));
            }
        }
        if !self.report.removed.is_empty() {
            self.report.left.push(
                "the condition NetworkUnavailable of nodes, as it was told last: the next network plugin tells it anew"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// How many objects a kind has, in words.
    fn count(&self, definition: &Value) -> String {
        let text = |path: &str| definition.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let versions = definition.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten();
        let mut stored = versions.filter(|v| v.get("storage") == Some(&Value::Bool(true)));
        let version = stored.find_map(|v| v.get("name")?.as_str()).unwrap_or_default();
        let api_version = format!("{}/{version}", text("/spec/group"));
        let namespaced = text("/spec/scope") == "Namespaced";
        let of = Resource::named(&api_version, text("/spec/names/kind"), text("/spec/names/plural"), namespaced);
        self.cluster.list(&of, "", "").map_or_else(|_| "unknown".to_owned(), |all| all.len().to_string())
    }

    fn find(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Option<Value>, Failure> {
        let progress = Progress::start(&format!("looking for {} {name}", resource.api.kind));
        let ask = || self.cluster.get(resource, namespace, name);
        patiently(&progress, ask).map_err(|f| self.cluster.failed(&format!("{} {name}", resource.api.kind), &f))
    }

    /// Deletes an object and waits until it is gone. None: nothing to do.
    fn remove(&mut self, resource: &Resource, namespace: &str, name: &str) -> Result<(), Failure> {
        let slash = if namespace.is_empty() { "" } else { "/" };
        let what = format!("{} {namespace}{slash}{name}", resource.api.kind);
        if self.args.dry_run {
            if self.find(resource, namespace, name)?.is_some() && !self.report.removed.contains(&what) {
                self.report.removed.push(what);
            }
            return Ok(());
        }
        let progress = Progress::start(&format!("removing {what}"));
        let delete = || self.cluster.delete(resource, namespace, name);
        let found = patiently(&progress, delete).map_err(|f| self.cluster.failed(&what, &f))?;
        if !found {
            return Ok(());
        }
        loop {
            match self.cluster.get(resource, namespace, name) {
                Ok(None) => break,
                Ok(Some(object)) => progress.say(format!("{what} is going: {}", waits_for(&object))),
                Err(Fault::Away(why)) => progress.say(why),
                Err(fault) => return Err(self.cluster.failed(&what, &fault)),
            }
            if Instant::now() >= self.deadline {
                let why = "it is not gone in time; the same command goes on waiting";
                return Err(Failure::Answer(format!("{what}: {why}")));
            }
            std::thread::sleep(POLL);
        }
        drop(progress);
        self.report.removed.push(what.clone());
        self.say(&format!("removed {what}"))
    }

    fn say(&mut self, line: &str) -> Result<(), Failure> {
        if self.args.output != crate::args::Format::Table {
            return Ok(());
        }
        self.out.line(line)?;
        self.out.flush()
    }
}

fn resource(api_version: &str, kind: &str, plural: &str, namespaced: bool) -> Resource {
    Resource::named(api_version, kind, plural, namespaced)
}

/// What keeps an object that is being deleted.
fn waits_for(object: &Value) -> String {
    let finalizers = object.pointer("/metadata/finalizers").and_then(Value::as_array).into_iter().flatten();
    let names: Vec<&str> = finalizers.filter_map(Value::as_str).collect();
    if names.is_empty() { "its pods end".to_owned() } else { format!("it waits for {}", names.join(", ")) }
}
