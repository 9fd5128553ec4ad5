//! The kinds of the group `kuttl.dev`: docs/testing/reference.md of upstream. Fields that are not here are refused by
//! their names.

use std::collections::BTreeMap;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

/// Group and version of all of them.
pub(super) const API_VERSION: &str = "kuttl.dev/v1beta1";
/// Seconds that a step may take where nobody says otherwise.
pub(super) const TIMEOUT: i64 = 30;

/// What all of them have around their settings. The values were read by whoever chose the type.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Metadata {
    /// A step's name instead of that of its first file.
    #[serde(default)]
    pub(super) name: String,
}

/// `TestSuite`: the settings of all cases.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TestSuite {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: Metadata,
    /// Folders of cases, relative to where the runner is started.
    pub(super) test_dirs: Vec<String>,
    /// Seconds that a step may take; 0 for [`TIMEOUT`].
    #[serde(default)]
    pub(super) timeout: i64,
    /// Cases that run at once.
    #[serde(default = "eight")]
    pub(super) parallel: usize,
    /// Run before the first case.
    #[serde(default)]
    pub(super) commands: Vec<Command>,
    /// One namespace for all cases instead of one for each.
    #[serde(default)]
    pub(super) namespace: String,
    /// Whether everything stays.
    #[serde(default)]
    pub(super) skip_delete: bool,
    /// `events`: they are not told.
    #[serde(default)]
    pub(super) suppress: Vec<String>,
}

/// Upstream's number of tests at once.
fn eight() -> usize {
    8
}

/// `TestStep`: what is done before a step's objects are applied.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TestStep {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    pub(super) metadata: Metadata,
    /// Files and folders with more objects to apply.
    #[serde(default)]
    pub(super) apply: Vec<String>,
    /// Files and folders with more objects to find.
    #[serde(default)]
    pub(super) assert: Vec<String>,
    /// Files and folders with more objects not to find.
    #[serde(default)]
    pub(super) error: Vec<String>,
    #[serde(default)]
    pub(super) delete: Vec<ObjectReference>,
    #[serde(default)]
    pub(super) commands: Vec<Command>,
}

/// Objects to delete: one by its name, else all that have the labels.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ObjectReference {
    pub(super) api_version: String,
    pub(super) kind: String,
    #[serde(default)]
    pub(super) name: String,
    /// Empty: the case's.
    #[serde(default)]
    pub(super) namespace: String,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
}

/// `TestAssert`: how long is asked, and what besides objects.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TestAssert {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: Metadata,
    /// Seconds; 0 for the suite's.
    #[serde(default)]
    pub(super) timeout: i64,
    #[serde(default)]
    pub(super) collectors: Vec<Collector>,
    #[serde(default)]
    pub(super) commands: Vec<AssertCommand>,
    #[serde(default)]
    pub(super) resource_refs: Vec<ResourceRef>,
    #[serde(default)]
    pub(super) assert_any: Vec<Expression>,
    #[serde(default)]
    pub(super) assert_all: Vec<Expression>,
}

/// A program, or a script for the shell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "kuttl's names")]
pub(super) struct Command {
    #[serde(default)]
    pub(super) command: String,
    #[serde(default)]
    pub(super) script: String,
    /// Whether the command gets `--namespace` with the case's.
    #[serde(default)]
    pub(super) namespaced: bool,
    /// Whether its exit status does not count.
    #[serde(default)]
    pub(super) ignore_failure: bool,
    #[serde(default)]
    pub(super) skip_log_output: bool,
    /// Seconds; 0 for the suite's, less for ever.
    #[serde(default)]
    pub(super) timeout: i64,
}

/// A command whose success is asserted.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct AssertCommand {
    #[serde(default)]
    command: String,
    #[serde(default)]
    script: String,
    #[serde(default)]
    namespaced: bool,
    #[serde(default)]
    skip_log_output: bool,
}

impl AssertCommand {
    /// The command, which may take as long as there is left to ask.
    pub(super) fn within(&self, timeout: i64) -> Command {
        Command {
            command: self.command.clone(),
            script: self.script.clone(),
            namespaced: self.namespaced,
            skip_log_output: self.skip_log_output,
            ignore_failure: false,
            timeout,
        }
    }
}

/// A name for an object in expressions.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ResourceRef {
    pub(super) api_version: String,
    pub(super) kind: String,
    /// Empty: the case's.
    #[serde(default)]
    pub(super) namespace: String,
    pub(super) name: String,
    #[serde(rename = "ref")]
    pub(super) reference: String,
}

/// A CEL expression.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Expression {
    pub(super) cel_expr: String,
}

/// What is told of a failure: pkg/apis/testharness/v1beta1/collector.go of upstream.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Collector {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    pod: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    container: String,
    #[serde(default)]
    selector: String,
    #[serde(default)]
    tail: i64,
    #[serde(default)]
    command: String,
}

