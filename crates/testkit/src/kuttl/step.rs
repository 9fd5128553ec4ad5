//! A step: what is done, and what is then found (docs/testing/steps.md and asserts-errors.md of upstream, and its
//! internal/step/step.go).

use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{
    api::{Api, ApiError, Gvk, id, in_namespace, metadata},
    command::{CommandError, Shell},
    config::{API_VERSION, ObjectReference, TestAssert, TestStep, read},
    expression::Expressions,
    files::{self, Name, Role},
    subset::{seen, subset},
};

/// Between two looks at what is asserted.
const ASK: Duration = Duration::from_secs(1);
/// Between two looks at what is deleted, or two tries to change an object.
const POLL: Duration = Duration::from_millis(100);

/// Where a step is run.
pub(super) struct Place<'a, A> {
    pub(super) api: &'a A,
    pub(super) shell: Shell,
    pub(super) namespace: String,
    /// What happened, line by line.
    pub(super) log: &'a RefCell<Vec<String>>,
    /// Objects that were made, in their order: the case removes them.
    pub(super) made: &'a RefCell<Vec<Value>>,
}

impl<A> Place<'_, A> {
    pub(super) fn say(&self, line: impl Into<String>) {
        self.log.borrow_mut().push(line.into());
    }
}

/// A step, read from its files.
#[derive(Debug, Default)]
pub(super) struct Step {
    index: u32,
    name: String,
    folder: PathBuf,
    /// Seconds, of the suite.
    timeout: i64,
    own: Option<TestStep>,
    assert: Option<TestAssert>,
    expressions: Expressions,
    apply: Vec<Value>,
    asserts: Vec<Value>,
    errors: Vec<Value>,
    /// Files and folders that the `TestStep` names.
    named: Vec<PathBuf>,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.index, self.name)
    }
}

impl Step {
    /// Reads a step from its files. `folder`: the case's, to which paths are relative.
    pub(super) fn load(folder: &Path, index: u32, files: &[PathBuf], timeout: i64, shell: &Shell) -> Result<Self> {
        let mut step = Self { index, folder: folder.to_owned(), timeout, ..Self::default() };
        for file in files {
            let name = Name::parse(&files::file_name(file))?;
            if name.role == Role::Apply && step.name.is_empty() {
                step.name.clone_from(&name.step);
            }
            for object in files::objects(file)? {
                step.take(name.role, object).with_context(|| file.display().to_string())?;
            }
        }
        if let Some(own) = step.own.clone() {
            if !own.metadata.name.is_empty() {
                step.name.clone_from(&own.metadata.name);
            }
            for (paths, objects) in
                [(&own.apply, &mut step.apply), (&own.assert, &mut step.asserts), (&own.error, &mut step.errors)]
            {
                for path in paths {
                    let path = shell.expand(path);
                    ensure!(!path.contains("://"), "{path}: URLs are not for this runner");
                    let path = folder.join(path);
                    objects.extend(files::objects(&path)?);
                    step.named.push(path);
                }
            }
        }
        if let Some(assert) = &step.assert {
            ensure!(assert.timeout >= 0, "TestAssert: timeout {}: nothing would be asked", assert.timeout);
            step.expressions = Expressions::of(assert).map_err(anyhow::Error::msg)?;
        }
        for object in &step.apply {
            ensure!(!metadata(object, "name").is_empty(), "step {step}: an object to apply has no name: {object}");
        }
        Ok(step)
    }

    /// Whether the step refers to this file or folder, or to something in it.
    pub(super) fn names(&self, path: &Path) -> bool {
        self.named.iter().any(|named| named.starts_with(path))
    }

    fn take(&mut self, role: Role, object: Value) -> Result<()> {
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
        let own = object.get("apiVersion").and_then(Value::as_str).is_some_and(|v| v.starts_with("kuttl.dev/"));
        match (role, own, kind) {
            (Role::Apply, true, "TestStep") => return once(&mut self.own, &object),
            (Role::Assert, true, "TestAssert") => return once(&mut self.assert, &object),
            (_, true, kind) => bail!("{kind} of {API_VERSION} is not for this kind of file, or not for this runner"),
            (Role::Apply, false, _) => self.apply.push(object),
            (Role::Assert, false, _) => self.asserts.push(object),
            (Role::Errors, false, _) => self.errors.push(object),
        }
        Ok(())
    }

    /// Deletes, runs commands, applies, and asks until everything is as asserted or the time is over. Returns what went
    /// wrong.
    pub(super) async fn run<A: Api>(&self, place: &Place<'_, A>) -> Vec<String> {
        place.say(format!("starting test step {self}"));
        if let Err(error) = self.delete(place).await {
            return vec![error];
        }
        let mut wrong: Vec<String> = self.commands(place).await.err().map(|e| e.to_string()).into_iter().collect();
        // what can be applied is, so that all errors are told at once
        wrong.extend(self.create(place).await);
        if wrong.is_empty() {
            wrong = self.settle(place).await;
        } else {
            return wrong;
        }
        if wrong.is_empty() {
            place.say(format!("test step completed {self}"));
        } else {
            place.say(format!("test step failed {self}"));
            self.collect(place).await;
        }
        wrong
    }

