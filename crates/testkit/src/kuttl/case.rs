//! A case: a folder of steps, and the namespace that they are run in (upstream's internal/testcase/case.go).

use std::{cell::RefCell, collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use rand::Rng as _;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    api::{Api, ApiError, Gvk, id, metadata},
    command::Shell,
    files,
    step::{Place, Step},
};

/// Between two looks at whether a namespace is gone.
const POLL: Duration = Duration::from_millis(100);

/// What went wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `2-edit`, `setup` or `cleanup`.
    pub step: String,
    /// All that was wrong when the time was over.
    pub errors: Vec<String>,
}

/// How a case went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The case's folder.
    pub case: String,
    /// Nothing where it passed.
    pub failure: Option<Failure>,
    /// What happened, line by line.
    pub log: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// A case, read and ready to run.
#[derive(Debug)]
pub struct Case {
    name: String,
    steps: Vec<Step>,
    settings: Settings,
}

/// What a case has from its suite.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Seconds that a step, and the namespace's removal, may take.
    pub(super) timeout: i64,
    /// Empty: one of its own.
    pub(super) namespace: String,
    /// Whether everything stays.
    pub(super) skip_delete: bool,
    /// Whether events are told.
    pub(super) events: bool,
}

impl Case {
    /// Reads a folder.
    ///
    /// # Errors
    /// A file that is not a step's, or not understood; a folder without steps.
    pub(super) fn load(folder: &Path, settings: Settings, shell: &Shell) -> Result<Self> {
        let name = files::file_name(folder);
        let listing = files::listing(folder)?;
        ensure!(!listing.steps.is_empty(), "{}: a case without a step", folder.display());
        let of = listing.steps.iter();
        let steps: Result<Vec<Step>> =
            of.map(|(index, files)| Step::load(folder, *index, files, settings.timeout, shell)).collect();
        let steps = steps.with_context(|| format!("case {name}"))?;
        // upstream passes over it with a message; but a test that is not run looks as if it had passed
        let idle = listing.others.iter().find(|other| !steps.iter().any(|step| step.names(other)));
        if let Some(idle) = idle {
            bail!("{}: begins with no number and a dash, and no TestStep names it", idle.display());
        }
        Ok(Self { name, steps, settings })
    }

    /// The folder's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs the steps in their order up to the first that fails, and removes what they made.
    pub async fn run<A: Api>(&self, api: &A, shell: &Shell) -> Outcome {
        let began = Instant::now();
        let (log, made) = (RefCell::default(), RefCell::default());
        let namespace =
            if self.settings.namespace.is_empty() { fresh(&self.name) } else { self.settings.namespace.clone() };
        let place = Place { api, shell: shell.of(&namespace), namespace, log: &log, made: &made };
        let mut failure = self.play(&place).await.err();
        if failure.is_some() && self.settings.events {
            self.events(&place).await;
        }
        let errors = self.cleanup(&place).await;
        if !errors.is_empty() {
            for error in &errors {
                place.say(format!("cleanup: {error}"));
            }
            failure.get_or_insert(Failure { step: "cleanup".to_owned(), errors });
        }
        Outcome { case: self.name.clone(), failure, log: log.into_inner(), took: began.elapsed() }
    }

    async fn play<A: Api>(&self, place: &Place<'_, A>) -> Result<(), Failure> {
        self.namespace(place).await.map_err(|e| Failure { step: "setup".to_owned(), errors: vec![e.to_string()] })?;
        for step in &self.steps {
            let errors = step.run(place).await;
            if !errors.is_empty() {
                return Err(Failure { step: step.to_string(), errors });
            }
        }
        Ok(())
    }

    /// Makes the namespace; one that the suite names may be there.
    async fn namespace<A: Api>(&self, place: &Place<'_, A>) -> Result<(), ApiError> {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place.namespace}});
        match place.api.create(&object).await {
            Ok(()) => {
                place.say(format!("created namespace {}", place.namespace));
                place.made.borrow_mut().push(object);
                Ok(())
            }
            Err(ApiError::Conflict(_)) if !self.settings.namespace.is_empty() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes what was made, the last first, and waits until the namespace is gone: it takes the rest with it.
    async fn cleanup<A: Api>(&self, place: &Place<'_, A>) -> Vec<String> {
        let mut errors = Vec::new();
        if self.settings.skip_delete {
            return errors;
        }
        let made = place.made.take();
        for object in made.iter().rev() {
            let Some(kind) = Gvk::of(object) else { continue };
            let deleted = place.api.delete(&kind, metadata(object, "namespace"), metadata(object, "name")).await;
            errors.extend(deleted.err().map(|e| format!("deleting {}: {e}", id(object))));
        }
        let namespace = Gvk::new("v1", "Namespace");
        let end = Instant::now() + Duration::from_secs(u64::try_from(self.settings.timeout).unwrap_or(0));
        for object in made.iter().filter(|o| Gvk::of(o).as_ref() == Some(&namespace)) {
            while !matches!(place.api.get(&namespace, "", metadata(object, "name")).await, Ok(None)) {
                if Instant::now() >= end {
                    errors.push(format!("waiting for {} to be deleted timed out", id(object)));
                    break;
                }
                sleep(POLL).await;
            }
        }
        errors
    }

    async fn events<A: Api>(&self, place: &Place<'_, A>) {
        let all = place.api.list(&Gvk::new("v1", "Event"), &place.namespace, &BTreeMap::new()).await;
        for event in all.unwrap_or_default() {
            let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
            let of = format!("{}/{}", text("/involvedObject/kind"), text("/involvedObject/name"));
            place.say(format!("event: {} {of}: {}", text("/reason"), text("/message")));
        }
    }
}

/// A namespace that nobody else has: at most 63 characters.
fn fresh(case: &str) -> String {
    let case: String =
        case.chars().filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-').take(40).collect();
    format!("kuttl-{}-{:06x}", case.trim_matches('-'), rand::rng().random::<u32>() & 0xff_ffff)
}