impl Collector {
    /// The command that collects it.
    ///
    /// # Errors
    /// The fields do not go together.
    pub(super) fn command(&self) -> Result<Command, String> {
        let of = if self.command.is_empty() { "pod" } else { "command" };
        let kind = if self.kind.is_empty() { of.to_owned() } else { self.kind.to_lowercase() };
        let of_pod = [&self.pod, &self.namespace, &self.container, &self.selector];
        let line = match kind.as_str() {
            "command" if self.command.is_empty() => return Err("a command collector requires a command".to_owned()),
            "command" if of_pod.iter().any(|field| !field.is_empty()) => {
                return Err("a command collector has no pod, namespace, container or selector".to_owned());
            }
            "command" => self.command.clone(),
            "pod" if !self.command.is_empty() => return Err("a pod collector has no command".to_owned()),
            "pod" if self.pod.is_empty() && self.selector.is_empty() => {
                return Err("a pod collector requires a pod or selector".to_owned());
            }
            "pod" => self.logs(),
            "events" if [&self.command, &self.selector, &self.container].iter().any(|field| !field.is_empty()) => {
                return Err("an events collector has no selector, container or command".to_owned());
            }
            "events" => format!("kubectl get events{} -n {}", word("", &self.pod), self.namespace()),
            other => return Err(format!("no such collector: {other}; there are pod, command, events")),
        };
        Ok(Command { command: line, ignore_failure: true, ..Command::default() })
    }

    fn namespace(&self) -> &str {
        if self.namespace.is_empty() { "$NAMESPACE" } else { &self.namespace }
    }

    fn logs(&self) -> String {
        let containers =
            if self.container.is_empty() { " --all-containers".to_owned() } else { word("-c", &self.container) };
        let tail = match (self.tail, self.selector.is_empty()) {
            (0, true) => -1,
            (0, false) => 10,
            (lines, _) => lines,
        };
        let (pod, selector) = (word("", &self.pod), word("-l", &self.selector));
        format!("kubectl logs --prefix{pod}{selector} -n {}{containers} --tail={tail}", self.namespace())
    }
}

fn word(option: &str, value: &str) -> String {
    match (option, value) {
        (_, "") => String::new(),
        ("", value) => format!(" {value}"),
        (option, value) => format!(" {option} {value}"),
    }
}

/// An object as one of these kinds.
///
/// # Errors
/// The field that is not known or not of its type.
pub(super) fn read<T: DeserializeOwned>(object: &Value) -> Result<T, String> {
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    if object.get("apiVersion").and_then(Value::as_str) != Some(API_VERSION) {
        return Err(format!("{kind}: apiVersion must be {API_VERSION}"));
    }
    let done: Result<T, _> = serde_json::from_value(object.clone());
    done.map_err(|e| format!("{kind}: {e} (a setting that upstream has may not be one of this runner)"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(collector: Value) -> Result<String, String> {
        let collector: Collector = serde_json::from_value(collector).unwrap();
        collector.command().map(|c| c.command)
    }

    #[test]
    fn collectors_are_commands_as_upstream_builds_them() {
        for (collector, wanted) in [
            (json!({"pod": "a"}), "kubectl logs --prefix a -n $NAMESPACE --all-containers --tail=-1"),
            (
                json!({"selector": "a=b", "namespace": "n", "container": "c"}),
                "kubectl logs --prefix -l a=b -n n -c c --tail=10",
            ),
            (json!({"type": "Events"}), "kubectl get events -n $NAMESPACE"),
            (json!({"command": "kubectl get pods"}), "kubectl get pods"),
        ] {
            assert_eq!(line(collector).unwrap(), wanted);
        }
    }

    #[test]
    fn collectors_whose_fields_do_not_go_together_are_refused() {
        for (collector, wanted) in [
            (json!({}), "requires a pod"),
            (json!({"type": "command"}), "requires a command"),
            (json!({"type": "command", "command": "a", "pod": "b"}), "has no pod"),
            (json!({"type": "pod", "command": "a"}), "has no command"),
            (json!({"type": "events", "selector": "a"}), "has no selector"),
            (json!({"type": "trace"}), "no such collector"),
        ] {
            assert!(line(collector.clone()).unwrap_err().contains(wanted), "{collector}");
        }
    }

    #[test]
    fn settings_that_are_not_known_are_named() {
        let step = json!({"apiVersion": API_VERSION, "kind": "TestStep", "kubeconfig": "other"});
        let told = read::<TestStep>(&step).unwrap_err();
        assert!(told.contains("TestStep: unknown field `kubeconfig`"), "{told}");
        let old = json!({"apiVersion": "kudo.dev/v1alpha1", "kind": "TestStep"});
        assert!(read::<TestStep>(&old).unwrap_err().contains("apiVersion must be"));
        let good = json!({"apiVersion": API_VERSION, "kind": "TestStep", "metadata": {"name": "n"}});
        assert_eq!(read::<TestStep>(&good).unwrap().metadata.name, "n");
    }
}