    /// Seconds until what is asserted has to be there.
    fn limit(&self) -> i64 {
        self.assert.as_ref().map(|a| a.timeout).filter(|own| *own != 0).unwrap_or(self.timeout)
    }

    async fn delete<A: Api>(&self, place: &Place<'_, A>) -> Result<(), String> {
        let mut gone = Vec::new();
        for reference in self.own.iter().flat_map(|s| &s.delete) {
            gone.extend(targets(place, reference).await?);
        }
        for (kind, namespace, name) in &gone {
            let there = place.api.delete(kind, namespace, name).await;
            let there = there.map_err(|e| format!("deleting {kind} {name} failed: {e}"))?;
            let done = if there { "deleted" } else { "already gone" };
            place.say(format!("{}:{namespace}/{name} {done}", kind.kind));
        }
        let end = Instant::now() + Duration::from_secs(u64::try_from(self.limit()).unwrap_or(0));
        for (kind, namespace, name) in &gone {
            loop {
                let last = match place.api.get(kind, namespace, name).await {
                    Ok(None) => break,
                    Ok(Some(_)) => format!("{kind} {name} still exists"),
                    Err(error) => format!("checking existence of {kind} {name} failed: {error}"),
                };
                if Instant::now() >= end {
                    return Err(format!("timed out waiting for resource deletion: {last}"));
                }
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// The first that fails ends them.
    async fn commands<A: Api>(&self, place: &Place<'_, A>) -> Result<(), CommandError> {
        for command in self.own.iter().flat_map(|s| &s.commands) {
            let said = place.shell.run(command, &self.folder, self.timeout).await?;
            place.say(said);
        }
        Ok(())
    }

    async fn create<A: Api>(&self, place: &Place<'_, A>) -> Vec<String> {
        let mut wrong = Vec::new();
        for object in &self.apply {
            let applied = match in_namespace(place.api, object, &place.namespace).await {
                Ok(object) => self.create_or_update(place, &object).await.map(|done| (object, done)),
                Err(error) => Err(error),
            };
            match applied {
                Ok((object, created)) => {
                    place.say(format!("{} {}", id(&object), if created { "created" } else { "updated" }));
                    if created {
                        place.made.borrow_mut().push(object);
                    }
                }
                Err(error) => wrong.push(format!("applying {} failed: {error}", id(object))),
            }
        }
        wrong
    }

    /// Makes an object, or changes the one that is there by a merge patch; again where another one was quicker.
    async fn create_or_update<A: Api>(&self, place: &Place<'_, A>, object: &Value) -> Result<bool, ApiError> {
        let kind = Gvk::of(object).ok_or_else(|| ApiError::Other("no kind".to_owned()))?;
        let end = Instant::now() + Duration::from_secs(u64::try_from(self.timeout).unwrap_or(0));
        loop {
            let there = place.api.get(&kind, metadata(object, "namespace"), metadata(object, "name")).await?;
            let done = match &there {
                Some(actual) => place.api.merge_patch(&of_version(object, metadata(actual, "resourceVersion"))).await,
                None => place.api.create(object).await,
            };
            match done {
                Ok(()) => return Ok(there.is_none()),
                Err(ApiError::Conflict(_)) if Instant::now() < end => sleep(POLL).await,
                Err(error) => return Err(error),
            }
        }
    }

    async fn settle<A: Api>(&self, place: &Place<'_, A>) -> Vec<String> {
        let began = Instant::now();
        let limit = self.limit();
        loop {
            let left = limit.saturating_sub(i64::try_from(began.elapsed().as_secs()).unwrap_or(i64::MAX));
            let (wrong, late) = self.check(place, left.max(1)).await;
            if wrong.is_empty() || late {
                return wrong;
            }
            sleep(ASK).await;
            if began.elapsed().as_secs() >= u64::try_from(limit).unwrap_or(0) {
                return wrong;
            }
        }
    }

    /// What is not as it should be now, and whether a command has used up the time.
    async fn check<A: Api>(&self, place: &Place<'_, A>, left: i64) -> (Vec<String>, bool) {
        let (mut wrong, mut late) = (Vec::new(), false);
        for expected in &self.asserts {
            wrong.extend(present(place, expected).await);
        }
        if let Some(assert) = &self.assert {
            for command in &assert.commands {
                match place.shell.run(&command.within(left), &self.folder, left).await {
                    Ok(said) => place.say(said),
                    Err(error) => {
                        late |= matches!(error, CommandError::Timeout(..));
                        wrong.push(error.to_string());
                        break;
                    }
                }
            }
            match references(place, assert).await {
                Ok(objects) => wrong.extend(self.expressions.unmet(&objects)),
                Err(error) => wrong.push(error),
            }
        }
        for unexpected in &self.errors {
            wrong.extend(absent(place, unexpected).await.err());
        }
        (wrong, late)
    }

    async fn collect<A: Api>(&self, place: &Place<'_, A>) {
        for collector in self.assert.iter().flat_map(|a| &a.collectors) {
            let said = match collector.command() {
                Ok(command) => {
                    place.shell.run(&command, &self.folder, self.timeout).await.unwrap_or_else(|e| e.to_string())
                }
                Err(why) => format!("skipping invalid collector: {why}"),
            };
            place.say(format!("collected: {said}"));
        }
    }
}

fn once<T: DeserializeOwned>(place: &mut Option<T>, object: &Value) -> Result<()> {
    ensure!(place.is_none(), "more than one {} in a step", object.get("kind").unwrap_or(&Value::Null));
    *place = Some(read(object).map_err(anyhow::Error::msg)?);
    Ok(())
}

/// The object with the version that a change of it is for.
fn of_version(object: &Value, version: &str) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".to_owned(), version.into());
    }
    object
}

/// Kind, namespace and name of what a reference names now.
async fn targets<A: Api>(
    place: &Place<'_, A>,
    reference: &ObjectReference,
) -> Result<Vec<(Gvk, String, String)>, String> {
    let kind = Gvk::new(&reference.api_version, &reference.kind);
    let own = if reference.namespace.is_empty() { &place.namespace } else { &reference.namespace };
    let namespaced = place.api.namespaced(&kind).await.map_err(|e| format!("deleting {kind}: {e}"))?;
    let namespace = if namespaced { own.clone() } else { String::new() };
    if !reference.name.is_empty() {
        return Ok(vec![(kind, namespace, reference.name.clone())]);
    }
    let found = place.api.list(&kind, &namespace, &reference.labels).await;
    let found = found.map_err(|e| format!("listing resources to delete failed: {e}"))?;
    let of = |o: &Value| (kind.clone(), metadata(o, "namespace").to_owned(), metadata(o, "name").to_owned());
    Ok(found.iter().map(of).collect())
}

/// The objects that an asserted one can be: the one of its name, else all of its kind that have its labels.
async fn candidates<A: Api>(place: &Place<'_, A>, expected: &Value) -> Result<(Value, Vec<Value>), ApiError> {
    let expected = in_namespace(place.api, expected, &place.namespace).await?;
    let kind = Gvk::of(&expected).ok_or_else(|| ApiError::Other("no kind".to_owned()))?;
    let namespace = metadata(&expected, "namespace");
    let name = metadata(&expected, "name");
    if !name.is_empty() {
        let found = place.api.get(&kind, namespace, name).await?;
        return Ok((expected.clone(), found.into_iter().collect()));
    }
    let labels = expected.pointer("/metadata/labels").and_then(Value::as_object);
    let labels: BTreeMap<String, String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        .collect();
    let found = place.api.list(&kind, namespace, &labels).await?;
    Ok((expected, found))
}

/// Why no object is as asserted; nothing where one is.
async fn present<A: Api>(place: &Place<'_, A>, expected: &Value) -> Vec<String> {
    let (expected, found) = match candidates(place, expected).await {
        Ok(found) => found,
        Err(error) => return vec![format!("{}: {error}", id(expected))],
    };
    if found.is_empty() {
        return vec![if metadata(&expected, "name").is_empty() {
            format!("no resources matched of kind: {}", Gvk::of(&expected).map(|k| k.to_string()).unwrap_or_default())
        } else {
            format!("{}: not found", id(&expected))
        }];
    }
    let mut wrong = Vec::new();
    for actual in &found {
        match subset(&expected, actual) {
            Ok(()) => return Vec::new(),
            Err(error) => wrong.push(format!("resource {}: {error}\n    is: {}", id(actual), seen(&expected, actual))),
        }
    }
    wrong
}

/// That no object is as one that must not be.
async fn absent<A: Api>(place: &Place<'_, A>, unexpected: &Value) -> Result<(), String> {
    let (unexpected, found) = candidates(place, unexpected).await.map_err(|e| format!("{}: {e}", id(unexpected)))?;
    let mut matched = found.iter().filter(|actual| subset(&unexpected, actual).is_ok());
    let Some(first) = matched.next() else { return Ok(()) };
    let others = match matched.count() {
        0 => String::new(),
        n => format!(" (and {n} other resources)"),
    };
    Err(format!("resource {}{others} matched error assertion", id(first)))
}

/// What the references of a `TestAssert` stand for.
async fn references<A: Api>(place: &Place<'_, A>, assert: &TestAssert) -> Result<Vec<(String, Value)>, String> {
    let mut objects = Vec::new();
    for reference in &assert.resource_refs {
        let kind = Gvk::new(&reference.api_version, &reference.kind);
        let failed = |e: ApiError| format!("failed to get referenced resource {kind} {}: {e}", reference.name);
        let own = if reference.namespace.is_empty() { &place.namespace } else { &reference.namespace };
        let namespace = if place.api.namespaced(&kind).await.map_err(failed)? { own.as_str() } else { "" };
        let object = place.api.get(&kind, namespace, &reference.name).await.map_err(failed)?;
        let object = object.ok_or_else(|| failed(ApiError::Other("not found".to_owned())))?;
        objects.push((reference.reference.clone(), object));
    }
    Ok(objects)
}
